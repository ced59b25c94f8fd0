"""BERT as it is pre-trained: encoder, pooler, masked-token head and next-sentence head."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from weftline.model.blocks import (
    elementwise,
    embedding,
    gemm,
    gqa_attention,
    lm_head,
    mlp,
    norm,
    stack,
)
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "bert", "uncached"]

_NOTES: Final = (
    "counted as pre-trained (BertForPreTraining): with pooler, masked-token and "
    "next-sentence heads",
    "the pooler and the next-sentence head see one position a sequence: their parameters count, "
    "their FLOPs do not",
    "the masked-token head counts for every position; benchmarks that gather the masked positions "
    "first do less",
)


def bert(config: HFConfig) -> Model:
    """BERT (arXiv:1810.04805): bidirectional attention, each LayerNorm after the residual sum."""
    hidden = config.int("hidden_size")
    heads, _, head_dim = config.attention_heads(hidden)
    layers = config.layers()
    vocab = config.int("vocab_size")
    ffn = config.int("intermediate_size")
    positions = config.int("max_position_embeddings")
    types = config.int_or("type_vocab_size", 2)
    tied = config.tied(True)
    for key in ("is_decoder", "add_cross_attention"):
        config.require(
            not config.bool_or(key, False), key, f"`{key}` makes BERT a decoder: not modelled",
            hint=f"set `{key}` to false",
        )  # fmt: skip
    config.check()
    operators = (
        *uncached(
            gqa_attention(
                hidden=hidden, heads=heads, kv_heads=heads, head_dim=head_dim, qkv_bias=True,
                out_bias=True, rotary_dim=0, pre_norm=False, causal=False,
            )
        ),
        *norm("attn.post_norm", hidden, bias=True),
        *mlp(hidden, ffn, pre_norm=False),
        *norm("mlp.post_norm", hidden, bias=True),
    )  # fmt: skip
    return Model(
        name=config.name, family=config.model_type, source=config.source, hidden=hidden,
        vocab=vocab,
        layers=stack(["mha+mlp"] * layers, lambda kind: (kind, operators), role="encoder"),
        embedding=(
            *embedding(vocab, hidden, positions=positions, types=types),
            *norm("embed.norm", hidden, bias=True),
        ),
        head=_head(hidden, vocab, tied=tied), max_seq_len=positions, tied_embeddings=tied,
        dtype=config.dtype, notes=(*_NOTES, *config.notes),
    )  # fmt: skip


def _head(hidden: int, vocab: int, *, tied: bool) -> tuple[Operator, ...]:
    return (
        gemm("head.transform", hidden, hidden, shard="replicated", bias=True),
        elementwise("head.act", hidden),
        *lm_head(hidden, vocab, tied=tied, bias=True, norm_bias=True),
        *(() if tied else (elementwise("head.bias", vocab, parameters=vocab),)),
        elementwise("head.pooler", 0, parameters=hidden * (hidden + 1)),
        elementwise("head.next_sentence", 0, parameters=2 * (hidden + 1)),
    )


def uncached(operators: tuple[Operator, ...]) -> tuple[Operator, ...]:
    """Attention of an encoder: its keys and values are used once and not kept."""
    return tuple(
        op
        if op.attention is None
        else replace(op, attention=replace(op.attention, kv_values_per_token=0))
        for op in operators
    )


FAMILY: Final = {"bert": bert}
