"""Qwen3.5: three gated delta nets to one gated attention, dense or mixture of experts."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, gated_mlp, gqa_attention, moe, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator
from weftline.model.recurrent import gated_delta_net

__all__ = ["FAMILY", "qwen3_5"]

_KINDS: Final = ("linear_attention", "full_attention")


def _delta_net(config: HFConfig, hidden: int) -> tuple[Operator, ...]:
    value_heads = config.int("linear_num_value_heads")
    key_heads = config.int("linear_num_key_heads")
    config.require(
        value_heads % key_heads == 0, "linear_num_value_heads",
        f"`linear_num_value_heads` {value_heads} does not divide by `linear_num_key_heads` "
        f"{key_heads}",
    )  # fmt: skip
    return gated_delta_net(
        hidden=hidden, key_heads=key_heads, value_heads=value_heads,
        key_dim=config.int("linear_key_head_dim"), value_dim=config.int("linear_value_head_dim"),
        kernel=config.int_or("linear_conv_kernel_dim", 4),
    )  # fmt: skip


def _forward(config: HFConfig, hidden: int) -> tuple[str, tuple[Operator, ...]]:
    if not config.has("num_experts"):
        return "mlp", gated_mlp(hidden, config.int("intermediate_size"))
    experts, top_k = config.expert_counts("num_experts", "num_experts_per_tok")
    return "moe", moe(
        hidden=hidden, experts=experts, top_k=top_k, shared_gate=True,
        expert_ffn=config.int("moe_intermediate_size"),
        shared_ffn=config.int("shared_expert_intermediate_size"),
    )  # fmt: skip


def qwen3_5(config: HFConfig) -> Model:
    """Hybrid of gated delta nets and attention with an output gate and a quarter rotated."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    heads, kv_heads, head_dim = config.attention_heads(hidden, default_head_dim=256)
    every = config.int_or("full_attention_interval", 4)
    default = [_KINDS[(i + 1) % every == 0] for i in range(layers)]
    kinds = config.kinds("layer_types", _KINDS, layers, default)
    bias = config.bool_or("attention_bias", False)
    attention = gqa_attention(
        hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qkv_bias=bias,
        out_bias=bias, qk_norm="head", gated=True, rotary_dim=head_dim // 4,
    )  # fmt: skip
    delta_net = _delta_net(config, hidden)
    forward, forward_ops = _forward(config, hidden)
    tied = config.tied(False)
    config.check()
    if config.has("mtp_num_hidden_layers"):
        config.notes.append("next-token-prediction module left out")

    def build(kind: str) -> tuple[str, tuple[Operator, ...]]:
        if kind == "full_attention":
            return f"gqa+{forward}", (*attention, *forward_ops)
        return f"gdn+{forward}", (*delta_net, *forward_ops)

    return assemble(config, hidden=hidden, vocab=vocab, layers=stack(kinds, build), tied=tied)


FAMILY: Final = {
    "qwen3_5": qwen3_5,
    "qwen3_5_text": qwen3_5,
    "qwen3_5_moe": qwen3_5,
    "qwen3_5_moe_text": qwen3_5,
}
