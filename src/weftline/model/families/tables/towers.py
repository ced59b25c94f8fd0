"""Pairs of towers that embed two things in one space (CLIP): both are planned, as they are trained.

``seq`` is the tokens of a text and the patches of an image alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from weftline.errors import InputError, InternalError
from weftline.model.blocks import elementwise, gemm
from weftline.model.config import HFConfig
from weftline.model.families.tables import encoders, vision
from weftline.model.ir import Model, Operator
from weftline.model.known import is_harmless

__all__ = ["FAMILY", "ROWS"]

_CLIP: Final = ("clip_text_model", "clip_vision_model")
ROWS: Final[dict[str, tuple[str, str]]] = {"clip": _CLIP, "metaclip_2": _CLIP}
"""Model type -> the rows of its text tower and of its vision tower."""


def _named(side: str, operators: Iterable[Operator]) -> tuple[Operator, ...]:
    return tuple(replace(op, name=f"{side}.{op.name}") for op in operators)


def _agree(config: HFConfig, section: str) -> None:
    """Old files state a section twice: transformers would take the second, so they must agree."""
    again = config.top.get(f"{section}_dict")
    if not isinstance(again, dict):
        return
    first = config.top.get(section) or {}
    default = config.within(section).class_.defaults
    for key, value in again.items():
        other = first.get(key, default.get(key))
        config.require(
            value == other or is_harmless(key, value), f"{section}_dict.{key}",
            f"`{section}_dict.{key}` {value} is not that of `{section}`, {other}",
            hint="keep the one that is meant",
        )  # fmt: skip


def _tower(build: Callable[[HFConfig], Model], config: HFConfig) -> Model | None:
    """A tower, or ``None`` with its mistakes noted, so that those of both are told together."""
    try:
        return build(config)
    except InputError:
        return None


def towers(texts: str, images: str) -> Callable[[HFConfig], Model]:
    """The builder of a row."""

    def build(config: HFConfig) -> Model:
        for section in ("text_config", "vision_config"):
            _agree(config, section)
        shared = config.outer_int("projection_dim")
        other = config.within("vision_config")
        text = _tower(encoders.FAMILY[texts], config)
        image = _tower(vision.FAMILY[images], other)
        if text is None or image is None:
            config.check()
            raise InternalError("a tower was refused without a mistake")
        other.refuse_unread()
        layers = (*text.layers, *image.layers)
        positions = (text.max_seq_len or 0, image.max_seq_len or 0)
        config.notes[:] = [
            f"both towers are taken to see `seq` positions: {positions[0]} tokens of a text, "
            f"{positions[1]} of an image"
        ]
        return Model(
            name=config.name, family=config.model_type, source=config.source,
            hidden=max(text.hidden, image.hidden), vocab=text.vocab,
            layers=tuple(replace(layer, index=at) for at, layer in enumerate(layers)),
            embedding=(*text.embedding, *_named("vision", image.embedding)),
            head=(
                *text.head, *_named("vision", image.head),
                gemm("head.text_projection", text.hidden, shared, shard="replicated"),
                gemm("head.vision_projection", image.hidden, shared, shard="replicated"),
                elementwise("head.scale", 0, parameters=1),
            ),
            max_seq_len=max(positions), dtype=config.dtype, notes=tuple(config.notes),
        )  # fmt: skip

    return build


FAMILY: Final[dict[str, Callable[[HFConfig], Model]]] = {
    kind: towers(*row) for kind, row in ROWS.items()
}
