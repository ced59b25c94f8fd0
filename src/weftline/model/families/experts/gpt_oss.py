"""gpt-oss: sliding and full attention in turn, learned sinks, biases, all layers experts."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, gqa_attention, moe, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "gpt_oss"]

_KINDS: Final = ("sliding_attention", "full_attention")


def gpt_oss(config: HFConfig) -> Model:
    """Biases on attention, router and experts; a sink logit for every query head."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden, default_head_dim=64)
    experts, top_k = config.expert_counts("num_local_experts", "num_experts_per_tok")
    config.unused("experts_per_token")  # the same under its makers' name
    window = config.int_or("sliding_window", 128)
    kinds = config.kinds("layer_types", _KINDS, layers, [_KINDS[i % 2] for i in range(layers)])
    bias = config.bool_or("attention_bias", True)
    tied = config.tied(False)
    config.check()
    forward = moe(
        hidden=hidden, experts=experts, top_k=top_k, expert_ffn=ffn, router_bias=True,
        expert_bias=True,
    )  # fmt: skip

    def build(kind: str) -> tuple[str, tuple[Operator, ...]]:
        sliding = kind == "sliding_attention"
        attention = gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qkv_bias=bias,
            out_bias=bias, sinks=True, window=window if sliding else None,
        )  # fmt: skip
        return "swa+moe" if sliding else "gqa+moe", (*attention, *forward)

    return assemble(config, hidden=hidden, vocab=vocab, layers=stack(kinds, build), tied=tied)


FAMILY: Final = {"gpt_oss": gpt_oss}
