"""A plan beside a run of it as a page: each predicted part and the measured one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.parts import capital
from weftline.report.training import amount

__all__ = ["comparison_page"]

_UNITS: Final = {"s": "seconds", "B": "bytes"}


def comparison_page(answer: Mapping[str, Any]) -> Page:
    """The page of ``compare --json``. Raises KeyError where a field lacks."""
    rows = answer["rows"]
    both = [r for r in rows if r["predicted"] and r["measured"] is not None]
    first = both[0] if both else None
    headline = f"{answer['model']}, {answer['layout']}: {answer['steps']:,} steps measured"
    if first is not None:
        ratio = first["measured"] / first["predicted"]
        headline += f"; {first['name'].strip()} {ratio:.2f} times what was predicted"
    said = "The plan is about this very run." if answer["same"] else (
        f"The plan is about other things: {answer['other']}; ratios say how they differ, not how "
        "well it predicts."
    )  # fmt: skip
    charts = tuple(_pairs(unit, [r for r in both if r["unit"] == unit])
                   for unit in _UNITS if any(r["unit"] == unit for r in both))  # fmt: skip
    table = Table(
        columns=("", "predicted", "measured", "ratio", "rests on"), right=frozenset({1, 2, 3}),
        rows=tuple(
            (r["name"].strip(), amount(r["predicted"], r["unit"]),
             amount(r["measured"], r["unit"]),
             f"{r['measured'] / r['predicted']:.2f}" if r in both else "", r["basis"])
            for r in rows
        ),
    )  # fmt: skip
    return Page(
        title=f"weftline: {answer['model']} predicted and measured", headline=headline,
        lead=(said,),
        sections=(Section(title="Predicted beside measured", charts=charts, tables=(table,),
                          says=tuple(answer["explains"]) if answer["same"] else ()),),
        made="The answer's JSON has every field.",
    )  # fmt: skip


def _pairs(unit: str, rows: Sequence[Mapping[str, Any]]) -> Chart:
    off = max(rows, key=lambda r: abs(r["measured"] - r["predicted"]))
    title = f"{capital(off['name'].strip())} differs most: {amount(off['measured'], unit)} for " + (
        f"{amount(off['predicted'], unit)}"
    )
    return Chart(
        title=title, kind="pairs", size="tall" if len(rows) > 8 else "",
        data={"x": {"name": _UNITS[unit], "unit": unit}, "names": ["predicted", "measured"],
              "rows": [{"name": r["name"].strip(), "first": r["predicted"],
                        "second": r["measured"]} for r in rows]},
        table=Table(columns=("", "predicted", "measured"), right=frozenset({1, 2}), rows=tuple(
            (r["name"].strip(), amount(r["predicted"], unit), amount(r["measured"], unit))
            for r in rows)),
    )  # fmt: skip
