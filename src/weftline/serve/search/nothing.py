"""Why no fleet does: what came closest, what limits it, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from weftline.errors import NoFeasiblePlanError, WeftlineError
from weftline.serve.engine.config import ServingConfig
from weftline.serve.search.answer import step_parts, tightest
from weftline.serve.search.confirmed import Confirmed
from weftline.serve.search.screen import Option, Screened
from weftline.spec import ServeDemand, ServeJob
from weftline.units import format_bytes, format_duration, format_number

__all__ = ["no_plan"]


def no_plan(
    job: ServeJob, demand: ServeDemand, found: Screened, confirmed: Sequence[Confirmed],
    turned_down: Mapping[str, str],
) -> NoFeasiblePlanError:  # fmt: skip
    """Why nothing does, what came closest and what limits it."""
    asked = ", ".join(t.short() for t in demand.targets) or "any latency"
    if confirmed:
        c = min(
            confirmed, key=lambda c: (_excess(c, demand), float(np.nanmax(c.run.outcome.e2e_s)))
        )
        nearest = f"{c.fleet.chips} x {c.name} ({c.fleet.engine}, {c.fleet.short()})"
        return NoFeasiblePlanError(
            f"{job.model} at {demand.rate_per_s:g} requests/s within {asked}",
            nearest=f"{nearest}; {tightest(c, demand)}",
            hint="more --max-chips, a longer target, a lower rate, or another precision",
        )  # fmt: skip
    if turned_down:
        reasons = [f"{name} {why}" for name, why in turned_down.items()]
        return NoFeasiblePlanError(
            f"{job.model} at {demand.rate_per_s:g} requests/s within {asked}",
            nearest="; ".join(reasons[:3]),
            hint="more --max-chips, a lower rate, or a smaller number format (--precision)",
        )  # fmt: skip
    if found.nearest:
        option = min(found.nearest.values(), key=lambda o: o.worst)
        return NoFeasiblePlanError(
            f"no chip serves {job.model} within {asked}",
            nearest=_miss(option), hint=_limit_hint(option, demand),
        )  # fmt: skip
    reasons = [f"{k}: {v}" for k, v in sorted(found.reasons.items())]
    if not any("fit" in why or "needs" in why for why in found.reasons.values()):
        return NoFeasiblePlanError(
            f"{job.model} runs on no chip asked for", nearest="; ".join(reasons[:3]) or None,
            hint="other chips with --on, or another --engine, --precision or --layout",
        )  # fmt: skip
    return NoFeasiblePlanError(
        f"{job.model} does not fit on any fleet tried",
        nearest=_fit_miss(job) or "; ".join(reasons[:3]) or None,
        hint="a smaller number format (--precision fp8,int4,nvfp4), other chips with --on, or "
        "more chips a replica",
    )  # fmt: skip


def _excess(c: Confirmed, demand: ServeDemand) -> float:
    return max(
        (c.run.reached[f"p{t.percentile:g} {t.metric}"] / t.limit_s for t in demand.targets),
        default=0.0,
    )


def _miss(option: Option) -> str:
    c = option.config
    return (
        f"{c.chips} x {c.chip} ({c.engine}, {c.gemm_dtype}, tp {c.tp}): first token in "
        f"{format_duration(option.ttft_s)}, {format_duration(option.tpot_s)} a token, "
        f"{format_number(option.worst)} x the tightest target with {option.in_flight:.0f} in flight"
    )


def _limit_hint(option: Option, demand: ServeDemand) -> str:
    """What the closest configuration spends its time on."""
    parts = step_parts(option.config, demand, option.batch)
    total = sum(p.value for p in parts)
    top = ", ".join(f"{p.name} {p.value / total:.0%}" for p in parts[:3])
    return f"a decode step there takes {format_duration(total)}: {top}; relax the targets"


def _fit_miss(job: ServeJob) -> str | None:
    """The widest layout of the largest memory and what it lacks."""
    from weftline.serve.engine.memory import memory
    from weftline.serve.search.screen import chips_of, layouts_of

    chips = [c for c in chips_of(job.space) if c.usable_memory_bytes]
    for chip in sorted(chips, key=lambda c: -(c.usable_memory_bytes or 0.0))[:6]:
        layouts = layouts_of(job.model, chip, job.space)
        if not layouts:  # nothing is as wide as is held: that is the reason, not the memory
            return None
        wide = max(layouts, key=lambda d: (d["tp"] * d["pp"] * d["dp"], d["ep"]))
        for name in job.space.formats:
            try:
                config = ServingConfig(
                    model=job.model,
                    chip=chip.id,
                    gemm_dtype=name,
                    tp=wide["tp"],
                    pp=wide["pp"],
                    dp=wide["dp"],
                    ep=wide["ep"],
                )
                left = memory(config)
            except NoFeasiblePlanError as error:
                have = format_bytes((chip.usable_memory_bytes or 0.0) * config.chips)
                return f"{config.chips} x {chip.id} with {have}: {error.what}"
            except WeftlineError:
                continue
            if not left.fits:
                return f"{config.chips} x {chip.id}: no room for the KV cache of one sequence"
    return None
