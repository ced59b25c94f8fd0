"""The search: every accelerator, every count, every layout, as arrays; then one ranking.

Within one accelerator and count, money and energy follow time, so the fastest layout that fits is
the best one. Across them the objective decides; deadline and budget are limits, not wishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from weftline.catalog import Accelerator, ProductNetwork
from weftline.errors import InputError
from weftline.fabric import cluster_of
from weftline.model import Model
from weftline.model.once import once_per_model
from weftline.plan.calibrate.calibration import PUBLISHED, GroupConstants, calibrated, constants_for
from weftline.plan.calibrate.residual import features_of
from weftline.plan.step.compiled import IntArray, Layouts, compile_layouts
from weftline.plan.step.constants import FloatArray, without_overlap
from weftline.plan.step.frameworks import Framework, framework_for, recipe_of
from weftline.plan.step.layouts import layout_at, layouts_on
from weftline.plan.step.memory import Memory, Stages, before_recompute, memory_of, recomputed
from weftline.plan.step.timing import StepTime, joined, time_step
from weftline.spec import Cluster, Job, Layout

CHUNK = 1 << 13
"""Layouts timed at once: their columns stay in a core's cache."""
USABLE_MEMORY = 0.95
"""Share of a chip's memory a plan may fill: the count is within 10 % of measured peaks."""
_LAID_OUT_KEPT = 64
"""Enumerations that are kept: more than one search has of counts, domains and frameworks."""
SHORTLIST = 128
"""Fastest layouts of a cluster that the residual process ranks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best layout on one cluster, with the numbers that decided."""

    cluster: Cluster
    framework: str
    constants: GroupConstants
    layout: Layout
    step_time_s: float
    """Physics times the correction that near measured runs ask for."""
    correction: float
    """Measured over physics, as near runs show it; 1 where none is near."""
    log_error: float
    """Standard deviation of ln(measured / step_time_s)."""
    nearest: tuple[str, float] | None
    """The measured run that says most of it, and their correlation."""
    parts: StepTime
    """Parts of the step, arrays of one."""
    memory: Memory
    """Parts of the memory, arrays of one."""
    second: tuple[Layout, float] | None
    """The best layout with other degrees, and its step time."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the search has seen."""

    evaluated: int = 0
    feasible: int = 0
    out_of_memory: int = 0
    found: list[Found] = field(default_factory=list)
    without: dict[str, str] = field(default_factory=dict)


def counts_for(job: Job, acc: Accelerator) -> tuple[int, ...]:
    """Chip counts to try on one accelerator: powers of two of whole hosts, within what is allowed,
    and three quarters of the next one where that is allowed, too.

    Raises InputError when not even one host is allowed.
    """
    host = acc.chips_per_host or 1
    if job.chips is not None:
        return (job.chips,)
    limit = job.max_chips if job.max_chips is not None else 1024
    if limit < host:
        raise InputError(
            f"{limit} chips are less than one host of `{acc.id}` ({host} chips)",
            where="--max-chips",
            hint=f"allow at least {host}",
        )
    hosts = limit // host
    counts = {host << i for i in range(hosts.bit_length())}
    # Powers of two leave up to half of what is allowed unused: three of them use more.
    counts |= {3 * host << i for i in range(hosts.bit_length()) if 3 << i <= hosts < 4 << i}
    return tuple(sorted(counts, reverse=True))


def search(
    model: Model,
    job: Job,
    accelerators: Sequence[Accelerator],
    *,
    networks: Mapping[str, ProductNetwork] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Tally:
    """Best layout on every (accelerator, count). Accelerators without one are named with why.

    ``networks`` are those of the products that the accelerators, by id, are rented as.
    """
    tally = Tally()
    for done, acc in enumerate(accelerators):
        if progress is not None:
            progress(acc.id, done / len(accelerators))
        try:
            frame = recipe_of(job, framework_for(job.framework, acc.stack))
            counts = counts_for(job, acc)
            network = (networks or {}).get(acc.id)
            clusters = [cluster_of(acc, count, network=network) for count in counts]
        except InputError as error:
            tally.without[acc.id] = error.what
            continue
        if not any(job.precision in (*c.peak_flops, "bf16") for c in clusters):
            tally.without[acc.id] = f"has no {job.precision} peak"
            continue
        constants = constants_for(acc.id, frame.name)
        if not job.overlap:
            constants = replace(constants, constants=without_overlap(constants.constants))
        hits, reasons = 0, [""]
        for cluster in clusters:
            found, reason = best_on(model, job, frame, cluster, constants, tally)
            if found is None:
                reasons.append(reason)
            else:
                tally.found.append(found)
                hits += 1
        if not hits:
            tally.without[acc.id] = reasons[-1]
    return tally


def best_on(
    model: Model,
    job: Job,
    frame: Framework,
    cluster: Cluster,
    constants: GroupConstants,
    tally: Tally,
) -> tuple[Found | None, str]:
    """The fastest layout that fits ``cluster``, or the reason why there is none."""
    layouts, before = _laid_out_once(
        model, cluster.chips, cluster.levels[0].size, frame, global_batch=job.global_batch,
        seq_len=job.seq_len,
    )  # fmt: skip
    tally.evaluated += len(layouts)
    if before is None:
        return None, (
            f"no degrees multiply to {cluster.chips} chips and divide a batch of "
            f"{job.global_batch} sequences"
        )
    usable = USABLE_MEMORY * cluster.memory_bytes
    layouts = recomputed(
        layouts, before, frame, layers=len(model.layers), capacity_bytes=usable
    )  # fmt: skip
    memory = memory_of(model, frame, layouts, seq_len=job.seq_len)
    fits = memory.total_bytes <= usable
    tally.out_of_memory += int(np.count_nonzero(~fits))
    tally.feasible += int(np.count_nonzero(fits))
    if not bool(fits.any()):
        least = float(memory.total_bytes.min())
        return None, (
            f"needs at least {least / 1e9:,.0f} GB a chip on {cluster.chips:,} chips, "
            f"has {cluster.memory_bytes / 1e9:,.0f}"
        )
    kept = layouts.take(fits)
    times = joined([time_chunk(model, job, frame, cluster, constants, c) for c in _chunks(kept)])
    # Ties go to the simpler layout: enumeration runs from small degrees to large ones.
    order = np.argsort(times.total_s, kind="stable")[:SHORTLIST]
    kept, times = kept.take(order), times.take(order)
    held = memory.take(np.flatnonzero(fits)[order])
    seconds = times.total_s
    _, residual = calibrated(PUBLISHED)
    features = features_of(
        model, cluster, kept, group=constants.group, version="", precision=job.precision,
        seq_len=job.seq_len,
    )  # fmt: skip
    corrected = seconds * np.exp(residual.mean(features))
    order = np.argsort(corrected, kind="stable")
    best = int(order[0])
    at = np.array([best])
    _, deviation = residual.at(features.take(at))
    layout = layout_at(kept, best, len(model.layers))
    return (
        Found(
            cluster=cluster,
            framework=frame.name,
            constants=constants,
            layout=layout,
            step_time_s=float(corrected[best]),
            correction=float(corrected[best] / seconds[best]),
            log_error=float(deviation[0]),
            nearest=residual.nearest(features.take(at)),
            parts=times.take(at),
            memory=held.take(at),
            second=_second(kept, corrected, order, layout, len(model.layers)),
        ),
        "",
    )


def _laid_out(
    model: Model, chips: int, domain: int, frame: Framework, *, global_batch: int, seq_len: int
) -> tuple[Layouts, tuple[Memory, Stages] | None]:
    """Every layout, and its memory with nothing computed again: the same on many accelerators."""
    layouts = layouts_on(model, chips, domain, frame, global_batch=global_batch, seq_len=seq_len)
    if not len(layouts):
        return layouts, None
    return layouts, before_recompute(model, frame, layouts, seq_len=seq_len)


_laid_out_once = once_per_model(_laid_out, _LAID_OUT_KEPT)


def time_chunk(
    model: Model, job: Job, frame: Framework, cluster: Cluster, constants: GroupConstants,
    layouts: Layouts,
) -> StepTime:  # fmt: skip
    """Step times of some layouts of one job on one cluster."""
    compiled = compile_layouts(
        model, cluster, frame, layouts, seq_len=job.seq_len, precision=job.precision
    )
    return time_step(compiled, constants.constants)


def _chunks(layouts: Layouts) -> Iterator[Layouts]:
    for start in range(0, len(layouts), CHUNK):
        yield layouts.take(np.arange(start, min(start + CHUNK, len(layouts))))


def _second(
    layouts: Layouts, seconds: FloatArray, order: IntArray, best: Layout, layers: int
) -> tuple[Layout, float] | None:
    """The best layout whose degrees differ from the winner's."""
    for index in order[1:256]:
        other = layout_at(layouts, int(index), layers)
        if (other.tp, other.cp, other.pp, other.dp, other.ep) != (
            best.tp, best.cp, best.pp, best.dp, best.ep,
        ):  # fmt: skip
            return other, float(seconds[index])
    return None
