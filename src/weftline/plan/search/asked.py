"""From what people write to the noun of a training job, and whether such a job can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from weftline.catalog import own_chips
from weftline.catalog.asked import chip_named, parse_accelerators, parse_own_chips, sellers
from weftline.errors import InputError
from weftline.model import load_model
from weftline.plan.search.checked import checked
from weftline.plan.search.train import DEFAULT_SEQ_LEN, default_batch
from weftline.spec import PARTS, Job, PriceType
from weftline.spec.options import JobOptions, Where, as_option
from weftline.spec.parse import Collector, parse_discounts, parse_parts, parse_prices
from weftline.units import parse_count, parse_duration_s, parse_usd

__all__ = ["job_of"]

T = TypeVar("T")


def job_of(model: str, options: JobOptions, *, where: Where = as_option) -> Job:
    """The options as a Job. Raises all mistakes at once.

    ``where`` tells where a field was written: ``--seq`` on the command line.
    """
    get = Collector()
    records, chip_prices = get(
        lambda: parse_own_chips(options.chip, options.chip_set, where=where)
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

    loaded = get(lambda: load_model(model))
    tokens = get(lambda: parse_count(options.tokens, where=where("tokens"), what="a token count"))
    seq, batch = read("seq", parse_count), read("global_batch", parse_count)
    chips, most = read("chips", parse_count), read("max_chips", parse_count)
    budget, deadline = read("budget", parse_usd), read("deadline", parse_duration_s)
    rank = read("rank", parse_count)
    priced = get(lambda: parse_prices(options.price, chip_named, where=where("price")))
    own, kinds = priced or ({}, ("on-demand",))
    off = get(lambda: parse_discounts(options.discount, sellers(), where=where("discount")))
    held = get(lambda: parse_parts(options.layout, PARTS, where=where("layout")))
    names = get(lambda: parse_accelerators(options.on))
    longest = loaded.max_seq_len if loaded is not None else None
    length = seq or min(longest or DEFAULT_SEQ_LEN, DEFAULT_SEQ_LEN)
    rough = Job(
        model=model, tokens=tokens or 1, seq_len=length,
        global_batch=batch or (1 if loaded is None else default_batch(loaded, length)),
        accelerators=names or (), chips=chips, max_chips=most, budget_usd=budget,
        deadline_s=deadline, price_type=_one_kind(kinds, where, get), region=options.region,
        objective=options.objective,  # type: ignore[arg-type]
        precision=options.precision,  # type: ignore[arg-type]
        framework=options.framework, optimizer=options.optimizer, offload=options.offload,
        overlap=options.overlap, own_prices={**chip_prices, **own}, discounts=off or {},
        layout=held or {}, allow_long=options.allow_long,
        tune=options.tune,  # type: ignore[arg-type]
        rank=rank or 16, own_chips=records,
    )  # fmt: skip
    return checked(rough, get, where)


def _one_kind(kinds: tuple[PriceType, ...], where: Where, get: Collector) -> PriceType:
    """A run is paid for in one way."""
    if len(kinds) > 1:
        get.errors.append(
            InputError(f"a run is paid for in one way, not in {len(kinds)}", where=where("price"),
                       hint=f"--price {kinds[0]}")
        )  # fmt: skip
    return kinds[0]
