"""Gemma 2 and Gemma 3: norms before and after each block, sliding windows between full layers."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import embedding, gated_mlp, gqa_attention, lm_head, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "gemma2", "gemma3"]

_SLIDING: Final = "sliding_attention"
_FULL: Final = "full_attention"


def gemma2(config: HFConfig) -> Model:
    """Gemma 2 (arXiv:2408.00118): every other layer has a sliding window, the first one has."""
    return _gemma(config, period=2, qk_norm=False, vocab_default=256_000)


def gemma3(config: HFConfig) -> Model:
    """Gemma 3's language model (arXiv:2503.19786): five windowed layers to a full one, QK-norm.

    Published configs of the larger models leave out what equals the configuration class's
    defaults, so the same defaults stand here.
    """
    period = config.int_or("sliding_window_pattern", 6, "_sliding_window_pattern")
    return _gemma(config, period=period, qk_norm=True, vocab_default=262_208)


def _gemma(config: HFConfig, *, period: int, qk_norm: bool, vocab_default: int) -> Model:
    hidden = config.int("hidden_size")
    vocab = config.int_or("vocab_size", vocab_default)
    layers = config.layers()
    ffn = config.int("intermediate_size")
    heads = config.int_or("num_attention_heads", 8)
    kv_heads = config.int_or("num_key_value_heads", 4)
    head_dim = config.int_or("head_dim", 256)
    config.require(
        heads % kv_heads == 0,
        "num_key_value_heads" if config.has("num_key_value_heads") else "num_attention_heads",
        f"`num_attention_heads` {heads} does not divide by `num_key_value_heads` {kv_heads}",
        hint="each key-value head serves the same number of query heads",
    )  # fmt: skip
    window = config.int_or("sliding_window", 4096)
    bias = config.bool_or("attention_bias", False)
    tied = config.tied(True)
    positions = config.optional_int("max_position_embeddings")
    default = [_FULL if (i + 1) % period == 0 else _SLIDING for i in range(layers)]
    kinds = config.kinds("layer_types", (_SLIDING, _FULL), layers, default)
    config.require(
        not config.bool_or("use_bidirectional_attention", False), "use_bidirectional_attention",
        "`use_bidirectional_attention` makes an encoder, which is not modelled for this family",
        hint="set it to false to model the decoder",
    )  # fmt: skip
    config.check()

    def build(kind: str) -> tuple[str, tuple[Operator, ...]]:
        sliding = kind == _SLIDING
        operators = (
            *gqa_attention(
                hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qkv_bias=bias,
                out_bias=bias, qk_norm="head" if qk_norm else "none",
                window=window if sliding else None, post_norm=True,
            ),
            *gated_mlp(hidden, ffn, post_norm=True),
        )  # fmt: skip
        return ("swa+mlp" if sliding else "gqa+mlp"), operators

    return Model(
        name=config.name, family=config.model_type, source=config.source, hidden=hidden,
        vocab=vocab, layers=stack(kinds, build), embedding=embedding(vocab, hidden),
        head=lm_head(hidden, vocab, tied=tied), max_seq_len=positions, tied_embeddings=tied,
        dtype=config.dtype, notes=tuple(config.notes),
    )  # fmt: skip


FAMILY: Final = {"gemma2": gemma2, "gemma3": gemma3, "gemma3_text": gemma3}
