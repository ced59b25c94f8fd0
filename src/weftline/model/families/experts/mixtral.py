"""Mixtral: Mistral's decoder with every feed-forward a mixture of experts."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, gqa_attention, moe, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model

__all__ = ["FAMILY", "mixtral"]


def mixtral(config: HFConfig) -> Model:
    """Grouped-query attention, ``num_local_experts`` experts in every layer."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    experts, top_k = config.expert_counts("num_local_experts", "num_experts_per_tok")
    window = config.optional_int("sliding_window")
    tied = config.tied(False)
    config.check()
    operators = (
        *gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window
        ),
        *moe(hidden=hidden, experts=experts, top_k=top_k, expert_ffn=ffn),
    )
    made = stack(["gqa+moe"] * layers, lambda kind: (kind, operators))
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


FAMILY: Final = {"mixtral": mixtral}
