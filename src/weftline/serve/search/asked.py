"""From what people write to the noun of a serving job, and whether such a job can be."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from weftline.catalog import accelerator, own_chips
from weftline.catalog.asked import (
    check_region,
    chip_named,
    known_terms,
    parse_accelerators,
    parse_own_chips,
    sellers,
)
from weftline.catalog.own import chip_texts
from weftline.errors import InputError
from weftline.model import load_model
from weftline.model.load import load_generator
from weftline.model.policy import asked_policy
from weftline.serve.engine.config import DTYPES, KV_DTYPES
from weftline.serve.engine.engines import (
    PROFILES,
    check_version,
    require_formats,
    require_units,
)
from weftline.serve.search.daily import curve_of
from weftline.serve.search.screen import engines_and_formats
from weftline.serve.simulate.asked import (
    parse_lora,
    parse_offload,
    parse_speculation,
    rate_of,
    shape_of,
    traffic_of,
)
from weftline.spec import (
    METRICS,
    PRICE_CHOICES,
    ROUTINGS,
    ServeJob,
    ServeSpace,
    Target,
)
from weftline.spec.job_file import job_values
from weftline.spec.options import (
    FleetOptions,
    MemoryOptions,
    ServingOptions,
    TrafficOptions,
    Where,
    as_option,
)
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
from weftline.units import parse_count, parse_duration_s, parse_fraction

DEGREES: Final = dict.fromkeys(("tp", "pp", "dp", "ep"))
"""Parts of a replica's layout that can be held."""
__all__ = [
    "checked_serve_job",
    "memory_space_of",
    "options_of",
    "parse_batch",
    "parse_targets",
    "question_of",
    "serve_job_of",
]


def serve_job_of(
    model: str, fleet: FleetOptions, traffic: TrafficOptions, serving: ServingOptions, *,
    where: Where = as_option,
) -> ServeJob:  # fmt: skip
    """The options as one value. Raises all mistakes at once."""
    get = Collector()
    records, chip_prices = get(
        lambda: parse_own_chips(fleet.chip, fleet.chip_set, where=where)
    ) or ((), {})
    with own_chips(records):
        job = _job(model, fleet, traffic, serving, where, get, chip_prices)
    return replace(job, own_chips=records)


def _job(
    model: str, fleet: FleetOptions, traffic: TrafficOptions, serving: ServingOptions,
    where: Where, get: Collector, chip_prices: dict[str, float],
) -> ServeJob:  # fmt: skip
    batch = get(lambda: parse_batch(fleet, traffic, where=where))
    if batch is not None:
        traffic = replace(traffic, rate=f"{batch[0] / batch[1]!r}/s")
    within = get(lambda: parse_within(fleet.within, where=where("within"))) or KEPT_WITHIN
    targets = get(lambda: parse_targets(fleet, within, where=where))
    requests = get(lambda: traffic_of(traffic, where=where))
    chips = get(lambda: parse_accelerators(fleet.on, where=where("on")))
    method, drafted, kept = get(
        lambda: parse_speculation(serving.speculate, where=where("speculate"))
    ) or ("none", 0, 0.7)
    policy = get(lambda: asked_policy(serving.policy, model, where=where("policy"))) or ""
    priced = get(lambda: parse_prices(fleet.price, chip_named, where=where("price")))
    own, kinds = priced or ({}, ("on-demand",))
    off = get(lambda: parse_discounts(fleet.discount, sellers(), where=where("discount")))
    held = get(lambda: parse_parts(fleet.layout, DEGREES, where=where("layout"))) or {}
    most, supply = get(lambda: parse_supply(fleet.max_chips, where=where("max_chips"))) or (
        None,
        {},
    )
    ahead = get(lambda: () if fleet.prefill_on is None
                else parse_accelerators(fleet.prefill_on, where=where("prefill_on")))  # fmt: skip
    get.errors += _pools_mistakes(fleet, where)
    seats = get(lambda: None if fleet.max_batch is None
                else parse_count(fleet.max_batch, where=where("max_batch")))  # fmt: skip
    hit = get(lambda: parse_hit(serving.cache_hit, where=where("cache_hit")))
    get(lambda: None if fleet.daily is None else curve_of(fleet.daily, where=where("daily")))
    start = fleet.replica_start
    start_s = get(lambda: start and parse_duration_s(start, where=where("replica_start"))) or None
    below = get(lambda: parse_offload(serving.kv_offload, where=where("kv_offload")))
    lora = get(lambda: parse_lora(serving.lora, where=where("lora")))
    if requests is not None and requests.follows is not None and fleet.disaggregated:
        get.errors.append(InputError("sessions are not followed over pools of workers for prompts",
                                     where=where("disaggregated")))  # fmt: skip
    if below and below[0] and hit:
        get.errors.append(InputError(
            "what a slower memory finds follows from sessions or from a trace with hashes",
            where=where("kv_offload"), hint="--turns, or --trace, instead of --cache-hit",
        ))  # fmt: skip
    headroom = get(lambda: parse_headroom(fleet.headroom, where=where("headroom"))) or 0.0
    space = ServeSpace(
        max_batch=seats, chips=chips or (), mix=fleet.mix, prefill_chips=ahead or (),
        engines=_names(fleet.engine, "all"),
        formats=_formats(fleet.precision, model),
        kv=serving.kv, engine_version=serving.engine_version, disaggregated=fleet.disaggregated,
        prefix_cache=serving.prefix_cache or bool(hit) or bool(below and below[0]),
        cache_hit=hit or 0.0, offload_bytes=below[0] if below else 0.0,
        offload_bytes_per_s=below[1] if below and below[0] else 0.0, lora=lora,
        policy=policy, spec_method=method, spec_tokens=drafted, spec_acceptance=kept,
        layout={name: int(degree) for name, degree in held.items()},
    )  # fmt: skip
    rough = ServeJob(
        model=model, targets=targets or (), rate_per_s=1.0, spread=traffic.spread,
        burstiness=traffic.burstiness, seed=traffic.seed, price_types=kinds, region=fleet.region,
        own_prices={**chip_prices, **own}, discounts=off or {}, routing=serving.routing,  # type: ignore[arg-type]
        space=space, max_chips=most, supply=supply, within=within, headroom=headroom,
        daily=fleet.daily or "", replica_start_s=start_s, batch=batch,
    )  # fmt: skip
    job = _checked(rough, get, where)
    if requests is None:
        raise AssertionError("the collector raises before this")
    return replace(
        job, rate_per_s=rate_of(traffic) or requests.rate_per_s,
        input_tokens=parse_count(traffic.input), output_tokens=parse_count(traffic.output),
        trace=requests if traffic.trace or traffic.turns > 1 else None,
        trace_from=traffic.trace or "", sessions=_sessions(traffic, where),
    )  # fmt: skip


def _sessions(traffic: TrafficOptions, where: Where) -> tuple[int, float, int, int] | None:
    """Turns, mean delay, growth and shared tokens of drawn sessions, to ask again."""
    shape = shape_of(traffic, where=where)
    if shape is None:
        return None
    return shape.turns, shape.delay_s, shape.grow_tokens, shape.shared_tokens


def _formats(asked: str | None, model: str) -> tuple[str, ...]:
    """What was asked for, or what the model's weights are published in, or both 16 and 8 bit.

    bf16 stays beside a quantised format: chips without its unit serve the weights expanded.
    """
    if asked is not None:
        return _names(asked, "")
    own = _published(model)
    return ("bf16", "fp8") if own is None else (own, "bf16")


def _published(model: str) -> str | None:
    """The number format that a model's weights are published in, where it is not 16 bit."""
    try:
        return load_model(model).weights_format
    except InputError:  # said where the model is checked
        return None


def checked_serve_job(job: ServeJob) -> ServeJob:
    """The job with names as the catalogue has them. Raises all that is wrong with it at once."""
    get = Collector()
    if job.rate_per_s <= 0:
        get.errors.append(InputError(f"a rate of {job.rate_per_s:g}: above zero is needed",
                                     where="rate_per_s"))  # fmt: skip
    for name, degree in job.space.layout.items():
        if name not in DEGREES or degree < 1:
            get.errors.append(InputError(f"{name}={degree}: at least 1, of {', '.join(DEGREES)}",
                                         where="layout"))  # fmt: skip
    terms = get(lambda: known_terms(job.own_prices, job.discounts)) or ({}, {})
    return _checked(replace(job, own_prices=terms[0], discounts=terms[1]), get, str)


def _checked(job: ServeJob, get: Collector, where: Where) -> ServeJob:
    """What the command line and Python both have to get right. Raises what ``get`` has, too."""
    space = job.space
    get(lambda: load_generator(job.model))
    chips = get.each(space.chips, lambda name: accelerator(name).id)
    ahead = get.each(space.prefill_chips, lambda name: accelerator(name).id)
    supply = dict(zip(get.each(tuple(job.supply), lambda name: accelerator(name).id),
                      job.supply.values(), strict=False))  # fmt: skip
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
    if space.engine_version:
        get(lambda: check_version(space.engine_version, engines, where=where("engine_version")))
    get(lambda: check_region(job.region, where=where("region")))
    way = get(lambda: choice(job.routing, ROUTINGS, "routing", where=where("routing")))
    get.raise_all()
    known = replace(
        space,
        chips=chips,
        prefill_chips=ahead,
        engines=engines,
        formats=formats,
        kv=cache or space.kv,
    )
    _require_some(known)
    return replace(job, space=known, price_types=kinds, routing=way or job.routing, supply=supply)


def options_of(job: ServeJob) -> tuple[FleetOptions, TrafficOptions, ServingOptions]:
    """The options that :func:`serve_job_of` makes this job of: what a plan's job is written as.

    A trace is named as it was read; one made in Python by the name it has.
    """
    space = job.space
    chip, chip_set = chip_texts(job.own_chips)
    on = ",".join(dict.fromkeys(name.partition("+")[0] for name in space.chips))
    own = round(100 * job.within, 6)
    plain_limits = {t.metric: f"{t.limit_s!r}s" for t in job.targets if t.percentile == own}
    tails = [f"{t.metric}={t.limit_s!r}s" for t in job.targets if 99 == t.percentile != own]
    trace = job.trace_from or (job.trace.name if job.trace is not None else None)
    trace = None if job.sessions else trace
    turns, delay_s, grow, shared = job.sessions or (1, 5.0, 1000, 0)
    fleet = FleetOptions(
        **plain_limits, within=f"{own:g}%", headroom=f"{round(100 * job.headroom, 6):g}%",
        p99=",".join(tails) or None, on=on or "all",
        engine=",".join(space.engines) or "all", precision=",".join(space.formats),
        price=price_text(job.own_prices, job.price_types), discount=discount_text(job.discounts),
        region=job.region, max_chips=_supply_text(job), mix=space.mix,
        prefill_on=",".join(space.prefill_chips) or None,
        layout=parts_text(space.layout),
        max_batch=None if space.max_batch is None else f"{space.max_batch}",
        disaggregated=space.disaggregated, daily=job.daily or None,
        replica_start=None if job.replica_start_s is None else f"{job.replica_start_s!r}s",
        batch=None if job.batch is None else f"{job.batch[0]:.0f}",
        deadline=None if job.batch is None else f"{job.batch[1]!r}s",
        chip=chip, chip_set=chip_set,
    )  # fmt: skip
    plain = TrafficOptions()
    traffic = TrafficOptions(
        rate=None if job.batch else f"{job.rate_per_s!r}/s", trace=trace,
        burstiness=job.burstiness, spread=job.spread, seed=job.seed,
        input=f"{job.input_tokens:.0f}" if job.input_tokens else plain.input,
        output=f"{job.output_tokens:.0f}" if job.output_tokens else plain.output,
        turns=turns, tool_delay=f"{delay_s:g}s", grow=f"{grow}", shared_prefix=f"{shared}",
    )  # fmt: skip
    speculate = f"{space.spec_method}:{space.spec_tokens}:{space.spec_acceptance!r}"
    serving = ServingOptions(
        kv=space.kv, engine_version=space.engine_version, routing=job.routing,
        prefix_cache=space.prefix_cache and not (space.cache_hit or space.offload_bytes),
        kv_offload=f"{space.offload_bytes / 1e9!r}GB@{space.offload_bytes_per_s / 1e9!r}GB/s"
        if space.offload_bytes else None,
        lora=None if space.lora is None else ":".join(map(str, space.lora)),
        cache_hit=f"{round(100 * space.cache_hit, 6):g}%" if space.cache_hit else None,
        speculate=None if space.spec_method == "none" else speculate,
        policy=space.policy or None,
    )  # fmt: skip
    return fleet, traffic, serving


def question_of(job: ServeJob) -> dict[str, str | bool | float]:
    """The question as fields of a job file; none where options cannot ask it: a job from Python
    with percentiles other than its share of requests and the 99th."""
    if any(t.percentile not in (round(100 * job.within, 6), 99) for t in job.targets):
        return {}
    return job_values("serve", job.model, *options_of(job))


def parse_targets(
    options: FleetOptions, within: float, *, where: Where = as_option
) -> tuple[Target, ...]:
    """Limits from their own options at the percentile of ``within``, 99th percentiles from
    ``ttft=1s,tpot=60ms``."""
    get = Collector()
    found: list[Target] = []
    for metric in METRICS:
        text = getattr(options, metric)
        if text is None:
            continue
        limit = get(lambda t=text, m=metric: parse_duration_s(t, where=where(m)))  # type: ignore[misc]
        if limit is not None:
            found.append(Target(metric=metric, percentile=round(100 * within, 6), limit_s=limit))
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


def parse_batch(
    fleet: FleetOptions, traffic: TrafficOptions, *, where: Where = as_option
) -> tuple[float, float] | None:
    """Requests that wait and seconds until they must be done; None where a rate is asked for.

    Raises InputError(s) for one without the other, and for what a batch has not: a rate of its
    own, sessions, limits on latency, a day's curve.
    """
    if fleet.batch is None and fleet.deadline is None:
        return None
    get = Collector()
    for name in ("batch", "deadline"):
        if getattr(fleet, name) is None:
            get.errors.append(InputError("a batch needs both: its requests, and when they are to "
                                         "be done", where=where(name),
                                         hint="--batch 10M --deadline 8h"))  # fmt: skip
    requests = get(lambda: parse_count(fleet.batch or "1", where=where("batch")))
    seconds = get(lambda: parse_duration_s(fleet.deadline or "1s", where=where("deadline")))
    taken: list[str] = [name for name in METRICS if getattr(fleet, name) is not None]
    taken += ["p99"] if fleet.p99 else []
    taken += ["daily"] if fleet.daily else []
    taken += ["rate"] if traffic.rate is not None else []
    taken += ["turns"] if traffic.turns > 1 else []
    get.errors += [InputError("a batch has none of its own: all its requests wait at the start",
                              where=where(name)) for name in taken]  # fmt: skip
    get.raise_all()
    return (float(requests), float(seconds)) if requests and seconds else None


def parse_supply(text: str | None, *, where: str) -> tuple[int | None, dict[str, int]]:
    """``64`` -> chips of the whole fleet; ``h200=16,l40s=8`` -> chips there are of each kind."""
    if text is None:
        return None, {}
    if "=" not in text:
        return parse_count(text, where=where), {}
    get = Collector(where)
    found: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, count = (piece.strip() for piece in part.partition("="))
        if not equals:
            get.errors.append(InputError(f"`{part}` is not chip=count", where=where,
                                         hint="h200=16,l40s=8, or one number for all"))  # fmt: skip
            continue
        chip = get(lambda n=name: accelerator(n).id)  # type: ignore[misc]
        most = get(lambda c=count: parse_count(c, where=where))  # type: ignore[misc]
        if chip is not None and most is not None:
            found[chip] = most
    get.raise_all()
    return None, found


def _supply_text(job: ServeJob) -> str | None:
    if job.supply:
        return ",".join(f"{name}={count}" for name, count in job.supply.items())
    return None if job.max_chips is None else f"{job.max_chips}"


def _pools_mistakes(fleet: FleetOptions, where: Where) -> list[InputError]:
    """What two kinds of chips do not go with."""
    found = []
    if fleet.prefill_on is not None and not fleet.disaggregated:
        found.append(InputError("workers for prompts are asked for by --disaggregated",
                                where=where("prefill_on"), hint="add --disaggregated"))  # fmt: skip
    if fleet.mix and fleet.daily is not None:
        found.append(InputError("autoscaling is worked out for replicas of one kind",
                                where=where("mix"), hint="--daily without --mix"))  # fmt: skip
    return found


def parse_within(text: str, *, where: str) -> float:
    """The share of requests that must keep the limits: half at least, not all."""
    share = parse_fraction(text, where=where)
    if not 0.5 <= share < 1.0:
        raise InputError(f"`{text}`: 50% at least, and below 100%", where=where, hint="95% or 99%")
    return share


def parse_headroom(text: str, *, where: str) -> float:
    """The share of steady-state throughput that stays free."""
    share = parse_fraction(text, where=where)
    if share > MOST_HEADROOM:
        raise InputError(f"`{text}`: at most {MOST_HEADROOM:.0%}", where=where, hint="20%")
    return share


def parse_hit(text: str | None, *, where: str) -> float:
    """The share of prompt tokens that a prefix cache finds; 0 where nothing is said."""
    share = 0.0 if text is None else parse_fraction(text, where=where)
    if share > MOST_HIT:
        raise InputError(f"`{text}`: at most {MOST_HIT:.0%}: the last token is always computed",
                         where=where)  # fmt: skip
    return share


KEPT_WITHIN: Final = 0.95
MOST_HEADROOM: Final = 0.9
MOST_HIT: Final = 0.99


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


def memory_space_of(model: str, options: MemoryOptions, *, where: Where = as_option) -> ServeSpace:
    """What may be tried where memory alone is asked. Raises all mistakes at once."""
    get = Collector()
    asked = options.weights
    if asked is None:
        asked = ",".join(filter(None, (_published(model), "bf16")))
    formats = get.each(
        _names(asked, ""),
        lambda name: choice(name, DTYPES, "number format", where=where("weights")),
    )
    cache = get(lambda: choice(options.kv, KV_DTYPES, "KV cache format", where=where("kv")))
    if not asked.strip(" ,"):
        get.errors.append(InputError("no number format is named", where=where("weights"),
                                     hint="--weights bf16,fp8"))  # fmt: skip
    get.raise_all()
    return ServeSpace(formats=formats, kv=cache or "bf16")
