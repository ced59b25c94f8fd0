"""``weftline plan serve``: the cheapest fleet that keeps latency targets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weftline.cli.compiling import compiling_said
from weftline.cli.options import Json
from weftline.cli.serving_options import (
    KEPT_SERVING,
    KEPT_TRAFFIC,
    ServingOptions,
    TrafficOptions,
)
from weftline.spec.parse import Collector, choice

if TYPE_CHECKING:
    from weftline.serve.search.question import Question
    from weftline.serve.search.screen import Space
    from weftline.serve.simulate.traffic import Traffic


def serve(
    model: str,
    *,
    traffic: TrafficOptions = KEPT_TRAFFIC,
    ttft: str | None = None,
    tpot: str | None = None,
    e2e: str | None = None,
    p99: str | None = None,
    on: str = "all",
    engine: str = "all",
    precision: str = "bf16,fp8",
    price: str = "on-demand",
    region: str | None = None,
    max_chips: str | None = None,
    disaggregated: bool = False,
    serving: ServingOptions = KEPT_SERVING,
    json: Json = False,
    file: Annotated[
        Path | None, Parameter(name=["--out", "-o"], help="Write the plan to this file.")
    ] = None,
) -> int:
    """Chips, engine, layout, replicas and price to serve MODEL within latency targets.

    Parameters
    ----------
    model
        Bundled name, or a config.json.
    ttft
        Median time to the first token at most: 500ms.
    tpot
        Median time a token after the first at most: 40ms.
    e2e
        Median time to the last token at most: 20s.
    p99
        The same for all but one request in a hundred: ttft=1s,tpot=60ms.
    on
        Accelerators, separated by commas, or all.
    engine
        vllm, sglang, trtllm, jetstream, neuron, several, or all.
    precision
        Number formats of weights that may be used: bf16,fp8,int8,int4,nvfp4,mxfp4.
    price
        on-demand, spot, reserved, capacity-block, several, all, or your own: $2.50/h a chip.
    region
        Only prices of this region.
    max_chips
        At most so many chips, spares not counted.
    disaggregated
        Try fleets with workers of their own for prompts, too.
    """
    from weftline.report.serving import render_serve_plan
    from weftline.serve.search.plan import plan_serve
    from weftline.spec.serialize import plan_to_json, write_plan

    question = _question(
        model=model, traffic=traffic, ttft=ttft, tpot=tpot, e2e=e2e, p99=p99, on=on,
        engine=engine, precision=precision, price=price, region=region, max_chips=max_chips,
        disaggregated=disaggregated, serving=serving,
    )  # fmt: skip
    told = (lambda t: print(t, file=sys.stderr)) if sys.stderr.isatty() else None
    with compiling_said():
        plan = plan_serve(question, progress=told)
    if file is not None:
        write_plan(plan, file)
        print(f"plan written to {file}", file=sys.stderr)
    print(plan_to_json(plan) if json else render_serve_plan(plan))
    return 0


def _question(
    *, model: str, traffic: TrafficOptions, ttft: str | None, tpot: str | None, e2e: str | None,
    p99: str | None, on: str, engine: str, precision: str, price: str, region: str | None,
    max_chips: str | None, disaggregated: bool, serving: ServingOptions,
) -> Question:  # fmt: skip
    """The options as one value. Raises all mistakes at once."""
    from weftline.catalog.asked import check_region
    from weftline.cli.serving_options import parse_targets
    from weftline.model import load_model
    from weftline.serve.search.question import Question
    from weftline.serve.simulate.fleet import ROUTINGS
    from weftline.units import parse_count

    get = Collector()
    get(lambda: load_model(model))
    targets = get(lambda: parse_targets(ttft, tpot, e2e, p99))
    requests = get(traffic.make)
    space = get(lambda: _space(
        on=on, engine=engine, precision=precision, disaggregated=disaggregated, serving=serving,
    ))  # fmt: skip
    mine, kinds = get(lambda: _prices(price)) or (None, ("on-demand",))
    get(lambda: check_region(region))
    most = get(lambda: None if max_chips is None else parse_count(max_chips, where="--max-chips"))
    way = get(lambda: choice(serving.routing, ROUTINGS, "routing", where="--routing"))
    get.raise_all()
    if requests is None or space is None or way is None:
        raise AssertionError("the collector raises before this")
    return Question(
        model=model, targets=targets or (), rate_per_s=_rate(traffic, requests),
        input_tokens=parse_count(traffic.input), output_tokens=parse_count(traffic.output),
        spread=traffic.spread, burstiness=traffic.burstiness,
        trace=requests if traffic.trace else None, seed=traffic.seed, price_types=kinds,
        region=region, own_price=mine, routing=way, space=space, max_chips=most,
    )  # fmt: skip


def _prices(text: str) -> tuple[float | None, tuple[str, ...]]:
    """The user's own price a chip-hour, if it is one; else the types of price to look at."""
    from weftline.catalog.prices import PRICE_TYPES
    from weftline.spec.parse import parse_price

    if text.strip().lower() == "all":
        return None, PRICE_TYPES
    if "," not in text:
        mine, kind = parse_price(text)
        return mine, (kind,)
    names = _names(text, "")
    get = Collector()
    kinds = [
        get(lambda n=name: choice(n, PRICE_TYPES, "price type", where="--price"))  # type: ignore[misc]
        for name in names
    ]
    get.raise_all()
    return None, tuple(dict.fromkeys(kind for kind in kinds if kind is not None))


def _rate(options: TrafficOptions, requests: Traffic) -> float:
    """The rate as it was asked for; of a trace without one, its own."""
    from weftline.cli.serving_options import parse_rate_per_s

    if options.rate is None:
        return requests.rate_per_s
    return parse_rate_per_s(options.rate, where="--rate")


def _space(
    *, on: str, engine: str, precision: str, disaggregated: bool, serving: ServingOptions
) -> Space:
    """What may be tried. Raises all mistakes at once, and where nothing named goes together."""
    from weftline.catalog.asked import parse_accelerators
    from weftline.cli.serving_options import parse_speculation, parse_window
    from weftline.serve.engine.config import DTYPES, KV_DTYPES
    from weftline.serve.engine.engines import PROFILES
    from weftline.serve.search.screen import Space

    get = Collector()
    chips = get(lambda: parse_accelerators(on))
    engines = tuple(
        e for name in _names(engine, "all")
        if (e := get(lambda n=name: choice(n, tuple(PROFILES), "engine", where="--engine")))  # type: ignore[misc]
    )  # fmt: skip
    formats = tuple(
        f for name in _names(precision, "")
        if (f := get(lambda n=name: choice(n, DTYPES, "number format", where="--precision")))  # type: ignore[misc]
    )  # fmt: skip
    cache = get(lambda: choice(serving.kv, KV_DTYPES, "KV cache format", where="--kv"))
    method, drafted, kept = get(lambda: parse_speculation(serving.speculate)) or ("none", 0, 0.7)
    tokens, sinks = get(lambda: parse_window(serving.window)) or (None, 0)
    get.raise_all()
    space = Space(
        chips=chips or (), engines=engines, formats=formats, kv=cache or "bf16",
        disaggregated=disaggregated, prefix_cache=serving.prefix_cache, window=tokens, sinks=sinks,
        spec_method=method, spec_tokens=drafted, spec_acceptance=kept,
    )  # fmt: skip
    _require_some(space)
    return space


def _require_some(space: Space) -> None:
    """Raise all that stands in the way where no named chip goes with an engine and a format."""
    from weftline.catalog import accelerator
    from weftline.serve.engine.engines import require_formats
    from weftline.serve.search.screen import engines_and_formats, require_units

    chips = [accelerator(name) for name in space.chips]
    if any(engines_and_formats(chip, space) for chip in chips):
        return
    get = Collector()
    for chip in chips:
        get(lambda c=chip: require_units(c, space.formats))  # type: ignore[misc]
        for engine in space.engines:
            get(lambda e=engine, c=chip: require_formats(e, c.vendor, c.id, space.formats[:1]))  # type: ignore[misc]
    get.raise_all()


def _names(text: str, everything: str) -> list[str]:
    return [] if text == everything else [n.strip() for n in text.split(",") if n.strip()]
