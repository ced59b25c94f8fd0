"""A policy decision in the terminal: the outcome first, then every rule with its source and day."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.spec.decision import OUTCOMES, Decision
from weftline.units import format_flops

__all__ = ["render_decision", "render_rules"]


def render_decision(decision: Decision) -> str:
    """What stops the plan, what has to be declared or reported, and what passes."""
    flop = f", {format_flops(decision.flop)} of training" if decision.flop else ""
    lines = [f"{decision.outcome.upper()}: {len(decision.rulings)} rules of "
             f"{decision.rules_version} on {decision.decided_on}{flop}"]  # fmt: skip
    lines += wrapped(decision.plan, indent="  ", hang="  ")
    for outcome in reversed(OUTCOMES):
        for r in decision.rulings:
            if r.outcome != outcome:
                continue
            lines += ["", *wrapped(f"{r.outcome}  {r.title} [{r.rule}]", hang="  ")]
            lines += wrapped(r.why, indent="  ", hang="  ")
            if r.missing:
                lines += wrapped(f"missing: {r.missing}", indent="  ", hang="  ")
            if outcome in ("notify", "refuse") and r.says:
                lines += wrapped(r.says, indent="  ", hang="  ")
            source = f"{r.source}" + (f", read {r.date}" if r.date else "")
            lines += wrapped(source, indent="  ", hang="  ")
            if r.disagree:
                lines += wrapped(f"sources disagree: {r.disagree}", indent="  ", hang="  ")
    return page([*lines, "", *wrapped(decision.note)])


def render_rules(rules: list[dict[str, Any]]) -> str:
    """The rules there are, with their sources."""
    rows = [(r["id"], r["kind"], r["in_force"] or "-", r["title"]) for r in rules]
    lines = table(("rule", "kind", "in force", ""), rows, fold=True)
    for r in rules:
        lines += ["", *wrapped(f"{r['id']}: {r['says'] or r['title']}", hang="  ")]
        lines += wrapped(f"{r['source']}, read {r['date']}", indent="  ", hang="  ")
    return page(lines)
