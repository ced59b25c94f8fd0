"""Audited claims as a page: how many hold, each beside what is found here, what shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.parts import joined, made_by
from weftline.spec.audit import VERDICTS
from weftline.units import format_number

__all__ = ["audit_page"]

_SAID: Final = {
    "holds": ("holds", "hold"), "fails": ("fails", "fail"),
    "conditional": ("holds on a condition", "hold on a condition"),
    "undecidable": ("cannot be decided", "cannot be decided"),
    "arithmetic": ("is arithmetic", "are arithmetic"),
}  # fmt: skip
"""Verdict -> how a sentence says it of one claim, of several."""
_MEANS: Final = {
    "holds": "recomputed, within the claim",
    "fails": "recomputed, outside of it",
    "conditional": "under a condition that is said",
    "undecidable": "something is missing that no command supplies",
    "arithmetic": "states no figure; what follows from its words",
}


def audit_page(answer: Mapping[str, Any]) -> Page:
    """The page of ``audit --json``. Raises KeyError where a field lacks."""
    audited = answer["audited"]
    count = Counter(a["verdict"] for a in audited)
    said = ", ".join(f"{count[v]} {_SAID[v][count[v] > 1]}" for v in VERDICTS if count[v])
    made = "chips nobody sells: " + ", ".join(answer["hypothetical"])
    first = audited[0]
    headline = f"{len(audited)} published claims recomputed: {said}"
    if len(audited) == 1:
        headline = f"{first['claim']['id']} {first['verdict']}: {first['condition']}"
    return Page(
        title="weftline: published claims", headline=headline,
        lead=("Each claim through a command that anybody can run.",
              *((made,) if answer["hypothetical"] else ())),
        sections=(_verdicts(audited, count), _claims(audited), _evidence(audited)),
        made=made_by(answer["weftline"], answer["catalog_date"]),
    )  # fmt: skip


def _verdicts(audited: Sequence[Mapping[str, Any]], count: Counter[str]) -> Section:
    decided = count["holds"] + count["fails"]
    chart = Chart(
        title=f"{count['holds']} of {decided} claims that can be decided outright hold; "
              f"{len(audited) - decided} need a condition or more than is published",
        kind="bars", size="short",
        data={"name": "claims", "unit": "", "rows": [
            {"name": v, "value": count[v], "best": v == "holds", "says": [_MEANS[v]]}
            for v in VERDICTS if count[v]]},
        table=Table(columns=("verdict", "claims", "means"), right=frozenset({1}), rows=tuple(
            (v, str(count[v]), _MEANS[v]) for v in VERDICTS if count[v])),
    )  # fmt: skip
    return Section(title="Which claims hold", charts=(chart,))


def _claims(audited: Sequence[Mapping[str, Any]]) -> Section:
    table = Table(
        columns=("", "verdict", "claimed", "here", "condition, or what is missing"),
        rows=tuple(
            (a["claim"]["id"], a["verdict"], f"{a['claim']['metric']} {a['claim']['value']}",
             _here(a), joined(a["condition"], a["missing"])) for a in audited),
    )  # fmt: skip
    return Section(title="Each claim beside what is found here", tables=(table,))


def _here(a: Mapping[str, Any]) -> str:
    if a["value"] is None:
        return ""
    text = f"{format_number(a['value'])} {a['unit']}".strip()
    if a["low"] is not None and a["high"] is not None and a["low"] != a["high"]:
        text += f" ({format_number(a['low'])} to {format_number(a['high'])})"
    return text


def _evidence(audited: Sequence[Mapping[str, Any]]) -> Section:
    rows = tuple(
        (a["claim"]["id"], kind, text)
        for a in audited
        for kind, texts in (("claimed", [a["claim"]["quote"]]), ("source", [a["claim"]["source"]]),
                            ("shows it", a["evidence"]), ("against", a["disagree"]),
                            ("command", [a["command"]]))
        for text in texts if text
    )  # fmt: skip
    return Section(title="What shows it",
                   tables=(Table(columns=("claim", "", "what"), rows=rows),))  # fmt: skip
