"""Measured collectives from a CSV file, predicted: per row, and in sum by machine and size band."""

from __future__ import annotations

import csv
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weftline.errors import InputError
from weftline.fabric.facts import machine_facts
from weftline.fabric.predictor.machines import Harness, Machine
from weftline.fabric.predictor.names import bus_factor, collective_name
from weftline.fabric.predictor.predict import Calibration, calibration, size_band
from weftline.fabric.predictor.reading import read_machine

COLUMNS = (
    "system", "fabric", "collective", "algorithm", "ranks", "nodes", "domain", "library",
    "version", "size_bytes", "time_us", "busbw_GBps", "kind", "source",
)  # fmt: skip
LARGE_BYTES = 16 * 2.0**30
"""Rows that state a bandwidth and no size are held against the rate of a buffer this large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCollective:
    """One measured row, understood."""

    line: int
    system: str
    machine: Machine
    collective: str
    algorithm: str
    size_bytes: float
    measured_s: float | None
    """None where the row states neither a time nor a bandwidth: it is predicted all the same."""
    rounding: float
    """Share of the time that the printed digits leave open, each way."""
    harness: Harness
    source: str = ""
    """Who measured it: the repository or the page, without the place in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftCollective:
    """A row without a prediction, and why."""

    line: int
    system: str
    reason: str


def read_collectives(
    path: str | Path,
) -> tuple[list[MeasuredCollective], list[LeftCollective]]:
    """Rows of a CSV file with the columns of published collectives, and rows that have no answer.

    Raises InputError for a file without those columns or with a number that is none.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read `{path}`: {error}") from error
    if not table:
        raise InputError(f"`{path}` has no rows", hint=f"columns: {', '.join(COLUMNS)}")
    missing = [c for c in ("system", "collective", "ranks", "size_bytes") if c not in table[0]]
    if missing:
        raise InputError(
            f"`{path}` lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            where=f"{path}:1", hint=f"columns: {', '.join(COLUMNS)}",
        )  # fmt: skip
    known: list[MeasuredCollective] = []
    left: list[LeftCollective] = []
    for line, record in enumerate(table, start=2):
        row = {k: (v or "").strip() for k, v in record.items() if isinstance(k, str)}
        found = _read_row(row, line, f"{path}:{line}")
        if isinstance(found, LeftCollective):
            left.append(found)
        else:
            known.append(found)
    return known, left


def _read_row(row: dict[str, str], line: int, where: str) -> MeasuredCollective | LeftCollective:
    system = row["system"]

    def leave(reason: str) -> LeftCollective:
        return LeftCollective(line=line, system=system, reason=reason)

    kind = row.get("kind", "") or "measured"
    if not kind.lower().startswith("measured"):
        return leave(f"not a measurement: {kind}")
    ranks = _number(row.get("ranks", ""), "ranks", where)
    if ranks is None:
        return leave("the number of ranks is not stated")
    nodes = _number(row.get("nodes", ""), "nodes", where)
    domain = _number(row.get("domain", ""), "domain", where)
    size = _number(row["size_bytes"], "size_bytes", where)
    if "duplex" in row.get("fabric", "").lower():
        return leave("a sum over both directions is no collective")
    algorithm = row.get("algorithm", "") or "auto"
    word = row.get("library", "") or _library(algorithm)
    version = row.get("version", "") or algorithm
    try:
        machine = read_machine(
            system, row.get("fabric", ""), int(ranks), None if nodes is None else int(nodes),
            domain=None if domain is None else int(domain), library=word, version=version,
        )  # fmt: skip
        collective = collective_name(row["collective"])
    except InputError as error:
        return leave(error.what)
    if size is not None and size <= 0:
        return leave("a size of zero")
    bytes_ = LARGE_BYTES if size is None else size
    measured, rounding = _measured(row, bytes_, bus_factor(collective, machine.ranks), where)
    return MeasuredCollective(
        line=line, system=system, machine=machine, collective=collective, algorithm=algorithm,
        size_bytes=bytes_, measured_s=measured, rounding=rounding,
        harness=_harness(f"{row.get('source', '')} {algorithm}"),
        source=re.split(r"[@ ]", row.get("source", ""), maxsplit=1)[0],
    )  # fmt: skip


def _harness(text: str) -> Harness:
    """How a row was timed, where its source tells."""
    known: dict[str, Harness] = machine_facts()["harnesses"]
    return next((how for words, how in known.items() if words in text), "unsaid")


def _library(algorithm: str) -> str:
    low = algorithm.lower()
    return next((w for w in ("nccl", "rccl", "gloo") if low.startswith(w)), "")


def _measured(
    row: dict[str, str], size: float, factor: float, where: str
) -> tuple[float | None, float]:
    """Seconds, and the half of its last digit that a figure leaves open, as a share."""
    time_us = _number(row.get("time_us", ""), "time_us", where)
    bus = _number(row.get("busbw_GBps", ""), "busbw_GBps", where)
    derived = "derived" in row.get("source", "") or not time_us
    text = row.get("busbw_GBps", "") if derived and bus else row.get("time_us", "")
    rounding = _half_digit(text)
    if time_us:
        return time_us / 1e6, rounding
    if bus:
        return size * factor / (bus * 1e9), rounding
    return None, 0.0


def _half_digit(text: str) -> float:
    """Half of the last printed digit of a number, as a share of it: 0.0 where there is none."""
    try:
        value = abs(float(text))
    except ValueError:
        return 0.0
    decimals = len(text.partition(".")[2])
    return 0.5 * 10.0**-decimals / value if value else 0.0


def _number(text: str, column: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise InputError(f"column `{column}`: `{text}` is not a number", where=where)
    return value


def score_collectives(
    known: Sequence[MeasuredCollective],
    left: Sequence[LeftCollective],
    *,
    fitted: Callable[[MeasuredCollective], Calibration] | None = None,
    how: str | None = None,
) -> dict[str, Any]:
    """Predictions beside measurements, as the dictionary of ``--json``.

    ``fitted`` gives the calibration to use for a row; None uses the shipped one for all.
    """
    shipped = calibration()
    how = how or (
        f"constants of the shipped calibration, fitted on {shipped.record['rows']} published "
        "rows; a row that is among them is not held out here: see --held-out"
    )
    rows: list[dict[str, Any]] = []
    for row in known:
        used = shipped if fitted is None else fitted(row)
        said = used.predict(
            row.machine, row.collective, row.size_bytes, algorithm=row.algorithm,
            harness=row.harness,
        )  # fmt: skip
        measured = row.measured_s
        rows.append({
            "line": row.line, "system": row.system, "machine": row.machine.group,
            "collective": row.collective, "algorithm": said.algorithm, "ranks": row.machine.ranks,
            "size_bytes": row.size_bytes, "band": size_band(row.size_bytes),
            "predicted_s": said.time_s, "low_s": said.low_s, "high_s": said.high_s,
            "parts": dict(said.parts),
            "predicted_busbw_GBps": said.bus_bytes_per_s / 1e9, "measured_s": measured,
            "error_pct": None if not measured else 100 * (said.time_s / measured - 1),
            "rounding_pct": 100 * row.rounding,
            "inside": None if not measured else _inside(said.low_s, said.high_s, measured,
                                                        row.rounding),
            "assumed": row.machine.assumed or None, "reason": None,
        })  # fmt: skip
    skipped = [
        {"line": r.line, "system": r.system, "predicted_s": None, "measured_s": None,
         "error_pct": None, "reason": r.reason}
        for r in left
    ]  # fmt: skip
    bands = {
        b: _sums([r for r in rows if r["band"] == b]) for b in sorted({r["band"] for r in rows})
    }
    return {
        "summary": {"rows": len(rows) + len(skipped), "predicted": len(rows), **_sums(rows)},
        "bands": bands,
        "how": how,
        "groups": [
            {"system": system, "band": band, "rows": len(members), **_sums(members)}
            for (system, band), members in _grouped(rows)
        ],
        "rows": sorted(rows + skipped, key=lambda r: int(r["line"])),
    }


def _inside(low_s: float, high_s: float, measured: float, rounding: float) -> bool:
    """Whether some value that prints as the measured one lies in the band."""
    return low_s <= measured * (1 + rounding) and measured * (1 - rounding) <= high_s


def _grouped(rows: Iterable[dict[str, Any]]) -> list[tuple[tuple[str, str], list[dict[str, Any]]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["system"], row["band"]), []).append(row)
    return sorted(found.items())


def _sums(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    known = [r for r in rows if r["error_pct"] is not None]
    if not known:
        return {"mape_pct": None, "median_pct": None, "p90_pct": None, "bias_pct": None,
                "interval_coverage_pct": None}  # fmt: skip
    errors = [r["error_pct"] for r in known]
    sizes = sorted(abs(e) for e in errors)
    return {
        "mape_pct": statistics.fmean(sizes),
        "median_pct": statistics.median(sizes),
        "p90_pct": sizes[min(math.ceil(0.9 * len(sizes)), len(sizes)) - 1],
        "bias_pct": statistics.fmean(errors),
        "interval_coverage_pct": 100 * statistics.fmean(bool(r["inside"]) for r in known),
    }
