"""What a server gave under load, as one row: from our own runs, and from other harnesses' files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from weftline.errors import InputError
from weftline.runtime.load.client import Answer

__all__ = ["FILE", "ServedRow", "read_row", "row_of", "write_row"]

FILE = "serving.json"
"""Its name in the folder of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRow:
    """One point of load and what was measured; seconds and tokens."""

    model: str
    harness: str
    requests: int
    failed: int
    concurrency: float | None
    rate_per_s: float | None
    input_tokens: float
    """Mean of a prompt."""
    output_tokens: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    output_tokens_per_s: float
    """Of all requests together, from the first sent to the last answered."""
    seed: int | None = None


def row_of(
    answers: Sequence[Answer], *, model: str, concurrency: int | None, rate_per_s: float | None,
    seed: int,
) -> ServedRow:  # fmt: skip
    """The row of our own run. Raises InputError where nothing was answered."""
    good = [a for a in answers if not a.error and a.ttft_s is not None]
    if not good:
        first = next((a.error for a in answers if a.error), "no answers")
        raise InputError(f"no request was answered: {first}")
    ttft = [a.ttft_s for a in good if a.ttft_s is not None]
    tpot = [a.tpot_s for a in good if a.tpot_s is not None]
    span = max(a.last for a in good) - min(a.sent for a in good)
    return ServedRow(
        model=model, harness="weftline", requests=len(answers), failed=len(answers) - len(good),
        concurrency=concurrency, rate_per_s=rate_per_s,
        input_tokens=_mean([a.input_tokens for a in good]),
        output_tokens=_mean([a.output_tokens for a in good]),
        ttft_p50_s=_at(ttft, 50), ttft_p99_s=_at(ttft, 99),
        tpot_p50_s=_at(tpot, 50) if tpot else None, tpot_p99_s=_at(tpot, 99) if tpot else None,
        output_tokens_per_s=sum(a.output_tokens for a in good) / span, seed=seed,
    )  # fmt: skip


def write_row(row: ServedRow, folder: Path) -> Path:
    """Keep a row in the folder of a run. Raises InputError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        path.write_text(json.dumps(asdict(row), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write there: {error.strerror}", where=str(folder)) from None
    return path


def read_row(path: Path) -> ServedRow:
    """Our own row, or a result of aiperf, ``vllm bench serve`` or guidellm. Raises InputError."""
    file = path / FILE if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(file),
                         hint="`weftline bench serving -o DIR` writes one") from None  # fmt: skip
    except ValueError as error:
        raise InputError(f"is not JSON: {error}", where=str(file)) from None
    try:
        if isinstance(data, dict):
            for mark, reader in _READERS.items():
                if mark in data:
                    return reader(data)
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"a field is missing or wrong: {error}", where=str(file)) from None
    raise InputError("is no result of a serving benchmark that is known", where=str(file),
                     hint="weftline, aiperf, vllm bench serve, guidellm")  # fmt: skip


def _own(data: Mapping[str, Any]) -> ServedRow:
    return ServedRow(**{f.name: data[f.name] for f in fields(ServedRow)})


def _vllm(data: Mapping[str, Any]) -> ServedRow:
    """``vllm bench serve --save-result``: milliseconds, totals over all requests."""
    done, seconds = int(data["completed"]), float(data["duration"])
    rate = data.get("request_rate")
    return ServedRow(
        model=str(data["model_id"]), harness="vllm bench serve",
        requests=int(data["num_prompts"]), failed=int(data["num_prompts"]) - done,
        concurrency=data.get("max_concurrency"),
        rate_per_s=None if rate in (None, "inf") else float(rate),
        input_tokens=data["total_input_tokens"] / done,
        output_tokens=data["total_output_tokens"] / done,
        ttft_p50_s=data["median_ttft_ms"] / 1e3, ttft_p99_s=data["p99_ttft_ms"] / 1e3,
        tpot_p50_s=data["median_tpot_ms"] / 1e3, tpot_p99_s=data["p99_tpot_ms"] / 1e3,
        output_tokens_per_s=data["total_output_tokens"] / seconds,
    )  # fmt: skip


def _aiperf(data: Mapping[str, Any]) -> ServedRow:
    """aiperf's ``profile_export_aiperf.json``: metrics with unit, percentiles beside averages."""
    ttft, tpot = data["time_to_first_token"], data.get("inter_token_latency")
    config = data.get("input_config", {})
    load = config.get("loadgen", {})
    names = config.get("endpoint", {}).get("model_names") or [""]
    count = int(data["request_count"]["avg"])
    failed = int(data.get("error_request_count", {}).get("avg", 0))
    return ServedRow(
        model=str(names[0]), harness="aiperf", requests=count + failed, failed=failed,
        concurrency=load.get("concurrency"), rate_per_s=load.get("request_rate"),
        input_tokens=data["input_sequence_length"]["avg"],
        output_tokens=data["output_sequence_length"]["avg"],
        ttft_p50_s=ttft["p50"] / 1e3, ttft_p99_s=ttft["p99"] / 1e3,
        tpot_p50_s=None if tpot is None else tpot["p50"] / 1e3,
        tpot_p99_s=None if tpot is None else tpot["p99"] / 1e3,
        output_tokens_per_s=data["output_token_throughput"]["avg"],
    )  # fmt: skip


def _guidellm(data: Mapping[str, Any]) -> ServedRow:
    """guidellm's ``benchmarks.json``: its first benchmark, milliseconds."""
    one = data["benchmarks"][0]
    seen = one["metrics"]

    def part(name: str) -> Mapping[str, Any]:
        return dict(seen[name]["successful"])

    ttft, tpot = part("time_to_first_token_ms"), part("inter_token_latency_ms")
    totals = seen.get("request_totals") or one["request_totals"]
    strategy = one.get("config", one).get("strategy", {})
    return ServedRow(
        model=str(one.get("model") or data.get("args", {}).get("model") or ""), harness="guidellm",
        requests=int(totals["total"]), failed=int(totals.get("errored", 0)),
        concurrency=strategy.get("streams") or strategy.get("max_concurrency"),
        rate_per_s=strategy.get("rate"),
        input_tokens=part("prompt_token_count")["mean"],
        output_tokens=part("output_token_count")["mean"],
        ttft_p50_s=ttft["median"] / 1e3, ttft_p99_s=ttft["percentiles"]["p99"] / 1e3,
        tpot_p50_s=tpot["median"] / 1e3, tpot_p99_s=tpot["percentiles"]["p99"] / 1e3,
        output_tokens_per_s=part("output_tokens_per_second")["mean"],
    )  # fmt: skip


_READERS = {
    "ttft_p50_s": _own, "median_ttft_ms": _vllm, "time_to_first_token": _aiperf,
    "benchmarks": _guidellm,
}  # fmt: skip
"""By a field that only that harness writes."""


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _at(values: Sequence[float], percentile: float) -> float:
    return float(np.percentile(values, percentile))
