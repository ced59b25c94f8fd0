"""BART's kin and Whisper: an encoder, and a decoder that also attends to it, one row a type.

``seq`` is the length of source and target alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

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
from weftline.model.families.encoders.bert import uncached
from weftline.model.ir import Attention, Model, Operator

__all__ = ["FAMILY", "ROWS", "Pair", "pair"]

Ops = tuple[Operator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What tells an encoder and decoder from BART."""

    before: bool = False
    """Norms before the blocks instead of after them."""
    last_norm: bool = False
    """A norm after the last layer of either stack."""
    embedding_norm: bool = True
    positions: str | None = "max_position_embeddings"
    more_positions: int = 2
    source_positions: str | None = None
    """Field with the encoder's positions, where they are not the decoder's."""
    fixed_positions: bool = False
    """Positions are computed, or kept but not trained."""
    key_bias: bool = True
    audio: str | None = None
    """Field with the channels of the spectrogram that two convolutions read."""
    unused: tuple[str, ...] = ()
    only: dict[str, Any] = field(default_factory=dict)
    """Field -> the only value that is modelled."""


def _number(config: HFConfig, key: str, minimum: int = 1) -> int:
    return config.int(key, default=config.default(key), minimum=minimum)


def _attention(row: Pair, config: HFConfig, hidden: int, side: str) -> Ops:
    heads = _number(config, f"{side}_attention_heads")
    config.require(
        hidden % heads == 0, f"{side}_attention_heads",
        f"`d_model` {hidden} does not divide by `{side}_attention_heads` {heads}",
    )  # fmt: skip
    ops = list(
        gqa_attention(
            hidden=hidden, heads=heads, kv_heads=heads, head_dim=hidden // heads, qkv_bias=True,
            out_bias=True, rotary_dim=0, pre_norm=False, causal=side == "decoder",
        )
    )  # fmt: skip
    if not row.key_bias:
        ops[0] = replace(ops[0], parameters=ops[0].parameters - hidden)
    return uncached(tuple(ops)) if side == "encoder" else tuple(ops)


def _cross(row: Pair, config: HFConfig, hidden: int) -> Ops:
    heads = _number(config, "decoder_attention_heads")
    core = Attention(
        heads=heads, kv_heads=heads, qk_dim=hidden // heads, v_dim=hidden // heads, causal=False,
        cross=True, kv_values_per_token=2 * hidden,
    )  # fmt: skip
    keys = 2 * hidden * hidden + hidden * (2 if row.key_bias else 1)
    return (
        gemm("cross.q", hidden, hidden, shard="column", bias=True),
        gemm("cross.kv", hidden, 2 * hidden, shard="column", parameters=keys),
        Operator(name="cross.core", kind="attention", attention=core, shard="heads",
                 in_features=hidden, out_features=hidden),
        gemm("cross.out", hidden, hidden, shard="row", bias=True),
    )  # fmt: skip


def _layer(row: Pair, config: HFConfig, hidden: int, side: str) -> Ops:
    forward = mlp(hidden, _number(config, f"{side}_ffn_dim"), pre_norm=False)
    blocks = [("attn", _attention(row, config, hidden, side))]
    if side == "decoder":
        blocks.append(("cross", _cross(row, config, hidden)))
    made: Ops = ()
    for name, block in (*blocks, ("mlp", forward)):
        own = norm(f"{name}.norm", hidden, bias=True)
        made += (*own, *block) if row.before else (*block, *own)
    return made


def _embedding(row: Pair, config: HFConfig, vocab: int, hidden: int) -> Ops:
    target = source = 0
    if row.positions:
        target = source = _number(config, row.positions) + row.more_positions
    if row.source_positions:
        source = _number(config, row.source_positions)
    learned = 0 if row.fixed_positions else (target + source) * hidden
    if row.audio:
        # Whisper keeps the encoder's positions, which are computed, as a frozen parameter.
        learned = (target + source) * hidden
    ops: Ops = embedding(vocab, hidden)
    if row.audio:
        bands = _number(config, row.audio)
        ops = (
            *ops,
            gemm("embed.conv1", 3 * bands, hidden, shard="replicated", bias=True),
            gemm("embed.conv2", 3 * hidden, hidden, shard="replicated", bias=True),
        )
    if learned:
        ops = (*ops, elementwise("embed.positions", hidden, parameters=learned))
    if row.embedding_norm:
        ops = (*ops, *norm("embed.source_norm", hidden, bias=True),
               *norm("embed.target_norm", hidden, bias=True))  # fmt: skip
    return ops


def pair(row: Pair) -> Callable[[HFConfig], Model]:
    """The builder of a row."""

    def build(config: HFConfig) -> Model:
        hidden, vocab = _number(config, "d_model"), _number(config, "vocab_size")
        config.unused("is_encoder_decoder", "is_decoder", "num_hidden_layers", *row.unused)
        for key, value in row.only.items():
            config.require(
                config.get(key) in (None, value), key, f"`{key}` other than {value} is not modelled"
            )
        sides = {side: _layer(row, config, hidden, side) for side in ("encoder", "decoder")}
        counts = {
            side: config.int(f"{side}_layers", default=config.default(f"{side}_layers"),
                             maximum=10_000)
            for side in sides
        }  # fmt: skip
        layers = (
            *stack(["mha+mlp"] * counts["encoder"], lambda kind: (kind, sides["encoder"]),
                   role="encoder"),
            *stack(["mha+cross+mlp"] * counts["decoder"], lambda kind: (kind, sides["decoder"]),
                   first=counts["encoder"]),
        )  # fmt: skip
        before = _embedding(row, config, vocab, hidden)
        tied = config.tied(bool(config.default("tie_word_embeddings", True)))
        after: Ops = lm_head(hidden, vocab, tied=tied, final_norm=False)
        if row.last_norm:
            after = (*norm("head.encoder_norm", hidden, bias=True),
                     *norm("head.norm", hidden, bias=True), *after)  # fmt: skip
        config.require(
            tied,
            "tie_word_embeddings",
            "an output projection of its own is not published for this family and not counted",
        )
        config.notes.append(
            "FLOPs a token are those of one source token in the encoder and one target token in "
            "the decoder: source and target are taken to be equally long"
        )
        positions = config.optional_int("max_position_embeddings", "max_target_positions")
        config.check()
        return Model(
            name=config.name, family=config.model_type, source=config.source, hidden=hidden,
            vocab=vocab, layers=layers, embedding=before, head=after, max_seq_len=positions,
            tied_embeddings=tied, dtype=config.dtype, notes=tuple(config.notes),
        )  # fmt: skip

    return build


_BART: Final = Pair()

ROWS: Final[dict[str, Pair]] = {
    "bart": _BART, "plbart": _BART,
    "mvp": replace(_BART, only={"use_prompt": False}, unused=("prompt_length", "prompt_mid_dim")),
    "mbart": Pair(before=True, last_norm=True),
    "blenderbot": Pair(before=True, last_norm=True, embedding_norm=False, more_positions=0),
    "blenderbot-small": Pair(more_positions=0),
    "pegasus": Pair(
        before=True, last_norm=True, embedding_norm=False, more_positions=0,
    ),
    "marian": Pair(
        embedding_norm=False, more_positions=0,
        only={"share_encoder_decoder_embeddings": True}, unused=("decoder_vocab_size",),
    ),
    "m2m_100": Pair(before=True, last_norm=True, embedding_norm=False, positions=None),
    "whisper": Pair(
        before=True, last_norm=True, embedding_norm=False, positions="max_target_positions",
        more_positions=0, source_positions="max_source_positions", key_bias=False,
        audio="num_mel_bins",
        unused=("use_weighted_layer_sum", "classifier_proj_size", "median_filter_width"),
    ),
}  # fmt: skip

FAMILY: Final[dict[str, Callable[[HFConfig], Model]]] = {
    kind: pair(row) for kind, row in ROWS.items()
}
