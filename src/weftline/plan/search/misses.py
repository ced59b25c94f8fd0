"""Why there is no plan on a chip, or on any: counted, with what would do instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from weftline.catalog import Accelerator
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.fabric import cluster_of
from weftline.model import Model
from weftline.plan.search.fits import USABLE_MEMORY, Fits, first_that_holds, fits_on, state_bytes
from weftline.plan.step.frameworks import Framework, framework_for, recipe_of
from weftline.plan.step.layouts import attention_heads
from weftline.spec import Cluster, Job
from weftline.units import format_bytes

ALTERNATIVES = (
    ("--tune lora", {"tune": "lora"}),
    ("--tune qlora", {"tune": "qlora"}),
    ("--offload", {"offload": True}),
    ("--optimizer adamw-pure-bf16", {"optimizer": "adamw-pure-bf16"}),
)
"""What a job could give up, in the order in which it is offered."""


def no_layout(model: Model, job: Job, frame: Framework, chips: int) -> str:
    """Why no layout is legal on so many chips."""
    if not job.layout:
        return (
            f"no degrees multiply to {chips} chips and divide a batch of {job.global_batch} "
            "sequences"
        )
    said = ", ".join(f"{name}={value}" for name, value in job.layout.items())
    return f"no layout with {said}: " + (
        "; ".join(_clashes(model, job, frame, chips))
        or f"the rest does not multiply to {chips} chips and a batch of {job.global_batch}"
    )


def _clashes(model: Model, job: Job, frame: Framework, chips: int) -> Iterator[str]:
    held = {name: value for name, value in job.layout.items() if isinstance(value, int)}
    heads = attention_heads(model)
    if heads % max(held.get("tp", 1), 1):
        yield f"tp={held['tp']} does not divide {heads} attention heads"
    zero = held.get("zero")
    if zero is not None and zero not in frame.zero_stages:
        known = ", ".join(map(str, frame.zero_stages))
        yield f"{frame.name} has ZeRO stage {known}"
    if zero == 3 and held.get("pp", 1) > 1:
        yield "ZeRO-3 is paired with pp=1"
    product = 1
    for name in ("tp", "cp", "pp", "dp"):
        product *= held.get(name, 1)
    if product < 1 or chips % product:
        yield f"{product} does not divide {chips} chips"
    sequences = held.get("dp", 1) * held.get("micro_batch", 1) * held.get("num_micro_batches", 1)
    if sequences < 1 or job.global_batch % sequences:
        yield f"dp * micro-batches of {sequences} do not divide a batch of {job.global_batch}"


def out_of_memory(
    model: Model, job: Job, frame: Framework, acc: Accelerator, cluster: Cluster, found: Fits
) -> str:
    """``does not fit: 16 chips hold it, 8 more (...)``: what lacks on the cluster that came
    closest."""
    least = float(found.total_bytes.min())
    had = (
        f"at least {format_bytes(least)} a chip on {cluster.chips:,}, "
        f"{format_bytes(USABLE_MEMORY * cluster.memory_bytes)} usable"
    )
    enough = first_that_holds(model, job, frame, acc, above=cluster.chips)
    if enough is None:
        return f"does not fit on any count tried ({had})"
    more = enough - cluster.chips
    return f"does not fit: needs {more:,} chip{'s' * (more != 1)} more, {enough:,} in all ({had})"


def nothing_fits(
    model: Model, job: Job, tried: Sequence[Accelerator], without: dict[str, str], evaluated: int,
    out: int,
) -> NoFeasiblePlanError:  # fmt: skip
    """The error of a search without a plan: the nearest misses, and what would fit there."""
    # What only lacked memory came closer than what cannot run at all.
    missed = sorted(without.items(), key=lambda item: not item[1].startswith("does not fit"))
    nearest = "; ".join(f"{name} {reason}" for name, reason in missed[:3])
    hint = "more chips (--chips, --max-chips), a shorter --seq, or another --global-batch"
    if not evaluated:  # nothing could be cut as asked, or nothing runs there: memory is not it
        hint = "other chips (--on) or parts of the --layout left free" if job.layout else (
            "other chips with --on, or another --framework or --precision"
        )  # fmt: skip
    instead = [text for text in (_instead(model, job, acc) for acc in tried[:3]) if text]
    return NoFeasiblePlanError(
        f"no layout of {model.name} runs on any of {len(without)} "
        f"accelerator{'' if len(without) == 1 else 's'} "
        f"({evaluated:,} layouts tried, {out:,} out of memory)",
        nearest=nearest or None,
        hint="; ".join([*instead, hint]) if out else hint,
    )


def _instead(model: Model, job: Job, acc: Accelerator) -> str:
    """``1.27 TB of weights, gradients and states, 16 x a10 have 384 GB; --tune lora fits``."""
    chips = job.chips or job.max_chips or 1024
    try:
        frame = recipe_of(job, framework_for(job.framework, acc.vendor))
        cluster = cluster_of(acc, chips)
    except InputError:
        return ""
    fitting = [
        option for option, change in ALTERNATIVES
        if any(getattr(job, k) != v for k, v in change.items())
        and _fits(model, replace(job, **change), acc, cluster)
    ]  # fmt: skip
    have = format_bytes(chips * cluster.memory_bytes)
    said = (
        f"weights, gradients and optimizer states take {format_bytes(state_bytes(model, frame))}, "
        f"{chips:,} x {acc.id} {'has' if chips == 1 else 'have'} {have}"
    )
    if not fitting:
        return said
    return f"{said}; what fits there: {', '.join(fitting)}"


def _fits(model: Model, job: Job, acc: Accelerator, cluster: Cluster) -> bool:
    frame = recipe_of(job, framework_for(job.framework, acc.vendor))
    found = fits_on(model, job, frame, cluster)
    return found is not None and bool(found.fits.any())
