"""What a server gave under load, as text."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_duration, format_number

__all__ = ["render_beside", "render_served", "render_steps"]


def render_served(row: Any, forecast: Any = None) -> str:
    """The row, beside a forecast if there is one."""
    load = (
        f"{row.concurrency:g} clients in a closed loop" if row.concurrency
        else f"{row.rate_per_s:g} requests a second" if row.rate_per_s else "a trace"
    )  # fmt: skip
    lines = wrapped(
        f"{row.model}: {row.requests} requests ({row.failed} failed) of "
        f"{row.input_tokens:,.0f} + {row.output_tokens:,.0f} tokens, {load}; measured from outside "
        f"by {row.harness}", hang="  ",
    )  # fmt: skip
    rows = []
    for name, measured, predicted, unit in (
        ("time to first token, median", row.ttft_p50_s, forecast and forecast.ttft_s, "s"),
        ("time to first token, p99", row.ttft_p99_s, None, "s"),
        ("time per output token, median", row.tpot_p50_s, forecast and forecast.tpot_s, "s"),
        ("time per output token, p99", row.tpot_p99_s, None, "s"),
        ("output tokens a second", row.output_tokens_per_s,
         forecast and forecast.output_tokens_per_s, ""),
    ):  # fmt: skip
        ratio = f"{measured / predicted:.2f}" if predicted and measured is not None else ""
        rows.append((name, _said(measured, unit), _said(predicted, unit), ratio))
    if forecast is None:
        return page([*lines, "", *table(("", "measured"), [r[:2] for r in rows],
                                        right=frozenset({1}))])  # fmt: skip
    return page([*lines, "", *table(("", "measured", "forecast", "ratio"), rows,
                                    right=frozenset({1, 2, 3}))])  # fmt: skip


def render_steps(steps: Any) -> str:
    """What a step of the engine costs."""
    lines = wrapped(
        f"{steps.model} in {steps.dtype}, {steps.threads} threads, attention {steps.policy}: "
        f"{steps.steps} steps timed inside the engine; those that the fit did not see are off by "
        f"{steps.error:.0%} in the median", hang="  ",
    )  # fmt: skip
    rows = [
        *((f"a step of {n:,} tokens" if n > 1 else "a step of one token", format_duration(t))
          for n, t in zip(steps.rows, steps.rows_s, strict=True)),
        ("a thousand pairs of query and key in prompts",
         format_duration(1000 * steps.prompt_pair_s)),
        ("a thousand keys that decoding reads", format_duration(1000 * steps.decode_key_s)),
    ]  # fmt: skip
    return page([*lines, "", *table(("", "takes"), rows, right=frozenset({1}))])


def render_beside(found: Any) -> str:
    """A plan's promises beside a server's row."""
    row = found.row
    lines = wrapped(f"{found.model}: {row.requests} requests ({row.failed} failed), measured by "
                    f"{row.harness}", hang="  ")  # fmt: skip
    rows = []
    for each in found.rows:
        low, high = _said(each.low_s, "s"), _said(each.high_s, "s")
        band = f"{low} to {high}" if low else ""
        held = {None: "", True: "yes", False: "no"}[each.within]
        rows.append((each.name, _said(each.predicted_s, "s"), band, _said(each.measured_s, "s"),
                     held))  # fmt: skip
    lines += ["", *table(("", "predicted", "band", "measured", "inside"), rows,
                         right=frozenset({1, 2, 3}))]  # fmt: skip
    for differs in found.differs:
        lines += wrapped(f"not the planned load: {differs}", hang="  ")
    return page(lines)


def _said(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return format_duration(value) if unit else format_number(value)
