"""Why a plan won, in words and in parts: what a reader checks before believing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from weftline.catalog import accelerator, unconfirmed_words
from weftline.model import Model
from weftline.operators.products import training_operators
from weftline.plan.calibrate.best_measured import best_measured, causal_flops_per_token
from weftline.plan.calibrate.stated import run_words
from weftline.plan.search.evidence import break_evens
from weftline.plan.search.fits import COUNT_ERROR
from weftline.plan.search.offers import Offer
from weftline.plan.search.search import Found
from weftline.plan.step.compiled import adapter_parameters
from weftline.plan.step.frozen import spared_flops_per_token, trained_parameters
from weftline.plan.step.recipes import recipe_of_framework, stated_recipe
from weftline.spec import Job, Part, PriceQuote
from weftline.units import format_bytes, format_count, format_number, format_usd

STEP_NAMES: Final = (
    ("matrix products", "gemm_s"),
    ("attention", "attention_s"),
    ("norms and activations", "memory_bound_s"),
    ("recomputation", "recompute_s"),
    ("kernel launches (host)", "host_s"),
    ("tensor-parallel exchange, exposed", "tp_s"),
    ("context-parallel exchange, exposed", "cp_s"),
    ("expert all-to-all, exposed", "ep_s"),
    ("pipeline bubble", "bubble_s"),
    ("uneven stages", "imbalance_s"),
    ("pipeline sends, exposed", "pp_s"),
    ("gradient reduction, exposed", "dp_s"),
    ("optimizer", "optimizer_s"),
    ("stragglers and fixed overhead", "overhead_s"),
)
WHOLE_SQUARE: Final = 1.05
"""FLOP counted with attention's whole square over the causal count from which on a plan says so."""
ROUNDED_UP: Final = 1.01
"""Tokens of whole steps over those asked for from which on a plan says so."""
_SHOWN_GROUNDS: Final = ("products", "attention forward", "attention backward")
MEMORY_NAMES: Final = (
    ("weights", "weights_bytes", "counted"),
    ("gradients", "gradients_bytes", "counted"),
    ("optimizer states", "optimizer_bytes", "counted"),
    ("activations", "activations_bytes", "counted"),
    ("working set of a layer", "working_bytes", "counted"),
    ("logits", "logits_bytes", "counted"),
    ("driver, buffers, fragmentation", "overhead_bytes", "assumed"),
)


def step_parts(found: Found) -> tuple[Part, ...]:
    """The step by part, seconds; parts that take no time are left out."""
    if found.measured is not None:
        return tuple(
            Part(name=name, value=value, unit="s", basis=found.constants.basis)
            for name, value in found.measured.parts_s.items() if value > 0
        )  # fmt: skip
    parts = [
        Part(name=name, value=float(getattr(found.parts, field)[0]), unit="s",
             basis=found.constants.basis)
        for name, field in STEP_NAMES
    ]  # fmt: skip
    if abs(found.correction - 1) > 1e-4:
        basis = found.constants.basis
        if found.nearest is not None:
            basis = f"measured runs, nearest {run_words(found.nearest[0])}"
        parts.append(
            Part(name="what near measured runs add or save", unit="s",
                 value=found.step_time_s * (1 - 1 / found.correction), basis=basis)
        )  # fmt: skip
    return tuple(p for p in parts if abs(p.value) > 0)


def memory_parts(found: Found) -> tuple[Part, ...]:
    """The memory of the fullest chip by part, bytes."""
    parts = (
        Part(name=name, value=float(getattr(found.memory, field)[0]), unit="B", basis=basis)
        for name, field, basis in MEMORY_NAMES
    )
    return tuple(p for p in parts if p.value > 0)


def why_of(found: Found, quote: PriceQuote | None, model: Model, job: Job) -> tuple[str, ...]:
    """Why this layout: where its axes lie, what its time goes to, what came second."""
    said = [_placement(found)]
    # Shares of the physics: what near runs add or save has no part of its own.
    physics_s = float(found.parts.total_s[0])
    of_step = {f: float(getattr(found.parts, f)[0]) / physics_s for _, f in STEP_NAMES}
    share = sum(of_step.pop(f) for f in ("gemm_s", "attention_s", "memory_bound_s"))
    names = {f: name for name, f in STEP_NAMES}
    losses = sorted(((part, names[f]) for f, part in of_step.items()), reverse=True)
    largest = ", ".join(f"{name} {part:.0%}" for part, name in losses[:2] if part >= 0.005)
    said.append(f"{share:.0%} of the step computes" + (f"; then {largest}" if largest else ""))
    used = float(found.memory.total_bytes[0]) / found.cluster.memory_bytes
    again: str = found.layout.recompute
    if found.layout.recompute_layers:
        again += f", {found.layout.recompute_layers} layers a stage"
    tight = f", within the {COUNT_ERROR:.0%} that a count may be too high" if used > 1 else ""
    said.append(f"memory {used:.0%} full{tight}; activation recomputation: {again}")
    if found.second is not None:
        other, seconds = found.second
        slower = seconds / found.step_time_s - 1
        said.append(
            f"second layout: {other.short()}, {slower:.1%} slower" if slower >= 0 else
            f"second layout: {other.short()}, {-slower:.1%} faster: less than can be told, and it "
            "asks more of a framework"
        )  # fmt: skip
    said += _against_measured(found, model, job)
    if not found.constants.known:
        said.append(
            f"framework {found.framework} is not known: it is taken for a plain one (mixed "
            "precision, Adam, flash attention, data and pipeline traffic hidden), nothing measured "
            "corrects it, and its band is the widest there is"
        )
    said.append(_grounds(found, job))
    said += _taken_knowingly(found, model, job)
    if model.is_moe:
        said.append(f"{model.experts} experts over {found.layout.ep} ranks")
    if quote is not None and quote.note:
        said.append(f"price: {quote.note}")
    return (*said, *unconfirmed_words(accelerator(found.cluster.accelerator)))


def causal_mfu(found: Found, model: Model, job: Job) -> float:
    """Share of the bf16 peak that goes into needed work: attention's causal half alone."""
    cluster = found.cluster
    each = causal_flops_per_token(model, job.seq_len)
    each -= spared_flops_per_token(model, job.tune, job.freeze)
    flops = each * job.tokens_per_step
    return flops / found.step_time_s / cluster.chips / cluster.peak_flops["bf16"]


def _against_measured(found: Found, model: Model, job: Job) -> list[str]:
    """What the speed is beside the best that was ever measured on the chip."""
    if job.tune != "full" or job.freeze:
        return []
    chip = accelerator(found.cluster.accelerator)
    name, share = chip.like or chip.sold_as, causal_mfu(found, model, job)
    said = []
    whole = model.training_flops_per_token(job.seq_len)
    if whole > WHOLE_SQUARE * causal_flops_per_token(model, job.seq_len):
        said.append(
            f"MFU counts attention's whole square, as papers do; its causal half alone: {share:.0%}"
        )
    best = best_measured(name, job.precision, mixture=model.is_moe)
    kind = "mixture" if model.is_moe else "dense model"
    if best is None or best.chip != name:
        said.append(f"no run on {name} in {job.precision} is known to be measured for a {kind}: "
                    "its band is that of other chips")  # fmt: skip
    if best is not None and share > best.share:
        said.append(
            f"beyond the best {kind} measured on {best.chip} in {job.precision}, {best.share:.0%} "
            f"of the bf16 peak ({run_words(best.run)}): expect the slow end of the band"
        )
    return said


def _grounds(found: Found, job: Job) -> str:
    """What the times of operators and the framework's habits rest on."""
    chip = found.cluster.accelerator
    recipe = (
        stated_recipe(found.framework, job.recipe, chip)
        if job.recipe
        else recipe_of_framework(found.framework, chip)
    )
    room = training_operators(chip).grounds(job.precision)
    parts = [f"{part}: {ground}" for part, ground in room.items() if part in _SHOWN_GROUNDS]
    return f"recipe {recipe.name}; {'; '.join(parts)}"


def _taken_knowingly(found: Found, model: Model, job: Job) -> list[str]:
    """What the user asked for that a reader of the numbers has to know."""
    said = []
    whole = job.steps * job.tokens_per_step
    if whole > ROUNDED_UP * job.tokens:
        said.append(
            f"{job.steps} whole step{'s' * (job.steps > 1)} of "
            f"{format_count(job.tokens_per_step)} tokens: {format_count(whole)} instead of the "
            f"{format_count(job.tokens)} asked for"
        )
    if job.tune != "full":
        count = round(adapter_parameters(model, job.rank))
        frozen = "4-bit NormalFloat" if job.tune == "qlora" else job.precision
        said.append(
            f"adapters of rank {job.rank} on every matrix of the layers: {format_count(count)} "
            f"parameters trained, {model.parameters and count / model.parameters:.2%} of all; the "
            f"rest is frozen in {frozen}. Constants are those of full training: assumed"
        )
    if job.freeze:
        left = trained_parameters(model, job.freeze)
        said.append(
            f"{', '.join(job.freeze)} stay as they are: {format_count(round(left))} parameters "
            f"trained, {left / model.parameters:.0%} of all. Constants are those of full "
            "training: assumed"
        )
    host = float(found.memory.host_bytes[0])
    if host:
        cluster = found.cluster
        what = "" if job.offload else "the layout that is held fits with it alone; "
        said.append(
            f"offload: {what}{format_bytes(host * cluster.chips_per_host)} of host memory a host, "
            f"{cluster.hosts:,} of them ({format_bytes(host)} a chip)"
        )
    if model.max_seq_len is not None and job.seq_len > model.max_seq_len:
        said.append(
            f"{job.seq_len:,} tokens a sequence, beyond the {model.max_seq_len:,} that the config "
            "allows: what the model learns there is not known"
        )
    return said


def _placement(found: Found) -> str:
    layout, levels = found.layout, found.cluster.levels
    placed = []
    inner = 1
    for axis in layout.order:
        degree = getattr(layout, axis)
        if degree == 1:
            continue
        inner *= degree
        level = next((lv for lv in levels if inner <= lv.size), levels[-1])
        placed.append(f"{axis} {degree} in the {level.name}" if level.size < found.cluster.chips
                      or len(levels) == 1 else f"{axis} {degree} over {level.name}")  # fmt: skip
    return ", ".join(placed) if placed else "one chip, nothing to exchange"


def flips_of(ranked: Sequence[Offer], job: Job) -> tuple[str, ...]:
    """What would make the second accelerator win: a price, or an error of the estimate."""
    if len(ranked) < 2:
        return ()
    best, second = ranked[0], ranked[1]
    said: list[str] = []
    name = second.found.cluster.accelerator
    for even in break_evens((best, second), job):
        now, wins = even.now_usd_per_chip_hour, even.wins_below_usd_per_chip_hour
        said.append(f"{name} wins below {format_usd(wins)} a chip-hour (now {format_usd(now)})")
    band = best.found.log_error + second.found.log_error
    ratio = second.train_time_s / best.train_time_s
    if 1 / (1 + band) < ratio < 1 + band:
        said.append(f"the time of {name} is within the error of both estimates: measure a step")
    for other in ranked[1:]:
        if other.cost_usd is None and other.train_time_s < best.train_time_s:
            faster = best.train_time_s / other.train_time_s
            said.append(
                f"{other.found.cluster.accelerator} is {format_number(faster, 2)}x faster but has "
                f"{other.no_price}; give your own with `--price`"
            )
            break
    return tuple(said)
