"""From what people write to the noun of a training job, and whether such a job can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from weftline.catalog.asked import parse_accelerators
from weftline.model import load_model
from weftline.plan.search.checked import checked
from weftline.plan.search.train import DEFAULT_SEQ_LEN, default_batch
from weftline.spec import Job
from weftline.spec.options import JobOptions, Where, as_option
from weftline.spec.parse import Collector, parse_price
from weftline.units import parse_count, parse_duration_s, parse_usd

__all__ = ["job_of"]

T = TypeVar("T")


def job_of(
    model: str, options: JobOptions, *, where: Where = as_option
) -> tuple[Job, float | None]:
    """The options as a Job and the user's own US dollars a chip-hour. Raises all mistakes at once.

    ``where`` tells where a field was written: ``--seq`` on the command line.
    """
    get = Collector()

    def read(name: str, parse: Callable[..., T]) -> T | None:
        text = getattr(options, name)
        return None if text is None else get(lambda: parse(text, where=where(name)))

    loaded = get(lambda: load_model(model))
    tokens = get(lambda: parse_count(options.tokens, where=where("tokens"), what="a token count"))
    seq, batch = read("seq", parse_count), read("global_batch", parse_count)
    chips, most = read("chips", parse_count), read("max_chips", parse_count)
    budget, deadline = read("budget", parse_usd), read("deadline", parse_duration_s)
    mine, price_type = read("price", parse_price) or (None, "on-demand")
    names = get(lambda: parse_accelerators(options.on))
    longest = loaded.max_seq_len if loaded is not None else None
    length = seq or min(longest or DEFAULT_SEQ_LEN, DEFAULT_SEQ_LEN)
    rough = Job(
        model=model, tokens=tokens or 1, seq_len=length,
        global_batch=batch or (1 if loaded is None else default_batch(loaded, length)),
        accelerators=names or (), chips=chips, max_chips=most, budget_usd=budget,
        deadline_s=deadline, price_type=price_type, region=options.region,
        objective=options.objective,  # type: ignore[arg-type]
        precision=options.precision,  # type: ignore[arg-type]
        framework=options.framework, optimizer=options.optimizer, offload=options.offload,
        overlap=options.overlap,
    )  # fmt: skip
    return checked(rough, get, where), mine
