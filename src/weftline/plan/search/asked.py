"""From what people write to the noun of a training job, and whether such a job can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from weftline.catalog import own_chips
from weftline.catalog.asked import chip_named, parse_accelerators, parse_own_chips, sellers
from weftline.catalog.own import chip_texts
from weftline.errors import InputError
from weftline.model import Model, load_model
from weftline.model.policy import asked_policy
from weftline.plan.search.checked import checked
from weftline.plan.search.need import ANY_BATCH
from weftline.plan.search.train import DEFAULT_SEQ_LEN, default_batch
from weftline.plan.step.frozen import FREEZABLE
from weftline.plan.step.recipes import checked_recipe
from weftline.spec import PARTS, TUNES, Job, PriceType
from weftline.spec.options import JobOptions, MemoryOptions, Where, as_option
from weftline.spec.parse import (
    Collector,
    choice,
    discount_text,
    parse_discounts,
    parse_parts,
    parse_prices,
    parts_text,
    price_text,
)
from weftline.units import parse_count, parse_duration_s, parse_usd

__all__ = ["job_of", "memory_job_of", "options_of"]

T = TypeVar("T")
MEMORY_SEQ_LEN = 4096
"""Tokens a sequence that memory is counted for where the user states none."""


def job_of(model: str, options: JobOptions, *, where: Where = as_option) -> Job:
    """The options as a Job. Raises all mistakes at once.

    ``where`` tells where a field was written: ``--seq`` on the command line.
    """
    get = Collector()
    records, chip_prices = get(
        lambda: parse_own_chips(options.chip, options.chip_set, on=options.on or "", where=where)
    ) or ((), {})
    with own_chips(records):
        return _job(model, options, where, get, records=records, chip_prices=chip_prices)


def _job(
    model: str, options: JobOptions, where: Where, get: Collector, *,
    records: tuple[dict[str, object], ...], chip_prices: dict[str, float],
) -> Job:  # fmt: skip
    def read(name: str, parse: Callable[..., T]) -> T | None:
        text = getattr(options, name)
        return None if text is None else get(lambda: parse(text, where=where(name)))

    loaded = get(lambda: _loaded(model, where))
    tokens = get(lambda: parse_count(options.tokens, where=where("tokens"), what="a token count"))
    seq, batch = read("seq", parse_count), read("global_batch", parse_count)
    chips, most = read("chips", parse_count), read("max_chips", parse_count)
    budget, deadline = read("budget", parse_usd), read("deadline", parse_duration_s)
    rank = read("rank", parse_count)
    priced = get(lambda: parse_prices(options.price, chip_named, where=where("price")))
    own, kinds = priced or ({}, ("on-demand",))
    off = get(lambda: parse_discounts(options.discount, sellers(), where=where("discount")))
    held = get(lambda: parse_parts(options.layout, PARTS, where=where("layout")))
    names = get(lambda: parse_accelerators(options.on, where=where("on")))
    longest = loaded.max_seq_len if loaded is not None else None
    length = seq or min(longest or DEFAULT_SEQ_LEN, DEFAULT_SEQ_LEN)
    rough = Job(
        model=model, tokens=tokens or 1, seq_len=length,
        global_batch=batch or _batch(loaded, length, options.tune, chips or most or 1),
        accelerators=names or (), chips=chips, max_chips=most, budget_usd=budget,
        deadline_s=deadline, price_type=_one_kind(kinds, where, get), region=options.region,
        objective=options.objective,  # type: ignore[arg-type]
        precision=options.precision,  # type: ignore[arg-type]
        framework=options.framework, optimizer=options.optimizer, offload=options.offload,
        overlap=options.overlap, recipe=read("recipe", checked_recipe) or "",
        own_prices={**chip_prices, **own}, discounts=off or {},
        layout=held or {}, allow_long=options.allow_long,
        tune=options.tune,  # type: ignore[arg-type]
        rank=rank or 16, freeze=get(lambda: _frozen(options.freeze, where)) or (),
        policy=get(lambda: asked_policy(options.policy, model, where=where("policy"))) or "",
        own_chips=records,
    )  # fmt: skip
    return checked(rough, get, where, loaded)


def _frozen(text: str | None, where: Where) -> tuple[str, ...]:
    """Parts to freeze, each once."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    return tuple(
        dict.fromkeys(
            choice(word, FREEZABLE, "part to freeze", where=where("freeze")) for word in words
        )
    )


def _batch(model: Model | None, seq_len: int, tune: str, chips: int) -> int:
    """Sequences a step where the user states none; one where there is no model to ask of."""
    if model is None or tune not in TUNES:
        return 1
    return default_batch(model, seq_len, tune=tune, chips=chips)


def _loaded(model: str, where: Where) -> Model:
    """The model; an error that has no place gets that of the file the name stands in."""
    try:
        return load_model(model)
    except InputError as error:
        if where("model") != as_option("model"):
            error.where = error.where or where("model")
        raise


def _one_kind(kinds: tuple[PriceType, ...], where: Where, get: Collector) -> PriceType:
    """A run is paid for in one way."""
    if len(kinds) > 1:
        get.errors.append(
            InputError(f"a run is paid for in one way, not in {len(kinds)}", where=where("price"),
                       hint=f"--price {kinds[0]}")
        )  # fmt: skip
    return kinds[0]


def options_of(job: Job) -> JobOptions:
    """The options that :func:`job_of` makes this job of: what a plan's job is written as."""
    chip, chip_set = chip_texts(job.own_chips)
    # A changed chip is named as the one it stands in for; the change is asked for again.
    on = ",".join(dict.fromkeys(name.partition("+")[0] for name in job.accelerators))

    def text(value: object) -> str | None:
        return None if value is None else f"{value}"

    return JobOptions(
        tokens=f"{job.tokens}", seq=f"{job.seq_len}", global_batch=f"{job.global_batch}",
        on=on or "all", chips=text(job.chips), max_chips=text(job.max_chips),
        budget=None if job.budget_usd is None else f"${job.budget_usd!r}",
        deadline=None if job.deadline_s is None else f"{job.deadline_s!r}s",
        price=price_text(job.own_prices, (job.price_type,)), discount=discount_text(job.discounts),
        region=job.region, objective=job.objective, precision=job.precision,
        framework=job.framework, optimizer=job.optimizer, offload=job.offload, overlap=job.overlap,
        recipe=job.recipe or None, tune=job.tune, rank=f"{job.rank}",
        freeze=",".join(job.freeze) or None, policy=job.policy or None,
        layout=parts_text(job.layout),
        allow_long=job.allow_long, chip=chip, chip_set=chip_set,
    )  # fmt: skip


def memory_job_of(
    name: str, options: MemoryOptions, *, where: Where = as_option
) -> tuple[Model, Job, int]:
    """(model, a job of any number of steps and chips, sequences at once) to count memory of.

    Raises all mistakes at once.
    """
    get = Collector()
    model = get(lambda: _loaded(name, where))
    seq = get(lambda: options.seq and parse_count(options.seq, where=where("seq")))
    rank = get(lambda: parse_count(options.rank, where=where("rank")))
    batch = get(lambda: parse_count(options.batch, where=where("batch")))
    names = get(lambda: parse_accelerators(options.on, where=where("on")))
    longest = model.max_seq_len if model is not None else None
    length = seq or min(longest or MEMORY_SEQ_LEN, MEMORY_SEQ_LEN)
    rough = Job(
        model=name, tokens=int(length) * ANY_BATCH * (batch or 1), seq_len=int(length),
        global_batch=ANY_BATCH * (batch or 1), accelerators=names or (),
        precision=options.precision,  # type: ignore[arg-type]
        framework=options.framework, optimizer=options.optimizer, offload=options.offload,
        layout={"micro_batch": batch or 1}, allow_long=options.allow_long, tune="lora",
        rank=rank or 16,
    )  # fmt: skip
    job = checked(rough, get, where, model)
    if model is None:
        raise AssertionError("the collector raises before this")
    return model, job, batch or 1
