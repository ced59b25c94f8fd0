"""Gemma 3n: alternating updates, learned augmented residuals, inputs a layer, shared caches.

The small Gemma 4 models keep two of these: an input for every layer, looked up by token, and last
layers that reuse the keys and values of an earlier one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from weftline.model.blocks import (
    assemble,
    elementwise,
    embedding,
    gated_mlp,
    gemm,
    gqa_attention,
    lm_head,
    norm,
    stack,
)
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "gemma3n", "layer_input", "layer_input_embedding", "reusing", "shared_layers"]

Ops = tuple[Operator, ...]
_KINDS: Final = ("sliding_attention", "full_attention")


def layer_input(hidden: int, width: int) -> Ops:
    """A layer's own input: gated by the hidden state, projected up and normed."""
    return (
        gemm("input.gate", hidden, width, shard="replicated"),
        elementwise("input.act", 2 * width, width),
        gemm("input.projection", width, hidden, shard="replicated"),
        *norm("input.norm", hidden),
    )


def layer_input_embedding(vocab: int, hidden: int, width: int, layers: int) -> Ops:
    """The table of all layers' inputs by token, and their projection from the embedding."""
    return (
        replace(embedding(vocab, width * layers)[0], name="embed.layer_inputs"),
        gemm("embed.layer_projection", hidden, width * layers, shard="replicated"),
        *norm("embed.layer_norm", width * layers, parameters=width),
    )


def reusing(ops: Ops, *, kv_width: int, head_dim: int, hidden: int) -> Ops:
    """The same attention without keys and values of its own: it reads an earlier layer's cache."""
    return tuple(_reuse(op, kv_width, head_dim, hidden) for op in ops)


def _reuse(op: Operator, kv_width: int, head_dim: int, hidden: int) -> Operator:
    if op.name == "attn.qkv":
        out = op.out_features - kv_width
        bias = op.parameters > op.in_features * op.out_features
        return replace(op, name="attn.q", out_features=out, parameters=(hidden + bias) * out)
    if op.name == "attn.qk_norm":
        return replace(op, parameters=op.parameters - head_dim)
    if op.attention is not None:
        return replace(op, attention=replace(op.attention, kv_values_per_token=0))
    return op


def shared_layers(config: HFConfig, layers: int) -> int:
    """How many of the last layers have no keys and values of their own."""
    default = config.default("num_kv_shared_layers", 0)
    shared = config.int_or("num_kv_shared_layers", default, minimum=0)
    config.require(
        shared < layers, "num_kv_shared_layers",
        f"`num_kv_shared_layers` {shared} leaves none of {layers} layers with keys and values",
    )  # fmt: skip
    return min(shared, layers - 1)


def _alternating(hidden: int, streams: int) -> Ops:
    """AltUp: predicts and corrects ``streams`` copies of the hidden state, computes one."""
    return (
        *norm("altup.router_norm", hidden),
        gemm("altup.router", hidden, streams, shard="replicated"),
        gemm("altup.prediction", streams, streams * streams, shard="replicated"),
        elementwise("altup.predict", streams * hidden),
        gemm("altup.correction", streams, streams, shard="replicated"),
        elementwise("altup.correct", streams * hidden, parameters=hidden),
    )


def _augmented(hidden: int, rank: int) -> Ops:
    """LAuReL: a low-rank residual beside attention."""
    return (
        gemm("laurel.left", hidden, rank, shard="replicated"),
        gemm("laurel.right", rank, hidden, shard="replicated"),
        *norm("laurel.norm", hidden),
    )


def _widths(config: HFConfig, layers: int) -> list[int]:
    """The feed-forward's width in each layer: one number, or a list."""
    value = config.get("intermediate_size")
    if not isinstance(value, list):
        return [config.int("intermediate_size")] * layers
    good = len(value) == layers and all(isinstance(v, int) and v > 0 for v in value)
    config.require(
        good, "intermediate_size",
        f"`intermediate_size` needs one whole number above 0 for each of the {layers} layers",
    )  # fmt: skip
    return value if good else [1] * layers


def gemma3n(config: HFConfig) -> Model:
    """Gemma 3n's language model (E2B, E4B)."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    heads, kv_heads, head_dim = config.attention_heads(hidden, default_head_dim=256)
    bias = config.bool_or("attention_bias", False)
    window = config.int_or("sliding_window", 512)
    default = [_KINDS[(i + 1) % 5 == 0] for i in range(layers)]
    kinds = config.kinds("layer_types", _KINDS, layers, default)
    widths = _widths(config, layers)
    shared = shared_layers(config, layers)
    streams = config.int_or("altup_num_inputs", 4)
    rank = config.int_or("laurel_rank", 64)
    width = config.int_or("hidden_size_per_layer_input", 256)
    more_vocab = config.int_or("vocab_size_per_layer_input", 262_144)
    tied = config.tied(True)
    config.unused("activation_sparsity_pattern", "altup_active_idx", "altup_coef_clip",
                  "altup_correct_scale")  # fmt: skip
    config.check()

    def build(kind: tuple[str, int, bool]) -> tuple[str, Ops]:
        sliding = kind[0] == _KINDS[0]
        attention = gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qkv_bias=bias,
            out_bias=bias, qk_norm="head", window=window if sliding else None, post_norm=True,
        )  # fmt: skip
        if kind[2]:
            attention = reusing(
                attention, kv_width=2 * kv_heads * head_dim, head_dim=head_dim, hidden=hidden
            )
        ops = (
            *_alternating(hidden, streams), *attention, *_augmented(hidden, rank),
            *gated_mlp(hidden, kind[1], post_norm=True), *layer_input(hidden, width),
        )  # fmt: skip
        return f"{'swa' if sliding else 'gqa'}+mlp", ops

    keys = [(kinds[i], widths[i], i >= layers - shared) for i in range(layers)]
    mix = (streams - 1) * hidden * hidden
    before = (
        *embedding(vocab, hidden),
        *layer_input_embedding(more_vocab, hidden, width, layers),
        gemm("embed.altup", hidden, (streams - 1) * hidden, shard="replicated", parameters=mix),
    )
    after = (
        gemm("head.altup", (streams - 1) * hidden, hidden, shard="replicated", parameters=mix),
        *lm_head(hidden, vocab, tied=tied),
    )
    return assemble(
        config, hidden=hidden, vocab=vocab, layers=stack(keys, build), tied=tied,
        embedding_ops=before, head_ops=after,
    )  # fmt: skip


FAMILY: Final = {"gemma3n": gemma3n, "gemma3n_text": gemma3n}
