"""Rows of measured kernel times as columns of NumPy arrays, from the tables given by path.

Parquet needs pyarrow, which weftline does not depend on: only the fit reads it.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError

Columns = dict[str, npt.NDArray[Any]]


def read_columns(path: Path) -> Columns:
    """All columns of a ``.parquet``, ``.csv`` or ``.csv.gz`` table.

    Raises InputError where the file is missing, or is parquet and pyarrow is not installed.
    """
    if not path.is_file():
        raise InputError("no such table of kernel times", where=str(path))
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            return _csv(file)
    with path.open(encoding="utf-8", newline="") as file:
        return _csv(file)


def _parquet(path: Path) -> Columns:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise InputError(
            "reading parquet needs pyarrow",
            where=str(path),
            hint="`pip install pyarrow` in the environment that runs the fit",
        ) from error
    table = parquet.read_table(path).to_pydict()
    return {name: np.asarray(values) for name, values in table.items()}


def _csv(file: Any) -> Columns:
    reader = csv.reader(file)
    names = next(reader)
    rows = list(reader)
    return {name: _typed([row[i] for row in rows]) for i, name in enumerate(names)}


def _typed(values: list[str]) -> npt.NDArray[Any]:
    try:
        return np.asarray([float(v) if v else np.nan for v in values])
    except ValueError:
        return np.asarray(values)


def where(columns: Columns, keep: npt.NDArray[np.bool_]) -> Columns:
    """The rows for which ``keep`` is true."""
    return {name: values[keep] for name, values in columns.items()}


def fastest(columns: Columns, keys: Sequence[str], value: str = "latency") -> Columns:
    """One row for each distinct combination of ``keys``: the fastest (engines take it)."""
    if not len(columns[value]):
        return {name: columns[name] for name in (*keys, value)}
    stacked = np.stack([np.asarray(columns[k], dtype=np.float64) for k in keys], axis=1)
    distinct, inverse = np.unique(stacked, axis=0, return_inverse=True)
    least = np.full(len(distinct), np.inf)
    np.minimum.at(least, inverse.ravel(), np.asarray(columns[value], dtype=np.float64))
    found: Columns = {k: distinct[:, i] for i, k in enumerate(keys)}
    found[value] = least
    return found
