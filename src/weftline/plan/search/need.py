"""Memory of a training job without a price: what it is made of, and on which chips it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from weftline.catalog import Accelerator
from weftline.errors import InputError
from weftline.fabric import cluster_of
from weftline.model import Model
from weftline.plan.search.fits import first_that_holds, fits_on
from weftline.plan.step.compiled import adapter_parameters
from weftline.plan.step.frameworks import Framework, framework_for, recipe_of
from weftline.plan.step.layouts import columns_of, layout_at
from weftline.plan.step.memory import memory_of
from weftline.spec import Job, Layout, Part, Rejection, Tune
from weftline.spec.need import Holding, Need, NeedKind
from weftline.units import format_count

__all__ = ["ANY_BATCH", "training_need"]

ANY_BATCH = 2**10 * 3**2 * 5 * 7
"""A batch that divides over any usual number of chips: memory asks for its micro-batch alone."""
_KINDS: dict[Tune, NeedKind] = {"full": "train", "lora": "lora", "qlora": "qlora"}


def training_need(model: Model, job: Job, chips: Sequence[Accelerator]) -> Need:
    """What ``job`` takes, whatever its count of chips, and the fewest of each chip that hold it.

    ``job.layout`` should hold the micro-batch; ``job.global_batch`` is best ``ANY_BATCH``.
    """
    holdings: list[Holding] = []
    without: list[Rejection] = []
    for acc in chips:
        try:
            frame = recipe_of(job, framework_for(job.framework, acc.vendor))
            holdings.append(_holding(model, job, frame, acc))
        except InputError as error:
            without.append(Rejection(accelerator=acc.id, reason=error.what))
    holdings.sort(key=lambda h: (h.chips, h.least_bytes, h.accelerator))
    vendors = [acc.vendor for acc in chips] or ["nvidia"]
    frame = recipe_of(job, _framework(job, vendors))
    parts, kept, host = _parts(model, job, frame)
    return Need(
        kind=_KINDS[job.tune], how=_how(model, job, frame), parts=parts, kept_bytes=kept,
        host_bytes=host,
        holdings=tuple(holdings), without=tuple(without),
    )  # fmt: skip


def _framework(job: Job, vendors: Sequence[str]) -> str:
    """The framework the parts are counted in: the first chip's that has one."""
    for vendor in [*vendors, "nvidia"]:
        try:
            return framework_for(job.framework, vendor)
        except InputError:
            continue
    return job.framework


def _how(model: Model, job: Job, frame: Framework) -> str:
    micro = job.layout.get("micro_batch", 1)
    said = f"{job.precision} with {job.optimizer}, {frame.name}'s bytes a parameter"
    if job.tune != "full":
        count = format_count(adapter_parameters(model, job.rank))
        held = "4 bits" if job.tune == "qlora" else job.precision
        said = (f"adapters of rank {job.rank} ({count} parameters) with {job.optimizer}, the rest "
                f"frozen in {held}")  # fmt: skip
    said += ", states in host memory" if job.offload else ""
    plural = "" if micro == 1 else "s"
    return f"{said}; {micro} sequence{plural} of {job.seq_len:,} tokens at a time"


def _parts(model: Model, job: Job, frame: Framework) -> tuple[tuple[Part, ...], float, float]:
    """(parts of the whole job on one chip large enough, activations computed again; activations
    where they are kept; bytes in host memory)."""
    layers = len(model.layers)
    whole = Layout(
        zero=0, micro_batch=int(job.layout.get("micro_batch", 1)), recompute="full",
        recompute_layers=layers,
    )  # fmt: skip
    again = memory_of(model, frame, columns_of(whole, layers), seq_len=job.seq_len)
    kept = memory_of(
        model, frame, columns_of(replace(whole, recompute="none", recompute_layers=0), layers),
        seq_len=job.seq_len,
    )  # fmt: skip
    said = (
        ("weights", again.weights_bytes, "counted"),
        ("gradients", again.gradients_bytes, "counted"),
        ("optimizer states", again.optimizer_bytes, "counted"),
        ("activations, computed again", again.activations_bytes, "counted"),
        ("working set of a layer", again.working_bytes, "counted"),
        ("logits", again.logits_bytes, "counted"),
        ("driver, buffers, fragmentation", again.overhead_bytes, "assumed"),
    )
    parts = tuple(
        Part(name=name, value=float(value[0]), unit="B", basis=basis)
        for name, value, basis in said if float(value[0]) > 0
    )  # fmt: skip
    return parts, float(kept.activations_bytes[0]), float(again.host_bytes[0])


def _holding(model: Model, job: Job, frame: Framework, acc: Accelerator) -> Holding:
    """The fewest chips of ``acc`` that hold the job. Raises InputError where none do."""
    saving = replace(job, layout={**job.layout, "recompute": "full"})
    count = first_that_holds(model, saving, frame, acc)
    if count is None:
        raise InputError("no count tried holds it")
    cluster = cluster_of(acc, count)
    found = fits_on(model, saving, frame, cluster)
    if found is None:
        raise InputError(f"no layout on {count} chips")
    at = int(np.argmin(found.total_bytes))
    layout = layout_at(found.layouts, at, len(model.layers))
    return Holding(
        accelerator=acc.id, chips=count, layout=f"{layout.short()}, ZeRO-{layout.zero}",
        least_bytes=float(found.total_bytes[at]), chip_bytes=cluster.memory_bytes,
    )  # fmt: skip
