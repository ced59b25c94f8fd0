"""A policy decision as a page: what stops the plan, what must be declared, each rule's source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.parts import joined
from weftline.spec.decision import OUTCOMES
from weftline.units import format_flops

__all__ = ["decision_page"]


def decision_page(answer: Mapping[str, Any]) -> Page:
    """The page of ``policy check --json``, or of the record it wrote. Raises KeyError."""
    decided: Mapping[str, Any] = answer.get("decision", answer)
    rulings = decided["rulings"]
    count = Counter(r["outcome"] for r in rulings)
    stopping = [r["title"] for r in rulings if r["outcome"] in ("refuse", "undecided")]
    title = f"{stopping[0]} stops it" if stopping else "No rule stops it"
    if len(stopping) > 1:
        title = f"{len(stopping)} of {len(rulings)} rules stop it, {stopping[0]} first"
    chart = Chart(
        title=title, kind="bars", size="short",
        data={"name": "rules", "unit": "", "rows": [
            {"name": o, "value": count[o], "best": o == decided["outcome"]}
            for o in reversed(OUTCOMES) if count[o]]},
        table=Table(columns=("outcome", "rules"), right=frozenset({1}), rows=tuple(
            (o, str(count[o])) for o in reversed(OUTCOMES) if count[o])),
    )  # fmt: skip
    order = sorted(rulings, key=lambda r: -OUTCOMES.index(r["outcome"]))
    table = Table(
        columns=("outcome", "rule", "why", "missing", "in force", "source"),
        rows=tuple((r["outcome"], f"{r['title']} [{r['rule']}]", joined(r["why"], r["says"]),
                    r["missing"], r["in_force"], _source(r)) for r in order),
    )  # fmt: skip
    flop = f", {format_flops(decided['flop'])} of training" if decided["flop"] else ""
    declared = Table(columns=("declared", "value"),
                     rows=tuple((k, str(v)) for k, v in decided["declared"].items()))  # fmt: skip
    signed = ("The record carries a signature; `weftline policy verify` checks it.",)
    return Page(
        title="weftline: policy decision",
        headline=f"{decided['outcome'].capitalize()}: {len(rulings)} rules on "
                 f"{decided['decided_on']}{flop}",
        lead=(decided["plan"], f"Plan SHA-256 {decided['plan_sha256']}.",
              *(signed if "signature" in answer else ()), decided["note"]),
        sections=(
            Section(title="What stops it", charts=(chart,)),
            Section(title="Every rule", tables=(table,)),
            *((Section(title="What was declared", tables=(declared,)),) if declared.rows else ()),
        ),
        made=f"weftline {decided['weftline']}; rules of {decided['rules_version']}.",
    )  # fmt: skip


def _source(ruling: Mapping[str, Any]) -> str:
    read = f"read {ruling['date']}" if ruling["date"] else ""
    against = f"sources disagree: {ruling['disagree']}" if ruling["disagree"] else ""
    return joined(ruling["source"], read, against)
