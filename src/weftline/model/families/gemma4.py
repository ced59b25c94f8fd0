"""Gemma 4, text part: windows and wide global heads in turn, experts beside a dense block."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, gated_mlp, gqa_attention, moe, norm, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "gemma4"]

_KINDS: Final = ("sliding_attention", "full_attention")


def _attention(
    config: HFConfig, hidden: int, *, sliding: bool, whole: HFConfig
) -> tuple[Operator, ...]:
    """Global layers have heads of their own width, and may use keys as values.

    transformers 5 writes their width and heads layer by layer (``per_layer_config``), published
    files have fields of their own for them, in the ``whole`` file.
    """
    heads, kv_heads, head_dim = config.attention_heads(hidden, default_head_dim=256)
    shared = False
    if not sliding:
        shared = config.bool_or("attention_k_eq_v", False)
        listed = whole.has("per_layer_config")
        if not listed:
            head_dim = config.int_or("global_head_dim", 512)
        if shared and not listed:
            kv_heads = config.int_or("num_global_key_value_heads", kv_heads)
    return gqa_attention(
        hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qk_norm="head",
        qkv_bias=config.bool_or("attention_bias", False),
        out_bias=config.bool_or("attention_bias", False), shared_kv=shared,
        rotary_dim=head_dim if sliding else head_dim // 4, post_norm=True,
        window=config.int_or("sliding_window", 512) if sliding else None,
    )  # fmt: skip


def _experts(config: HFConfig, hidden: int) -> tuple[Operator, ...]:
    """Routed experts in parallel to the dense feed-forward, each with norms around it."""
    experts, top_k = config.expert_counts("num_experts", "top_k_experts")
    ops = moe(
        hidden=hidden, experts=experts, top_k=top_k,
        expert_ffn=config.int("moe_intermediate_size"),
    )  # fmt: skip
    return (
        *norm("mlp.branch_norm", hidden),
        *norm("moe.router_norm", hidden),  # weighted by the router's learned scale
        *ops,
        *norm("moe.expert_scale", top_k, parameters=experts),
        *norm("moe.branch_norm", hidden),
    )


def gemma4(config: HFConfig) -> Model:
    """Norms before and after attention and feed-forward; tied embeddings."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    for key, off in (("hidden_size_per_layer_input", 0), ("num_kv_shared_layers", 0)):
        config.require(
            config.int_or(key, off, minimum=0) == 0, key,
            f"`{key}` above 0 (the small Gemma 4 models) is not counted yet",
        )  # fmt: skip
    default = [_KINDS[(i + 1) % 6 == 0 or i + 1 == layers] for i in range(layers)]
    kinds = config.kinds("layer_types", _KINDS, layers, default)
    views = config.per_layer(layers)
    attention = {
        (kind, id(view)): _attention(view, hidden, sliding=kind == _KINDS[0], whole=config)
        for kind, view in zip(kinds, views, strict=True)
    }
    forward = gated_mlp(hidden, config.int("intermediate_size"), post_norm=True)
    suffix = "mlp"
    if config.bool_or("enable_moe_block", False):
        suffix, dense = "mlp_moe", forward
        forward = (*dense[:-1], *_experts(config, hidden), dense[-1])
    tied = config.tied(True)
    config.unused("vocab_size_per_layer_input")  # without a per-layer input there is no table
    config.check()

    def build(kind: tuple[str, int]) -> tuple[str, tuple[Operator, ...]]:
        mixer = "swa" if kind[0] == _KINDS[0] else "gqa"
        return f"{mixer}+{suffix}", (*attention[kind], *forward)

    made = stack([(kind, id(view)) for kind, view in zip(kinds, views, strict=True)], build)
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


FAMILY: Final = {"gemma4": gemma4, "gemma4_text": gemma4}
