"""Mistral 7B and NeMo: the Llama shape, with a sliding window in the first release."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import embedding, gated_mlp, gqa_attention, lm_head, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model

__all__ = ["FAMILY", "mistral"]


def mistral(config: HFConfig) -> Model:
    """Pre-norm decoder (arXiv:2310.06825): grouped-query attention, ``sliding_window`` in all
    layers or, where it is null, in none.
    """
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    window = config.optional_int("sliding_window")
    tied = config.tied(False)
    positions = config.optional_int("max_position_embeddings")
    config.check()
    operators = (
        *gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window
        ),
        *gated_mlp(hidden, ffn),
    )
    kind = "gqa+mlp" if window is None else "swa+mlp"
    return Model(
        name=config.name, family=config.model_type, source=config.source, hidden=hidden,
        vocab=vocab, layers=stack([kind] * layers, lambda kind: (kind, operators)),
        embedding=embedding(vocab, hidden), head=lm_head(hidden, vocab, tied=tied),
        max_seq_len=positions, tied_embeddings=tied, dtype=config.dtype,
        notes=tuple(config.notes),
    )  # fmt: skip


FAMILY: Final = {"mistral": mistral}
