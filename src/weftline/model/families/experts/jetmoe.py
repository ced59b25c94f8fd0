"""JetMoE: experts for queries and outputs of attention, and for the feed-forward."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, elementwise, gemm, moe, norm, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Attention, Model, Operator, Shard

__all__ = ["FAMILY", "jetmoe"]


def _chosen(
    name: str, features: tuple[int, int], experts: int, top_k: int, shard: Shard
) -> Operator:
    """The chosen experts' projections side by side: one product with the weights they bring.

    All experts are held. Their heads are split over
    tensor-parallel ranks; expert parallelism splits the feed-forward's experts alone.
    """
    return Operator(
        name=name, kind="gemm", parameters=features[0] * features[1] // top_k * experts,
        active_parameters=features[0] * features[1], in_features=features[0],
        out_features=features[1], shard=shard,
    )  # fmt: skip


def _attention(
    hidden: int, kv_heads: int, head_dim: int, experts: int, top_k: int
) -> tuple[Operator, ...]:
    """Mixture of attention heads: each chosen expert brings a query for every key-value head."""
    width, heads = kv_heads * head_dim, kv_heads * top_k
    core = Attention(
        heads=heads, kv_heads=kv_heads, qk_dim=head_dim, v_dim=head_dim,
        kv_values_per_token=2 * width,
    )  # fmt: skip
    return (
        *norm("attn.norm", hidden),
        gemm("attn.router", hidden, experts, shard="replicated"),
        _chosen("attn.q", (hidden, top_k * width), experts, top_k, "column"),
        gemm("attn.kv", hidden, 2 * width, shard="column"),
        elementwise("attn.rotary", (heads + kv_heads) * head_dim, shard="heads"),
        Operator(name="attn.core", kind="attention", attention=core, shard="heads",
                 in_features=heads * head_dim, out_features=heads * head_dim),
        _chosen("attn.out", (top_k * width, hidden), experts, top_k, "row"),
        elementwise("attn.bias", hidden, parameters=hidden),
    )  # fmt: skip


def jetmoe(config: HFConfig) -> Model:
    """JetMoE-8B (arXiv:2404.07413)."""
    hidden = config.int("hidden_size")
    kv_heads = config.int("num_key_value_heads")
    head_dim = config.int("kv_channels")
    layers = config.layers()
    vocab = config.int("vocab_size")
    ffn = config.int("intermediate_size")
    experts, top_k = config.expert_counts("num_local_experts", "num_experts_per_tok")
    stated = config.optional_int("num_attention_heads")
    config.require(
        stated in (None, kv_heads * top_k), "num_attention_heads",
        f"`num_attention_heads` {stated} is not `num_key_value_heads` x `num_experts_per_tok`, "
        f"{kv_heads * top_k}",
    )  # fmt: skip
    tied = config.tied(True)
    config.check()
    forward = moe(hidden=hidden, experts=experts, top_k=top_k, expert_ffn=ffn)
    operators = (
        *_attention(hidden, kv_heads, head_dim, experts, top_k),
        *forward,
        elementwise("moe.bias", hidden, parameters=hidden),
    )
    made = stack(["gqa+moe"] * layers, lambda kind: (kind, operators))
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


FAMILY: Final = {"jetmoe": jetmoe}
