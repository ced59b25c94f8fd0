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
from weftline.plan.calibrate.calibration import PUBLISHED, GroupConstants, calibrated, constants_for
from weftline.plan.calibrate.residual import features_of
from weftline.plan.search.fits import USABLE_MEMORY, Fits, fits_on, state_bytes
from weftline.plan.search.measured import KNOWN_ERROR, Measured, measured_on
from weftline.plan.search.misses import no_layout, out_of_memory
from weftline.plan.step.columns import IntArray, Layouts
from weftline.plan.step.compiled import compile_layouts
from weftline.plan.step.constants import FloatArray, without_overlap
from weftline.plan.step.frameworks import Framework, framework_for, recipe_of
from weftline.plan.step.layouts import layout_at
from weftline.plan.step.memory import Memory
from weftline.plan.step.timing import StepTime, joined, time_step
from weftline.spec import Cluster, Job, Layout, Measurement

CHUNK = 1 << 13
"""Layouts timed at once: their columns stay in a core's cache."""
SHORTLIST = 128
"""Fastest layouts of a cluster that the choice is made of."""


UNDECIDED = 0.02
"""Share of a step below which two layouts are as fast: the best of a sweep is found within 3 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best layout on one cluster, with the numbers that decided."""

    cluster: Cluster
    frame: Framework
    """As counted and timed."""
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
    measured: Measurement | None = None
    """Of this very layout on the user's own machine: then the step and its memory are its."""

    @property
    def framework(self) -> str:
        """Its name."""
        return self.frame.name

    @property
    def memory_bytes(self) -> float:
        """Of the fullest chip."""
        if self.measured is not None:
            return self.measured.memory_bytes
        return float(self.memory.total_bytes[0])


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
    and three quarters of the next one where that is allowed, too, most first.

    Where less than a host is allowed: parts of it. Where the fewest are asked for: parts of a host
    and every number of hosts, fewest first.
    """
    host = acc.chips_per_host or 1
    if job.chips is not None:
        return (job.chips,)
    limit = job.max_chips if job.max_chips is not None else 1024
    parts = {1 << i for i in range(host.bit_length()) if 1 << i <= min(host, limit)}
    if job.objective == "chips":
        return tuple(sorted(parts | set(range(host, limit + 1, host))))
    if limit < host:
        return tuple(sorted(parts, reverse=True))
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
            network = (networks or {}).get(acc.id)
            clusters = [
                cluster_of(acc, count, network=network)
                for count in _worth_trying(model, job, frame, acc)
            ]
        except InputError as error:
            tally.without[acc.id] = error.what
            continue
        if not any(job.precision in (*c.peak_flops, "bf16") for c in clusters):
            tally.without[acc.id] = f"has no {job.precision} peak"
            continue
        reason = _search_one(model, job, frame, acc, clusters, tally)
        if reason is not None:
            tally.without[acc.id] = reason
    return tally


def _worth_trying(model: Model, job: Job, frame: Framework, acc: Accelerator) -> Sequence[int]:
    """The counts to try; of many small ones only those whose memory holds the states at all."""
    counts = counts_for(job, acc)
    if len(counts) <= 1 or job.objective != "chips":
        return counts
    usable = USABLE_MEMORY * cluster_of(acc, 1).memory_bytes
    return [c for c in counts if c * usable >= state_bytes(model, frame)] or counts[-1:]


def _search_one(
    model: Model, job: Job, frame: Framework, acc: Accelerator, clusters: Sequence[Cluster],
    tally: Tally,
) -> str | None:  # fmt: skip
    """Add the best layout of each count of one accelerator; why there is none, if there is none."""
    constants = constants_for(acc.like or acc.id, frame.name)
    if not job.overlap:
        constants = replace(constants, constants=without_overlap(constants.constants))
    # Fewer chips are only outdone by more where a limit may ask for them.
    first_does = job.objective == "chips" and job.deadline_s is None and job.budget_usd is None
    hits = 0
    short: list[tuple[float, Cluster, Fits]] = []
    for cluster in clusters:
        fits = fits_on(model, job, frame, cluster)
        if fits is None:
            continue
        tally.evaluated += len(fits.layouts)
        tally.out_of_memory += int(np.count_nonzero(~fits.fits))
        tally.feasible += int(np.count_nonzero(fits.fits))
        if fits.fits.any():
            tally.found.append(best_on(model, job, cluster, constants, fits))
            hits += 1
            if first_does:
                break
        else:
            short.append((float(fits.total_bytes.min()), cluster, fits))
    if hits:
        return None
    if not short:
        return no_layout(model, job, frame, max(c.chips for c in clusters))
    _, cluster, fits = min(short, key=lambda miss: (miss[0], miss[1].chips))
    return out_of_memory(model, job, frame, acc, cluster, fits)


def best_on(
    model: Model, job: Job, cluster: Cluster, constants: GroupConstants, fits: Fits
) -> Found:
    """The fastest layout of those that fit ``cluster``; at least one must."""
    layouts, frame = fits.layouts, fits.frame
    kept = layouts.take(fits.fits)
    times = joined([time_chunk(model, job, frame, cluster, constants, c) for c in _chunks(kept)])
    # Ties go to the simpler layout: enumeration runs from small degrees to large ones.
    order = np.argsort(times.total_s, kind="stable")[:SHORTLIST]
    kept, times = kept.take(order), times.take(order)
    held = np.flatnonzero(fits.fits)[order]
    own = measured_on(model, job, cluster)
    if own is not None:
        return _on_own(model, cluster, constants, fits, own, kept, times, held)
    seconds = times.total_s
    best = _simplest(frame, kept, seconds)
    at = np.array([best])
    # Measured runs correct the time that is said. They do not choose: what is near the one layout
    # and far from the other would decide between them.
    _, residual = calibrated(PUBLISHED)
    features = features_of(
        model, cluster, kept.take(at), group=constants.group, version="", precision=job.precision,
        seq_len=job.seq_len,
    )  # fmt: skip
    mean, deviation = residual.at(features) if constants.known else residual.unseen(1)
    correction = float(np.exp(mean[0]))
    layout = layout_at(kept, best, len(model.layers))
    return Found(
        cluster=cluster,
        frame=frame,
        constants=constants,
        layout=layout,
        step_time_s=float(seconds[best]) * correction,
        correction=correction,
        log_error=float(deviation[0]),
        nearest=residual.nearest(features) if constants.known else None,
        parts=times.take(at),
        memory=fits.memory(held[at]),
        second=_second(kept, seconds * correction, best, layout, len(model.layers)),
    )


def _on_own(
    model: Model, cluster: Cluster, constants: GroupConstants, fits: Fits, own: Measured,
    kept: Layouts, times: StepTime, held: IntArray,
) -> Found:  # fmt: skip
    """The fastest on a machine of the user's: measured where it was, else predicted and scaled."""
    layers = len(model.layers)
    named = [layout_at(kept, index, layers) for index in range(len(kept))]
    seconds, count = own.corrected(times.total_s, named)
    order = np.argsort(seconds, kind="stable")
    best = int(order[_simplest(fits.frame, kept.take(order), seconds[order])])
    at = np.array([best])
    found = own.of(named[best])
    basis = found.basis if found is not None else own.basis(count)
    return Found(
        cluster=cluster, frame=fits.frame,
        constants=replace(constants, basis=basis, rows=count), layout=named[best],
        step_time_s=float(seconds[best]), correction=float(seconds[best] / times.total_s[best]),
        log_error=own.error if found is None else KNOWN_ERROR, nearest=None, parts=times.take(at),
        memory=fits.memory(held[at]), second=_second(kept, seconds, best, named[best], layers),
        measured=found,
    )  # fmt: skip


def _simplest(frame: Framework, layouts: Layouts, seconds: FloatArray) -> int:
    """Of layouts, fastest first, the first, or one as fast as can be told that needs less.

    What not every framework has, and few runs that were measured use, has to be worth more than
    ``UNDECIDED``: splitting sequences, heads or experts' features, sharding inside nodes alone,
    pipeline neighbours inside them, zero-bubble schedules, ZeRO-3 where a framework usually splits
    the optimizer alone. Splitting layers counts a quarter for each doubling.
    """
    lay = layouts.take(np.flatnonzero(seconds <= (1 + UNDECIDED) * seconds[0]))
    unusual = (
        np.log2(lay.cp) + (lay.etp > 1) + (lay.ulysses > 0) + (lay.pp_inner > 0)
        + (lay.zero_bubble > 0) + ((lay.zero >= 1) & (lay.shard < lay.cp * lay.dp))
        + (lay.zero > frame.default_zero) + 0.25 * np.log2(lay.tp * lay.pp)
    )  # fmt: skip
    return int(np.argmin(unusual))


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
    layouts: Layouts, seconds: FloatArray, at: int, best: Layout, layers: int
) -> tuple[Layout, float] | None:
    """The fastest layout whose degrees differ from those of the one chosen, at ``at``."""
    for index in range(len(layouts)):
        if index == at:
            continue
        other = layout_at(layouts, index, layers)
        if (other.tp, other.cp, other.pp, other.dp, other.ep) != (
            best.tp, best.cp, best.pp, best.dp, best.ep,
        ):  # fmt: skip
            return other, float(seconds[index])
    return None
