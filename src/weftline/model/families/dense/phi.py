"""Phi 1.5 and 2 (attention and feed-forward side by side), Phi 3 and 4 (the Llama shape)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from weftline.model.blocks import embedding, gated_mlp, gqa_attention, lm_head, mlp, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model

__all__ = ["FAMILY", "phi", "phi3"]


def phi(config: HFConfig) -> Model:
    """Phi 1, 1.5 and 2 (arXiv:2309.05463): one LayerNorm feeds attention and feed-forward alike.

    Every projection has a bias, the output projection too; half of each head is rotated.
    """
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    qk_norm = config.bool_or("qk_layernorm", False)
    rotary = config.float_or("partial_rotary_factor", 0.5)
    tied = config.tied(False)
    positions = config.optional_int("max_position_embeddings")
    config.check()
    attention = gqa_attention(
        hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qkv_bias=True,
        out_bias=True, norm_bias=True, qk_norm="head" if qk_norm else "none",
        rotary_dim=int(rotary * head_dim),
    )  # fmt: skip
    # These query and key norms are LayerNorms: a weight and a bias a feature.
    attention = tuple(
        replace(op, parameters=4 * head_dim) if op.name == "attn.qk_norm" else op
        for op in attention
    )
    operators = (*attention, *mlp(hidden, ffn, pre_norm=False))
    return Model(
        name=config.name, family=config.model_type, source=config.source, hidden=hidden,
        vocab=vocab, layers=stack(["gqa+mlp"] * layers, lambda kind: (kind, operators)),
        embedding=embedding(vocab, hidden),
        head=lm_head(hidden, vocab, tied=tied, bias=True, norm_bias=True),
        max_seq_len=positions, tied_embeddings=tied, dtype=config.dtype,
        notes=tuple(config.notes),
    )  # fmt: skip


def phi3(config: HFConfig) -> Model:
    """Phi 3, 3.5 and 4 (arXiv:2404.14219): RMSNorm, gated feed-forward, no bias anywhere."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    window = config.optional_int("sliding_window")
    rotary = config.float_or("partial_rotary_factor", 1.0)
    tied = config.tied(False)
    positions = config.optional_int("max_position_embeddings")
    config.check()
    operators = (
        *gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window,
            rotary_dim=int(rotary * head_dim),
        ),
        *gated_mlp(hidden, ffn),
    )  # fmt: skip
    kind = "gqa+mlp" if window is None else "swa+mlp"
    return Model(
        name=config.name, family=config.model_type, source=config.source, hidden=hidden,
        vocab=vocab, layers=stack([kind] * layers, lambda kind: (kind, operators)),
        embedding=embedding(vocab, hidden), head=lm_head(hidden, vocab, tied=tied),
        max_seq_len=positions, tied_embeddings=tied, dtype=config.dtype,
        notes=tuple(config.notes),
    )  # fmt: skip


FAMILY: Final = {"phi": phi, "phi3": phi3}
