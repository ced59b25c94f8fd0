"""Tokens on disk, and the batch of a step: a function of the seed and the step, with no state.

A folder holds ``index.json`` and files of little-endian uint16 or uint32 tokens, which are mapped,
not read. Sequence n of step s begins at a place that a counter-based generator gives for (seed, s,
n): to go on from a step is exact, on any number of ranks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weftline.errors import InputError

__all__ = ["INDEX_FILE", "Shards", "open_shards"]

INDEX_FILE: Final = "index.json"
INDEX_FORMAT: Final = 1
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shards:
    """The tokens of one folder, in one row."""

    folder: Path
    vocab: int
    tokenizer: str
    """SHA-256 of the tokenizer's file."""
    tokens: int
    ends: NDArray[np.int64]
    """[shards] where each ends in the row."""
    maps: tuple[NDArray[Any], ...]

    def read(self, begin: int, count: int) -> Ids:
        """``count`` tokens from ``begin``, across shards."""
        out = np.empty(count, np.int64)
        done = 0
        shard = int(np.searchsorted(self.ends, begin, side="right"))
        while done < count:
            first = begin + done - (int(self.ends[shard - 1]) if shard else 0)
            piece = self.maps[shard][first : first + count - done]
            out[done : done + len(piece)] = piece
            done += len(piece)
            shard += 1
        return out

    def sequences(self, step: int, rows: range, *, seq_len: int, seed: int) -> Ids:
        """[rows, seq_len + 1] tokens of some sequences of a step; the last column is a target."""
        last = self.tokens - seq_len - 1
        out = np.empty((len(rows), seq_len + 1), np.int64)
        for at, row in enumerate(rows):
            drawn = np.random.Philox(key=[seed, 0], counter=[step, row, 0, 0]).random_raw(1)[0]
            out[at] = self.read(int(int(drawn) * (last + 1) >> 64), seq_len + 1)
        return out


def open_shards(folder: Path, *, seq_len: int) -> Shards:
    """The tokens in a folder. Raises InputError: none, damaged, or too few for one sequence."""
    path = folder / INDEX_FILE
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] != INDEX_FORMAT:
            raise InputError(f"format {index['format']} is not known here", where=str(path))
        dtype = np.dtype(f"<{'u2' if index['dtype'] == 'uint16' else 'u4'}")
        sizes = [int(row["tokens"]) for row in index["shards"]]
        files = [folder / row["file"] for row in index["shards"]]
        vocab, tokenizer = int(index["vocab"]), str(index["tokenizer_sha256"])
    except OSError as error:
        hint = f"`weftline prepare TEXT... -o {folder}` makes it"
        raise InputError(error.strerror or "cannot read", where=str(path), hint=hint) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"not an index of tokens: {error!r}", where=str(path)) from None
    for file, size in zip(files, sizes, strict=True):
        held = file.stat().st_size if file.exists() else -1
        if held != size * dtype.itemsize:
            raise InputError(
                f"holds {held} bytes, its index says {size * dtype.itemsize}", where=str(file),
                hint="run `weftline prepare` again: it makes what is missing",
            )  # fmt: skip
    if sum(sizes) <= seq_len + 1:
        raise InputError(
            f"{sum(sizes):,} tokens are too few for sequences of {seq_len:,}", where=str(folder)
        )
    kept = [(f, s) for f, s in zip(files, sizes, strict=True) if s]
    return Shards(
        folder, vocab, tokenizer, sum(sizes), np.cumsum([s for _, s in kept]),
        tuple(np.memmap(f, dtype, "r") for f, _ in kept),
    )  # fmt: skip
