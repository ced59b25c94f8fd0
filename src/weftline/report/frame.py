"""What the answers of training and serving plans share: reasons, numbers with bands, breakdowns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from weftline.report.offers import listed, with_age
from weftline.report.text import in_words, table, wrapped
from weftline.spec import Estimate, Part, Plan, ServePlan

__all__ = [
    "bases", "breakdown", "explained", "more", "noted", "numbers", "reasons", "remarks",
    "shown_ranks",
]  # fmt: skip

RANKS_SHOWN = 12
UNPRICED_SHOWN = 6

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


def remarks(notes: Sequence[str]) -> list[str]:
    """What of the model is not counted or taken for granted, under the line that names it."""
    return wrapped(f"model: {'; '.join(notes)}", indent="      ", hang="      ") if notes else []


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


def explained(plan: Plan | ServePlan) -> dict[str, Any]:
    """Where a plan goes, as plain tables: parts of the step, the memory and the money, estimates
    with what they rest on, and chips without a plan."""
    groups = {"step": plan.step_parts, "memory": plan.memory_parts}
    if isinstance(plan, Plan):
        groups["money"] = plan.cost_parts
    return {
        "parts": [{"of": of, **asdict(part)} for of, parts in groups.items() for part in parts],
        "estimates": {name: asdict(e) for name, e in plan.estimates.items()},
        "why": [{"said": text} for text in plan.why],
        "flips": [{"said": text} for text in plan.flips],
        "without_plan": [asdict(r) for r in plan.without_plan],
    }


def bases(estimates: Mapping[str, Estimate]) -> list[str]:
    """What each number rests on, in full."""
    lines = ["What each number rests on"]
    for name, e in estimates.items():
        lines += wrapped(
            f"{name.replace('_', ' ')} [{e.unit}]: {in_words(e.basis)}", indent="  ", hang="  "
        )
    return lines


def shown_ranks(priced: Sequence[bool]) -> tuple[list[int], int]:
    """(ranks that a table shows, how many it leaves out): the first, and the first few beyond them
    that have no price, which money cannot rank."""
    ranks = list(range(min(RANKS_SHOWN, len(priced))))
    beyond = [i for i in range(len(ranks), len(priced)) if not priced[i]]
    room = max(0, UNPRICED_SHOWN - sum(not priced[i] for i in ranks))
    ranks += beyond[:room]
    return ranks, len(priced) - len(ranks)


def noted(title: str, notes: Sequence[tuple[str, str]]) -> list[str]:
    """``title: note: a, b; other note: c``: what is said of chips, each note once; nothing of none.

    Of a note its first clause is taken.
    """
    by_note: dict[str, list[str]] = {}
    for name, note in notes:
        by_note.setdefault(note.partition(";")[0], []).append(name)
    said = "; ".join(f"{note}: {', '.join(names)}" for note, names in by_note.items())
    if not said:
        return []
    return wrapped(f"{title}: {said}" if title else said[0].upper() + said[1:], hang="  ")


def more(left_out: int) -> list[str]:
    """The line below a ranking that was cut, if it was."""
    return [f"   and {left_out} more in --json"] if left_out else []
