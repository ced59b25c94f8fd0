"""Two plans beside each other in the terminal: what was asked, what was chosen, what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weftline.report.text import page, table, wrapped
from weftline.spec.difference import Changed, Difference, Moved
from weftline.units import format_bytes, format_count, format_duration, format_number, format_usd

__all__ = ["moved_row", "render_difference"]

_SHOW: dict[str, Callable[[float], str]] = {
    "s": format_duration, "B": format_bytes, "B a host": format_bytes, "USD": format_usd,
    "USD/h": format_usd, "tokens/s": format_count,
}  # fmt: skip


def render_difference(found: Difference) -> str:
    """The numbers first; fields that differ below."""
    lines = _headline(found)
    rows = [moved_row(m) for m in found.moved if m.before != m.after]
    if rows:
        lines += ["", *table(("", "first", "second", "change", ""), rows,
                             right=frozenset({1, 2, 3}))]  # fmt: skip
    for title, changed in (("Asked", found.asked), ("Chosen", found.chosen)):
        if changed:
            lines += ["", title, *_fields(changed)]
    return page(lines)


def _headline(found: Difference) -> list[str]:
    names = ("cost", "train_time") if found.of == "train" else ("cost_per_hour", "ttft_p50")
    said = [
        f"{m.name.replace('_', ' ')} {m.share:+.1%}"
        for m in found.moved if m.name in names and m.share is not None
    ]  # fmt: skip
    if not any(m.before != m.after for m in found.moved) and not found.chosen:
        return ["The same plan" + (", asked differently" if found.asked else "")]
    return wrapped(f"Second over first: {', '.join(said) or 'nothing both know of'}", hang="  ")


def moved_row(m: Moved) -> tuple[str, ...]:
    """Name with unit, first, second, change, and whether the bands do not meet."""
    show = _SHOW.get(m.unit, format_number)
    unit = "" if m.unit in _SHOW else f" [{m.unit}]"
    first, second = ("-" if v is None else show(v) for v in (m.before, m.after))
    change = "-" if m.share is None else f"{m.share:+.1%}"
    return f"{m.name.replace('_', ' ')}{unit}", first, second, change, "bands apart" * m.apart


def _fields(changed: Sequence[Changed]) -> list[str]:
    return [
        line for c in changed
        for line in wrapped(f"{c.field.replace('_', ' ')}: {c.before} -> {c.after}", indent="  ",
                            hang="  ")
    ]  # fmt: skip
