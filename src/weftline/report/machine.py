"""A machine as it was measured, and what it says of one plan, as text."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_bytes, format_duration

__all__ = ["render_machine", "render_measurement"]


def render_machine(found: Any, file: str) -> str:
    """What one rank's share of the machine does, and how quiet it was."""
    about, chip = found.about, found.chip
    lines = wrapped(
        f"`{found.id}`: {about['name']}, {about['cores']} cores, torch {about['torch']}, measured "
        f"{found.date}", hang="  ",
    )  # fmt: skip
    rows = [
        ("large product, fp32", f"{chip['peak.fp32'] / 1e9:,.0f} GFLOP/s", "one rank, all at once"),
        ("large product, bf16", f"{chip['peak.bf16'] / 1e9:,.0f} GFLOP/s",
         f"{found.dtype} is faster here"),
        ("memory", f"{format_bytes(chip['memory_bandwidth'])}/s", "add in place, all ranks"),
    ]  # fmt: skip
    if "tokens_per_s" in found.rates:
        rows.append(("text", f"{found.rates['tokens_per_s']:,.0f} tokens/s", "one process"))
    rows += [
        (f"{c['operation']}, {format_bytes(c['bytes'])}", format_duration(c["seconds"]),
         f"{c['backend']}, {c['ranks']} ranks") for c in found.collectives
    ]  # fmt: skip
    rows += [(name.replace("_", " "), f"{format_bytes(rate)}/s", "burst bench")
             for name, rate in found.storage.items() if name.endswith("_bytes_per_s")]  # fmt: skip
    power = found.power
    rows.append(("power", f"{power['watts']:,.0f} W" if "watts" in power else "not read",
                 str(power.get("from") or power.get("why") or "")))  # fmt: skip
    lines += ["", *table(("", "measured", "how"), rows, right=frozenset({1})), ""]
    lines += _quiet(found.loudness["reasons"])
    lines += [f"written: {file}", f"plan for it with `--on {found.id}`"]
    return page(lines)


def render_measurement(found: Any, file: str) -> str:
    """A plan's step by part as it was measured."""
    lines = wrapped(
        f"{found.model}, {found.layout.short()}, {found.seq_len:,} tokens, {found.dtype}: step "
        f"{format_duration(found.step_s)}, {format_bytes(found.memory_bytes)} a rank", hang="  ",
    )  # fmt: skip
    rows = [(name, format_duration(seconds), f"{seconds / found.step_s:.1%}")
            for name, seconds in found.parts_s.items()]  # fmt: skip
    lines += ["", *table(("", "measured", "share"), rows, right=frozenset({1, 2})), ""]
    lines += wrapped(found.basis, hang="  ")
    lines += [*_quiet(found.loud), f"written: {file}",
              f"the same `plan ... --on {found.machine}` now answers with it"]  # fmt: skip
    return page(lines)


def _quiet(reasons: Any) -> list[str]:
    if not reasons:
        return ["the machine was quiet"]
    return wrapped(f"the machine was loud: {'; '.join(reasons)}", hang="  ")
