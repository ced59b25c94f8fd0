"""Why a chip is not the answer: each reason computed, with the number that decided."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from weftline.cost import no_price
from weftline.serve.search.bills import Markets, cheapest_by
from weftline.serve.search.fleets import fleet_of
from weftline.serve.search.screen import Option, Screened
from weftline.spec import Rejection, ServeCandidate, ServeDemand, ServeJob
from weftline.units import format_duration, format_number, format_usd

__all__ = ["most_chips", "reasons_of", "unpriced"]

BY_CLOSED_FORM = "by the closed form, not simulated"


def unpriced(
    job: ServeJob, demand: ServeDemand, found: Screened, markets: Markets,
    shown: Iterable[str],
) -> list[ServeCandidate]:  # fmt: skip
    """Chips that meet the targets by the closed form and have no price, fewest chips first.

    They were not simulated: no money is at stake that the simulation could settle.
    """
    seen = set(shown)
    candidates = []
    for name, options in found.meeting.items():
        if name in seen or any(m.known for m in markets[name]):
            continue
        option = min(options, key=lambda o: o.group_chips * o.replicas(demand.rate_per_s))
        fleet = fleet_of(option, option.replicas(demand.rate_per_s), job.routing)
        if fleet.chips > most_chips(job, name):
            continue
        reached = {}
        for target in demand.targets:
            each = option.ttft_s + option.tpot_s * (demand.output_tokens - 1)
            value = {"ttft": option.ttft_s, "tpot": option.tpot_s, "e2e": each}[target.metric]
            reached[f"p{target.percentile:g} {target.metric}"] = value
        candidates.append(ServeCandidate(
            fleet=fleet, usd_per_hour=None, usd_per_m_output=None, joules_per_token=None,
            reached=reached, goodput_share=None, meets=True, simulated=False,
            note=f"{no_price(name, ', '.join(job.price_types), job.region)}; {BY_CLOSED_FORM}",
        ))  # fmt: skip
    return sorted(candidates, key=lambda c: (c.fleet.chips, c.fleet.accelerator))


def reasons_of(
    job: ServeJob, demand: ServeDemand, found: Screened,
    markets: Markets, shown: Iterable[str], turned_down: Mapping[str, str],
) -> tuple[Rejection, ...]:  # fmt: skip
    """Why a chip is not in the ranking; ``turned_down`` is what the simulation found in the way."""
    seen = set(shown)
    said = dict(found.reasons)
    for name, option in found.nearest.items():
        if name in seen:
            continue
        if name in turned_down:
            said[name] = turned_down[name]
        elif name in found.meeting:
            said[name] = _dearer(job, demand, name, found.meeting[name], markets)
        else:
            said[name] = _misses(option)
    return tuple(Rejection(accelerator=k, reason=v) for k, v in sorted(said.items()))


def _dearer(
    job: ServeJob, demand: ServeDemand, name: str, options: Sequence[Option],
    markets: Markets,
) -> str:  # fmt: skip
    best = cheapest_by(options, markets, demand.rate_per_s)
    if best is None:
        needed = min(o.group_chips * o.replicas(demand.rate_per_s) for o in options)
        return (
            f"{no_price(name, ', '.join(job.price_types), job.region)}; needs {needed:,} chips, "
            f"--max-chips allows {most_chips(job, name):,.0f}"
        )
    usd, option = best
    chips = option.group_chips * option.replicas(demand.rate_per_s)
    return (
        f"dearer: {format_usd(usd)}/h for {chips:,} chip{'' if chips == 1 else 's'}, "
        f"{BY_CLOSED_FORM}"
    )


def most_chips(job: ServeJob, chip: str) -> float:
    """Chips of a kind that a fleet may have."""
    return min(job.supply.get(chip, math.inf), job.max_chips or math.inf)


def _misses(option: Option) -> str:
    """The configuration that comes closest to the targets, and what it lacks."""
    c = option.config
    return (
        f"misses a target: nearest {c.engine} {c.gemm_dtype} tp {c.tp}, first token "
        f"{format_duration(option.ttft_s)}, {format_duration(option.tpot_s)} a token "
        f"({format_number(option.worst, 2)} x a target)"
    )
