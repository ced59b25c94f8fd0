"""Which stage runs where: every combination, with data moved and clusters set up between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from weftline.decide.lifecycle.moves import TOKEN_BYTES, WEIGHT_BYTES, Goods, moved
from weftline.decide.lifecycle.pieces import Drivers, Piece, setup_lines
from weftline.decide.lifecycle.read import Stage
from weftline.decide.lifecycle.sites import Site
from weftline.errors import InputError
from weftline.spec.lifecycle import LifeLine
from weftline.units import parse_count

__all__ = ["Placing", "Scene", "best_with", "ways_of"]

MOST_WAYS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What can be combined: stages in order, and each placed stage's pieces by site."""

    stages: Sequence[Stage]
    pieces: Mapping[str, Mapping[str, Piece]]
    """Placed stage -> site -> piece; a site where it cannot run is missing."""
    sites: Mapping[str, Site]
    parameters: int
    drivers: Drivers
    finetunes: Mapping[str, float]
    """Fine-tuning stage -> runs, each of whose weights goes to where the model is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """One combination, with the lines of moves and set-ups that follow from it."""

    name: str
    places: Mapping[str, str]
    pieces: tuple[Piece, ...]
    between: tuple[LifeLine, ...]

    @property
    def lines(self) -> tuple[LifeLine, ...]:
        """All of its lines."""
        return (*(line for piece in self.pieces for line in piece.lines), *self.between)


def score(lines: Sequence[LifeLine], objective: str) -> float:
    """What the placing makes least; infinite where it is not known."""
    if objective == "cost":
        return sum(line.usd for line in lines)
    if objective == "energy":
        known = [line.energy_j for line in lines]
    else:
        known = [None if line.kgco2e is None else line.kgco2e + line.kgco2e_embodied
                 for line in lines]  # fmt: skip
    return math.inf if None in known else sum(v for v in known if v is not None)


def ways_of(scene: Scene, objective: str, *, one: bool) -> list[Placing]:
    """All stages at one site, for each; at one vendor's chips, for each with several; and best."""
    everywhere = [
        name for name in scene.sites if all(name in held for held in scene.pieces.values())
    ]
    found = [
        placing(scene, f"all on {name}", dict.fromkeys(scene.pieces, name)) for name in everywhere
    ]
    if not one:
        groups: dict[str, set[str]] = {}
        for name, site in scene.sites.items():
            groups.setdefault(site.chip.vendor, set()).add(name)
        vendors = {v: names for v, names in groups.items() if 1 < len(names) < len(scene.sites)}
        found += [
            way for vendor, names in vendors.items()
            if (way := _best(scene, f"{vendor} chips, each stage at its best", names, objective))
        ]  # fmt: skip
        best = _best(scene, "each stage at its best", set(scene.sites), objective)
        found += [best] if best is not None else []
    unique: dict[tuple[tuple[str, str], ...], Placing] = {}
    for way in found:
        unique.setdefault(tuple(sorted(way.places.items())), way)
    return sorted(unique.values(), key=lambda w: (score(w.lines, objective),
                                                  score(w.lines, "cost")))  # fmt: skip


def best_with(scene: Scene, held: Mapping[str, str], objective: str) -> Placing | None:
    """The best combination with some stages held to a site; None where one has none."""
    return _best(scene, "", set(scene.sites), objective, held)


def _best(
    scene: Scene, name: str, allowed: set[str], objective: str,
    to: Mapping[str, str] = MappingProxyType({}),
) -> Placing | None:  # fmt: skip
    """The best of all combinations of ``allowed`` sites; None where a stage has none of them."""
    choices = [
        [s for s in held if s in allowed and to.get(stage, s) == s]
        for stage, held in scene.pieces.items()
    ]
    count = math.prod(map(len, choices))
    if count == 0:
        return None
    if count > MOST_WAYS:
        raise InputError(f"{count:,} ways to place the stages, {MOST_WAYS:,} are the most",
                         hint="fewer chips, `on:` in a stage, or place: one")  # fmt: skip
    names = list(scene.pieces)
    quick = _Quick(scene, objective)
    best = min(itertools.product(*choices), key=lambda way: quick.score(names, way))
    return placing(scene, name, dict(zip(names, best, strict=True)))


class _Quick:
    """Scores of combinations from scores of their parts, each worked out once."""

    def __init__(self, scene: Scene, objective: str) -> None:
        self.scene, self.objective = scene, objective
        self.of_piece = {
            (stage, site): score(piece.lines, objective)
            for stage, held in scene.pieces.items() for site, piece in held.items()
        }  # fmt: skip
        self.of_between: dict[tuple[str, ...], float] = {}

    def score(self, names: Sequence[str], way: Sequence[str]) -> float:
        total = sum(self.of_piece[pair] for pair in zip(names, way, strict=True))
        places = dict(zip(names, way, strict=True))
        return total + score(list(between(self.scene, places)), self.objective)


def placing(scene: Scene, name: str, places: Mapping[str, str]) -> Placing:
    """A combination with what lies between its stages."""
    return Placing(
        name=name, places=places, between=tuple(between(scene, places)),
        pieces=tuple(scene.pieces[stage][site] for stage, site in places.items()),
    )  # fmt: skip


def between(scene: Scene, places: Mapping[str, str]) -> Iterator[LifeLine]:
    """Moves of tokens and weights, and one set-up a site with the largest cluster that trains."""
    lies: tuple[str, str, Site | None] | None = None
    tokens = 0.0
    made: Site | None = None
    for stage in scene.stages:
        if stage.kind == "preprocess":
            lies = (stage.text("at"), "", None)
            tokens += parse_count(stage.text("tokens"), where=stage.where("tokens")) * TOKEN_BYTES
        if stage.name not in places:
            continue
        site = scene.sites[places[stage.name]]
        if stage.kind == "train":
            if lies is not None and tokens:
                yield from _line(Goods(stage=stage.name, size_bytes=tokens, times=1.0,
                                       what="tokens"), *lies, site)  # fmt: skip
            made = made or site
        elif made is not None:
            yield from _line(_weights(scene, stage.name, 1.0), made.seller, made.region, made, site)
        if stage.kind == "finetune":
            for serving in (s for s in scene.stages if s.kind == "serve" and s.name in places):
                goods = _weights(scene, serving.name, scene.finetunes.get(stage.name, 1.0))
                to = scene.sites[places[serving.name]]
                yield from _line(goods, site.seller, site.region, site, to)
    yield from _setups(scene, places)


def _weights(scene: Scene, stage: str, times: float) -> Goods:
    return Goods(stage=stage, size_bytes=scene.parameters * WEIGHT_BYTES, times=times,
                 what="weights")  # fmt: skip


def _line(
    goods: Goods, seller: str, region: str, origin: Site | None, to: Site
) -> Iterator[LifeLine]:
    line = moved(goods, seller, region, origin, to)
    if line is not None:
        yield line


def _setups(scene: Scene, places: Mapping[str, str]) -> Iterator[LifeLine]:
    largest: dict[str, Piece] = {}
    for stage, name in places.items():
        piece = scene.pieces[stage][name]
        if piece.trains and (name not in largest or piece.chips > largest[name].chips):
            largest[name] = piece
    for name, piece in largest.items():
        site = scene.sites[name]
        yield from setup_lines(piece.stage, site, piece.chips, site.usd_per_chip_hour,
                               scene.drivers)  # fmt: skip
