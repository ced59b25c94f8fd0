"""Qwen3: dense, mixture of experts, and the language part of Qwen3-VL."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, gated_mlp, gqa_attention, moe, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "qwen3", "qwen3_moe"]


def _windows(config: HFConfig, layers: int) -> tuple[int | None, ...]:
    """The sliding window of each layer, ``None`` for full attention."""
    window = config.optional_int("sliding_window")
    if not config.bool_or("use_sliding_window", False):
        window = None
    first = config.int_or("max_window_layers", 28, minimum=0)
    default = ["sliding_attention" if window and i >= first else "full_attention"
               for i in range(layers)]  # fmt: skip
    kinds = config.kinds("layer_types", ("full_attention", "sliding_attention"), layers, default)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def qwen3(config: HFConfig) -> Model:
    """Dense Qwen3: grouped-query attention with a norm on each query and key head."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden, default_head_dim=128)
    bias = config.bool_or("attention_bias", False)
    tied = config.tied(False)
    windows = _windows(config, layers)
    config.check()

    def build(window: int | None) -> tuple[str, tuple[Operator, ...]]:
        attention = gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qkv_bias=bias,
            out_bias=bias, qk_norm="head", window=window,
        )  # fmt: skip
        return "swa+mlp" if window else "gqa+mlp", (*attention, *gated_mlp(hidden, ffn))

    return assemble(config, hidden=hidden, vocab=vocab, layers=stack(windows, build), tied=tied)


def qwen3_moe(config: HFConfig) -> Model:
    """Qwen3 with routed experts in all layers but ``mlp_only_layers``."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    bias = config.bool_or("attention_bias", False)
    tied = config.tied(False)
    experts, top_k = config.expert_counts("num_experts", "num_experts_per_tok", "num_local_experts")
    expert_ffn = config.int("moe_intermediate_size")
    step = config.int_or("decoder_sparse_step", 1)
    dense = config.indices("mlp_only_layers", layers)
    sparse = [i not in dense and (i + 1) % step == 0 for i in range(layers)]
    config.unused("intermediate_size", "sliding_window", "max_window_layers")
    ffn = expert_ffn if all(sparse) else config.int("intermediate_size")
    config.check()
    attention = gqa_attention(
        hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qkv_bias=bias,
        out_bias=bias, qk_norm="head",
    )  # fmt: skip

    def build(is_sparse: bool) -> tuple[str, tuple[Operator, ...]]:
        if not is_sparse:
            return "gqa+mlp", (*attention, *gated_mlp(hidden, ffn))
        experts_ops = moe(hidden=hidden, experts=experts, top_k=top_k, expert_ffn=expert_ffn)
        return "gqa+moe", (*attention, *experts_ops)

    return assemble(config, hidden=hidden, vocab=vocab, layers=stack(sparse, build), tied=tied)


FAMILY: Final = {
    "qwen3": qwen3,
    "qwen3_vl": qwen3,
    "qwen3_vl_text": qwen3,
    "qwen3_moe": qwen3_moe,
    "qwen3_omni_moe_text": qwen3_moe,
    "qwen3_vl_moe": qwen3_moe,
    "qwen3_vl_moe_text": qwen3_moe,
}
