"""Which layouts fit a cluster: what the search starts from, and what misses are told by."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from weftline.catalog import Accelerator
from weftline.fabric import cluster_of
from weftline.model import Model
from weftline.model.once import once_per_model
from weftline.plan.step.columns import IntArray, Layouts
from weftline.plan.step.compiled import adapter_parameters, frozen_per_chip
from weftline.plan.step.constants import FloatArray
from weftline.plan.step.frameworks import Framework
from weftline.plan.step.frozen import trained_parameters
from weftline.plan.step.layouts import Held, columns_of, layouts_on
from weftline.plan.step.memory import Counted, Memory, count_memory, recomputed
from weftline.spec import Cluster, Job, Layout

COUNT_ERROR = 0.12
"""How far a count may be above what a stated layout takes: the mean error on logged peaks."""
MEMORY_BAND = 0.15
"""Half width of the band around a count of memory, as a share of it: it holds 85 % of logged peaks
and more (``weftline score memory``)."""
USABLE_MEMORY = 0.95
"""Share of a chip's memory a plan may fill: the count is within 10 % of measured peaks."""
_LAID_OUT_KEPT = 64
"""Enumerations that are kept: more than one search has of counts, domains and frameworks."""
_NEAR = 16
"""Numbers of hosts looked at one by one for the first that holds a job."""
MOST_CHIPS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """Every layout on one cluster, its memory, and whether that fits."""

    frame: Framework
    """As counted: with what had to be offloaded for a stated layout."""
    layouts: Layouts
    counted: Counted
    total_bytes: FloatArray
    fits: npt.NDArray[np.bool_]

    def memory(self, index: IntArray) -> Memory:
        """The parts of some layouts' memory."""
        return self.counted.take(index).memory(self.layouts.take(index))


def held_parts(job: Job) -> Held:
    """The parts of the layout that a job fixes, in a form that can be a key."""
    return tuple(sorted(job.layout.items()))


def fits_on(model: Model, job: Job, frame: Framework, cluster: Cluster) -> Fits | None:
    """The layouts of a job on a cluster; None where none is legal.

    Where nothing is said of recomputation, as little is added as makes a layout fit. Sequences are
    split beyond a scale-up domain only where nothing fits otherwise. A layout whose
    degrees are all stated is one that somebody runs or means to: where it does not fit, it is taken
    within what the count may be off, else with layers' inputs in host memory, and optimizer states
    where the framework's own recipes put them there; the answer says so.
    """
    found = _fits_with(model, job, frame, cluster, USABLE_MEMORY)
    if found is not None and bool(found.fits.any()):
        return found
    if not stated(job, cluster.chips):
        far = _fits_with(model, job, frame, cluster, USABLE_MEMORY, far_context=True)
        return far if far is not None and bool(far.fits.any()) else found or far
    if found is None:
        return None
    offered = [(frame, 1 + COUNT_ERROR), (replace(frame, offload_inputs=True), 1 + COUNT_ERROR)]
    if frame.offloads_states:
        offered.append((replace(frame, offload_inputs=True, offload=True), 1 + COUNT_ERROR))
    for other, usable in offered:
        saving = _fits_with(model, job, other, cluster, usable)
        if saving is not None and bool(saving.fits.any()):
            return saving
    return found


def stated(job: Job, chips: int) -> bool:
    """Whether a job fixes every degree of its layout, those left to follow from the rest aside."""
    held = {name: int(job.layout[name]) for name in ("tp", "pp", "cp", "dp") if name in job.layout}
    return {"tp", "pp"} <= held.keys() or ("dp" in held and math.prod(held.values()) == chips)


def _fits_with(
    model: Model, job: Job, frame: Framework, cluster: Cluster, share: float,
    *, far_context: bool = False,
) -> Fits | None:  # fmt: skip
    """The same with ``share`` of a chip's memory to fill."""
    layouts, counted = _laid_out_once(
        model, cluster.chips, cluster.levels[0].size, frame, global_batch=job.global_batch,
        seq_len=job.seq_len, held=held_parts(job), far_context=far_context,
    )  # fmt: skip
    if counted is None:
        return None
    usable = share * cluster.memory_bytes
    if not {"recompute", "recompute_layers"} & job.layout.keys():
        layouts = recomputed(layouts, counted, capacity_bytes=usable)
    total = counted.totals(layouts).max(axis=0)
    return Fits(
        frame=frame, layouts=layouts, counted=counted, total_bytes=total, fits=total <= usable
    )


def _laid_out(
    model: Model, chips: int, domain: int, frame: Framework, *, global_batch: int, seq_len: int,
    held: Held, far_context: bool = False,
) -> tuple[Layouts, Counted | None]:  # fmt: skip
    """Every layout, and what it holds by moment: the same on many accelerators."""
    layouts = layouts_on(
        model, chips, domain, frame, global_batch=global_batch, seq_len=seq_len, held=held,
        far_context=far_context,
    )  # fmt: skip
    if not len(layouts):
        return layouts, None
    return layouts, count_memory(model, frame, layouts, seq_len=seq_len)


_laid_out_once = once_per_model(_laid_out, _LAID_OUT_KEPT)


@once_per_model
def state_bytes(model: Model, frame: Framework) -> float:
    """Weights, gradients and optimizer states of the whole job on chips, bytes, split or not."""
    trained = trained_parameters(model, frame.frozen_parts)
    frozen = frame.weight_bytes * (float(model.parameters) - trained)
    if frame.adapter_rank:
        trained = adapter_parameters(model, frame.adapter_rank)
        one = columns_of(Layout(), len(model.layers))
        frozen = float(sum(part[0] for part in frozen_per_chip(model, one, frame)))
    each = frame.weight_bytes + frame.grad_bytes + frame.resident_bytes
    return frozen + trained * each


def first_that_holds(
    model: Model, job: Job, frame: Framework, acc: Accelerator, above: int = 0
) -> int | None:
    """A count above ``above`` whose memory holds the job, the fewest of those looked at.

    Counts are powers of two inside a host, then whole hosts, from where the states alone would fit:
    the next few one by one, then powers of two and one and a half of them. None where none of them
    up to ``MOST_CHIPS`` holds it.
    """
    host = acc.chips_per_host or 1
    one = cluster_of(acc, 1)
    least = max(above + 1, int(state_bytes(model, frame) / (USABLE_MEMORY * one.memory_bytes)))
    inside = [1 << i for i in range(host.bit_length()) if least <= 1 << i < host]
    start = max(1, -(-least // host))
    near = {host * n for n in range(start, start + _NEAR)}
    # Beyond, those with many divisors: powers of two hosts, and one and a half times as many.
    far = {host * n << i for n in (1, 3) for i in range(17) if start + _NEAR <= n << i}
    for count in [*inside, *sorted(near | {c for c in far if c <= MOST_CHIPS})]:
        found = fits_on(model, job, frame, cluster_of(acc, count))
        if found is not None and bool(found.fits.any()):
            return count
    return None
