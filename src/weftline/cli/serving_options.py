"""What `plan serve` and `simulate serving` share: rates, targets, traffic, speculation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weftline.errors import InputError
from weftline.spec.parse import Collector, choice
from weftline.units import parse_count, parse_duration_s

if TYPE_CHECKING:
    from weftline.serve.simulate.traffic import Traffic
    from weftline.spec import Target

_PER_S = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "hour": 3600.0, "d": 86400.0,
          "day": 86400.0}  # fmt: skip
MAX_REQUESTS = 5_000_000
MOST_SPREAD = 3.0


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOptions:
    """What requests come.

    Parameters
    ----------
    rate
        Requests a second: 12/s, 700/min, 1M/day. With --trace, the trace at that mean rate.
    trace
        azure-2023-conv, azure-2023-code, mooncake-conversation, or a CSV or JSONL file.
    input
        Tokens of a prompt, on average; without --trace.
    output
        Tokens of an answer, on average; without --trace.
    burstiness
        Squared coefficient of variation of the gaps between requests; 1 is Poisson.
    spread
        Sigma of log-normal prompt and answer lengths; 0 makes them equal.
    seed
        Of the requests drawn.
    """

    rate: str | None = None
    trace: str | None = None
    input: str = "2000"
    output: Annotated[str, Parameter(name="--output")] = "400"
    burstiness: float = 1.0
    spread: float = 0.0
    seed: int = 0

    def make(self, *, requests: str | None = None, peak: float = 1.0) -> Traffic:
        """The requests themselves. Raises all mistakes at once."""
        return make_traffic(
            trace=self.trace, rate=self.rate, requests=requests, input_tokens=self.input,
            output_tokens=self.output, burstiness=self.burstiness, spread=self.spread, peak=peak,
            seed=self.seed,
        )  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How the model is served, whatever the layout.

    Parameters
    ----------
    kv
        Number format of the KV cache: bf16, fp8, int8.
    prefix_cache
        Keep the KV of prompts; a trace with hashes says what it finds.
    speculate
        Draft tokens ahead: mtp:3, or mtp:3:0.8 with the chance that each is kept.
    window
        Keep the last 4096 tokens of a sequence only, or 4096+4 with the first 4.
    routing
        round-robin, least-loaded or prefix-aware.
    """

    kv: str = "bf16"
    prefix_cache: bool = False
    speculate: str | None = None
    window: str | None = None
    routing: str = "least-loaded"


KEPT_TRAFFIC = TrafficOptions()
KEPT_SERVING = ServingOptions()
"""What holds where nothing is said."""


def parse_rate_per_s(text: str, *, where: str) -> float:
    """``12/s``, ``700/min``, ``1M/day`` -> requests a second. Raises InputError."""
    match = re.fullmatch(r"\s*([\d.,]+)\s*([kKmMbB]?)\s*(?:req(?:uest)?s?)?\s*/\s*(\w+)\s*", text)
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


def parse_targets(ttft: str | None, tpot: str | None, e2e: str | None,
                  p99: str | None) -> tuple[Target, ...]:  # fmt: skip
    """Medians from their own options, 99th percentiles from ``ttft=1s,tpot=60ms``."""
    from weftline.spec import METRICS, Target

    get = Collector()
    found: list[Target] = []
    for metric, text in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
        if text is None:
            continue
        limit = get(lambda t=text, m=metric: parse_duration_s(t, where=f"--{m}"))  # type: ignore[misc]
        if limit is not None:
            name = choice(metric, METRICS, "metric", where="--ttft")
            found.append(Target(metric=name, percentile=50.0, limit_s=limit))
    for part in (p99 or "").split(","):
        if not part.strip():
            continue
        name_text, equals, value = part.partition("=")
        if not equals:
            get.errors.append(InputError(f"`{part}` is not a target", where="--p99",
                                         hint="--p99 ttft=1s,tpot=60ms"))  # fmt: skip
            continue
        metric_name = get(lambda n=name_text: choice(n, METRICS, "metric", where="--p99"))  # type: ignore[misc]
        limit = get(lambda v=value: parse_duration_s(v, where="--p99"))  # type: ignore[misc]
        if metric_name is not None and limit is not None:
            found.append(Target(metric=metric_name, percentile=99.0, limit_s=limit))
    get.raise_all()
    return tuple(found)


def read_traffic(trace: str) -> Traffic:
    """A bundled trace by name, else a file. Raises InputError(s)."""
    from weftline.serve.simulate.trace_files import read_trace
    from weftline.serve.simulate.traffic import BUNDLED, bundled

    if trace in BUNDLED:
        return bundled(trace)
    path = Path(trace)
    if not path.exists() and "/" not in trace and "." not in trace:
        return bundled(trace)  # raises, with the nearest names
    return read_trace(path)


def make_traffic(
    *, trace: str | None, rate: str | None, requests: str | None, input_tokens: str,
    output_tokens: str, burstiness: float, spread: float, peak: float, seed: int,
) -> Traffic:  # fmt: skip
    """The traffic that the options describe. Raises all mistakes at once."""
    get = Collector()
    per_s = get(lambda: None if rate is None else parse_rate_per_s(rate, where="--rate"))
    count = get(lambda: None if requests is None else parse_count(requests, where="--requests"))
    prompt = get(lambda: parse_count(input_tokens, where="--input"))
    answer = get(lambda: parse_count(output_tokens, where="--output"))
    real = get(lambda: None if trace is None else read_traffic(trace))
    if not 0 <= spread <= MOST_SPREAD:
        get.errors.append(InputError(f"a spread of {spread:g}: 0 to {MOST_SPREAD:g} is meant",
                                     where="--spread", hint="0.5 to 1.5 are usual"))  # fmt: skip
    if trace is None and rate is None:
        get.errors.append(InputError("no traffic is given", where="--rate",
                                     hint="--rate 12/s, or --trace FILE"))  # fmt: skip
    if count is not None and count > MAX_REQUESTS:
        get.errors.append(InputError(f"more than {MAX_REQUESTS:,} requests", where="--requests"))
    get.raise_all()
    from weftline.serve.simulate.traffic import at_rate, diurnal, extended, gamma

    if real is not None:
        played = real if count is None else extended(real, count)
        return played if per_s is None else at_rate(played, per_s)
    if per_s is None or prompt is None or answer is None:
        raise AssertionError("the collector raises before this")
    n = count or 2000
    if peak != 1.0:
        span = n / per_s
        return diurnal(per_s, n, prefill_tokens=prompt, decode_tokens=answer, peak_ratio=peak,
                       period_s=min(86400.0, span), burstiness=burstiness, seed=seed,
                       spread=spread)  # fmt: skip
    return gamma(per_s, n, prefill_tokens=prompt, decode_tokens=answer, burstiness=burstiness,
                 seed=seed, spread=spread)  # fmt: skip


def parse_speculation(text: str | None) -> tuple[str, int, float]:
    """``mtp:3`` or ``draft:4:0.8`` -> method, drafted tokens, acceptance of each."""
    if text is None:
        return "none", 0, 0.7
    parts = text.split(":")
    where, hint = "--speculate", "mtp:3 or mtp:3:0.8 (drafted tokens, chance that each is kept)"
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


def parse_window(text: str | None) -> tuple[int | None, int]:
    """``4096`` or ``4096+4`` -> tokens kept of the end, and of the front (sinks)."""
    if text is None:
        return None, 0
    window, _, sinks = text.partition("+")
    kept = parse_count(window, where="--window")
    return kept, parse_count(sinks, where="--window") if sinks else 0
