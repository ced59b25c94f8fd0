"""GPT-2, GPT-NeoX (and Pythia), OPT and BLOOM: LayerNorm, biases, a plain feed-forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from weftline.model.blocks import embedding, gemm, gqa_attention, lm_head, mlp, norm, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "bloom", "gpt2", "gpt_neox", "opt"]

Ops = tuple[Operator, ...]


def gpt2(config: HFConfig) -> Model:
    """GPT-2 (Radford et al., 2019): learned positions, output projection tied to the tokens."""
    hidden = config.int("n_embd", "hidden_size")
    heads = _heads(config, hidden)
    layers = config.layers("n_layer", "num_hidden_layers")
    positions = config.int_or("n_positions", 1024, "max_position_embeddings", "n_ctx")
    vocab = config.int("vocab_size")
    ffn = config.int_or("n_inner", 4 * hidden)
    tied = config.tied(True)
    _refuse(config, "add_cross_attention", "makes it the decoder of an encoder-decoder")
    config.check()
    operators = _block(hidden, heads, hidden // heads, ffn, rotary_dim=0)
    return _model(
        config, hidden=hidden, vocab=vocab, layers=layers, operators=operators, tied=tied,
        before=embedding(vocab, hidden, positions=positions), positions=positions,
    )  # fmt: skip


def gpt_neox(config: HFConfig) -> Model:
    """GPT-NeoX-20B (arXiv:2204.06745) and Pythia: a quarter of each head is rotated.

    With ``use_parallel_residual`` both norms read the same input; their number stays the same.
    """
    hidden = config.int("hidden_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    layers = config.layers()
    vocab = config.int("vocab_size")
    ffn = config.int("intermediate_size")
    bias = config.bool_or("attention_bias", True)
    config.unused("use_parallel_residual")
    rotary = config.float_or("rotary_pct", 0.25)
    tied = config.tied(False)
    positions = config.optional_int("max_position_embeddings")
    config.require(
        kv_heads == heads, "num_key_value_heads",
        "`num_key_value_heads` is not a field of GPT-NeoX: every head has its own key and value",
        hint="remove it, or set it to `num_attention_heads`",
    )  # fmt: skip
    config.check()
    operators = _block(
        hidden, heads, head_dim, ffn, rotary_dim=int(rotary * head_dim), attention_bias=bias
    )
    return _model(
        config, hidden=hidden, vocab=vocab, layers=layers, operators=operators, tied=tied,
        before=embedding(vocab, hidden), positions=positions,
    )  # fmt: skip


def opt(config: HFConfig) -> Model:
    """OPT (arXiv:2205.01068): learned positions, two rows more than the sequence is long.

    Where ``word_embed_proj_dim`` differs from the hidden size (350m), tokens are embedded that
    narrow and projected in and out. ``do_layer_norm_before: false`` (350m) moves each norm behind
    its block and drops the final one.
    """
    hidden = config.int("hidden_size")
    heads, _, head_dim = config.attention_heads(hidden)
    layers = config.layers()
    vocab = config.int("vocab_size")
    ffn = config.int("ffn_dim")
    width = config.int_or("word_embed_proj_dim", hidden)
    positions = config.int("max_position_embeddings")
    bias = config.bool_or("enable_bias", True)
    affine = config.bool_or("layer_norm_elementwise_affine", True)
    tied = config.tied(True)
    final_norm = config.bool_or("do_layer_norm_before", True)
    final_norm &= not config.bool_or("_remove_final_layer_norm", False)
    config.check()
    operators = _block(
        hidden, heads, head_dim, ffn, rotary_dim=0, attention_bias=bias, mlp_bias=bias
    )
    tokens, place = embedding(vocab, width, positions=positions + 2)
    before: Ops = (
        tokens,
        replace(place, parameters=(positions + 2) * hidden, out_features=hidden),
    )
    after: Ops = norm("head.norm", hidden, bias=True) if final_norm else ()
    if width != hidden:
        before = (*before, gemm("embed.project", width, hidden, shard="replicated"))
        after = (*after, gemm("head.project", hidden, width, shard="replicated"))
    after = (*after, *lm_head(width, vocab, tied=tied, final_norm=False))
    if not affine:
        operators, after = _without_affine(operators), _without_affine(after)
    return _model(
        config, hidden=hidden, vocab=vocab, layers=layers, operators=operators, tied=tied,
        before=before, after=after, positions=positions,
    )  # fmt: skip


def bloom(config: HFConfig) -> Model:
    """BLOOM (arXiv:2211.05100): ALiBi instead of positions, a norm after the embedding."""
    hidden = config.int("hidden_size", "n_embed", "n_embd")
    heads = _heads(config, hidden)
    layers = config.layers("n_layer", "num_hidden_layers")
    vocab = config.int("vocab_size")
    tied = config.tied(True)
    positions = config.optional_int("seq_length")
    config.check()
    operators = _block(hidden, heads, hidden // heads, 4 * hidden, rotary_dim=0)
    return _model(
        config, hidden=hidden, vocab=vocab, layers=layers, operators=operators, tied=tied,
        before=(*embedding(vocab, hidden), *norm("embed.norm", hidden, bias=True)),
        positions=positions,
    )  # fmt: skip


def _heads(config: HFConfig, hidden: int) -> int:
    heads = config.int("n_head", "num_attention_heads")
    name = config.name_of("n_head", ("num_attention_heads",))
    config.require(
        hidden % heads == 0, name,
        f"the hidden size {hidden} does not divide by `{name}` {heads}",
        hint="every head has the same width: correct one of them",
    )  # fmt: skip
    return heads


def _refuse(config: HFConfig, key: str, why: str) -> None:
    config.require(
        not config.bool_or(key, False), key, f"`{key}` {why}, which is not modelled",
        hint=f"set `{key}` to false to model the decoder alone",
    )  # fmt: skip


def _block(
    hidden: int, heads: int, head_dim: int, ffn: int, *, rotary_dim: int,
    attention_bias: bool = True, mlp_bias: bool = True,
) -> Ops:  # fmt: skip
    return (
        *gqa_attention(
            hidden=hidden, heads=heads, kv_heads=heads, head_dim=head_dim, norm_bias=True,
            qkv_bias=attention_bias, out_bias=attention_bias, rotary_dim=rotary_dim,
        ),
        *mlp(hidden, ffn, bias=mlp_bias),
    )  # fmt: skip


def _without_affine(operators: Ops) -> Ops:
    return tuple(replace(op, parameters=0) if op.kind == "norm" else op for op in operators)


def _model(
    config: HFConfig, *, hidden: int, vocab: int, layers: int, operators: Ops, tied: bool,
    before: Ops, positions: int | None, after: Ops | None = None,
) -> Model:  # fmt: skip
    head = lm_head(hidden, vocab, tied=tied, norm_bias=True) if after is None else after
    return Model(
        name=config.name, family=config.model_type, source=config.source, hidden=hidden,
        vocab=vocab, layers=stack(["mha+mlp"] * layers, lambda kind: (kind, operators)),
        embedding=before, head=head, max_seq_len=positions, tied_embeddings=tied,
        dtype=config.dtype, notes=tuple(config.notes),
    )  # fmt: skip


FAMILY: Final = {"gpt2": gpt2, "gpt_neox": gpt_neox, "opt": opt, "bloom": bloom}
