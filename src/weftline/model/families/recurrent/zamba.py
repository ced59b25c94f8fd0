"""Zamba 2: Mamba-2 layers, and transformer blocks whose weights several places share."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from weftline.model.blocks import assemble, elementwise, gated_mlp, gemm, gqa_attention, norm, stack
from weftline.model.config import HFConfig
from weftline.model.families.recurrent.mamba import mamba2_mixer
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "zamba2"]

Ops = tuple[Operator, ...]
_KINDS: Final = ("linear_attention", "hybrid")


def _default_kinds(layers: int) -> list[str]:
    """Zamba2-2.7B's pattern, cut to the number of layers."""
    mamba, hybrid = _KINDS
    pattern = [mamba, *([*[mamba] * 5, hybrid] * 7), *[mamba] * 4, hybrid, *[mamba] * 3, hybrid,
               *[mamba] * 2]  # fmt: skip
    return (pattern * (1 + layers // len(pattern)))[:layers]


def _mamba(config: HFConfig, hidden: int) -> Ops:
    heads = config.int_or("n_mamba_heads", 8)
    inner = config.int_or("mamba_expand", 2) * hidden
    groups = config.int_or("mamba_ngroups", 1)
    config.require(
        inner % heads == 0 and heads % groups == 0, "n_mamba_heads",
        f"the expanded width {inner}, `n_mamba_heads` {heads} and `mamba_ngroups` {groups} do not "
        "divide",
    )  # fmt: skip
    mixer = mamba2_mixer(
        hidden=hidden, heads=heads, head_dim=max(1, inner // heads),
        state=config.int_or("mamba_d_state", 64), groups=groups,
        kernel=config.int_or("mamba_d_conv", 4), chunk=config.int_or("chunk_size", 256),
        bias=config.bool_or("add_bias_linear", False),
    )  # fmt: skip
    return (*norm("ssm.norm", hidden), *mixer)


def _block(config: HFConfig, hidden: int, ffn: int) -> Ops:
    """The shared transformer: attention over the hidden state beside the embedding, twice as wide.

    Each place that uses it has low-rank adapters of its own.
    """
    heads = config.int("num_attention_heads")
    kv_heads = config.int_or("num_key_value_heads", heads)
    config.require(
        2 * hidden % heads == 0 and heads % kv_heads == 0, "num_attention_heads",
        f"twice `hidden_size` {hidden}, {heads} heads and {kv_heads} key-value heads do not divide",
    )  # fmt: skip
    wide = config.int_or("attention_hidden_size", 2 * hidden)
    head_dim = config.int_or("attention_head_dim", max(1, wide // heads))
    rotary = config.bool_or("use_mem_rope", False)
    attention = gqa_attention(
        hidden=wide, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        rotary_dim=None if rotary else 0,
    )  # fmt: skip
    out = gemm("attn.out", heads * head_dim, hidden, shard="row")
    bias = config.bool_or("add_bias_linear", False)
    return (*attention[:-1], out, *gated_mlp(hidden, ffn, bias=bias))


def _adapters(config: HFConfig, hidden: int, ffn: int) -> Ops:
    rank = config.int_or("adapter_rank", 128)
    ops: list[Operator] = []
    places = [("mlp.adapter", hidden, 2 * ffn)]
    if config.bool_or("use_shared_attention_adapter", False):
        wide = config.int_or("attention_hidden_size", 2 * hidden)
        places += [(f"attn.{part}_adapter", wide, wide) for part in ("q", "k", "v")]
    for name, into, out in places:
        ops += [
            gemm(f"{name}.down", into, rank, shard="replicated"),
            gemm(f"{name}.up", rank, out, shard="column"),
        ]
    return tuple(ops)


def zamba2(config: HFConfig) -> Model:
    """Zamba 2 (arXiv:2411.15242): the transformer blocks take turns, their weights count once."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    kinds = config.kinds("layers_block_type", _KINDS, layers, _default_kinds(layers))
    blocks = config.int_or("num_mem_blocks", 1)
    ffn = config.int_or("intermediate_size", 4 * hidden)
    mamba = _mamba(config, hidden)
    block, adapters = _block(config, hidden, ffn), _adapters(config, hidden, ffn)
    again = tuple(replace(op, parameters=0, tied=True) if op.parameters else op for op in block)
    tied = config.tied(True)
    config.require(
        tied, "tie_word_embeddings", "untied, transformers shares no block either: not modelled",
        hint="set it to true, as in the published files",
    )  # fmt: skip
    # Derived from the hidden size, whatever a file says of them.
    config.unused(
        "head_dim", "mamba_headdim", "kv_channels",
        "num_query_groups", "hybrid_layer_ids", "use_mem_eff_path", "use_long_context",
        "adapter_rank", "use_conv_bias",
    )  # fmt: skip
    config.check()

    def build(kind: tuple[str, bool]) -> tuple[str, Ops]:
        if kind[0] == _KINDS[0]:
            return "mamba2", mamba
        joined = elementwise("attn.join", 2 * hidden)
        back = gemm("attn.back", hidden, hidden, shard="replicated")
        shared = block if kind[1] else again
        name = "hybrid+mlp" if kind[1] else "hybrid_again+mlp"
        return name, (joined, *shared, *adapters, back, *mamba)

    hybrids = [i for i, kind in enumerate(kinds) if kind == _KINDS[1]]
    keys = [(kind, i in hybrids[:blocks]) for i, kind in enumerate(kinds)]
    return assemble(config, hidden=hidden, vocab=vocab, layers=stack(keys, build), tied=tied)


FAMILY: Final = {"zamba2": zamba2}
