"""Lock-in: what leaving a place costs while a model is served, when it pays, and what portability
is worth.

Only stages of many months can leave (serve, finetune, rent); what was trained before is spent.
Months count from the start of serving, as if all of them started together. Leaving in month L,

    cost = origin(before L) + other(from L) + two stacks(L to L + parallel)
         + contract(from L + parallel) + missing speed(L to L + tuning) + egress + people + set-up,

where every term is made of the lines of the two plans, so that each keeps its drivers: what nobody
knows moves both sides at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weftline.catalog import storage_tiers
from weftline.decide.lifecycle.bands import Sampler, flip_words, flips_between
from weftline.decide.lifecycle.choose import Scene
from weftline.decide.lifecycle.fields import PortableFields
from weftline.decide.lifecycle.moves import WEIGHT_BYTES, kept_bytes, tier_of_store
from weftline.decide.lifecycle.pieces import Piece, setup_lines
from weftline.decide.lifecycle.read import Fields, Life
from weftline.decide.lifecycle.sites import Site
from weftline.decide.lifecycle.timing import spread
from weftline.errors import InputError, NoFeasiblePlanError, UnknownNameError
from weftline.spec.lifecycle import Leaving, LifeLine
from weftline.spec.parse import Collector
from weftline.units import format_bytes, parse_fraction, parse_usd

__all__ = ["LONG", "Terms", "leavings", "long_stages", "origin_of", "terms_of"]

LONG: Final = ("serve", "finetune", "rent")
"""Kinds of stage that go on for months, so that they can leave."""
MOST_FLIPS: Final = 3
GIVEN: Final = "given by the user"
ASSUMED: Final = {
    "retune": "assumed: a year of an engineer at 200,000 dollars",
    "lost": "assumed: of the speed there until the model is tuned",
}
_ZERO: Final = frozenset({"0", "0%", "$0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What binds to the origin, and what a move takes."""

    month: int
    contract: int
    owed: float
    parallel: int
    retune_h: float
    people_usd_h: float
    lost: float
    tuning: int
    egress_usd: float | None
    bases: Mapping[str, str]
    """What hours and lost speed rest on."""


def terms_of(asked: Fields, portable: Fields | None = None) -> Terms:
    """The terms of a file, some of them the portable model's own. Raises all mistakes."""
    get = Collector()

    def source(name: str) -> Fields:
        own = portable is not None and name in PortableFields.__dataclass_fields__
        return portable if own and portable is not None else asked

    def whole(name: str) -> int:
        text, where = source(name).text(name), source(name).where(name)
        if not text.isdigit() or int(text) > 240:
            get.errors.append(InputError(f"`{text}`: months from 0 to 240", where=where))
            return 0
        return int(text)

    def share(name: str) -> float:
        at = source(name)
        if at.text(name).strip() in _ZERO:
            return 0.0
        return get(lambda: parse_fraction(at.text(name), where=at.where(name))) or 0.0

    def dollars(name: str) -> float:
        if asked.text(name).strip() in _ZERO:
            return 0.0
        return get(lambda: parse_usd(asked.text(name), where=asked.where(name))) or 0.0

    hours = source("retune").text("retune").removesuffix("h").replace(",", "").strip()
    try:
        retune = float(hours)
    except ValueError:
        retune = -1.0
    if not 0 <= retune < 1e7:
        get.errors.append(InputError(f"`{hours}` is not hours", hint="2000",
                                     where=source("retune").where("retune")))  # fmt: skip
    found = Terms(
        month=whole("month"), contract=whole("contract"), owed=share("owed"),
        parallel=whole("parallel"), retune_h=retune, people_usd_h=dollars("people"),
        lost=share("lost"), tuning=whole("tuning"),
        egress_usd=None if asked.get("egress") is None else dollars("egress"),
        bases={n: GIVEN if n in source(n).lines else said for n, said in ASSUMED.items()},
    )  # fmt: skip
    if found.lost >= 1:
        get.errors.append(InputError("all speed lost", where=source("lost").where("lost")))
    get.raise_all()
    return found


def long_stages(life: Life) -> list[str]:
    """Names of the stages that can leave. Raises InputError where there are none."""
    names = [s.name for s in life.stages if s.kind in LONG]
    if not names:
        at = life.leave.line if life.leave is not None else 1
        raise InputError("no stage goes on for months: nothing can leave",
                         where=f"{life.path}:{at}", hint="kind: serve")  # fmt: skip
    return names


def origin_of(asked: Fields, scene: Scene, names: Sequence[str]) -> str:
    """The place to leave: as asked, or where the long stages cost least together.

    Raises NoFeasiblePlanError where no place runs them all.
    """
    able = [s for s in scene.sites if all(s in scene.pieces[n] for n in names)]
    told = asked.get("origin")
    if told is not None and told not in scene.sites:
        raise UnknownNameError("place", told, scene.sites, where=asked.where("origin"))
    if (told is not None and told not in able) or not able:
        raise NoFeasiblePlanError(f"{told or 'no place'} does not run all of {', '.join(names)}",
                                  where=asked.where("origin"))  # fmt: skip
    return told or min(able, key=lambda s: sum(scene.pieces[n][s].usd for n in names))


def targets_of(asked: Fields, scene: Scene, origin: str, names: Sequence[str]) -> list[str]:
    """The places to leave for, those that run every long stage. Raises UnknownNameError."""
    told = asked.get("to")
    words = list(scene.sites) if told is None else [w.strip() for w in told.split(",")]
    for word in words:
        if word not in scene.sites:
            raise UnknownNameError("place", word, scene.sites, where=asked.where("to"))
    return [w for w in words if w != origin and all(w in scene.pieces[n] for n in names)]


@dataclass(frozen=True, slots=True)
class Bill:
    """Lines of the long stages at one place, and the share of each in each month."""

    lines: tuple[LifeLine, ...]
    shares: NDArray[np.float64]
    """[lines, months]."""

    def between(self, first: int, end: int, part: str | None = None) -> list[LifeLine]:
        """The lines of months ``first`` up to ``end``; of one part if named."""
        found = []
        for line, share in zip(self.lines, self.shares, strict=True):
            held = float(share[first : max(first, end)].sum())
            if held and (part is None or line.part == part):
                found.append(replace(line, usd=line.usd * held))
        return found


def bill_of(pieces: Sequence[Piece]) -> Bill:
    """The bill of pieces that start together."""
    rows = []
    lines: list[LifeLine] = []
    for piece in pieces:
        row = piece.shares or spread(0.0, piece.lasts_s)[1]
        rows += [row] * len(piece.lines)
        lines += piece.lines
    months = max(map(len, rows))
    shares = np.zeros((len(rows), months))
    for i, row in enumerate(rows):
        shares[i, : len(row)] = row
    return Bill(tuple(lines), shares)


def _padded(bill: Bill, months: int) -> Bill:
    more = months - bill.shares.shape[1]
    return Bill(bill.lines, np.pad(bill.shares, ((0, 0), (0, more)))) if more else bill


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One way out: two bills of as many months, the terms, and what is paid once."""

    origin: str
    place: str
    terms: Terms
    here: Bill
    there: Bill
    once: tuple[LifeLine, ...]

    @property
    def months(self) -> int:
        """Months of serving."""
        return int(self.here.shares.shape[1])

    def costs(self, month: int) -> list[LifeLine]:
        """What leaving in a month costs itself."""
        t = self.terms
        two = self.here.between(month, min(month + t.parallel, self.months))
        bound = self.here.between(month + t.parallel, min(t.contract, self.months), "chips")
        slow = self.there.between(month, min(month + t.tuning, self.months), "chips")
        return [
            *(replace(x, part="two stacks", formula=f"{t.parallel} months at both places")
              for x in two),
            *(replace(x, part="contract", usd=x.usd * t.owed,
                      formula=f"{t.owed:.0%} of the chips to month {t.contract}")
              for x in bound if t.owed),
            *(replace(x, part="missing speed", usd=x.usd * t.lost / (1 - t.lost),
                      formula=f"{t.lost:.0%} slower for {t.tuning} months", basis=t.bases["lost"])
              for x in slow if t.lost),
            *self.once,
        ]  # fmt: skip

    def lines(self, month: int) -> list[LifeLine]:
        """The whole bill of the long stages, left in a month."""
        return [*self.here.between(0, month), *self.there.between(month, self.months),
                *self.costs(month)]  # fmt: skip

    def cash(self, month: int) -> NDArray[np.float64]:
        """[months]: what each month costs, left in ``month``."""
        t, at = self.terms, np.arange(self.months)
        here = np.array([x.usd for x in self.here.lines]) @ self.here.shares
        there = np.array([x.usd for x in self.there.lines]) @ self.there.shares
        chips = [np.array([x.usd * (x.part == "chips") for x in bill.lines]) @ bill.shares
                 for bill in (self.here, self.there)]  # fmt: skip
        back = month + t.parallel
        found = np.where(at < back, here, 0.0) + np.where(at >= month, there, 0.0)
        found += np.where((at >= back) & (at < t.contract), chips[0] * t.owed, 0.0)
        tuning = (at >= month) & (at < month + t.tuning)
        found += np.where(tuning, chips[1] * t.lost / (1 - t.lost), 0.0)
        found[month] += sum(x.usd for x in self.once)
        return np.asarray(found)

    def stays(self) -> NDArray[np.float64]:
        """[months]: what each month costs where nobody leaves."""
        return np.asarray(np.array([x.usd for x in self.here.lines]) @ self.here.shares)


def leavings(
    asked: Fields, life: Life, scene: Scene, spent_usd: float, origin: str,
    portable: Fields | None = None,
) -> tuple[Leaving, ...]:  # fmt: skip
    """Every way out of the origin, the one that costs least first.

    ``spent_usd`` is what the life costs beside its long stages. Raises InputError(s).
    """
    terms, names = terms_of(asked, portable), long_stages(life)
    here = bill_of([scene.pieces[n][origin] for n in names])
    samples, seed = int(life.head.text("samples")), int(life.head.text("seed"))
    if terms.month >= here.shares.shape[1]:
        raise InputError(f"month {terms.month}: serving has {here.shares.shape[1]}",
                         where=asked.where("month"))  # fmt: skip
    found = []
    for place in targets_of(asked, scene, origin, names):
        there = bill_of([scene.pieces[n][place] for n in names])
        months = max(here.shares.shape[1], there.shares.shape[1])
        move = Move(
            origin=origin, place=place, terms=terms, here=_padded(here, months),
            there=_padded(there, months), once=tuple(_once(life, scene, origin, place, terms)),
        )  # fmt: skip
        found.append(_leaving(move, scene, spent_usd, samples, seed))
    return tuple(sorted(found, key=lambda x: x.leave_usd))


def _leaving(move: Move, scene: Scene, spent_usd: float, samples: int, seed: int) -> Leaving:
    first = move.terms.month
    staying = move.stays()
    whole = np.array([move.cash(m).sum() for m in range(first, move.months)])
    gains = whole < staying.sum() * (1 - 1e-12)
    pays = bool(gains.any())
    month = first + int(whole.argmin()) if pays else first
    stay, leave = list(move.here.lines), move.lines(month)
    drivers = {n: d for n, d in scene.drivers.by_name.items()
               if any(n in x.drivers for x in (*stay, *leave))}  # fmt: skip
    sampler = Sampler.draw(list(drivers.values()), samples, seed)
    saved = sampler.usd(stay) - sampler.usd(leave)
    low, high = (float(v) for v in np.percentile(saved, (5, 95)))
    middle = float(staying.sum() - whole[month - first])
    words = f"leaving for {move.place}" if not pays else f"staying on {move.origin}"
    flips = flips_between(*((leave, stay) if pays else (stay, leave)), drivers)
    gained = np.cumsum(staying - move.cash(month))
    owing = np.flatnonzero(gained < -1e-9 * staying.sum())
    even = int(owing[-1]) + 1 if len(owing) else month
    return Leaving(
        origin=move.origin, place=move.place, pays=pays, month=month,
        stay_usd=spent_usd + float(staying.sum()),
        leave_usd=spent_usd + float(whole[month - first]),
        low=min(low, middle), high=max(high, middle), pays_share=float(np.mean(saved > 0)),
        costs=tuple(move.costs(month)), first_month=first,
        by_month=tuple(float(spent_usd + v) for v in whole),
        break_even_month=even if pays and even < move.months else None,
        last_month=first + int(np.flatnonzero(gains)[-1]) if pays else None,
        flips=tuple(flip_words(words, d, f) for d, f in flips[:MOST_FLIPS]),
    )  # fmt: skip


def _once(life: Life, scene: Scene, origin: str, place: str, terms: Terms) -> list[LifeLine]:
    """Egress of what is kept and the weights, people, and the set-up of a cluster that trains."""
    here, there = scene.sites[origin], scene.sites[place]
    stage = long_stages(life)[0]
    base = LifeLine(stage=stage, part="", place=place, seller=there.seller, usd=0.0, formula="",
                    basis="")  # fmt: skip
    found = []
    size = scene.parameters * WEIGHT_BYTES + _kept(life, scene, here)
    usd, basis = _egress(here, there, size)
    if terms.egress_usd is not None:
        usd, basis = terms.egress_usd, GIVEN
    if usd:
        found.append(replace(base, part="egress", usd=usd, basis=basis, seller=here.seller,
                             formula=f"{format_bytes(size)} of weights and what is kept, "
                                     f"{here.seller} to {there.seller}"))  # fmt: skip
    if terms.retune_h and terms.people_usd_h:
        people = scene.drivers.people()
        found.append(replace(
            base, part="re-tuning", usd=terms.retune_h * terms.people_usd_h,
            formula=f"{terms.retune_h:,.0f} hours x ${terms.people_usd_h:,.0f}",
            basis=terms.bases["retune"], drivers=scene.drivers.known({people: 1.0}),
        ))  # fmt: skip
    trains = [held[place] for name, held in scene.pieces.items()
              if name in long_stages(life) and held[place].trains]  # fmt: skip
    if trains:
        largest = max(trains, key=lambda p: p.chips)
        found += setup_lines(largest.stage, there, largest.chips, there.usd_per_chip_hour,
                             scene.drivers)  # fmt: skip
    return found


def _kept(life: Life, scene: Scene, here: Site) -> float:
    """Bytes of the store stages that lie with the origin's seller."""
    total = 0.0
    by_name = {s.name: s for s in life.stages}
    for stage in life.stages:
        if stage.kind == "store":
            of = by_name.get(stage.get("of") or "")
            tier = storage_tiers().get(tier_of_store(stage, here))
            if tier is not None and tier.provider == here.seller:
                total += kept_bytes(stage, of, scene.parameters)
    return total


def _egress(here: Site, there: Site, size: float) -> tuple[float, str]:
    if here.seller == there.seller and (not here.region or here.region == there.region):
        return 0.0, "there already"
    return here.egress_usd(size)
