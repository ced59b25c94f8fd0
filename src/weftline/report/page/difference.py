"""Two plans beside each other as a page: which numbers moved, by how much, and what was changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from weftline.report.difference import moved_row
from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.spec.difference import Moved

__all__ = ["difference_page"]

_OF: Final = {"train": "plans to train", "serve": "plans to serve", "lifecycle": "whole lives"}
_SHOWN: Final = 20


def difference_page(answer: Mapping[str, Any]) -> Page:
    """The page of ``diff --json``. Raises KeyError where a field lacks."""
    moved = [Moved(**{k: v for k, v in m.items() if k != "share"}) for m in answer["moved"]]
    changed = [m for m in moved if m.before != m.after]
    known = sorted((m for m in changed if m.share is not None), key=lambda m: -abs(m.share or 0.0))
    sections = []
    if known:
        sections.append(Section(title="What moved", charts=(_chart(known, changed),)))
    elif changed:
        sections.append(Section(title="What moved", tables=(_table(changed),)))
    sections += [
        Section(title=title, tables=(Table(
            columns=("field", "first", "second"),
            rows=tuple((c["field"].replace("_", " "), c["before"], c["after"])
                       for c in answer[name])),))
        for title, name in (("Asked", "asked"), ("Chosen", "chosen")) if answer[name]
    ]  # fmt: skip
    headline = "The same numbers" if not changed else (
        f"{len(changed)} of {len(moved)} numbers moved, "
        f"{sum(m.apart for m in changed)} beyond what is not known"
    )  # fmt: skip
    return Page(
        title="weftline: two plans", headline=headline,
        lead=(f"The second of two {_OF.get(answer['of'], 'plans')} over the first.",),
        sections=tuple(sections), made="The answer's JSON has every field.",
    )  # fmt: skip


def _table(changed: list[Moved]) -> Table:
    return Table(columns=("", "first", "second", "change", ""), right=frozenset({1, 2, 3}),
                 rows=tuple(moved_row(m) for m in changed))  # fmt: skip


def _chart(known: list[Moved], changed: list[Moved]) -> Chart:
    first = known[0]
    shown = known[:_SHOWN]
    apart = "" if not first.apart else "; the bands do not meet"
    return Chart(
        title=f"{first.name.replace('_', ' ').capitalize()} moved most: {first.share:+.1%}{apart}",
        kind="bars", size="tall" if len(shown) > 6 else "short" if len(shown) < 3 else "",
        data={"name": "second over first, less 1", "unit": "1", "rows": [
            {"name": m.name.replace("_", " "), "value": m.share, "best": m.apart,
             "says": list(moved_row(m)[1:3])} for m in shown]},
        table=_table(changed),
        note="Blue where the 90 % bands do not meet: the difference is more than is unknown.",
    )  # fmt: skip
