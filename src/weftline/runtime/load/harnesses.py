"""Results of other harnesses as our rows: aiperf, ``vllm bench serve``, guidellm.

Read against files that these versions wrote: aiperf 0.13 (schema 1.4), vLLM 0.32, guidellm 0.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from weftline.runtime.load.served import ServedRow

__all__ = ["READERS"]

_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "us": 1e-6, "ns": 1e-9}
Data = Mapping[str, Any]


def _vllm(data: Data) -> list[ServedRow]:
    """``--save-result``: milliseconds, totals over all requests that were answered."""
    done, seconds, many = int(data["completed"]), float(data["duration"]), int(data["num_prompts"])
    _answered(done)
    rate = data.get("request_rate")
    answer = data["total_output_tokens"] / done
    return [ServedRow(
        model=str(data["model_id"]), harness="vllm bench serve", requests=many, failed=many - done,
        concurrency=data.get("max_concurrency"),
        rate_per_s=None if rate in (None, "inf") else float(rate),
        input_tokens=data["total_input_tokens"] / done, output_tokens=answer,
        ttft_p50_s=data["median_ttft_ms"] / 1e3, ttft_p99_s=data["p99_ttft_ms"] / 1e3,
        tpot_p50_s=data["median_tpot_ms"] / 1e3 if answer > 1 else None,
        tpot_p99_s=data["p99_tpot_ms"] / 1e3 if answer > 1 else None,
        output_tokens_per_s=data["total_output_tokens"] / seconds,
    )]  # fmt: skip


def _aiperf(data: Data) -> list[ServedRow]:
    """``profile_export_aiperf.json``: metrics with their unit, percentiles beside averages."""
    done = int(data["request_count"]["avg"])
    failed = int((data.get("error_request_count") or {}).get("avg", 0))
    _answered(done)
    model, concurrency, rate = _aiperf_load(data["input_config"])
    # what the server counted, where it said so: text tokenized anew may come out a token shorter
    prompt = data.get("usage_prompt_tokens") or data["input_sequence_length"]
    answer = data.get("usage_completion_tokens") or data["output_sequence_length"]
    tpot = data.get("inter_token_latency")
    return [ServedRow(
        model=model, harness="aiperf", requests=done + failed, failed=failed,
        concurrency=concurrency, rate_per_s=rate, input_tokens=prompt["avg"],
        output_tokens=answer["avg"],
        ttft_p50_s=_aiperf_s(data["time_to_first_token"], "p50"),
        ttft_p99_s=_aiperf_s(data["time_to_first_token"], "p99"),
        tpot_p50_s=None if tpot is None else _aiperf_s(tpot, "p50"),
        tpot_p99_s=None if tpot is None else _aiperf_s(tpot, "p99"),
        output_tokens_per_s=data["output_token_throughput"]["avg"],
    )]  # fmt: skip


def _aiperf_load(config: Data) -> tuple[str, float | None, float | None]:
    """Model, clients and requests a second of the phase that was measured."""
    measured = next(p for p in config["phases"] if p["kind"] == "profiling")
    name = config["models"]["items"][0]["name"]
    return str(name), measured.get("concurrency"), measured.get("rate")


def _aiperf_s(metric: Data, part: str) -> float:
    return float(metric[part]) * _SECONDS[metric["unit"]]


def _guidellm(data: Data) -> list[ServedRow]:
    """``benchmarks.json``: a row a benchmark, milliseconds."""
    return [_guidellm_one(one) for one in data["benchmarks"]]


def _guidellm_one(one: Data) -> ServedRow:
    seen, config = one["metrics"], one["config"]
    totals, strategy = seen["request_totals"], config["strategy"]
    _answered(int(totals["successful"]))

    def part(name: str) -> Data:
        return dict(seen[name]["successful"])

    ttft, tpot = part("time_to_first_token_ms"), part("inter_token_latency_ms")
    answer = part("output_token_count")["mean"]
    rate = strategy.get("rate")
    # an open loop has a limit of clients too, which says nothing of the load
    clients = None if rate is not None else strategy.get("streams", strategy.get("max_concurrency"))
    if strategy["type_"] == "synchronous":
        clients = 1
    several = answer > 1
    return ServedRow(
        model=str(config["backend"]["model"] or ""), harness="guidellm",
        requests=int(totals["total"]), failed=int(totals["errored"]), concurrency=clients,
        rate_per_s=rate, input_tokens=part("prompt_token_count")["mean"], output_tokens=answer,
        ttft_p50_s=ttft["median"] / 1e3, ttft_p99_s=ttft["percentiles"]["p99"] / 1e3,
        tpot_p50_s=tpot["median"] / 1e3 if several else None,
        tpot_p99_s=tpot["percentiles"]["p99"] / 1e3 if several else None,
        output_tokens_per_s=part("output_tokens_per_second")["mean"],
    )  # fmt: skip


def _answered(count: int) -> None:
    if not count:
        raise ValueError("no request was answered")


READERS: Final[Mapping[str, Callable[[Data], Sequence[ServedRow]]]] = {
    "median_ttft_ms": _vllm, "time_to_first_token": _aiperf, "benchmarks": _guidellm,
}  # fmt: skip
"""By a field that only that harness writes."""
