"""When stages run: one after another in the file's order; serving and what goes with it beside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from weftline.decide.lifecycle.pieces import Piece
from weftline.decide.lifecycle.read import Stage
from weftline.decide.lifecycle.sites import MONTH_S
from weftline.spec.lifecycle import LifeLine

__all__ = ["Timed", "timed"]

_BESIDE: Final = ("finetune", "serve", "store", "rent")
"""Kinds that start when what stands above them is done, and do not hold up what is below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A stage with its lines in their months."""

    piece: Piece
    starts_s: float
    ends_s: float
    lines: tuple[LifeLine, ...]


def timed(
    pieces: Sequence[Piece], stages: Sequence[Stage], between: Sequence[LifeLine]
) -> tuple[Timed, ...]:
    """Every stage in the file's order, with the moves and set-ups that it pays for."""
    by_name = {p.stage: p for p in pieces}
    clock = 0.0
    found = []
    for stage in stages:
        piece = by_name.get(stage.name)
        if piece is None:
            continue
        starts = 0.0 if stage.kind == "store" else clock
        months = len(piece.shares)
        ends = starts + (months * MONTH_S if months and stage.kind != "store" else piece.lasts_s)
        if stage.kind not in _BESIDE:
            clock = ends
        own = [_in_months(line, starts, piece) for line in piece.lines]
        paid = [_at(line, starts) for line in between if line.stage == stage.name]
        found.append(Timed(piece=piece, starts_s=starts, ends_s=ends, lines=(*own, *paid)))
    return tuple(found)


def _at(line: LifeLine, starts_s: float) -> LifeLine:
    return replace(line, first_month=int(starts_s / MONTH_S), by_month=(1.0,))


def _in_months(line: LifeLine, starts_s: float, piece: Piece) -> LifeLine:
    if piece.shares:
        return replace(line, first_month=int(starts_s / MONTH_S), by_month=piece.shares)
    first, shares = spread(starts_s, piece.lasts_s)
    return replace(line, first_month=first, by_month=shares)


def spread(starts_s: float, lasts_s: float) -> tuple[int, tuple[float, ...]]:
    """(first month, share of each): evenly over the time; what takes none falls in one month."""
    ends_s = starts_s + lasts_s
    first = int(starts_s / MONTH_S)
    last = max(first, math.ceil(ends_s / MONTH_S) - 1)
    if ends_s <= starts_s or last == first:
        return first, (1.0,)
    edges = [starts_s, *(month * MONTH_S for month in range(first + 1, last + 1)), ends_s]
    return first, tuple((b - a) / (ends_s - starts_s) for a, b in itertools.pairwise(edges))
