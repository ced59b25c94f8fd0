"""Whether a training job can be: names that exist, numbers that mean something."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from weftline.catalog import accelerator
from weftline.catalog.asked import check_region, known_terms
from weftline.errors import InputError
from weftline.model import Model
from weftline.plan.step.frameworks import AUTO, OPTIMIZERS, framework
from weftline.plan.step.frozen import FREEZABLE
from weftline.spec import OBJECTIVES, PARTS, PRECISIONS, PRICE_CHOICES, TUNES, Job
from weftline.spec.options import Where
from weftline.spec.parse import Collector, choice, parse_parts

__all__ = ["check_lengths", "checked", "checked_job"]

T = TypeVar("T")


def check_lengths(job: Job, model: Model, where: Where) -> None:
    """Raise all that is wrong with a job's lengths and counts beside a model."""
    wrong: list[InputError] = []
    longest = model.max_seq_len
    if longest is not None and job.seq_len > longest and not job.allow_long:
        wrong.append(
            InputError(
                f"a sequence of {job.seq_len:,} tokens is longer than {model.name} takes "
                f"({model.max_seq_len:,})",
                where=where("seq"),
                hint=f"use --seq {model.max_seq_len} or less, or take it knowingly: --allow-long",
            )
        )
    if job.tokens < job.seq_len:
        wrong.append(
            InputError(
                f"{job.tokens:,} tokens are less than one sequence of {job.seq_len:,}",
                where=where("tokens"),
                hint="lower --seq, or say how many: --tokens 15T",
            )
        )
    if job.chips is not None and job.max_chips is not None:
        wrong.append(
            InputError("--chips fixes the count and --max-chips bounds it", hint="give one of them")
        )
    get = Collector()
    get.errors += wrong
    get.raise_all()


def checked_job(job: Job) -> Job:
    """The job with names as the catalogue has them. Raises all that is wrong with it at once."""
    get = Collector()
    for name in ("tokens", "seq_len", "global_batch", "chips", "max_chips", "rank"):
        value = getattr(job, name)
        if value is not None and value < 1:
            get.errors.append(InputError(f"{value:,} is not 1 or more", where=name))
    accelerators = get.each(job.accelerators, lambda name: accelerator(name).id)
    terms = get(lambda: known_terms(job.own_prices, job.discounts)) or ({}, {})
    known = replace(job, accelerators=accelerators, own_prices=terms[0], discounts=terms[1])
    return checked(known, get, str)


def checked(job: Job, get: Collector, where: Where, model: Model | None = None) -> Job:
    """What the command line and Python both have to get right. Raises what ``get`` has, too."""

    def known(value: str, allowed: tuple[T, ...], kind: str, option: str) -> T | None:
        return get(lambda: choice(value, allowed, kind, where=where(option)))

    get(lambda: check_region(job.region, where=where("region")))
    lengths = {where(name) for name in ("tokens", "seq", "global_batch")}
    if model is not None and not lengths & {error.where for error in get.errors}:
        get(lambda: check_lengths(job, model, where))
    kind = known(job.price_type, PRICE_CHOICES, "price type", "price")
    objective = known(job.objective, OBJECTIVES, "objective", "objective")
    precision = known(job.precision, PRECISIONS, "precision", "precision")
    named = job.framework.lower()
    if named != AUTO:
        named = get(lambda: framework(named, where=where("framework")).name) or AUTO
    optimizer = known(job.optimizer, tuple(OPTIMIZERS), "optimizer", "optimizer")
    tune = known(job.tune, TUNES, "way to tune", "tune")
    held = ",".join(f"{name}={value}" for name, value in job.layout.items())
    parts = get(lambda: parse_parts(held, PARTS, where=where("layout")))
    if job.tune == "full" and job.rank != Job.__dataclass_fields__["rank"].default:
        get.errors.append(
            InputError(f"a rank of {job.rank} without adapters", where=where("rank"),
                       hint="add --tune lora or --tune qlora")
        )  # fmt: skip
    if job.tune != "full" and job.freeze:
        get.errors.append(InputError("adapters freeze every weight already", where=where("freeze"),
                                     hint="leave --freeze or --tune out"))  # fmt: skip
    if set(job.freeze) - set(FREEZABLE):
        get.errors.append(
            InputError(f"`{', '.join(job.freeze)}` cannot be frozen", where=where("freeze"),
                       hint=f"any of {', '.join(FREEZABLE)}")
        )  # fmt: skip
    if model is not None and "experts" in job.freeze and not model.is_moe:
        get.errors.append(InputError(f"{model.name} has no routed experts to freeze",
                                     where=where("freeze")))  # fmt: skip
    if job.tune == "qlora" and job.precision == "fp32":
        get.errors.append(InputError("4-bit weights are unpacked to bf16", where=where("precision"),
                                     hint="leave --precision out"))  # fmt: skip
    get.raise_all()
    return replace(
        job, price_type=kind or job.price_type, objective=objective or job.objective,
        precision=precision or job.precision, framework=named,
        optimizer=optimizer or job.optimizer, tune=tune or job.tune, layout=parts or {},
    )  # fmt: skip
