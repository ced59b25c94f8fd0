"""``weftline catalog fit``: how well chips suit a model, and where they lose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from weftline.cli.answer import show
from weftline.cli.options import Format, Json
from weftline.spec.parse import Collector, choice

if TYPE_CHECKING:
    from weftline.model import Model
    from weftline.operators import SparseUnit


def fit(
    model: str,
    *,
    on: str = "all",
    chips: int | None = None,
    precision: str = "bf16",
    kv: str = "bf16",
    input: str = "2048",  # noqa: A002
    batch: str = "32",
    context: str = "4096",
    policy: str | None = None,
    unit: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """How well chips suit MODEL: the time at their peaks over the time predicted, by part.

    Parameters
    ----------
    model
        Bundled name, or a config.json.
    on
        Accelerators, separated by commas, or all.
    chips
        Tensor-parallel chips; the fewest that hold the model if not given.
    precision
        Number format of the weights: bf16, fp8, int8, int4, nvfp4, mxfp4.
    kv
        Number format of the KV cache: bf16, fp8, int8.
    input
        Tokens of the prompt.
    batch
        Sequences of the decode step.
    context
        Tokens that each of them has behind it.
    policy
        Attention in the place of the model's full one: window=4096,sinks=4 (docs/attention.md).
    unit
        A sparse unit put on every chip, to see what it would change: speed-ups by pattern
        (window, block, selected, structured_weights), and what its chip runs badly instead (scan,
        routing): selected=16,scan=10.
    """
    from weftline.attention.quality import policy_remarks
    from weftline.catalog.asked import parse_accelerators
    from weftline.errors import InputError
    from weftline.model import load_model
    from weftline.report.catalog_fit import render_fits
    from weftline.serve.engine.config import DTYPES, KV_DTYPES

    get = Collector()
    from weftline.model.policy import asked_policy, with_policy
    from weftline.operators.sparse import parse_unit
    from weftline.spec.attention_text import parse_policy

    found = get(lambda: load_model(model))
    ruled = get(lambda: asked_policy(policy, model)) or ""
    extra = get(lambda: None if unit is None else parse_unit(unit))
    names = get(lambda: parse_accelerators(on))
    weights = get(lambda: choice(precision, DTYPES, "number format", where="--precision"))
    cache = get(lambda: choice(kv, KV_DTYPES, "KV cache format", where="--kv"))
    shapes = {
        key: get(lambda t=text, k=key: _at_least_one(t, k))  # type: ignore[misc]
        for key, text in (("input", input), ("batch", batch), ("context", context))
    }
    if chips is not None and chips < 1:
        get.errors.append(InputError("must be at least 1", where="--chips"))
    get.raise_all()
    question: dict[str, Any] = {
        "quantisation": weights, "kv_cache": cache, "prompt_tokens": shapes["input"],
        "batch": shapes["batch"], "context": shapes["context"],
    }  # fmt: skip
    if found is None or names is None:
        raise AssertionError("the collector raises before this")
    said = policy_remarks(found, ruled, context=question["prompt_tokens"])
    if ruled:
        found = with_policy(found, parse_policy(ruled))
    fits, misses = _fits(found, names, chips, extra, question)
    answer = {"model": model, "policy": ruled, **question, "notes": said, "fits": fits,
              "misses": misses}  # fmt: skip
    show("fits", answer, lambda: render_fits(answer), json=json, form=form)
    return 0


def _at_least_one(text: str, option: str) -> int:
    from weftline.errors import InputError
    from weftline.units import parse_count

    number = parse_count(text, where=f"--{option}")
    if number < 1:
        raise InputError("must be at least 1", where=f"--{option}")
    return number


def _fits(
    model: Model,
    names: tuple[str, ...],
    chips: int | None,
    unit: SparseUnit | None,
    question: dict[str, Any],
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """(fits as plain dicts, best first; chips without one and why). Raises where none has one."""
    from weftline.errors import NoFeasiblePlanError, WeftlineError
    from weftline.operators import architecture_fit, chip_of
    from weftline.serve.engine.engines import require_units
    from weftline.serve.search.screen import chips_of
    from weftline.spec import ServeSpace

    fits: list[dict[str, Any]] = []
    misses = []
    for chip in chips_of(ServeSpace(chips=names)):
        try:
            require_units(chip, (question["quantisation"],))
            fits.append(architecture_fit(model, chip.id, chips=chips, **question).to_dict())
            if unit is not None:
                plain = chip_of(chip.id)
                made = replace(plain, sparse=(*plain.sparse, unit))
                with_unit = architecture_fit(model, made, chips=chips, **question).to_dict()
                fits.append(with_unit | {"chip": f"{chip.id} + unit"})
        except WeftlineError as error:
            if len(names) == 1:
                raise
            misses.append({"chip": chip.id, "reason": error.what})
    if not fits:
        said = "; ".join(f"{m['chip']}: {m['reason']}" for m in misses[:3])
        raise NoFeasiblePlanError(f"no accelerator asked for holds {model.name}", nearest=said)
    fits.sort(key=lambda f: -f["fit"])
    return fits, misses
