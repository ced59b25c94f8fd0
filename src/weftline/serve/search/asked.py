"""From what people write to the noun of a serving job, and whether such a job can be."""

from __future__ import annotations

from dataclasses import replace

from weftline.catalog import accelerator
from weftline.catalog.asked import check_region, parse_accelerators
from weftline.errors import InputError
from weftline.model import load_model
from weftline.serve.engine.config import DTYPES, KV_DTYPES
from weftline.serve.engine.engines import PROFILES, require_formats, require_units
from weftline.serve.search.screen import engines_and_formats
from weftline.serve.simulate.asked import parse_speculation, parse_window, rate_of, traffic_of
from weftline.spec import (
    METRICS,
    PRICE_CHOICES,
    PRICE_TYPES,
    ROUTINGS,
    PriceType,
    ServeJob,
    ServeSpace,
    Target,
)
from weftline.spec.options import FleetOptions, ServingOptions, TrafficOptions, Where, as_option
from weftline.spec.parse import Collector, choice, parse_price
from weftline.units import parse_count, parse_duration_s

__all__ = ["checked_serve_job", "parse_targets", "serve_job_of"]


def serve_job_of(
    model: str, fleet: FleetOptions, traffic: TrafficOptions, serving: ServingOptions, *,
    where: Where = as_option,
) -> ServeJob:  # fmt: skip
    """The options as one value. Raises all mistakes at once."""
    get = Collector()
    targets = get(lambda: parse_targets(fleet, where=where))
    requests = get(lambda: traffic_of(traffic, where=where))
    chips = get(lambda: parse_accelerators(fleet.on))
    method, drafted, kept = get(
        lambda: parse_speculation(serving.speculate, where=where("speculate"))
    ) or ("none", 0, 0.7)
    tokens, sinks = get(lambda: parse_window(serving.window, where=where("window"))) or (None, 0)
    mine, kinds = get(lambda: _prices(fleet.price, where("price"))) or (None, ("on-demand",))
    most = get(lambda: None if fleet.max_chips is None
               else parse_count(fleet.max_chips, where=where("max_chips")))  # fmt: skip
    space = ServeSpace(
        chips=chips or (), engines=_names(fleet.engine, "all"), formats=_names(fleet.precision, ""),
        kv=serving.kv, disaggregated=fleet.disaggregated, prefix_cache=serving.prefix_cache,
        window=tokens, sinks=sinks, spec_method=method, spec_tokens=drafted, spec_acceptance=kept,
    )  # fmt: skip
    rough = ServeJob(
        model=model, targets=targets or (), rate_per_s=1.0, spread=traffic.spread,
        burstiness=traffic.burstiness, seed=traffic.seed, price_types=kinds, region=fleet.region,
        own_price=mine, routing=serving.routing,  # type: ignore[arg-type]
        space=space, max_chips=most,
    )  # fmt: skip
    job = _checked(rough, get, where)
    if requests is None:
        raise AssertionError("the collector raises before this")
    return replace(
        job, rate_per_s=rate_of(traffic) or requests.rate_per_s,
        input_tokens=parse_count(traffic.input), output_tokens=parse_count(traffic.output),
        trace=requests if traffic.trace else None,
    )  # fmt: skip


def checked_serve_job(job: ServeJob) -> ServeJob:
    """The job with names as the catalogue has them. Raises all that is wrong with it at once."""
    get = Collector()
    if job.rate_per_s <= 0:
        get.errors.append(InputError(f"a rate of {job.rate_per_s:g}: above zero is needed",
                                     where="rate_per_s"))  # fmt: skip
    return _checked(job, get, str)


def _checked(job: ServeJob, get: Collector, where: Where) -> ServeJob:
    """What the command line and Python both have to get right. Raises what ``get`` has, too."""
    space = job.space
    get(lambda: load_model(job.model))
    chips = get.each(space.chips, lambda name: accelerator(name).id)
    engines = get.each(
        space.engines, lambda name: choice(name, tuple(PROFILES), "engine", where=where("engine"))
    )
    formats = get.each(
        space.formats, lambda name: choice(name, DTYPES, "number format", where=where("precision"))
    )
    cache = get(lambda: choice(space.kv, KV_DTYPES, "KV cache format", where=where("kv")))
    kinds = get.each(
        job.price_types,
        lambda name: choice(name, PRICE_CHOICES, "price type", where=where("price")),
    )
    get(lambda: check_region(job.region))
    way = get(lambda: choice(job.routing, ROUTINGS, "routing", where=where("routing")))
    get.raise_all()
    known = replace(space, chips=chips, engines=engines, formats=formats, kv=cache or space.kv)
    _require_some(known)
    return replace(job, space=known, price_types=kinds, routing=way or job.routing)


def _prices(text: str, where: str) -> tuple[float | None, tuple[PriceType, ...]]:
    """The user's own price a chip-hour, if it is one; else the types of price to look at."""
    if text.strip().lower() == "all":
        return None, PRICE_TYPES
    if "," not in text:
        mine, kind = parse_price(text, where=where)
        return mine, (kind,)
    names = _names(text, "")
    get = Collector()
    kinds = [
        get(lambda n=name: choice(n, PRICE_CHOICES, "price type", where=where))  # type: ignore[misc]
        for name in names
    ]
    get.raise_all()
    return None, tuple(dict.fromkeys(kind for kind in kinds if kind is not None))


def parse_targets(options: FleetOptions, *, where: Where = as_option) -> tuple[Target, ...]:
    """Medians from their own options, 99th percentiles from ``ttft=1s,tpot=60ms``."""
    get = Collector()
    found: list[Target] = []
    for metric in METRICS:
        text = getattr(options, metric)
        if text is None:
            continue
        limit = get(lambda t=text, m=metric: parse_duration_s(t, where=where(m)))  # type: ignore[misc]
        if limit is not None:
            found.append(Target(metric=metric, percentile=50.0, limit_s=limit))
    for part in (options.p99 or "").split(","):
        if not part.strip():
            continue
        name_text, equals, value = part.partition("=")
        if not equals:
            get.errors.append(InputError(f"`{part}` is not a target", where=where("p99"),
                                         hint="--p99 ttft=1s,tpot=60ms"))  # fmt: skip
            continue
        metric_name = get(lambda n=name_text: choice(n, METRICS, "metric", where=where("p99")))  # type: ignore[misc]
        limit = get(lambda v=value: parse_duration_s(v, where=where("p99")))  # type: ignore[misc]
        if metric_name is not None and limit is not None:
            found.append(Target(metric=metric_name, percentile=99.0, limit_s=limit))
    get.raise_all()
    return tuple(found)


def _require_some(space: ServeSpace) -> None:
    """Raise all that stands in the way where no named chip goes with an engine and a format."""
    chips = [accelerator(name) for name in space.chips]
    if any(engines_and_formats(chip, space) for chip in chips):
        return
    get = Collector()
    for chip in chips:
        get(lambda c=chip: require_units(c, space.formats))  # type: ignore[misc]
        for engine in space.engines:
            get(lambda e=engine, c=chip: require_formats(e, c.stack, c.id, space.formats[:1]))  # type: ignore[misc]
    get.raise_all()


def _names(text: str, everything: str) -> tuple[str, ...]:
    return () if text == everything else tuple(n.strip() for n in text.split(",") if n.strip())
