"""NVIDIA Nemotron-H (Mamba-2, attention, feed-forward, experts) and Nemotron-NAS (DeciLM)."""

from __future__ import annotations

from typing import Any, Final

from weftline.model.blocks import assemble, gated_mlp, gemm, gqa_attention, mlp, moe, norm, stack
from weftline.model.config import HFConfig
from weftline.model.families.recurrent.mamba import mamba2_mixer
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "nemotron_h", "nemotron_nas"]

Ops = tuple[Operator, ...]
_NONE: Final = 0
_LINEAR: Final = -1
"""Instead of a size: the block is left out, or one linear layer."""
_LETTERS: Final = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}


def _pattern(config: HFConfig) -> tuple[str, ...]:
    """Each layer's block, from a list of names or a string of letters."""
    letters = config.get("hybrid_override_pattern")
    config.unused("mtp_hybrid_override_pattern")
    key = "layers_block_type" if config.has("layers_block_type") else "layer_types"
    if config.has(key):
        values = config.list_or(key, ())
        return config.kinds(key, _LETTERS.values(), len(values), ())
    if not isinstance(letters, str) or not letters or set(letters) - set(_LETTERS):
        config.mistake(
            "hybrid_override_pattern",
            "`hybrid_override_pattern` or `layers_block_type` must name each layer's block",
            hint="M is Mamba-2, * attention, - a feed-forward, E experts",
        )
        return ("linear_attention",)
    return tuple(_LETTERS[letter] for letter in letters)


def _mamba(config: HFConfig, hidden: int) -> Ops:
    heads, groups = config.int("mamba_num_heads"), config.int("n_groups")
    config.require(
        heads % groups == 0, "n_groups",
        f"`mamba_num_heads` {heads} does not divide by `n_groups` {groups}",
        hint="each group of B and C serves the same number of heads",
    )  # fmt: skip
    mixer = mamba2_mixer(
        hidden=hidden, heads=heads, head_dim=config.int("mamba_head_dim"),
        state=config.int("ssm_state_size"), groups=groups,
        kernel=config.int_or("conv_kernel", 4), chunk=config.int_or("chunk_size", 128),
        bias=config.bool_or("use_bias", False), conv_bias=config.bool_or("use_conv_bias", True),
    )  # fmt: skip
    return (*norm("ssm.norm", hidden), *mixer)


def _attention(config: HFConfig, hidden: int) -> Ops:
    heads = config.int("num_attention_heads")
    kv_heads = config.int_or("num_key_value_heads", heads)
    config.require(
        heads % kv_heads == 0, "num_key_value_heads",
        f"`num_attention_heads` {heads} does not divide by `num_key_value_heads` {kv_heads}",
    )  # fmt: skip
    head_dim = config.int("head_dim", "attention_head_dim", default=128)
    return gqa_attention(
        hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rotary_dim=0
    )


def _experts(config: HFConfig, hidden: int) -> Ops:
    experts, top_k = config.expert_counts("n_routed_experts", "num_experts_per_tok")
    return moe(
        hidden=hidden, experts=experts, top_k=top_k, gated=False,
        expert_ffn=config.int("moe_intermediate_size"),
        shared_ffn=config.int("moe_shared_expert_intermediate_size"),
        latent=config.optional_int("moe_latent_size"),
    )  # fmt: skip


def nemotron_h(config: HFConfig) -> Model:
    """Each layer is a norm and one block; attention has no positions, feed-forwards no gate."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    kinds = _pattern(config)
    stated = config.int_or("num_hidden_layers", len(kinds))
    config.require(
        stated == len(kinds), "num_hidden_layers",
        f"`num_hidden_layers` {stated} contradicts the {len(kinds)} blocks of the pattern",
    )  # fmt: skip
    bias = config.bool_or("mlp_bias", False)
    # Sizes of blocks that are not in the pattern.
    config.unused(
        "intermediate_size", "expand", "moe_intermediate_size", "moe_latent_size",
        "moe_shared_expert_intermediate_size", "n_routed_experts", "num_experts_per_tok",
        "mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel",
        "use_conv_bias", "chunk_size", "num_attention_heads", "num_key_value_heads", "head_dim",
        "attention_head_dim",
    )  # fmt: skip
    blocks: dict[str, Ops] = {}
    for kind in set(kinds):
        if kind == "mlp":
            blocks[kind] = mlp(hidden, config.int("intermediate_size"), bias=bias, norm_bias=False)
        else:
            build = {"linear_attention": _mamba, "full_attention": _attention, "moe": _experts}[
                kind
            ]
            blocks[kind] = build(config, hidden)
    tied = config.tied(False)
    config.require(not (bias and "moe" in kinds), "mlp_bias", "experts with biases are not counted")
    config.check()
    if config.optional_int("num_nextn_predict_layers"):
        config.notes.append("next-token-prediction module left out")
    names = {"linear_attention": "mamba2", "full_attention": "gqa"}
    made = stack(kinds, lambda kind: (names.get(kind, kind), blocks[kind]))
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


def nemotron_nas(config: HFConfig) -> Model:
    """Llama blocks that a search made narrower, linear, or left out, layer by layer."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    heads = config.int("num_attention_heads")
    config.require(
        hidden % heads == 0, "hidden_size", f"`hidden_size` {hidden} does not divide by {heads}"
    )
    blocks = config.list_or("block_configs", (), length=layers)
    if not config.has("block_configs"):
        config.mistake("block_configs", "field `block_configs` is missing: one entry a layer")
    shapes = [_block(config, i, block, hidden, heads) for i, block in enumerate(blocks)]
    tied = config.tied(False)
    config.check()

    def build(shape: tuple[int, int]) -> tuple[str, Ops]:
        groups, ffn = shape
        mixer: Ops = ()
        if groups > 0:
            mixer = gqa_attention(
                hidden=hidden, heads=heads, kv_heads=heads // groups, head_dim=hidden // heads
            )
        elif groups == _LINEAR:
            linear = gemm("attn.linear", hidden, hidden, shard="replicated")
            mixer = (*norm("attn.norm", hidden), linear)
        forward: Ops = gated_mlp(hidden, ffn) if ffn > 0 else ()
        if ffn == _LINEAR:
            linear = gemm("mlp.linear", hidden, hidden, shard="replicated")
            forward = (*norm("mlp.norm", hidden), linear)
        return f"{_name(groups, 'gqa')}+{_name(ffn, 'mlp')}", (*mixer, *forward)

    return assemble(config, hidden=hidden, vocab=vocab, layers=stack(shapes, build), tied=tied)


def _name(size: int, full: str) -> str:
    return {_NONE: "none", _LINEAR: "linear"}.get(size, f"{full}{size}")


def _block(config: HFConfig, i: int, block: Any, hidden: int, heads: int) -> tuple[int, int]:
    """(query heads a key-value head, feed-forward width), or ``_NONE``, ``_LINEAR``."""
    attention = block.get("attention") if isinstance(block, dict) else None
    ffn = block.get("ffn") if isinstance(block, dict) else None
    if not isinstance(attention, dict) or not isinstance(ffn, dict):
        config.mistake("block_configs", f"block {i} needs an `attention` and an `ffn` object")
        return _NONE, _NONE
    groups, width = attention.get("n_heads_in_group"), ffn.get("ffn_mult")
    mixer = _choice(attention)
    if mixer is None:
        good = isinstance(groups, int) and groups > 0 and heads % groups == 0
        config.require(good, "block_configs", f"block {i}: `n_heads_in_group` must divide {heads}")
        mixer = groups if good and isinstance(groups, int) else 1
    forward = _choice(ffn)
    if forward is None:
        good = isinstance(width, (int, float)) and not isinstance(width, bool) and 0 < width < 1e3
        config.require(good, "block_configs", f"block {i}: `ffn_mult` must be a number above 0")
        # As in DeciLM: two thirds of twice the multiple, rounded up to a multiple of 256.
        multiple = float(width) if good and width else 1.0
        inner = int(2 * multiple * hidden / 3)
        forward = -(-inner // 256) * 256
    return mixer, forward


def _choice(part: dict[str, Any]) -> int | None:
    if part.get("no_op"):
        return _NONE
    return _LINEAR if part.get("replace_with_linear") else None


FAMILY: Final = {"nemotron_h": nemotron_h, "nemotron-nas": nemotron_nas}
