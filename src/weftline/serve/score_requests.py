"""Per-request timings of a real server against the event simulation of the same requests.

The file gives arrivals and lengths; what happens to each request is simulated on the machine's
step-time surface. Times are counted as vLLM's core counts them: from when it first saw a request.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError
from weftline.serve.calibrate.shipped import chip_scalars
from weftline.serve.engine.config import ServingConfig

__all__ = ["first_line", "read_requests", "score_requests"]

FloatArray = npt.NDArray[np.float64]

COLUMNS: Final = (
    "arrived_at", "num_prefill_tokens", "num_decode_tokens", "queue_s", "ttft_s", "e2e_s",
)  # fmt: skip
MAX_SEQS: Final = {"rtx-4090": 256, "rtx-pro-6000": 128}
"""How the measured servers were started (max_num_seqs); max_num_batched_tokens was 2048.

The prefix cache was on, as by default: a request thrown out finds most of its own blocks again.
"""
CHUNK_TOKENS: Final = 2048


def first_line(path: Path) -> str:
    """The head of a file; raises InputError where it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {_why(error)}", where=str(path)) from error


def _why(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8 text"


def read_requests(path: Path) -> dict[str, FloatArray]:
    """The columns of a per-request file; raises InputError with line and column."""
    found: dict[str, list[float]] = {c: [] for c in COLUMNS}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"no column `{missing[0]}`", where=f"{path}:1",
                             hint="expected request_id, " + ", ".join(COLUMNS))  # fmt: skip
        for number, record in enumerate(reader, start=2):
            for c in COLUMNS:
                try:
                    found[c].append(float(record[c]))
                except (TypeError, ValueError):
                    raise InputError(f"column `{c}` is not a number: `{record[c]}`",
                                     where=f"{path}:{number}") from None  # fmt: skip
    if not found["ttft_s"]:
        raise InputError("no requests", where=str(path))
    return {c: np.array(v) for c, v in found.items()}


def score_requests(
    path: Path, *, chip: str | None = None, model: str | None = None, engine: str | None = None
) -> dict[str, Any]:
    """Means of TPOT, first-token and end-to-end times, simulated and measured, as a score."""
    from weftline.serve.simulate.fleet import simulate_requests
    from weftline.serve.simulate.step import surface

    table = read_requests(path)
    chip, model = chip or _named(path, 0), model or _named(path, 1)
    config = ServingConfig(model=model, chip=chip, engine=engine or "vllm",
                           chunk_tokens=CHUNK_TOKENS)  # fmt: skip
    out = simulate_requests(
        surface(config), table["arrived_at"],
        table["num_prefill_tokens"].astype(np.int64), table["num_decode_tokens"].astype(np.int64),
        max_seqs=MAX_SEQS.get(config.chip_name, config.max_batch), token_budget=CHUNK_TOKENS,
        engine=config.engine, caching=True,
    )  # fmt: skip
    steps = np.maximum(table["num_decode_tokens"] - 1, 1)
    measured = {
        "ttft": table["ttft_s"], "tpot": (table["e2e_s"] - table["ttft_s"]) / steps,
        "e2e": table["e2e_s"],
    }  # fmt: skip
    found = {"ttft": out.engine_ttft_s, "tpot": out.tpot_s, "e2e": out.engine_e2e_s}
    return _as_score(path, config, found, measured)


def _named(path: Path, part: int) -> str:
    """Chip or model from a name such as ``..._RTX4090_Llama-3.1-8B.csv``."""
    hit = re.search(r"(RTX\s?-?4090|RTX\s?-?PRO\s?-?6000|H100|H200|A100|B200)_([\w.-]+?)\.csv",
                    path.name, re.IGNORECASE)  # fmt: skip
    if not hit:
        raise InputError("the file's name tells neither machine nor model", where=str(path),
                         hint="give --chip and --model")  # fmt: skip
    return hit[part + 1].lower()


def _fitted(config: ServingConfig) -> str:
    """What was fitted on requests of this machine, in words."""
    own = chip_scalars().get("chips", {}).get(config.chip_name)
    if own is None:
        return "nothing was fitted on requests of this machine"
    count = len(own["constants"])
    return (
        f"{count} constant{'s were' if count > 1 else ' was'} fitted on {own['rows']} requests of "
        "this machine"
    )


def _as_score(
    path: Path, config: ServingConfig, found: dict[str, FloatArray],
    measured: dict[str, FloatArray],
) -> dict[str, Any]:  # fmt: skip
    metrics: dict[str, Any] = {}
    entry: dict[str, Any] = {
        "id": path.name, "model": config.model, "chip": config.chip_name,
        "engine": config.engine, "version": "", "mode": "agg",
    }  # fmt: skip
    for name, values in found.items():
        own = np.isfinite(values) & np.isfinite(measured[name])
        mean, truth = float(values[own].mean()), float(measured[name][own].mean())
        each = np.abs(values[own] / measured[name][own] - 1)
        entry[name] = {
            "predicted_s": mean, "measured_s": truth, "error_pct": 100 * (mean / truth - 1),
            "interval_hit": None,
        }  # fmt: skip
        metrics[name] = {
            "rows": int(own.sum()), "mape_pct": round(100 * float(each.mean()), 3),
            "median_pct": round(100 * float(np.median(each)), 3),
            "bias_pct": round(100 * (mean / truth - 1), 3), "interval_coverage_pct": None,
            "mean_predicted_s": mean, "mean_measured_s": truth,
        }  # fmt: skip
    metrics["throughput"] = {"rows": 0, "mape_pct": None, "median_pct": None, "bias_pct": None,
                             "interval_coverage_pct": None}  # fmt: skip
    count = metrics["ttft"]["rows"]
    return {
        "summary": {"rows": count, "predicted": count, "stating_their_configuration": count,
                    "answered_of_stated_pct": 100.0, **metrics},
        "how": f"every request simulated; bias is of the mean; {_fitted(config)}",
        "groups": [], "rows": [entry],
    }  # fmt: skip
