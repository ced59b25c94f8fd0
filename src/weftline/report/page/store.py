"""A store of checkpoints as a page: what is kept, what each added, what is damaged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.units import format_bytes

__all__ = ["checkpoint_page", "store_page"]

_SHOWN: Final = 200
_LARGEST: Final = 20


def store_page(answer: Mapping[str, Any]) -> Page:
    """The page of ``burst ls --json``. Raises KeyError where a field lacks."""
    found, damaged = answer["checkpoints"], answer["damaged"]
    raw, stored = (sum(c[f"{what}_bytes"] for c in found) for what in ("raw", "stored"))
    newest = max(found, key=lambda c: c["sequence"], default=None)
    headline = "No checkpoint" if newest is None else (
        f"{len(found):,} checkpoints, the newest step {newest['step']:,} of {_day(newest)}"
    )  # fmt: skip
    sections = []
    if found:
        sections.append(Section(title="What is kept", charts=(_sizes(found, raw, stored),)))
    if damaged:
        table = Table(columns=("step", "what is wrong", "file"), right=frozenset({0}), rows=tuple(
            (str(d["step"]), d["what"], d["file"]) for d in damaged))  # fmt: skip
        sections.append(Section(title="What is damaged", tables=(table,)))
    return Page(
        title="weftline: a store of checkpoints",
        headline=headline + (f"; {len(damaged)} damaged" if damaged else ""),
        lead=(f"{answer['where']}: {format_bytes(raw)} of state, {format_bytes(stored)} written.",),
        sections=tuple(sections), made="The answer's JSON has every field.",
    )  # fmt: skip


def _sizes(found: list[Mapping[str, Any]], raw: int, stored: int) -> Chart:
    rows = sorted(found, key=lambda c: c["step"])
    title = "Every checkpoint was written whole" if stored >= 0.99 * raw else (
        f"{format_bytes(raw - stored)} of {format_bytes(raw)} was there already and not written "
        "again"
    )  # fmt: skip
    table = Table(
        columns=("step", "made", "processes", "state", "written", "held by"),
        right=frozenset({0, 2, 3, 4}),
        rows=tuple((f"{c['step']:,}", _day(c), str(c["world"]), format_bytes(c["raw_bytes"]),
                    format_bytes(c["stored_bytes"]), ", ".join(c["pinned"]))
                   for c in rows[-_SHOWN:]),
        left_out=max(0, len(rows) - _SHOWN),
    )  # fmt: skip
    return Chart(
        title=title, kind="line", table=table,
        data={"x": {"name": "step", "unit": ""}, "y": {"name": "bytes", "unit": "B", "min": 0},
              "series": [{"name": name, "points": [[c["step"], c[field]] for c in rows]}
                         for name, field in (("state", "raw_bytes"), ("written", "stored_bytes"))],
              "marks": []},
    )  # fmt: skip


def checkpoint_page(answer: Mapping[str, Any]) -> Page:
    """The page of ``burst show --json``: the tensors of one checkpoint. Raises KeyError."""
    tensors = sorted(answer["tensors"], key=lambda t: -t["bytes"])
    total = sum(t["bytes"] for t in tensors) or 1
    table = Table(
        columns=("tensor", "dtype", "shape", "bytes", "blocks"), right=frozenset({3, 4}),
        rows=tuple((t["name"], t["dtype"], " x ".join(map(str, t["shape"])),
                    format_bytes(t["bytes"]), str(t["blocks"])) for t in tensors[:_SHOWN]),
        left_out=max(0, len(tensors) - _SHOWN),
    )  # fmt: skip
    shown = tensors[:_LARGEST]
    sections: tuple[Section, ...] = (Section(title="Tensors", tables=(table,)),)
    if shown:
        chart = Chart(
            title=f"{shown[0]['name']} is the largest: {shown[0]['bytes'] / total:.0%} of the "
                  "state",
            kind="bars", size="tall" if len(shown) > 6 else "short", table=table,
            data={"name": "bytes", "unit": "B", "rows": [
                {"name": t["name"], "value": t["bytes"], "best": i == 0}
                for i, t in enumerate(shown)]},
        )  # fmt: skip
        sections = (Section(title="Tensors", charts=(chart,)),)
    return Page(
        title=f"weftline: checkpoint {answer['step']}",
        headline=f"Step {answer['step']:,}: {len(tensors):,} tensors, "
                 f"{format_bytes(answer['raw_bytes'])}",
        lead=(f"{answer['where']}, {_day(answer)}; {answer['world']} processes; "
              f"{format_bytes(answer['stored_bytes'])} written; held by "
              f"{', '.join(answer['pinned']) or 'nobody'}.",),
        sections=sections, made="The answer's JSON has every field.",
    )  # fmt: skip


def _day(found: Mapping[str, Any]) -> str:
    return f"{datetime.fromtimestamp(found['created_unix_s'], UTC):%Y-%m-%d %H:%M} UTC"
