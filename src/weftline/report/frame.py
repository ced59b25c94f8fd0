"""What the answers of training and serving plans share: reasons, numbers with bands, breakdowns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from weftline.report.offers import listed, with_age
from weftline.report.text import in_words, table, wrapped
from weftline.spec import Estimate, Part

__all__ = ["bases", "breakdown", "more", "numbers", "reasons"]

Show = Callable[[float], str]


def reasons(why: Sequence[str], flips: Sequence[str]) -> list[str]:
    """Why the answer is the best, and what would make another one better."""
    lines = ["Why"]
    for text in why:
        # Only a price names a day: its age is that of the day it is read.
        told = with_age(text) if text.startswith("price: ") else text
        lines += wrapped(told, indent="  ", hang="  ")
    if flips:
        lines += ["", "What would flip it"]
        for text in flips:
            lines += wrapped(text, indent="  ", hang="  ")
    return lines


def numbers(
    estimates: Mapping[str, Estimate], rows: Sequence[tuple[str, str, Show]], *, ends: str
) -> list[str]:
    """A line for each estimate there is: its value, its band, what it rests on.

    ``rows`` are (label, name of the estimate, how it is written); a basis is cut at the first of
    the characters ``ends``.
    """
    lines = []
    for label, name, show in rows:
        e = estimates.get(name)
        if e is not None:
            basis = listed(re.split(f"[{ends}]", in_words(e.basis), maxsplit=1)[0])
            lines.append((label, show(e.value), f"{show(e.low)} to {show(e.high)}", basis))
    return table(("", "estimate", "90 % band", "rests on"), lines, right=frozenset({1}), fold=True)


def breakdown(what: str, parts: Sequence[Part], total: float, show: Show) -> list[str]:
    """Parts of a sum with their shares; ``what`` heads their column."""
    rows = [(p.name, show(p.value), f"{p.value / total:.1%}", in_words(p.basis)) for p in parts]
    return table(("", what, "share", "rests on"), rows, right=frozenset({1, 2}), fold=True)


def bases(estimates: Mapping[str, Estimate]) -> list[str]:
    """What each number rests on, in full."""
    lines = ["What each number rests on"]
    for name, e in estimates.items():
        lines += wrapped(
            f"{name.replace('_', ' ')} [{e.unit}]: {in_words(e.basis)}", indent="  ", hang="  "
        )
    return lines


def more(count: int, shown: int) -> list[str]:
    """The line below a ranking that was cut, if it was."""
    return [f"   and {count - shown} more in --json"] if count > shown else []
