"""Host lists as Slurm writes them: ``n[00-15,17],login1`` and back.

A bracket holds numbers and ranges; leading zeros fix the width; several brackets multiply, the last
one fastest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from weftline.errors import InputError

MOST_HOSTS = 1_000_000
"""A longer list is a typing mistake (``n[0-9999999999]``), not a cluster."""
_TAIL = re.compile(r"^(.*?)(\d+)$", re.DOTALL)


def expand_hosts(text: str, *, where: str | None = None) -> list[str]:
    """``n[0-2],x`` -> n0, n1, n2, x in order; raises InputError for what is no host list."""
    found: list[str] = []
    for part in _split(text, where):
        found += _expand(part, where, MOST_HOSTS - len(found))
    return found


def _split(text: str, where: str | None) -> list[str]:
    parts: list[str] = []
    depth = start = 0
    for i, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth < 0 or depth > 1:
            break
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth != 0:
        raise InputError(
            f"`{text}` is no host list: brackets do not match", where=where,
            hint="for example n[00-15,17]",
        )  # fmt: skip
    parts.append(text[start:])
    return [p.strip() for p in parts if p.strip()]


def _expand(part: str, where: str | None, room: int) -> list[str]:
    match = re.match(r"^([^\[\]]*)\[([^\[\]]*)\](.*)$", part, re.DOTALL)
    if match is None:
        if re.search(r"\s", part):
            raise InputError(f"`{part}` is no host name", where=where, hint="separate by commas")
        return [part]
    head, inside, tail = match.groups()
    numbers = _numbers(inside, part, where, room)
    tails = _expand(tail, where, room) if tail else [""]
    if len(numbers) * len(tails) > room:
        raise InputError(f"`{part}` names more than {MOST_HOSTS:,} hosts", where=where)
    return [head + n + t for n in numbers for t in tails]


def _numbers(inside: str, part: str, where: str | None, room: int) -> list[str]:
    found: list[str] = []
    for piece in inside.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", piece)
        if match is None or len(piece) > 40:
            raise InputError(
                f"`{piece}` in `{part}` is no number and no range", where=where,
                hint="for example n[00-15,17]",
            )  # fmt: skip
        low, high = match[1], match[2] or match[1]
        if int(high) < int(low):
            raise InputError(f"range `{piece}` in `{part}` runs backwards", where=where)
        if int(high) - int(low) >= room:
            raise InputError(f"`{part}` names more than {MOST_HOSTS:,} hosts", where=where)
        found += [str(i).zfill(len(low)) for i in range(int(low), int(high) + 1)]
    return found


def compress_hosts(hosts: Iterable[str]) -> str:
    """Hosts -> the host list that expands to them in the same order."""
    parts: list[str] = []
    for (head, width), members in groupby(hosts, key=_head):
        numbers = [_number(m) for m in members]
        if width == 0:
            parts += [head] * len(numbers)
            continue
        runs = _runs([int(n) for n in numbers])
        pieces = [
            str(a).zfill(width) if a == b else f"{str(a).zfill(width)}-{str(b).zfill(width)}"
            for a, b in runs
        ]
        single = len(pieces) == 1 and "-" not in pieces[0]
        parts.append(head + pieces[0] if single else f"{head}[{','.join(pieces)}]")
    return ",".join(parts)


def _head(host: str) -> tuple[str, int]:
    match = _TAIL.match(host)
    return (match[1], len(match[2])) if match else (host, 0)


def _number(host: str) -> str:
    match = _TAIL.match(host)
    return match[2] if match else ""


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], n)
        else:
            runs.append((n, n))
    return runs
