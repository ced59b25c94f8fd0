"""From a question of co-design to who favours what: every number by the two planners.

A design costs what ``plan train`` says of its run and ``plan serve`` of its fleet; nothing here
knows what a chip does. Of the serving plan the cost of a million tokens is that of an hour over the
tokens at the rate that the fleet keeps within its targets, so that whole replicas do not decide.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Final

from weftline._version import __version__
from weftline.catalog import accelerator
from weftline.catalog.date import CATALOG_DATE
from weftline.decide.codesign.read import Asked
from weftline.decide.codesign.variants import designs_of
from weftline.errors import NoFeasiblePlanError
from weftline.plan import job_of, plan_train
from weftline.serve.search.asked import serve_job_of
from weftline.serve.search.plan import plan_serve
from weftline.spec import ServeJob
from weftline.spec.codesign import Codesign, Design, DesignCost, Iso
from weftline.spec.decide_options import CodesignOptions
from weftline.spec.options import (
    FleetOptions,
    JobOptions,
    ServingOptions,
    TrafficOptions,
)
from weftline.units import format_usd

__all__ = ["plan_codesign"]

HOUR_S: Final = 3600.0
Grid = Mapping[tuple[str, str, float], DesignCost]
"""(design, chip, size) -> what it costs."""


def plan_codesign(asked: Asked, *, progress: Callable[[str], None] | None = None) -> Codesign:
    """The answer. Raises InputError(s), and NoFeasiblePlanError where nothing runs."""
    say = progress or (lambda _: None)
    made = list(designs_of(asked.base, asked.varied, asked.sizes, asked.law, asked.tokens))
    designs = [d for d, why in made if not why]
    costs = []
    for design in designs:
        for chip in asked.chips:
            say(f"{design.name} x {design.size:g} on {chip}")
            costs.append(_cost(design, chip, asked))
    grid = {(c.design, c.chip, c.size): c for c in costs}
    names = list(dict.fromkeys(d.name for d in designs))
    favoured = {chip: best for chip in asked.chips if (best := _best(grid, names, chip))}
    if not favoured:
        raise NoFeasiblePlanError("no design runs on any chip", nearest="; ".join(
            f"{c.chip}: {c.lost}" for c in costs if c.design == "base" and c.size == 1.0),
            hint="more --max-chips, or looser --ttft and --tpot")  # fmt: skip
    portable, loss = _portable(grid, names, favoured)
    first = next(d for d in designs if d.name == "base" and d.size == 1.0)
    return Codesign(
        weftline=__version__, catalog_date=CATALOG_DATE, model=asked.model, base=first.spec,
        quality=f"{asked.law.text} ({asked.law.said})", target=first.quality,
        tokens=float(asked.tokens), served=float(asked.served), chips=asked.chips,
        designs=tuple(designs), costs=tuple(costs), favoured=favoured, portable=portable,
        portable_loss=loss, fragmentation=_fragmentation(grid, favoured),
        iso=tuple(_iso(grid, designs, asked.chips)), asked=asdict(asked.options),
        why=tuple(_why(grid, favoured, portable, loss)),
        notes=tuple(_notes(asked, [(d, why) for d, why in made if why])),
    )  # fmt: skip


def _cost(design: Design, chip: str, asked: Asked) -> DesignCost:
    options, lost = asked.options, []
    train = serve = None
    trained = served = basis = ""
    try:
        run = plan_train(job_of(design.spec, _job(options, chip)))
        train = run.estimates["effective_cost"].value / asked.tokens * 1e6
        fields = run.layout.short() if hasattr(run.layout, "short") else ""
        trained = f"{run.cluster.chips:,} chips {fields}".strip()
        basis = run.estimates["train_time"].basis
    except (NoFeasiblePlanError, KeyError) as error:
        lost.append(f"training: {getattr(error, 'what', 'it has no price')}")
    if asked.served:
        try:
            fleet = plan_serve(_serve_job(design.spec, chip, options))
            served = fleet.fleet.short()
            tokens_s = fleet.estimates["rate_most"].value * (
                fleet.demand.input_tokens + fleet.demand.output_tokens
            )
            serve = fleet.estimates["cost_per_hour"].value / (tokens_s * HOUR_S) * 1e6
        except (NoFeasiblePlanError, KeyError) as error:
            lost.append(f"serving: {getattr(error, 'what', 'it has no price')}")
    usd = None
    if train is not None and (serve is not None or not asked.served):
        usd = (train * asked.tokens + (serve or 0.0) * asked.served) / 1e6
    return DesignCost(
        design=design.name, size=design.size, chip=chip, train_usd_per_m=train,
        serve_usd_per_m=serve, usd=usd, trained=trained, served=served, basis=basis,
        lost="; ".join(lost),
    )  # fmt: skip


def _job(options: CodesignOptions, chip: str) -> JobOptions:
    return JobOptions(
        tokens=options.tokens, on=chip, max_chips=options.max_chips, seq=options.seq,
        precision=options.precision, price=options.price, region=options.region,
        discount=options.discount, objective="cost",
    )  # fmt: skip


def _serve_job(spec: str, chip: str, options: CodesignOptions) -> ServeJob:
    fleet = FleetOptions(
        on=chip, ttft=options.ttft, tpot=options.tpot, price=options.price,
        region=options.region, discount=options.discount,
    )  # fmt: skip
    traffic = TrafficOptions(rate=options.rate, input=options.input, output=options.output)
    return serve_job_of(spec, fleet, traffic, ServingOptions())


def _usd(grid: Grid, design: str, chip: str, size: float = 1.0) -> float:
    found = grid.get((design, chip, size))
    return math.inf if found is None or found.usd is None else found.usd


def _best(grid: Grid, names: Sequence[str], chip: str) -> str | None:
    best = min(names, key=lambda n: _usd(grid, n, chip))
    return best if math.isfinite(_usd(grid, best, chip)) else None


def _portable(
    grid: Grid, names: Sequence[str], favoured: Mapping[str, str]
) -> tuple[str | None, dict[str, float]]:
    """The design whose largest cost over the favourites' is least, and that cost by chip."""

    def losses(name: str) -> dict[str, float]:
        return {chip: _usd(grid, name, chip) / _usd(grid, best, chip) - 1
                for chip, best in favoured.items()}  # fmt: skip

    best = min(names, key=lambda n: (max(losses(n).values()), sum(losses(n).values())))
    found = losses(best)
    return (best, found) if math.isfinite(max(found.values())) else (None, {})


def _fragmentation(grid: Grid, favoured: Mapping[str, str]) -> dict[str, dict[str, float | None]]:
    """What it costs on each chip to run what another chip favours."""
    found: dict[str, dict[str, float | None]] = {}
    for chip, own in favoured.items():
        row: dict[str, float | None] = {}
        for other, design in favoured.items():
            over = _usd(grid, design, chip) / _usd(grid, own, chip) - 1
            row[other] = over if math.isfinite(over) else None
        found[chip] = row
    return found


def _iso(grid: Grid, designs: Sequence[Design], chips: Sequence[str]) -> Iterator[Iso]:
    """What each design is worth for the money of the base, on lines between logarithms.

    Only inside the sizes that were planned: nothing is continued beyond them.
    """
    by_name: dict[str, list[Design]] = {}
    for design in designs:
        by_name.setdefault(design.name, []).append(design)
    for chip in chips:
        budget = _usd(grid, "base", chip)
        for name, sizes in by_name.items():
            points = [(math.log(usd), d) for d in sorted(sizes, key=lambda d: d.size)
                      if math.isfinite(usd := _usd(grid, name, chip, d.size))]  # fmt: skip
            if len(points) < 2 or not math.isfinite(budget):
                continue
            for (a, one), (b, two) in itertools.pairwise(points):
                if a <= math.log(budget) <= b and b > a:
                    t = (math.log(budget) - a) / (b - a)
                    yield Iso(
                        chip=chip, design=name,
                        size=math.exp((1 - t) * math.log(one.size) + t * math.log(two.size)),
                        parameters=math.exp((1 - t) * math.log(one.parameters)
                                            + t * math.log(two.parameters)),
                        quality=(1 - t) * one.quality + t * two.quality,
                    )  # fmt: skip
                    break


def _why(
    grid: Grid, favoured: Mapping[str, str], portable: str | None, loss: Mapping[str, float]
) -> Iterator[str]:
    vendors: dict[str, dict[str, list[str]]] = {}
    for chip, design in favoured.items():
        held = vendors.setdefault(accelerator(chip).vendor, {})
        held.setdefault(design, []).append(chip)
    for vendor, designs in vendors.items():
        said = "; ".join(f"{d} ({', '.join(chips)})" for d, chips in designs.items())
        yield f"{vendor} favours {said}"
    for chip, design in favoured.items():
        base, best = _usd(grid, "base", chip), _usd(grid, design, chip)
        if design != "base" and math.isfinite(base):
            yield (f"{chip}: {design} costs {format_usd(best)} where the base costs "
                   f"{format_usd(base)}, {best / base - 1:+.1%}")  # fmt: skip
    if portable is None:
        yield "no design runs on every chip: there is no portable one"
    else:
        worst = max(loss, key=lambda c: loss[c])
        yield (f"one design for all: {portable}, {loss[worst]:+.1%} at worst ({worst}), "
               f"{sum(loss.values()) / len(loss):+.1%} on average")  # fmt: skip


SPOKEN: Final = {
    "window": ("window",), "heads": ("heads", "kv_heads"), "experts": ("experts", "active"),
    "state": ("state_layers",),
}  # fmt: skip
"""Knob -> names by which a law can tell it apart."""


def _notes(asked: Asked, left_out: Sequence[tuple[Design, str]]) -> Iterator[str]:
    if asked.note:
        yield asked.note
    blind = [k for k in asked.varied if not any(n in asked.law.names for n in SPOKEN[k])]
    if blind:
        yield (f"the proxy does not move with {', '.join(blind)}: what that costs in quality is "
               "not counted (`--quality` takes a law that does; `weftline quality` measures "
               "windows)")  # fmt: skip
    for design, why in left_out:
        yield f"left out: {design.name} x {design.size:g}: {why}"
