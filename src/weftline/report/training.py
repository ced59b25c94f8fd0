"""A run of a plan as text: how it ended, and where its time went."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_bytes, format_duration

__all__ = ["amount", "render_comparison", "render_dry_run", "render_outcome"]

_ABOUT = {
    "start": "until ranks are ready to step", "productive": "steps that count",
    "stall": "steps waiting for saves", "between": "from step to step",
    "lost": "steps that a failure undid", "restart": "from failing to being ready again",
    "end": "after the last step",
}  # fmt: skip


def render_outcome(outcome: Any, folder: str) -> str:
    """How a run ended: steps, loss, and the ledger of its wall time."""
    shares = outcome.shares
    how = "finished" if outcome.finished else "stopped as told"
    loss = "" if outcome.loss is None else f", loss {outcome.loss:.4f}"
    lines = [f"{how} at step {outcome.steps}{loss}; checkpoint of step {outcome.saved_step}", ""]
    wall = shares.wall_s or 1.0
    for kind, seconds in shares.seconds.items():
        if seconds >= 0.0005 * wall:
            lines.append(f"{kind:<12}{format_duration(seconds):>10} {seconds / wall:>7.1%}  "
                         f"{_ABOUT[kind]}")  # fmt: skip
    lines.append(f"{'wall':<12}{format_duration(shares.wall_s):>10}  100.0%  measured")
    forecast = "" if shares.forecast is None else (
        f", {shares.forecast:.1%} by the interval model for what it met"
    )  # fmt: skip
    lines += ["", f"goodput {shares.goodput:.1%}{forecast}; failures {shares.failures}",
              f"written: {folder}"]  # fmt: skip
    return "\n".join(lines)


def render_dry_run(answer: Any) -> str:
    """What rank 0 of a plan holds, and who it talks to."""
    share = answer.local_parameters / answer.parameters
    lines = [
        f"{answer.model} on {answer.ranks:,} ranks, {answer.layout}: rank 0 tried in "
        f"{answer.seconds:.1f} s", "",
        f"parameters   {answer.parameters:,} counted alike by weftline and transformers",
        f"  of rank 0  {answer.local_parameters:,} ({share:.2%})",
        f"state        {answer.state_bytes / 1e9:.2f} GB: fp32 weights, gradients, two moments",
        f"activations  {answer.activation_bytes / 1e9:.2f} GB at the peak of one micro-batch",
        "", "groups of rank 0, in order",
    ]  # fmt: skip
    for axis, ranks in answer.groups.items():
        step = ranks[1] - ranks[0]
        first = ", ".join(map(str, ranks[:6])) + (", ..." if len(ranks) > 6 else "")
        lines.append(f"  {axis:<13}{len(ranks):>6} ranks, every {step:,}: {first}")
    lines += ["", "shapes: whole -> rank 0"]
    for name, whole, local in answer.shapes:
        lines.append(f"  {name:<52} {_by(whole)} -> {_by(local)}")
    lines += [f"note: {note}" for note in answer.notes]
    return "\n".join(lines)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"


def render_comparison(found: Any) -> str:
    """Predicted beside measured, and the ratio where both are."""
    lines = wrapped(
        f"{found.model}, {found.layout}, {found.steps} steps: "
        + ("the plan is about this very run" if found.same else
           f"the plan is about other things: {found.other}; ratios say how they differ, not how "
           "well it predicts"), hang="  ",
    )  # fmt: skip
    rows, seen = [], dict[str, str]()
    for row in found.rows:
        both = row.predicted and row.measured is not None
        rows.append((
            row.name, amount(row.predicted, row.unit), amount(row.measured, row.unit),
            f"{row.measured / row.predicted:.2f}" if both else "",
        ))  # fmt: skip
    header = ("", "predicted", "measured", "ratio")
    lines += ["", *table(header, rows, right=frozenset({1, 2, 3})), ""]
    for row in found.rows:
        if row.basis and row.measured is not None and row.basis not in seen:
            seen[row.basis] = row.name.strip()
    lines += [line for basis, name in seen.items() for line in wrapped(f"{name}: {basis}",
                                                                       hang="  ")]  # fmt: skip
    if found.explains and found.same:
        lines += ["", "what the difference is made of, most first"]
        lines += [line for why in found.explains for line in wrapped(f"  {why}", hang="    ")]
    return page(lines)


def amount(value: float | None, unit: str) -> str:
    """A compared quantity as people write it; nothing for what is not there."""
    if value is None:
        return ""
    if unit == "s":
        return format_duration(value)
    if unit == "B":
        return format_bytes(value)
    return f"{value:.1%}" if unit == "1" else f"{value:,.0f}"
