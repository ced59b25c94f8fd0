"""``weftline memory``: what a model needs, by part, and the chips that hold it; without a price."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weftline.cli.answer import form_of, show
from weftline.cli.options import As, Format, Json, taken_as
from weftline.spec.options import MemoryOptions

if TYPE_CHECKING:
    from weftline.spec.need import MemoryAnswer

KEPT_MEMORY = MemoryOptions()
"""What holds where nothing is said."""


def memory(
    model: str,
    *,
    asked: Annotated[MemoryOptions, Parameter(name="*")] = KEPT_MEMORY,
    as_: As = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Memory to train, tune or serve MODEL, by part, and the fewest chips that hold it.

    Parameters
    ----------
    model
        Bundled name, config.json, or gpt:layers=96,hidden=12288,...
    """
    from weftline.report.memory import render_memory

    answer = _answer(taken_as(model, as_), asked)
    data = {**asdict(answer), "holdings": [
        {"way": need.kind, **asdict(held)} for need in answer.needs for held in need.holdings
    ]}  # fmt: skip
    show("memory", answer if form_of(form, json=json) == "json" else data,
         lambda: render_memory(answer),
         json=json, form=form, main="holdings")  # fmt: skip
    return 0


def _answer(name: str, asked: MemoryOptions) -> MemoryAnswer:
    from dataclasses import replace

    from weftline.catalog import accelerator, accelerators, own_chips
    from weftline.catalog.asked import parse_own_chips
    from weftline.plan.search.asked import memory_job_of
    from weftline.plan.search.need import training_need
    from weftline.serve.search.asked import memory_space_of
    from weftline.serve.search.need import kv_by_format, serving_need
    from weftline.spec.need import MemoryAnswer
    from weftline.spec.parse import Collector

    get = Collector()
    records, _ = get(lambda: parse_own_chips(asked.chip, asked.chip_set)) or ((), {})
    with own_chips(records):
        found = get(lambda: memory_job_of(name, asked))
        space = get(lambda: memory_space_of(name, asked))
        get.raise_all()
        if found is None or space is None:
            raise AssertionError("the collector raises before this")
        model, job, sequences = found
        named = [accelerator(n) for n in job.accelerators]
        chips = named or [a for a in accelerators().values() if a.purchasable]
        ways = [w for w in ("train", "lora", "qlora", "serve") if getattr(asked, w)]
        needs = []
        for way in ways or ("train", "lora", "qlora", "serve"):
            if way == "serve":
                needs.append(
                    serving_need(name, chips, space, seq_len=job.seq_len, sequences=sequences)
                )
            else:
                tuned = replace(job, tune="full" if way == "train" else way)  # type: ignore[arg-type]
                fit = chips if named else [a for a in chips if a.trains]
                needs.append(training_need(model, tuned, fit))
    return MemoryAnswer(
        model=name, parameters=model.parameters, active_parameters=model.active_parameters,
        seq_len=job.seq_len, sequences=sequences, needs=tuple(needs),
        kv_formats=kv_by_format(model, job.seq_len, sequences), model_notes=model.remarks,
    )  # fmt: skip
