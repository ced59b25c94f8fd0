"""What a server gave under load, as one row: from our own runs, and from other harnesses' files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from weftline.errors import InputError
from weftline.runtime.load.client import Answer
from weftline.runtime.load.harnesses import READERS
from weftline.runtime.load.served import ServedRow

__all__ = ["FILE", "ServedRow", "read_row", "row_of", "write_row"]

FILE = "serving.json"
"""Its name in the folder of a run."""


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


def read_row(path: Path, point: int | None = None) -> ServedRow:
    """Our own row, or a result of aiperf, ``vllm bench serve`` or guidellm. Raises InputError.

    ``point`` says which, from 1, where a file holds several points of load.
    """
    file = path / FILE if path.is_dir() else path
    found = _rows_in(file)
    if point is None and len(found) > 1:
        said = "; ".join(f"{i}: {_load_of(row)}" for i, row in enumerate(found, 1))
        raise InputError(f"holds {len(found)} points of load ({said})", where=str(file),
                         hint="--point NUMBER says which")  # fmt: skip
    if not 1 <= (point or 1) <= len(found):
        raise InputError(f"there is no point {point}; the file holds {len(found)}",
                         where="--point")  # fmt: skip
    return found[(point or 1) - 1]


def _rows_in(file: Path) -> Sequence[ServedRow]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(file),
                         hint="`weftline bench serving -o DIR` writes one") from None  # fmt: skip
    except ValueError as error:
        raise InputError(f"is not JSON: {error}", where=str(file)) from None
    try:
        if isinstance(data, dict):
            if "ttft_p50_s" in data:
                return [ServedRow(**{f.name: data[f.name] for f in fields(ServedRow)})]
            for mark, reader in READERS.items():
                if mark in data:
                    return reader(data)
    except KeyError as error:
        raise InputError(f"has no field {error}", where=str(file)) from None
    except (TypeError, ValueError, IndexError, AttributeError, StopIteration) as error:
        raise InputError(f"a field is wrong: {error}", where=str(file)) from None
    raise InputError("is no result of a serving benchmark that is known", where=str(file),
                     hint="weftline, aiperf, vllm bench serve, guidellm")  # fmt: skip


def _load_of(row: ServedRow) -> str:
    if row.rate_per_s is not None:
        return f"{row.rate_per_s:g} requests a second"
    return "as many as it takes" if row.concurrency is None else f"{row.concurrency:g} clients"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _at(values: Sequence[float], percentile: float) -> float:
    return float(np.percentile(values, percentile))
