"""T5, T5 v1.1 and Flan-T5: an encoder, and a decoder that also attends to the encoder's output."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import (
    elementwise,
    embedding,
    gated_mlp,
    gemm,
    gqa_attention,
    lm_head,
    mlp,
    norm,
    stack,
)
from weftline.model.config import HFConfig
from weftline.model.families.encoders.bert import uncached
from weftline.model.ir import Attention, Model, Operator

__all__ = ["FAMILY", "t5"]

Ops = tuple[Operator, ...]

_NOTES: Final = (
    "FLOPs a token are those of one source token in the encoder and one target token in the "
    "decoder: source and target are taken to be equally long",
)


def t5(config: HFConfig, *, every_layer: bool = False) -> Model:
    """T5 (arXiv:1910.10683): RMSNorm, no biases; the first layer of each stack holds the relative
    position biases that the whole stack shares. v1.1 gates the feed-forward and does not tie the
    output projection (``tie_word_embeddings: false`` in its published configs).
    """
    hidden = config.int("d_model", "hidden_size")
    heads = config.int("num_heads", "num_attention_heads")
    head_dim = config.int("d_kv", "head_dim")
    ffn = config.int("d_ff")
    vocab = config.int("vocab_size")
    encoder_layers = config.layers("num_layers", "num_hidden_layers")
    decoder_layers = config.int_or("num_decoder_layers", encoder_layers)
    buckets = config.int_or("relative_attention_num_buckets", 32)
    gated = _gated(config)
    tied = config.tied(True)
    positions = config.optional_int("n_positions")
    config.unused("is_encoder_decoder")
    config.require(
        config.bool_or("is_gated_act", gated) == gated, "is_gated_act",
        "`is_gated_act` contradicts `feed_forward_proj`", hint="remove it: it follows from that",
    )  # fmt: skip
    config.check()

    def attention(*, encoder: bool, first: bool) -> Ops:
        ops = gqa_attention(
            hidden=hidden, heads=heads, kv_heads=heads, head_dim=head_dim, rotary_dim=0,
            causal=not encoder,
        )  # fmt: skip
        if first or every_layer:
            ops = (
                *ops,
                elementwise("attn.position_bias", 0, parameters=buckets * heads, shard="heads"),
            )
        return uncached(ops) if encoder else ops

    feed_forward = (
        gated_mlp(hidden, ffn) if gated else mlp(hidden, ffn, bias=False, norm_bias=False)
    )

    def encoder(first: bool) -> tuple[str, Ops]:
        ops = (*attention(encoder=True, first=first), *feed_forward)
        return f"{'mha.bias' if first else 'mha'}+mlp", ops

    def decoder(first: bool) -> tuple[str, Ops]:
        cross = _cross_attention(hidden, heads, head_dim)
        ops = (*attention(encoder=False, first=first), *cross, *feed_forward)
        return f"{'mha.bias' if first else 'mha'}+cross+mlp", ops

    layers = (
        *stack([i == 0 for i in range(encoder_layers)], encoder, role="encoder"),
        *stack([i == 0 for i in range(decoder_layers)], decoder, first=encoder_layers),
    )
    return Model(
        name=config.name, family=config.model_type, source=config.source, hidden=hidden,
        vocab=vocab, layers=layers, embedding=embedding(vocab, hidden),
        head=(*norm("head.encoder_norm", hidden), *lm_head(hidden, vocab, tied=tied)),
        max_seq_len=positions, tied_embeddings=tied, dtype=config.dtype,
        notes=(*_NOTES, *config.notes),
    )  # fmt: skip


def umt5(config: HFConfig) -> Model:
    """UMT5: as mT5, with relative positions of its own in every layer."""
    return t5(config, every_layer=True)


def _gated(config: HFConfig) -> bool:
    """Whether ``feed_forward_proj`` names a gated feed-forward, such as ``gated-gelu``."""
    kind = config.str_or("feed_forward_proj", str(config.default("feed_forward_proj", "relu")))
    gate, _, activation = kind.rpartition("-")
    config.require(
        activation and gate in ("", "gated"), "feed_forward_proj",
        f"field `feed_forward_proj` is `{kind}`: an activation such as `relu`, or `gated-` and one",
        hint="T5 has `relu`, T5 v1.1 and Flan-T5 have `gated-gelu`",
    )  # fmt: skip
    return gate == "gated"


def _cross_attention(hidden: int, heads: int, head_dim: int) -> Ops:
    """Queries from the decoder, keys and values (one product) from the encoder's output."""
    inner = heads * head_dim
    core = Attention(
        heads=heads, kv_heads=heads, qk_dim=head_dim, v_dim=head_dim, causal=False, cross=True,
        kv_values_per_token=2 * inner,
    )  # fmt: skip
    return (
        *norm("cross.norm", hidden),
        gemm("cross.q", hidden, inner, shard="column"),
        gemm("cross.kv", hidden, 2 * inner, shard="column"),
        Operator(
            name="cross.core", kind="attention", attention=core, shard="heads",
            in_features=inner, out_features=inner,
        ),
        gemm("cross.out", inner, hidden, shard="row"),
    )  # fmt: skip


FAMILY: Final = {"mt5": t5, "t5": t5, "umt5": umt5}
