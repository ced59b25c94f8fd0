"""From a lifecycle file to its answer: plan each stage at each site, combine, sample, say why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from weftline._version import __version__
from weftline.catalog.date import CATALOG_DATE
from weftline.cost.energy import POWER_BAND, POWER_FRACTION
from weftline.decide.lifecycle.answers import Answers
from weftline.decide.lifecycle.bands import (
    Sampler,
    analytic_mean,
    flip_words,
    flips_between,
    tornado,
)
from weftline.decide.lifecycle.choose import Placing, Scene, best_with, score, ways_of
from weftline.decide.lifecycle.leave import leavings, long_stages, origin_of, terms_of
from weftline.decide.lifecycle.moves import stored
from weftline.decide.lifecycle.pieces import DRAW, PRICE, Drivers, Piece
from weftline.decide.lifecycle.read import Life, Stage
from weftline.decide.lifecycle.sites import MONTH_S, Site, sites_of
from weftline.decide.lifecycle.stages import Context, evaluated, number, placed, preprocessed
from weftline.decide.lifecycle.timing import Timed, timed
from weftline.errors import InputError, NoFeasiblePlanError, UnknownNameError
from weftline.model import load_model
from weftline.spec import Estimate, Rejection
from weftline.spec.lifecycle import (
    Driver,
    Leaving,
    Lifecycle,
    LifeLine,
    LifeStage,
    LifeWay,
    Month,
    PortableLife,
)
from weftline.spec.parse import Collector
from weftline.units import format_usd, parse_count

__all__ = ["plan_lifecycle"]

PLACED: Final = ("train", "finetune", "rollouts", "serve", "rent")
MOST_SAMPLES: Final = 1_000_000
FLIPS_SHOWN: Final = 6


def plan_lifecycle(life: Life, *, progress: Callable[[str], None] | None = None) -> Lifecycle:
    """The answer to a lifecycle file.

    Raises InputError(s) with file and line for what cannot be, NoFeasiblePlanError where a stage
    runs nowhere.
    """
    say = progress or (lambda _: None)
    sites = sites_of(life)
    if not sites:
        raise InputError("name the chips", where=life.head.where("on"), hint="on: [h100, tpu-v6e]")
    samples, seed = _draws(life)
    drivers = Drivers(life.bands)
    context = _context(life, life.head.text("model"), drivers)
    other = life.portable
    beside = None if other is None else _context(
        life, other.text("model"), drivers, where=other.where("model")
    )  # fmt: skip
    _checked(life, sites, context)
    if life.leave is not None:
        long_stages(life)
        terms_of(life.leave, life.portable)
    scene, lost = _scene(life, sites, context, say)
    objective = life.head.text("objective")
    ways = ways_of(scene, objective, one=life.head.text("place") == "one")
    if not ways:
        nearest = "; ".join(f"{r.accelerator}: {r.reason}" for r in lost)
        raise NoFeasiblePlanError("no one place runs all stages", hint="place: best",
                                  nearest=nearest)  # fmt: skip
    whole = [_completed(way, life, context) for way in ways]
    drivers.add(DRAW, POWER_BAND[0] / POWER_FRACTION, POWER_BAND[1] / POWER_FRACTION,
                "assumed: mean draw of a busy chip over its design power")  # fmt: skip
    found = _answer(life, whole, drivers, lost, samples, seed)
    if life.leave is None:
        return found
    mine = _left(life, scene, context)
    if beside is None or life.portable is None:
        return replace(found, leaving=mine.ways)
    say(f"the portable {beside.answers.model}")
    theirs, _ = _scene(life, sites, beside, say)
    # Both leave the same place: where the life's own model is served.
    held = _left(life, theirs, beside, origin=mine.origin)
    return replace(found, leaving=mine.ways, portable=_portable(beside, context, mine, held))


def _context(life: Life, model: str, drivers: Drivers, where: str | None = None) -> Context:
    try:
        parameters = load_model(model).parameters
    except InputError as error:
        error.where = error.where or where
        raise
    return Context(answers=Answers(model), drivers=drivers, parameters=parameters,
                   serving_months=_serving_months(life))  # fmt: skip


def _scene(
    life: Life, sites: Sequence[Site], context: Context, say: Callable[[str], None]
) -> tuple[Scene, list[Rejection]]:
    pieces, lost = _pieces(life, sites, context, say)
    scene = Scene(
        stages=life.stages, pieces=pieces, sites={s.name: s for s in sites},
        parameters=context.parameters, drivers=context.drivers,
        finetunes=_finetunes(life, context),
    )  # fmt: skip
    return scene, lost


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """The ways out of a place for one model, and the whole life with its long stages anywhere."""

    origin: str
    usd: Mapping[str, float]
    """Place -> US dollars of the whole life."""
    ways: tuple[Leaving, ...]


def _left(life: Life, scene: Scene, context: Context, *, origin: str | None = None) -> _Left:
    if life.leave is None:
        raise InputError("nothing is asked about leaving", where=life.path)
    names = long_stages(life)
    portable = None if origin is None else life.portable
    origin = origin or origin_of(life.leave, scene, names)
    usd = {}
    for site in scene.sites:
        way = best_with(scene, dict.fromkeys(names, site), life.head.text("objective"))
        if way is not None:
            usd[site] = sum(x.usd for x in _completed(way, life, context).lines)
    if origin not in usd:
        raise NoFeasiblePlanError(f"{context.answers.model} does not run on {origin}",
                                  where=life.leave.where("origin"))  # fmt: skip
    spent = usd[origin] - sum(scene.pieces[n][origin].usd for n in names)
    ways = leavings(life.leave, life, scene, spent, origin, portable)
    return _Left(origin=origin, usd=usd, ways=ways)


def _portable(beside: Context, context: Context, mine: _Left, theirs: _Left) -> PortableLife:
    """Two lives side by side; ``chance`` is p of stay(1 - p) + leave p at which both cost the same,
    where leaving is for the best other place in the first month that is allowed."""
    premium = theirs.usd[mine.origin] - mine.usd[mine.origin]
    own, other = (min((w.by_month[0] for w in x.ways), default=math.inf) for x in (mine, theirs))
    worth = own - other if math.isfinite(own) and math.isfinite(other) else 0.0
    chance: float | None = None
    if premium <= 0:
        chance = 0.0
    elif worth > 0:
        chance = premium / (premium + worth)
    return PortableLife(
        model=beside.answers.model, parameters=beside.parameters,
        own_parameters=context.parameters, usd=theirs.usd, own_usd=mine.usd, leaving=theirs.ways,
        premium_usd=premium, worth_usd=worth, chance=chance,
    )  # fmt: skip


def _draws(life: Life) -> tuple[int, int]:
    head = life.head
    samples = parse_count(head.text("samples"), where=head.where("samples"))
    if not 100 <= samples <= MOST_SAMPLES:
        raise InputError(f"{samples:,} samples", where=head.where("samples"),
                         hint=f"100 to {MOST_SAMPLES:,}")  # fmt: skip
    text = head.text("seed")
    if not text.isdigit():
        raise InputError(f"`{text}` is not a seed", where=head.where("seed"), hint="seed: 0")
    return samples, int(text)


def _serving_months(life: Life) -> float:
    return max((number(s, "months") for s in life.stages if s.kind == "serve"), default=0.0)


def _finetunes(life: Life, context: Context) -> dict[str, float]:
    found = {}
    for stage in life.stages:
        if stage.kind == "finetune":
            each = stage.get("per_month")
            found[stage.name] = (
                number(stage, "times") if each is None
                else number(stage, "per_month") * max(1.0, context.serving_months)
            )  # fmt: skip
    return found


def _checked(life: Life, sites: Sequence[Site], context: Context) -> None:
    """Raise what is wrong with any stage before one is planned; each mistake once."""
    get = Collector()
    seen: set[tuple[str | None, str]] = set()
    for stage in life.stages:
        for site in sites[:1]:
            get(lambda s=stage, at=site: context.answers.check(s, at))  # type: ignore[misc]
        get(lambda s=stage: _sites_for(s, sites))  # type: ignore[misc]
        if stage.get("of") is not None:
            get(lambda s=stage: _of(s, life.stages))  # type: ignore[misc]
    once = []
    for error in get.errors:
        if (error.where, error.what) not in seen:
            seen.add((error.where, error.what))
            once.append(error)
    get.errors = once
    get.raise_all()


def _of(stage: Stage, stages: Sequence[Stage]) -> Stage:
    name = stage.text("of")
    for other in stages:
        if other.name == name and other is not stage:
            return other
    raise UnknownNameError("stage", name, [s.name for s in stages if s is not stage],
                           where=stage.where("of"))  # fmt: skip


def _sites_for(stage: Stage, sites: Sequence[Site]) -> list[Site]:
    told = stage.get("on")
    if told is None or stage.kind not in PLACED:
        return list(sites)
    from weftline.catalog import accelerator

    names = {}
    for site in sites:
        names[site.name] = site
    found = []
    for word in (w.strip() for w in told.split(",")):
        if word in names:
            found.append(names[word])
            continue
        chip = accelerator(word).id if word not in names else word
        matching = [s for s in sites if s.chip.id == chip]
        if not matching:
            raise UnknownNameError("place", word, names, where=stage.where("on"))
        found += matching
    return found


def _pieces(
    life: Life, sites: Sequence[Site], context: Context, say: Callable[[str], None]
) -> tuple[dict[str, dict[str, Piece]], list[Rejection]]:
    """Placed stage -> site -> piece, and what cannot be where."""
    found: dict[str, dict[str, Piece]] = {}
    lost: list[Rejection] = []
    for stage in life.stages:
        if stage.kind not in PLACED:
            continue
        held = found.setdefault(stage.name, {})
        for site in _sites_for(stage, sites):
            say(f"{stage.name} on {site.name}")
            try:
                held[site.name] = placed(stage, site, context)
            except NoFeasiblePlanError as error:
                lost.append(Rejection(accelerator=site.name, reason=f"{stage.name}: {error.what}"))
        if not held:
            why = "; ".join(r.reason for r in lost)
            raise NoFeasiblePlanError(f"`{stage.name}` runs nowhere", nearest=why,
                                      where=f"{life.path}:{stage.line}",
                                      hint="more chips, or looser limits in the stage")  # fmt: skip
    if not found:
        raise InputError("no stage runs on chips", where=f"{life.path}:1", hint="kind: train")
    return found, lost


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """A way with every stage, in the file's order, and when each runs."""

    way: Placing
    stages: tuple[Timed, ...]
    lines: tuple[LifeLine, ...]


def _completed(way: Placing, life: Life, context: Context) -> _Whole:
    """A placing with the stages that follow it: evaluation, storage, preprocessing."""
    by_name = {piece.stage: piece for piece in way.pieces}
    first_train = next((s for s in life.stages if s.kind == "train"), None)
    done: list[Piece] = []
    for stage in life.stages:
        if stage.name in by_name:
            done.append(by_name[stage.name])
        elif stage.kind == "preprocess":
            done.append(preprocessed(stage, context))
        elif stage.kind == "evaluate":
            of = first_train if stage.get("of") is None else _of(stage, life.stages)
            if of is None or of.kind not in ("train", "finetune"):
                raise InputError("nothing to evaluate", where=f"{stage.path}:{stage.line}",
                                 hint="of: a stage that trains")  # fmt: skip
            done.append(evaluated(stage, by_name[of.name], of, context))
    when = timed(done, life.stages, way.between)
    months = max(t.ends_s for t in when) / MONTH_S
    kept = []
    for stage in (s for s in life.stages if s.kind == "store"):
        of = _of(stage, life.stages) if stage.get("of") is not None else None
        at = by_name[of.name].site if of is not None and of.name in by_name else None
        kept.append(stored(stage, of, at, max(1.0, months), context.parameters))
    stages = timed([*done, *kept], life.stages, way.between)
    return _Whole(way=way, stages=stages, lines=tuple(x for t in stages for x in t.lines))


def _answer(
    life: Life, whole: Sequence[_Whole], drivers: Drivers, lost: Sequence[Rejection],
    samples: int, seed: int,
) -> Lifecycle:  # fmt: skip
    objective = life.head.text("objective")
    whole = sorted(whole, key=lambda w: (score(w.lines, objective), score(w.lines, "cost")))
    best = whole[0]
    used = _used(whole, drivers.by_name)
    sampler = Sampler.draw(list(used.values()), samples, seed)
    drawn = [sampler.usd(w.lines) for w in whole]
    least = np.min(np.stack(drawn), axis=0)
    estimates = _estimates(best, sampler, drawn[0])
    others = [w for w in whole[1:] if score(w.lines, "cost") > score(best.lines, "cost")]
    return Lifecycle(
        weftline=__version__, catalog_date=CATALOG_DATE, model=life.head.text("model"),
        start=life.head.text("start"), objective=objective, asked=life.plain, seed=seed,
        samples=samples, mean_usd=float(drawn[0].mean()),
        analytic_mean_usd=analytic_mean(best.lines, used), estimates=estimates,
        stages=tuple(_stage(t, sampler) for t in best.stages), lines=best.lines,
        drivers=tuple(used.values()),
        ways=tuple(_way(w, d, least) for w, d in zip(whole, drawn, strict=True)),
        tornado=tornado(best.lines, used), months=tuple(_months(best)),
        why=tuple(_why(best, others)), flips=tuple(_flips(best, others, used)),
        without_plan=tuple(lost), notes=tuple(_notes(best)),
    )  # fmt: skip


def _used(whole: Sequence[_Whole], known: Mapping[str, Driver]) -> dict[str, Driver]:
    named = {n for w in whole for line in w.lines for n in line.drivers} | {DRAW}
    return {name: driver for name, driver in known.items() if name in named}


def _band(values: np.ndarray, middle: float, unit: str, basis: str) -> Estimate:
    low, high = (float(v) for v in np.percentile(values, (5, 95)))
    return Estimate(value=middle, unit=unit, low=min(low, middle), high=max(high, middle),
                    basis=basis)  # fmt: skip


def _estimates(best: _Whole, sampler: Sampler, usd: np.ndarray) -> dict[str, Estimate]:
    lines = best.lines
    how = f"{len(usd):,} samples of {len(sampler.names)} drivers"
    hours = [(x.chip_hours, _without_price(x)) for x in lines]
    found = {
        "cost": _band(usd, sum(x.usd for x in lines), "USD", how),
        "chip_hours": _band(sampler.totals(hours), sum(h for h, _ in hours), "chip-hours", how),
    }
    found |= _physical(lines, sampler, how)
    ends = max(t.ends_s for t in best.stages)
    found["time"] = Estimate.exact(ends, "s", "stages one after another, at the middle")
    for t in best.stages:
        found[f"cost_{t.piece.stage}"] = _band(
            sampler.usd(t.lines), sum(x.usd for x in t.lines), "USD", how
        )
    tokens = sum(t.piece.tokens for t in best.stages)
    if tokens:
        per = 1e6 / tokens
        found["cost_per_m_tokens"] = found["cost"].scaled(per, "USD/1M tokens")
        carbon = found.get("carbon")
        if carbon is not None:
            made = found["embodied_carbon"]
            found["sci_per_m_tokens"] = Estimate(
                value=(carbon.value + made.value) * per * 1000, unit="gCO2e/1M tokens",
                low=(carbon.low + made.low) * per * 1000,
                high=(carbon.high + made.high) * per * 1000,
                basis="SCI (ISO/IEC 21031): energy x grid + embodied, a token served",
            )  # fmt: skip
    return found


def _without_price(line: LifeLine) -> dict[str, float]:
    return {n: p for n, p in line.drivers.items() if not n.startswith(PRICE)}


def _physical(lines: Sequence[LifeLine], sampler: Sampler, how: str) -> dict[str, Estimate]:
    """Energy and carbon; without those that no power is known of, and then the note says so."""
    found = {}
    made = [(x.kgco2e_embodied, _without_price(x)) for x in lines]
    found["embodied_carbon"] = _band(sampler.totals(made), sum(m for m, _ in made), "kgCO2e", how)
    if any(x.energy_j is None for x in lines):
        return found
    for name, unit in (("energy", "J"), ("carbon", "kgCO2e")):
        field = "energy_j" if name == "energy" else "kgco2e"
        amounts = [
            (float(getattr(x, field) or 0.0), {**_without_price(x), DRAW: 1.0}) for x in lines
        ]
        found[name] = _band(sampler.totals(amounts), sum(a for a, _ in amounts), unit, how)
    return found


def _stage(t: Timed, sampler: Sampler) -> LifeStage:
    usd = sum(x.usd for x in t.lines)
    site = t.piece.site
    return LifeStage(
        name=t.piece.stage, kind=t.piece.kind, said=t.piece.said, chips=t.piece.chips,
        place=site.name if site is not None else t.lines[0].place, starts_s=t.starts_s,
        lasts_s=t.piece.lasts_s, usd=_band(sampler.usd(t.lines), usd, "USD", "samples"),
        energy_j=_known(x.energy_j for x in t.lines), kgco2e=_known(x.kgco2e for x in t.lines),
    )  # fmt: skip


def _known(values: Iterator[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _way(w: _Whole, usd: np.ndarray, least: np.ndarray) -> LifeWay:
    middle = sum(x.usd for x in w.lines)
    low, high = (float(v) for v in np.percentile(usd, (5, 95)))
    carbon = score(w.lines, "carbon")
    energy = score(w.lines, "energy")
    return LifeWay(
        name=w.way.name, places=dict(w.way.places), usd=middle, low=min(low, middle),
        high=max(high, middle), energy_j=None if math.isinf(energy) else energy,
        kgco2e=None if math.isinf(carbon) else carbon,
        lasts_s=max(t.ends_s for t in w.stages),
        cheapest_share=float(np.mean(usd <= least * (1 + 1e-12))),
    )  # fmt: skip


def _months(best: _Whole) -> Iterator[Month]:
    last = max(x.first_month + len(x.by_month) for x in best.lines)
    known = all(x.energy_j is not None for x in best.lines)
    for m in range(last):
        share = [
            x.by_month[m - x.first_month] if 0 <= m - x.first_month < len(x.by_month) else 0.0
            for x in best.lines
        ]
        parts = list(zip(share, best.lines, strict=True))
        yield Month(
            month=m, usd=sum(s * x.usd for s, x in parts),
            energy_j=sum(s * (x.energy_j or 0.0) for s, x in parts) if known else None,
            kgco2e=sum(s * ((x.kgco2e or 0.0) + x.kgco2e_embodied) for s, x in parts)
            if known else None,
        )  # fmt: skip


def _why(best: _Whole, others: Sequence[_Whole]) -> Iterator[str]:
    total = sum(x.usd for x in best.lines)
    by_part: dict[str, float] = {}
    for line in best.lines:
        by_part[line.part] = by_part.get(line.part, 0.0) + line.usd
    shares = sorted(by_part.items(), key=lambda p: -p[1])
    yield "of the cost " + ", ".join(f"{n} {v / total:.1%}" for n, v in shares if v / total > 5e-4)
    if others:
        second = others[0]
        usd = sum(x.usd for x in second.lines)
        yield f"second: {second.way.name}, {format_usd(usd)}, +{usd / total - 1:.1%}"
    moves = sum(x.usd for x in best.way.between if x.part == "egress")
    if moves:
        yield f"moving tokens and weights between sellers costs {format_usd(moves)}"


def _flips(best: _Whole, others: Sequence[_Whole], drivers: Mapping[str, Driver]) -> Iterator[str]:
    """The nearest crossings with the other ways; the first two of each."""
    shown = 0
    for other in others:
        for driver, factor in flips_between(best.lines, other.lines, drivers)[:2]:
            if shown < FLIPS_SHOWN:
                shown += 1
                yield flip_words(other.way.name, driver, factor)


def _notes(best: _Whole) -> Iterator[str]:
    dark = {x.place for x in best.lines if x.energy_j is None}
    if dark:
        yield f"no energy or carbon in sum: the power of {', '.join(sorted(dark))} is not public"
    bases = {x.basis for x in best.lines if x.basis.startswith("assumed")}
    yield from sorted(bases)
