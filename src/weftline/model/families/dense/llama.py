"""Llama 1 to 3.3 and what shares their shape (SmolLM2)."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, gated_mlp, gqa_attention, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model

__all__ = ["FAMILY", "llama"]


def llama(config: HFConfig) -> Model:
    """Pre-norm decoder: grouped-query attention with rotary positions, gated feed-forward."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    attention_bias = config.bool_or("attention_bias", False)
    mlp_bias = config.bool_or("mlp_bias", False)
    tied = config.tied(False)
    config.check()
    operators = (
        *gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
            qkv_bias=attention_bias, out_bias=attention_bias,
        ),
        *gated_mlp(hidden, ffn, bias=mlp_bias),
    )  # fmt: skip
    layer = stack(["gqa+mlp"] * layers, lambda kind: (kind, operators))
    return assemble(config, hidden=hidden, vocab=vocab, layers=layer, tied=tied)


FAMILY: Final = {"llama": llama}
