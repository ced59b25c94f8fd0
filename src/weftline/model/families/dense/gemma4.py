"""Gemma 4, text part: windows and wide global heads in turn, experts beside a dense block."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, embedding, gated_mlp, gqa_attention, moe, norm, stack
from weftline.model.config import HFConfig
from weftline.model.families.dense.gemma3n import (
    layer_input,
    layer_input_embedding,
    reusing,
    shared_layers,
)
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "gemma4"]

Ops = tuple[Operator, ...]
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
        shared = _uses_keys(config, sliding=False)
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


def _uses_keys(config: HFConfig, *, sliding: bool) -> bool:
    """Whether a global layer takes its keys as values."""
    return not sliding and config.bool_or("attention_k_eq_v", False)


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


def _layer_inputs(config: HFConfig, hidden: int, layers: int) -> tuple[Ops, Ops]:
    """(operators of a layer, of the embedding) for an input to every layer; empty without."""
    width = config.int_or(
        "hidden_size_per_layer_input", config.default("hidden_size_per_layer_input", 0), minimum=0
    )
    rows = config.int_or("vocab_size_per_layer_input", 262_144)
    if width == 0:
        return (), ()
    return layer_input(hidden, width), layer_input_embedding(rows, hidden, width, layers)


def gemma4(config: HFConfig) -> Model:
    """Norms before and after attention and feed-forward; tied embeddings.

    The small models have an input for every layer, and last layers that reuse the keys and values
    of an earlier one.
    """
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    default = [_KINDS[(i + 1) % 6 == 0 or i + 1 == layers] for i in range(layers)]
    kinds = config.kinds("layer_types", _KINDS, layers, default)
    views = config.per_layer(layers)
    shared = shared_layers(config, layers)
    twice = config.bool_or("use_double_wide_mlp", False)
    ffn = config.int("intermediate_size")
    routed = config.bool_or("enable_moe_block", False)
    inside, table = _layer_inputs(config, hidden, layers)
    tied = config.tied(True)

    def build(kind: tuple[str, int, bool]) -> tuple[str, Ops]:
        sliding, view = kind[0] == _KINDS[0], by_id[kind[1]]
        attention = _attention(view, hidden, sliding=sliding, whole=config)
        if kind[2]:
            core = next(op.attention for op in attention if op.attention is not None)
            width = core.kv_heads * core.qk_dim
            own = 1 if _uses_keys(view, sliding=sliding) else 2
            attention = reusing(
                attention, kv_width=own * width, head_dim=core.qk_dim, hidden=hidden
            )
        wide = 2 if twice and kind[2] else 1
        forward = gated_mlp(hidden, wide * ffn, post_norm=True)
        if routed:
            forward = (*forward[:-1], *_experts(config, hidden), forward[-1])
        name = f"{'swa' if sliding else 'gqa'}+{'mlp_moe' if routed else 'mlp'}"
        return name, (*attention, *forward, *inside)

    by_id = {id(view): view for view in views}
    keys = [(kinds[i], id(views[i]), i >= layers - shared) for i in range(layers)]
    made = stack(keys, build)
    config.check()
    return assemble(
        config, hidden=hidden, vocab=vocab, layers=made, tied=tied,
        embedding_ops=(*embedding(vocab, hidden), *table),
    )  # fmt: skip


FAMILY: Final = {"gemma4": gemma4, "gemma4_text": gemma4}
