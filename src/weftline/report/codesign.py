"""Co-design in the terminal: who favours what, one design for all, every design's cost by chip."""

from __future__ import annotations

from weftline.report.text import model_label, page, table, wrapped
from weftline.spec.codesign import Codesign, DesignCost
from weftline.units import format_count, format_number

__all__ = ["render_codesign"]


def render_codesign(found: Codesign) -> str:
    """The whole answer; the first line starts with ``Best:``."""
    lines = wrapped(f"Best: {_best(found)}", hang="      ")
    # A `gpt:` line has no spaces to break at.
    name = "gpt: numbers" if found.model.startswith("gpt:") else model_label(found.model)
    lines += wrapped(
        f"{name}, {format_count(found.tokens)} tokens trained, "
        f"{format_count(found.served)} served; all designs are worth "
        f"{format_number(found.target, 4)} = {found.quality}", indent="      ", hang="      ",
    )  # fmt: skip
    lines += ["", "Why"]
    for text in found.why:
        lines += wrapped(text, indent="  ", hang="  ")
    for chip in found.chips:
        lines += ["", *_chip(found, chip)]
    lines += ["", *_fragmentation(found)]
    if found.iso:
        lines += ["", *_iso(found)]
    lines += ["", "Designs"]
    for d in found.designs:
        lines += wrapped(
            f"{d.name} x {d.size:g}: {format_count(d.parameters)} parameters, "
            f"{format_count(d.active_parameters)} active", indent="  ", hang="    ",
        )  # fmt: skip
    lines.append("  --json has each as the `gpt:` line that every command takes")
    if found.notes:
        lines += ["", "Taken for granted"]
        for note in found.notes:
            lines += wrapped(note, indent="  ", hang="  ")
    return page(lines)


def _best(found: Codesign) -> str:
    if found.portable is None:
        return "no design runs on every chip"
    own = set(found.favoured.values())
    if own == {found.portable}:
        return f"{found.portable} on every chip"
    most = max(found.portable_loss.values())
    return f"{found.portable} for all, {most:.1%} at worst over each chip's own"


def _usd(value: float | None) -> str:
    return "-" if value is None else f"${format_number(value, 3)}"


def _rows(found: Codesign, chip: str) -> list[DesignCost]:
    rows = [c for c in found.costs if c.chip == chip and c.size == 1.0]
    return sorted(rows, key=lambda c: float("inf") if c.usd is None else c.usd)


def _chip(found: Codesign, chip: str) -> list[str]:
    rows = _rows(found, chip)
    best = rows[0].usd
    lines = [f"{chip}, US dollars a million tokens"]
    cells = [
        (_usd(c.train_usd_per_m), _usd(c.serve_usd_per_m),
         "-" if c.usd is None or not best else f"{c.usd / best:.2f}",
         f"{c.design}" + (f": {c.lost}" if c.lost else f" ({c.trained}; {c.served})"))
        for c in rows
    ]  # fmt: skip
    return lines + table(("trained", "served", "ratio", "design"), cells,
                         right=frozenset({0, 1, 2}), fold=True)  # fmt: skip


def _fragmentation(found: Codesign) -> list[str]:
    """On each chip the cost of what the others favour, over its own favourite's."""
    chips = list(found.fragmentation)
    rows = [
        (chip, *("-" if (v := found.fragmentation[chip][other]) is None else f"{v:+.1%}"
                 for other in chips),
         f"{found.portable_loss[chip]:+.1%}" if chip in found.portable_loss else "-")
        for chip in chips
    ]  # fmt: skip
    lines = ["Fragmentation: what it costs more to run what another chip favours"]
    return lines + table(("run on", *chips, "portable"), rows,
                         right=frozenset(range(1, len(chips) + 2)))  # fmt: skip


def _iso(found: Codesign) -> list[str]:
    rows = [(p.chip, f"{p.size:.2f}", format_count(p.parameters), format_number(p.quality, 4),
             p.design) for p in found.iso]  # fmt: skip
    lines = ["Iso-cost: what each design is worth for the base's money on the chip"]
    return lines + table(("chip", "size", "parameters", "worth", "design"), rows,
                         right=frozenset({1, 2, 3}))  # fmt: skip
