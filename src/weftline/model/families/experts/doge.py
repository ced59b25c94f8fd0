"""Doge: attention that keeps the tokens a learned mask favours, and experts of one neuron each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from weftline.model.blocks import (
    assemble,
    elementwise,
    gated_mlp,
    gemm,
    gqa_attention,
    norm,
    stack,
)
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator
from weftline.spec.attention import TopK

__all__ = ["FAMILY", "doge"]


def _attention(
    hidden: int, heads: tuple[int, int, int], bias: bool, keep: int
) -> tuple[Operator, ...]:
    """Grouped queries over the ``keep`` keys that score highest in a mask made of the values."""
    kv_heads, head_dim = heads[1:]
    made = list(
        gqa_attention(
            hidden=hidden, heads=heads[0], kv_heads=kv_heads, head_dim=head_dim, qkv_bias=bias,
            out_bias=bias, qk_norm="head",
        )
    )  # fmt: skip
    at = next(i for i, op in enumerate(made) if op.attention is not None)
    core = made[at]
    if core.attention is not None:
        rule = TopK(block=1, count=keep, first=0, score="indexer")
        made[at] = replace(core, attention=replace(core.attention, rule=rule))
    made[at:at] = [
        gemm("attn.mask", kv_heads * head_dim, kv_heads, shard="row", bias=bias),
        elementwise("attn.mask_decay", kv_heads, parameters=kv_heads),
    ]
    return (*made, elementwise("attn.residual", 2 * hidden, hidden, parameters=hidden))


def _retrieved(hidden: int, experts: int, top_k: int) -> tuple[Operator, ...]:
    """Experts that are one row in and one row out, found by the product of two short lists."""
    keys = math.isqrt(experts)

    def rows(name: str, features: tuple[int, int]) -> Operator:
        return Operator(
            name=name, kind="grouped_gemm", parameters=experts * hidden,
            active_parameters=top_k * hidden, in_features=features[0], out_features=features[1],
            experts=experts, experts_per_token=top_k, shard="expert",
        )  # fmt: skip

    return (
        gemm("moe.router", hidden, 2 * keys, shard="replicated"),
        rows("moe.experts.up", (hidden, 1)),
        elementwise("moe.experts.act", top_k, shard="expert"),
        rows("moe.experts.down", (1, hidden)),
    )


def doge(config: HFConfig) -> Model:
    """Doge (arXiv:2412.11834), dense or with cross-domain experts beside the feed-forward."""
    hidden = config.int("hidden_size")
    heads = config.attention_heads(hidden)
    layers = config.layers()
    vocab = config.int("vocab_size")
    ffn = config.int("intermediate_size")
    keep = config.int_or("keep_window_size", 2048)
    bias = config.bool_or("attention_bias", False)
    mlp_bias = config.bool_or("mlp_bias", False)
    sparse = config.bool_or("is_moe", False)
    forward = gated_mlp(hidden, ffn, bias=mlp_bias, pre_norm=False)
    if sparse:
        experts, top_k = config.expert_counts("num_experts", "num_experts_per_tok")
        forward = (*forward, *_retrieved(hidden, experts, top_k))
    config.require(
        not config.has("sliding_window"), "sliding_window",
        "`sliding_window` is not modelled for `doge`", hint="remove it",
    )  # fmt: skip
    config.unused("num_experts", "num_experts_per_tok")
    tied = config.tied(False)
    config.check()
    operators = (
        *_attention(hidden, heads, bias, keep),
        *norm("mlp.norm", hidden),
        *forward,
        elementwise("mlp.residual", 2 * hidden, hidden, parameters=hidden),
    )
    kind = f"gqa+{'moe' if sparse else 'mlp'}"
    made = stack([kind] * layers, lambda kind: (kind, operators))
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


FAMILY: Final = {"doge": doge}
