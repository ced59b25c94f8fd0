"""Per-request timings of a real server against the event simulation of the same requests.

The file gives arrivals and lengths; what happens to each request is simulated on the machine's
step-time surface. Times are counted as vLLM's core counts them: from when it first saw a request.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError, UnknownNameError
from weftline.model.load import bundled_name
from weftline.operators import chip_of
from weftline.serve.calibrate.names import chip_named, engine_named, format_named, model_name
from weftline.serve.engine.config import DTYPES, ServingConfig
from weftline.serve.engine.engines import PROFILES, profile
from weftline.spec.options import MeasuredServer

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


def score_requests(path: Path, server: MeasuredServer | None = None) -> dict[str, Any]:
    """Means of TPOT, first-token and end-to-end times, simulated and measured, as a score.

    Raises InputError(s) for a file or a server that cannot be.
    """
    from weftline.serve.simulate.fleet import simulate_requests
    from weftline.serve.simulate.step import surface

    table, said = read_requests(path), server or MeasuredServer()
    config = _config(path, said)
    found = surface(config)
    seqs = said.max_seqs or MAX_SEQS.get(config.chip_name, config.max_batch // config.dp)
    out = simulate_requests(
        found.of_rank(config.dp) if config.dp > 1 else found, table["arrived_at"],
        table["num_prefill_tokens"].astype(np.int64), table["num_decode_tokens"].astype(np.int64),
        max_seqs=seqs, token_budget=CHUNK_TOKENS, engine=config.engine, caching=True,
        replicas=config.dp, routing="least-loaded",
    )  # fmt: skip
    steps = np.maximum(table["num_decode_tokens"] - 1, 1)
    measured = {
        "ttft": table["ttft_s"], "tpot": (table["e2e_s"] - table["ttft_s"]) / steps,
        "e2e": table["e2e_s"],
    }  # fmt: skip
    times = {"ttft": out.engine_ttft_s, "tpot": out.tpot_s, "e2e": out.engine_e2e_s}
    return _as_score(path, config, times, measured)


def _config(path: Path, said: MeasuredServer) -> ServingConfig:
    """The server of a file, by what was said and by the file's name. Raises InputError(s)."""
    chip, model = said.chip, said.model
    if chip is None or model is None:
        named = _named(path)
        chip, model = chip or named[0], model or named[1]
    weights = format_named(said.precision)
    if weights not in DTYPES:
        raise UnknownNameError("number format", said.precision, DTYPES, where="--precision")
    engine = engine_named(said.engine)
    if engine is None:
        raise UnknownNameError("engine", said.engine, PROFILES, where="--engine")
    if said.max_seqs is not None and said.max_seqs < 1:
        raise InputError("at least 1 sequence runs at once", where="--max-seqs")
    seqs = said.max_seqs or MAX_SEQS.get(chip_of(chip).name, profile(engine).max_batch)
    return ServingConfig(
        model=model, chip=chip, engine=engine, engine_version=said.engine_version,
        gemm_dtype=weights, tp=said.tp, dp=said.dp, ep=said.ep, max_batch=seqs * said.dp,
        chunk_tokens=CHUNK_TOKENS,
    )  # fmt: skip


def _named(path: Path) -> tuple[str, str]:
    """Chip and model from a name such as ``..._RTX4090_Llama-3.1-8B.csv``, in that order."""
    words = path.name.removesuffix(".gz").removesuffix(".csv").split("_")
    for at in range(len(words) - 1):
        for end in range(at + 1, min(at + 4, len(words))):
            try:
                chip = chip_named(" ".join(words[at:end]))
            except InputError:
                continue
            model = model_name("-".join(words[end:]))
            if bundled_name(model) is not None:
                return chip, model
    raise InputError("the file's name tells neither machine nor model", where=str(path),
                     hint="give --chip and --model")  # fmt: skip


def _as_score(
    path: Path, config: ServingConfig, found: dict[str, FloatArray],
    measured: dict[str, FloatArray],
) -> dict[str, Any]:  # fmt: skip
    metrics: dict[str, Any] = {}
    entry: dict[str, Any] = {
        "id": path.name, "model": config.model, "chip": config.chip_name,
        "engine": config.engine, "version": config.engine_version, "mode": "agg",
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
    count, fit = len(measured["ttft"]), metrics["ttft"]["rows"]
    layout = " ".join(f"{k.upper()}{v}" for k, v in (
        ("tp", config.tp), ("dp", config.dp), ("ep", config.ep)) if v > 1)  # fmt: skip
    return {
        "summary": {"rows": count, "predicted": fit, "stating_their_configuration": count,
                    "answered_of_stated_pct": math.floor(1e4 * fit / count) / 100, **metrics},
        "how": f"every request simulated on {layout or 'one chip'}, {config.gemm_dtype}; bias is "
        "of the mean; nothing was fitted on requests of this machine",
        "groups": [], "rows": [entry],
    }  # fmt: skip
