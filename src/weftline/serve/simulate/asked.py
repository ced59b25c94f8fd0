"""From what people write to traffic and configurations, every mistake of one question at once."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from weftline.catalog import accelerator, accelerators
from weftline.errors import InputError, UnknownNameError
from weftline.model.load import load_generator
from weftline.model.policy import asked_policy
from weftline.operators import chip_of
from weftline.serve.engine.adapters import SLOTS, Adapters, adapters_of, batch_of
from weftline.serve.engine.config import (
    DTYPES,
    HOST_BYTES_PER_S,
    KV_DTYPES,
    NVME_BYTES_PER_S,
    PoolConfig,
    ServingConfig,
)
from weftline.serve.engine.engines import (
    PROFILES,
    check_version,
    profile,
    require_formats,
    require_units,
    serves_policy,
)
from weftline.serve.simulate.sessions import Shape, drawn
from weftline.serve.simulate.trace_files import read_trace
from weftline.serve.simulate.traffic import BUNDLED, at_rate, bundled, diurnal, extended, gamma
from weftline.spec import Traffic
from weftline.spec.options import ReplicaOptions, ServingOptions, TrafficOptions, Where, as_option
from weftline.spec.parse import Collector, choice
from weftline.units import (
    parse_bytes,
    parse_count,
    parse_duration_s,
    parse_rate_bytes_per_s,
)

__all__ = [
    "beside_of", "config_of", "parse_rate_per_s", "parse_speculation", "rate_of",
    "read_traffic", "traffic_of",
]  # fmt: skip

_PER_S: Final = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "hour": 3600.0, "d": 86400.0,
                 "day": 86400.0}  # fmt: skip
MAX_REQUESTS: Final = 5_000_000
MOST_SPREAD: Final = 3.0


def traffic_of(
    options: TrafficOptions, *, requests: str | None = None, peak: float = 1.0,
    where: Where = as_option,
) -> Traffic:  # fmt: skip
    """The requests that the options describe. Raises all mistakes at once.

    ``requests`` is how many; ``peak`` the peak over the mean of a rate that swings.
    """
    get = Collector()
    per_s = get(lambda: rate_of(options, where=where))
    count = get(lambda: None if requests is None else parse_count(requests, where="--requests"))
    prompt = get(lambda: parse_count(options.input, where=where("input")))
    answer = get(lambda: parse_count(options.output, where=where("output")))
    real = get(lambda: None if options.trace is None else read_traffic(options.trace))
    shape = get(lambda: shape_of(options, where=where))
    if shape is not None and peak != 1.0:
        get.errors.append(
            InputError(
                "sessions of a rate that swings are not drawn",
                where=where("turns"),
                hint="--turns 1, or no --peak",
            )
        )
    if not 0 <= options.spread <= MOST_SPREAD:
        get.errors.append(InputError(f"a spread of {options.spread:g}: 0 to {MOST_SPREAD:g} is "
                                     "meant", where=where("spread"),
                                     hint="0.5 to 1.5 are usual"))  # fmt: skip
    if options.trace is None and options.rate is None:
        get.errors.append(InputError("no traffic is given", where=where("rate"),
                                     hint="--rate 12/s, or --trace FILE"))  # fmt: skip
    if count is not None and count > MAX_REQUESTS:
        get.errors.append(InputError(f"more than {MAX_REQUESTS:,} requests", where="--requests"))
    get.raise_all()
    if real is not None:
        played = real if count is None else extended(real, count)
        return played if per_s is None else at_rate(played, per_s)
    if per_s is None or prompt is None or answer is None:
        raise AssertionError("the collector raises before this")
    n = count or 2000
    if shape is not None:
        return drawn(per_s, n, shape, burstiness=options.burstiness, seed=options.seed,
                     spread=options.spread)  # fmt: skip
    if peak != 1.0:
        span = n / per_s
        return diurnal(per_s, n, prefill_tokens=prompt, decode_tokens=answer, peak_ratio=peak,
                       period_s=min(86400.0, span), burstiness=options.burstiness,
                       seed=options.seed, spread=options.spread)  # fmt: skip
    return gamma(per_s, n, prefill_tokens=prompt, decode_tokens=answer,
                 burstiness=options.burstiness, seed=options.seed,
                 spread=options.spread)  # fmt: skip


def shape_of(options: TrafficOptions, *, where: Where = as_option) -> Shape | None:
    """The sessions that the options describe; None where a request stands for itself."""
    if options.turns == 1:
        return None
    if options.trace is not None:
        raise InputError(
            "a trace says itself which requests are one session's",
            where=where("turns"),
            hint="`session_id` in its lines",
        )
    try:
        return Shape(
            turns=options.turns, input_tokens=parse_count(options.input, where=where("input")),
            grow_tokens=parse_count(options.grow, where=where("grow")),
            output_tokens=parse_count(options.output, where=where("output")),
            shared_tokens=int(options.shared_prefix) if options.shared_prefix == "0" else
            parse_count(options.shared_prefix, where=where("shared_prefix")),
            delay_s=parse_duration_s(options.tool_delay, where=where("tool_delay")),
        )  # fmt: skip
    except InputError as error:
        error.where = error.where or where("turns")
        raise


def parse_offload(text: str | None, *, where: str = "--kv-offload") -> tuple[float, float]:
    """``500GB``, ``host:500GB``, ``nvme:4TB@6GB/s`` -> bytes a replica, bytes/s to a chip."""
    if text is None:
        return 0.0, HOST_BYTES_PER_S
    tier, colon, rest = text.rpartition(":")
    kept = choice(tier, tuple(_TIERS), "memory", where=where) if colon else "host"
    size, at, rate = rest.partition("@")
    speed = parse_rate_bytes_per_s(rate, where=where) if at else _TIERS[kept]
    return parse_bytes(size, where=where), speed


def parse_lora(text: str | None, *, where: str = "--lora") -> tuple[int, int, int] | None:
    """``200:16`` or ``200:16:32`` -> adapters, rank, those held at once; None for none."""
    if text is None:
        return None
    hint = "200:16, or 200:16:32 (adapters, rank, held on the chips at once)"
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise InputError(f"`{text}` names no adapters", where=where, hint=hint)
    numbers = [parse_count(p, where=where) for p in parts]
    count, rank = numbers[:2]
    slots = numbers[2] if len(numbers) == 3 else min(count, SLOTS)
    found = Adapters(count=count, rank=rank, slots=min(slots, count))
    return found.count, found.rank, found.slots


_TIERS: Final = {"host": HOST_BYTES_PER_S, "nvme": NVME_BYTES_PER_S}


def rate_of(options: TrafficOptions, *, where: Where = as_option) -> float | None:
    """The rate asked for, requests a second; None where a trace's own holds."""
    return None if options.rate is None else parse_rate_per_s(options.rate, where=where("rate"))


def read_traffic(trace: str) -> Traffic:
    """A bundled trace by name, else a file. Raises InputError(s)."""
    if trace in BUNDLED:
        return bundled(trace)
    path = Path(trace)
    if not path.exists() and "/" not in trace and "." not in trace:
        return bundled(trace)  # raises, with the nearest names
    return read_trace(path)


def parse_rate_per_s(text: str, *, where: str) -> float:
    """``12/s``, ``700/min``, ``1M/day`` -> requests a second. Raises InputError."""
    match = re.fullmatch(
        r"\s*([\d.,]+(?:e[+-]?\d+)?)\s*([kKmMbB]?)\s*(?:req(?:uest)?s?)?\s*/\s*(\w+)\s*", text
    )
    if match is None or match.group(3) not in _PER_S:
        raise InputError(
            f"`{text}` is not a rate of requests", where=where, hint="12/s, 700/min or 1M/day"
        )
    try:
        number = float(match.group(1).replace(",", ""))
    except ValueError:
        raise InputError(f"`{text}` is not a number", where=where, hint="12/s") from None
    scale = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}[match.group(2).lower()]
    rate = number * scale / _PER_S[match.group(3)]
    if not 0 < rate < 1e9:
        raise InputError(f"`{text}`: a rate above zero is needed", where=where)
    return rate


def parse_speculation(text: str | None, *, where: str = "--speculate") -> tuple[str, int, float]:
    """``mtp:3`` or ``draft:4:0.8`` -> method, drafted tokens, acceptance of each."""
    if text is None:
        return "none", 0, 0.7
    parts = text.split(":")
    hint = "mtp:3 or mtp:3:0.8 (drafted tokens, chance that each is kept)"
    if len(parts) not in (2, 3):
        raise InputError(f"`{text}` is not a way to speculate", where=where, hint=hint)
    method = choice(parts[0], ("mtp", "draft"), "way to speculate", where=where)
    try:
        tokens = int(parts[1])
        kept = float(parts[2]) if len(parts) == 3 else 0.7
    except ValueError:
        raise InputError(f"`{text}` is not a way to speculate", where=where, hint=hint) from None
    if not (1 <= tokens <= 16 and 0 <= kept <= 1):
        raise InputError(f"`{text}`: 1 to 16 tokens and a chance of 0 to 1", where=where, hint=hint)
    return method, tokens, kept


def config_of(
    model: str, layout: ReplicaOptions, serving: ServingOptions, *, where: Where = as_option
) -> ServingConfig:
    """The configuration that the options describe. Raises all mistakes at once."""

    def count(text: str | None, place: str) -> int | None:
        return get(lambda: None if text is None else parse_count(text, where=place))

    get = Collector()
    get(lambda: load_generator(model))
    chip = get(lambda: chip_of(layout.on))
    ahead = get(lambda: None if layout.prefill_on is None else chip_of(layout.prefill_on))
    if layout.prefill_on is not None and not layout.prefill_workers:
        get.errors.append(InputError("no workers for prompts", hint="--prefill-workers 2",
                                     where=where("prefill_on")))  # fmt: skip
    name = get(lambda: choice(layout.engine, tuple(PROFILES), "engine", where=where("engine")))
    weights = get(
        lambda: choice(layout.precision, DTYPES, "number format", where=where("precision"))
    )
    if serving.engine_version:
        get(lambda: check_version(serving.engine_version, (layout.engine,),
                                  where=where("engine_version")))  # fmt: skip
    cache = get(lambda: choice(serving.kv, KV_DTYPES, "KV cache format", where=where("kv")))
    seats = count(layout.max_batch, where("max_batch"))
    budget = count(layout.chunk_tokens, where("chunk_tokens"))
    method, drafted, kept = get(
        lambda: parse_speculation(serving.speculate, where=where("speculate"))
    ) or ("none", 0, 0.7)
    policy = get(lambda: asked_policy(serving.policy, model, where=where("policy"))) or ""
    below = get(lambda: parse_offload(serving.kv_offload, where=where("kv_offload")))
    lora = get(lambda: parse_lora(serving.lora, where=where("lora")))
    for degree in ("tp", "pp", "dp", "ep", "decode_workers"):
        if getattr(layout, degree) < 1:
            get.errors.append(InputError("must be at least 1", where=where(degree)))
    if layout.prefill_workers < 0:
        get.errors.append(InputError("cannot be negative", where=where("prefill_workers")))
    get.raise_all()
    if chip is None or name is None or weights is None or cache is None:
        raise AssertionError("the collector raises before this")
    for one in filter(None, (chip, ahead)):
        require_formats(name, one.vendor, one.name, (weights,))
        if one.name in accelerators():
            require_units(accelerator(one.name), (weights,))
    if not serves_policy(name, policy):
        raise InputError(
            f"{name} cannot serve this policy", where=where("policy"),
            hint="vllm selects and keeps every page, trtllm frees what slides out of one window",
        )  # fmt: skip
    degrees = {d: getattr(layout, d) for d in ("tp", "pp", "dp", "ep")}
    pool = None
    if layout.prefill_workers:
        ways = max(1, layout.tp * layout.dp // layout.ep)
        pool = PoolConfig(workers=layout.prefill_workers, moe_tp=ways, max_batch=8,
                          chip="" if ahead is None else ahead.name, **degrees)  # fmt: skip
    return ServingConfig(
        model=model, chip=chip.name, engine=name, engine_version=serving.engine_version,
        gemm_dtype=weights, kv_dtype=cache,
        max_batch=batch_of(seats or profile(name).max_batch * layout.dp, adapters_of(lora),
                           layout.dp),
        adapters=adapters_of(lora),
        chunk_tokens=budget or profile(name).chunk_tokens,
        prefix_cache=serving.prefix_cache or bool(below and below[0]),
        offload_bytes=below[0] if below else 0.0,
        offload_bytes_per_s=below[1] if below else HOST_BYTES_PER_S,
        spec_method=method, spec_tokens=drafted,  # type: ignore[arg-type]
        spec_acceptance=kept, policy=policy, prefill=pool,
        decode_workers=layout.decode_workers if pool else 1, **degrees,
    )  # fmt: skip


def beside_of(
    layout: ReplicaOptions, *, where: Where = as_option
) -> tuple[ReplicaOptions, int] | None:
    """The second kind of replicas that ``--beside on=l40s,tp=4,replicas=2`` asks for, and how many;
    None where there is none. What it does not say is as of the first. Raises all mistakes at once.
    """
    if layout.beside is None:
        return None
    get, place = Collector(where("beside")), where("beside")
    hint = "on=l40s,tp=4,precision=fp8,replicas=2"
    given: dict[str, str | int] = {}
    for part in filter(None, (piece.strip() for piece in layout.beside.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        name = name.replace("-", "_")
        if not equals or not value:
            get.errors.append(InputError(f"`{part}` is not name=value", where=place, hint=hint))
        elif name not in (*_WORDS, *_COUNTS):
            get.errors.append(UnknownNameError("part of a replica", name, (*_WORDS, *_COUNTS),
                                               where=place))  # fmt: skip
        elif name in _WORDS:
            given[name] = value
        else:
            number = get(lambda v=value: parse_count(v, where=place))  # type: ignore[misc]
            given[name] = number or 1
    get.raise_all()
    count = int(given.pop("replicas", 1))
    return replace(layout, beside=None, **given), count  # type: ignore[arg-type]


_WORDS: Final = ("on", "engine", "precision", "max_batch", "chunk_tokens")
_COUNTS: Final = ("tp", "pp", "dp", "ep", "replicas")
