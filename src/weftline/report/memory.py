"""How much memory a model needs and which chips hold it, in the terminal."""

from __future__ import annotations

from weftline.report.frame import remarks
from weftline.report.text import model_label, page, table, wrapped
from weftline.spec.need import MemoryAnswer, Need
from weftline.units import format_bytes, format_count

TITLES = {
    "train": "Training every weight", "lora": "LoRA", "qlora": "QLoRA", "serve": "Serving",
}  # fmt: skip
TOTALS = {"train": "full training", "lora": "LoRA", "qlora": "QLoRA", "serve": "serving"}
HOLDINGS_SHOWN = 12


def render_memory(answer: MemoryAnswer) -> str:
    """The totals first, then each way by part and the chips that hold it."""
    totals = ", ".join(f"{TOTALS[n.kind]} {format_bytes(n.total_bytes)}" for n in answer.needs)
    lines = wrapped(
        f"{model_label(answer.model)} ({format_count(answer.parameters)} parameters): {totals}",
        hang="  ",
    )
    lines += remarks(answer.model_notes)
    for need in answer.needs:
        lines += ["", *_need(need)]
        if need.kind == "serve" and answer.kv_formats:
            said = ", ".join(f"{p.name} {format_bytes(p.value)}" for p in answer.kv_formats)
            lines += wrapped(f"KV cache by format: {said}", hang="  ")
        lines += ["", *_holdings(need)]
    return page(lines)


def _need(need: Need) -> list[str]:
    lines = wrapped(f"{TITLES[need.kind]}: {need.how}", hang="  ")
    rows = [(p.name, format_bytes(p.value), f"{p.value / need.total_bytes:.0%}", p.basis)
            for p in need.parts]  # fmt: skip
    rows.append(("all of it", format_bytes(need.total_bytes), "", ""))
    lines += table(("", "bytes", "share", "rests on"), rows, right=frozenset({1, 2}))
    if need.kept_bytes:
        lines += wrapped(f"Activations take {format_bytes(need.kept_bytes)} where none are "
                         "computed again.", hang="  ")  # fmt: skip
    if need.host_bytes:
        lines += wrapped(f"Host memory beside it: {format_bytes(need.host_bytes)}.", hang="  ")
    return lines


def _holdings(need: Need) -> list[str]:
    if not need.holdings:
        lines = ["No chip asked for holds it."]
    else:
        rows = [
            (h.accelerator, f"{h.chips:,}", h.layout, format_bytes(h.least_bytes),
             format_bytes(h.chip_bytes))
            for h in need.holdings[:HOLDINGS_SHOWN]
        ]  # fmt: skip
        header = ("fits on", "chips", "layout", "least a chip", "of")
        lines = table(header, rows, right=frozenset({1, 3, 4}))
        left = len(need.holdings) - HOLDINGS_SHOWN
        lines += [f"  and {left} more in --json"] if left > 0 else []
    if need.without:
        said = "; ".join(f"{r.accelerator}: {r.reason}" for r in need.without)
        lines += wrapped(f"Not on {said}", hang="  ")
    return lines
