"""Trace files: CSV with our columns, Azure's, BurstGPT's, or Mooncake's JSON lines.

Each wrong cell is named with line, column and what was expected; twenty at most.

Formats, told apart by the header (or a first ``{``):

- ``arrived_at,num_prefill_tokens,num_decode_tokens[,hash_ids]``: seconds; hash_ids are whole
  numbers between blanks, one for each 512 tokens of the prompt
- ``TIMESTAMP,ContextTokens,GeneratedTokens``: Azure's public traces, a date and a time
- ``Timestamp,Model,Request tokens,Response tokens,...``: BurstGPT, seconds
- ``{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}``: Mooncake,
  milliseconds, one object a line; with ``session_id``, and ``delay`` (milliseconds after the answer
  before) in later turns, aiperf's sessions
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from weftline.errors import InputError, InputErrors
from weftline.serve.simulate.sessions import Turn, joined
from weftline.spec import Traffic

MAX_TRACE_BYTES: Final = 1 << 30
MAX_MISTAKES: Final = 20
HASH_BLOCK_TOKENS: Final = 512
"""Tokens of one hash in Mooncake's format."""
_HINT: Final = (
    "columns arrived_at,num_prefill_tokens,num_decode_tokens[,hash_ids], "
    "or a trace of Azure, BurstGPT or Mooncake as published"
)


class _Columns(NamedTuple):
    """Names of the columns of one format and how its times read."""

    arrived: str
    prefill: str
    decode: str
    hashes: str | None
    time: Callable[[str], float]
    time_expected: str


def read_trace(path: Path) -> Traffic:
    """The requests of a trace file, in order of arrival, from time zero. Raises InputError(s)."""
    try:
        if path.stat().st_size > MAX_TRACE_BYTES:
            raise InputError("larger than 1 GiB", where=str(path), hint="cut the trace")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(error.strerror or "cannot read", where=str(path), hint=_HINT) from None
    except UnicodeDecodeError:
        raise InputError("not a text file", where=str(path), hint=_HINT) from None
    return parse_trace(text, where=str(path), name=path.name)


def parse_trace(text: str, *, where: str = "trace", name: str = "trace") -> Traffic:
    """The requests in ``text``; see :func:`read_trace`."""
    mistakes: list[InputError] = []
    if text.lstrip().startswith("{") and '"session_id"' in text.lstrip().partition("\n")[0]:
        turns = list(_json_lines(text, where, mistakes, _json_turn))
        _raise_all(mistakes)
        return joined(turns, name=name, hash_block_tokens=HASH_BLOCK_TOKENS)
    rows = _json_rows if text.lstrip().startswith("{") else _csv_rows
    arrived: list[float] = []
    prefill: list[int] = []
    decode: list[int] = []
    hashes: list[Sequence[int]] = []
    for at, row in enumerate(rows(text, where, mistakes)):
        if at > 2_000_000_000 or len(mistakes) >= MAX_MISTAKES:
            break
        arrived.append(row[0])
        prefill.append(row[1])
        decode.append(row[2])
        hashes.append(row[3])
    _raise_all(mistakes)
    if not arrived:
        raise InputError("no requests in it", where=where, hint=_HINT)
    order = np.argsort(np.array(arrived), kind="stable")
    times = np.array(arrived)[order]
    starts = ids = None
    if any(hashes):
        counts = np.array([len(hashes[i]) for i in order])
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        flat = np.array([h for i in order for h in hashes[i]], dtype=np.int64)
        # Dense ids, so that a simulator can index arrays with them.
        ids = np.unique(flat, return_inverse=True)[1].astype(np.int64)
    return Traffic(
        name=name, arrived_s=times - times[0],
        prefill_tokens=np.array(prefill, dtype=np.int64)[order],
        decode_tokens=np.array(decode, dtype=np.int64)[order],
        hash_starts=starts, hash_ids=ids,
    )  # fmt: skip


def _raise_all(mistakes: list[InputError]) -> None:
    if mistakes:
        raise mistakes[0] if len(mistakes) == 1 else InputErrors(mistakes[:MAX_MISTAKES])


_Row = tuple[float, int, int, Sequence[int]]


def _csv_rows(text: str, where: str, mistakes: list[InputError]) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text))
    try:
        header = [cell.strip() for cell in next(reader, [])]
        columns = _columns(header, where)
        place = {c: header.index(c) for c in columns[:3]}
        hashed = header.index(columns.hashes) if columns.hashes in header else None
        for cells in reader:
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue
            if row := _csv_row(cells, header, columns, place, hashed,
                               f"{where}:{reader.line_num}", mistakes):  # fmt: skip
                yield row
            if len(mistakes) >= MAX_MISTAKES:
                return
    except csv.Error as error:
        raise InputError(f"not CSV: {error}", where=f"{where}:{reader.line_num}") from None


def _csv_row(
    cells: list[str], header: list[str], columns: _Columns, place: dict[str, int],
    hashed: int | None, where: str, mistakes: list[InputError],
) -> _Row | None:  # fmt: skip
    """One row, or None with its mistakes noted."""
    if len(cells) != len(header):
        mistakes.append(
            InputError(
                f"{len(cells)} columns, expected {len(header)} as in the header", where=where
            )
        )
        return None  # fmt: skip
    before = len(mistakes)

    def cell(index: int, parse: Callable[[str], Any], expected: str) -> Any:
        try:
            return parse(cells[index])
        except (ValueError, OverflowError):
            said = f"column {index + 1} ({header[index]}): `{cells[index].strip()[:40]}`"
            mistakes.append(InputError(f"{said}, expected {expected}", where=where))
            return None

    arrived = cell(place[columns.arrived], columns.time, columns.time_expected)
    prefill = cell(place[columns.prefill], _count, "a whole number of at least 1")
    decode = cell(place[columns.decode], _count, "a whole number of at least 1")
    found: Sequence[int] = ()
    if hashed is not None:
        found = cell(hashed, _ids, "whole numbers that differ, between blanks") or ()
    return None if len(mistakes) > before else (arrived, prefill, decode, found)


def _columns(header: list[str], where: str) -> _Columns:
    known = (
        _Columns("arrived_at", "num_prefill_tokens", "num_decode_tokens", "hash_ids", _seconds,
                 "seconds of at least 0"),
        _Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens", None, _date,
                 "a time such as 2023-11-16 18:17:03.97"),
        _Columns("Timestamp", "Request tokens", "Response tokens", None, _seconds,
                 "seconds of at least 0"),
    )  # fmt: skip
    for columns in known:
        if all(name in header for name in columns[:3]):
            return columns
    nearest = max(known, key=lambda c: sum(name in header for name in c[:3]))
    lacking = [name for name in nearest[:3] if name not in header]
    found = ", ".join(f"`{h[:30]}`" for h in header[:8]) or "nothing"
    raise InputError(
        f"the header lacks {', '.join(f'`{c}`' for c in lacking)}; it has {found}",
        where=f"{where}:1", hint=_HINT,
    )  # fmt: skip


def _json_rows(text: str, where: str, mistakes: list[InputError]) -> Iterator[_Row]:
    yield from _json_lines(text, where, mistakes, _json_row)


def _json_lines(
    text: str, where: str, mistakes: list[InputError],
    read: Callable[[Any, str, list[InputError]], Any],
) -> Iterator[Any]:  # fmt: skip
    """Every line as ``read`` makes something of it; what is wrong with one is noted."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        at = f"{where}:{number}"
        try:
            held = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            column = getattr(error, "colno", 1)
            mistakes.append(InputError(f"column {column}: not JSON", where=at))
            continue
        if (row := read(held, at, mistakes)) is not None:
            yield row
        if len(mistakes) >= MAX_MISTAKES:
            return


def _take(held: Any, key: str, fits: Callable[[Any], bool], expected: str, where: str,
          mistakes: list[InputError]) -> Any:  # fmt: skip
    """A field of an object, None with the mistake noted where it is not what was expected."""
    value = held.get(key) if isinstance(held, dict) else None
    if not fits(value):
        shown = "missing" if value is None else f"`{json.dumps(value)[:40]}`"
        mistakes.append(InputError(f"`{key}`: {shown}, expected {expected}", where=where))
        return None
    return value


def _is_number(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf


def _is_count(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool) and v >= 1


def _are_ids(v: Any) -> bool:
    if v is None:
        return True
    whole = isinstance(v, list) and all(h == 0 or _is_count(h) for h in v)
    return whole and len(set(v)) == len(v)


def _lengths(held: Any, where: str, mistakes: list[InputError]) -> tuple[int, int, Sequence[int]]:
    """Prompt, answer and prefix blocks of an object."""
    whole = "a whole number of at least 1"
    prefill = _take(held, "input_length", _is_count, whole, where, mistakes)
    decode = _take(held, "output_length", _is_count, whole, where, mistakes)
    hashes = _take(held, "hash_ids", _are_ids, "a list of whole numbers that differ", where,
                   mistakes)  # fmt: skip
    return prefill, decode, hashes or ()


def _json_row(held: Any, where: str, mistakes: list[InputError]) -> _Row | None:
    before = len(mistakes)
    arrived = _take(held, "timestamp", _is_number, "milliseconds of at least 0", where, mistakes)
    rest = _lengths(held, where, mistakes)
    return None if len(mistakes) > before else (arrived / 1000.0, *rest)


def _json_turn(held: Any, where: str, mistakes: list[InputError]) -> Turn | None:
    before = len(mistakes)
    session = _take(held, "session_id", lambda v: isinstance(v, str | int) and v != "",
                    "a name in every line of a file of sessions", where, mistakes)  # fmt: skip
    times = [_take(held, key, lambda v: v is None or _is_number(v), "milliseconds of at least 0",
                   where, mistakes) for key in ("timestamp", "delay")]  # fmt: skip
    prompt, answer, hashes = _lengths(held, where, mistakes)
    if len(mistakes) > before:
        return None
    at, delay = (None if t is None else t / 1000.0 for t in times)
    return Turn(session=str(session), at_s=at, delay_s=delay, prompt=prompt, answer=answer,
                hashes=tuple(hashes))  # fmt: skip


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError
    return value


def _date(text: str) -> float:
    # Azure writes seven digits after the point; datetime takes six.
    whole, point, rest = text.strip().partition(".")
    digits = rest[: next((i for i, c in enumerate(rest) if not c.isdigit()), len(rest))]
    zone = rest[len(digits) :]
    micro = f"{point}{digits[:6]:0<6}" if point else ""
    moment = datetime.datetime.fromisoformat(f"{whole}{micro}{zone}")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value < 2**40:
        raise ValueError
    return value


def _ids(text: str) -> tuple[int, ...]:
    found = tuple(int(part) for part in text.split())
    if any(not 0 <= h < 2**62 for h in found) or len(set(found)) < len(found):
        raise ValueError
    return found
