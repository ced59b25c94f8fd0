"""Whether a training job can be: names that exist, numbers that mean something."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from weftline.catalog import accelerator
from weftline.catalog.asked import check_region
from weftline.errors import InputError
from weftline.plan.step.frameworks import AUTO, FRAMEWORKS, OPTIMIZERS
from weftline.spec import OBJECTIVES, PRECISIONS, PRICE_CHOICES, Job
from weftline.spec.options import Where
from weftline.spec.parse import Collector, choice

__all__ = ["checked", "checked_job"]

T = TypeVar("T")


def checked_job(job: Job) -> Job:
    """The job with names as the catalogue has them. Raises all that is wrong with it at once."""
    get = Collector()
    for name in ("tokens", "seq_len", "global_batch", "chips", "max_chips"):
        value = getattr(job, name)
        if value is not None and value < 1:
            get.errors.append(InputError(f"{value:,} is not 1 or more", where=name))
    accelerators = get.each(job.accelerators, lambda name: accelerator(name).id)
    return checked(replace(job, accelerators=accelerators), get, str)


def checked(job: Job, get: Collector, where: Where) -> Job:
    """What the command line and Python both have to get right. Raises what ``get`` has, too."""

    def known(value: str, allowed: tuple[T, ...], kind: str, option: str) -> T | None:
        return get(lambda: choice(value, allowed, kind, where=where(option)))

    get(lambda: check_region(job.region))
    kind = known(job.price_type, PRICE_CHOICES, "price type", "price")
    objective = known(job.objective, OBJECTIVES, "objective", "objective")
    precision = known(job.precision, PRECISIONS, "precision", "precision")
    framework = known(job.framework, (AUTO, *FRAMEWORKS), "framework", "framework")
    optimizer = known(job.optimizer, tuple(OPTIMIZERS), "optimizer", "optimizer")
    get.raise_all()
    return replace(
        job, price_type=kind or job.price_type, objective=objective or job.objective,
        precision=precision or job.precision, framework=framework or job.framework,
        optimizer=optimizer or job.optimizer,
    )  # fmt: skip
