"""A lifecycle in the terminal: the answer, its stages, ways, what drives it, months, every line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from weftline.report.frame import numbers, reasons
from weftline.report.text import model_label, page, table, wrapped
from weftline.spec.drawn import Swing
from weftline.spec.lifecycle import Leaving, Lifecycle, LifeLine, PortableLife
from weftline.units import (
    format_count,
    format_duration,
    format_mass,
    format_number,
    format_usd,
)

SWINGS_SHOWN = 8
QUARTER = 3
_BAR = 24


def render_lifecycle(life: Lifecycle) -> str:
    """The whole answer; the first line starts with ``Best:``."""
    lines = [*_head(life), "", *_numbers(life), ""]
    lines += [*_stages(life), "", *_ways(life), "", *reasons(life.why, life.flips)]
    lines += ["", *_tornado(life.tornado), "", *_quarters(life)]
    if life.leaving:
        lines += ["", *_leaving(life.leaving)]
    if life.portable is not None:
        lines += ["", *_portable(life.portable)]
    if life.without_plan:
        lines += ["", "Cannot be"]
        for lost in life.without_plan:
            lines += wrapped(f"{lost.accelerator}: {lost.reason}", indent="  ", hang="  ")
    if life.notes:
        lines += ["", "Taken for granted"]
        for note in life.notes:
            lines += wrapped(note, indent="  ", hang="  ")
    lines += ["", *wrapped(
        f"{life.samples:,} samples, seed {life.seed}: mean {format_usd(life.mean_usd)}, in closed "
        f"form {format_usd(life.analytic_mean_usd)}", hang="  ")]  # fmt: skip
    return page(lines)


def _head(life: Lifecycle) -> list[str]:
    cost = life.estimates["cost"]
    per = life.estimates.get("cost_per_m_tokens")
    served = f", {format_usd(per.value)} a million tokens served" if per else ""
    where = dict.fromkeys(life.ways[0].places.values())
    text = (
        f"Best: {life.ways[0].name}: {format_usd(cost.value)} "
        f"({format_usd(cost.low)} to {format_usd(cost.high)}){served}"
    )
    return [
        *wrapped(text, hang="      "),
        *wrapped(f"{model_label(life.model)} from {life.start} on {', '.join(where)}; least "
                 f"{life.objective}", indent="      "),
    ]  # fmt: skip


def _numbers(life: Lifecycle) -> list[str]:
    rows = (
        ("cost", "cost", format_usd), ("chip-hours", "chip_hours", format_count),
        ("time", "time", format_duration), ("energy", "energy", _kwh),
        ("carbon of the energy", "carbon", format_mass),
        ("carbon of the machines", "embodied_carbon", format_mass),
        ("a million tokens", "cost_per_m_tokens", format_usd),
        ("  carbon (SCI)", "sci_per_m_tokens", _grams),
    )  # fmt: skip
    return numbers(life.estimates, rows, ends=";")


def _grams(value: float) -> str:
    return f"{format_number(value)} g"


def _kwh(joules: float) -> str:
    return f"{format_count(joules / 3.6e6)} kWh"


def _stages(life: Lifecycle) -> list[str]:
    rows = [
        (s.name, s.place, f"{s.chips:,}" if s.chips else "-", format_duration(s.lasts_s)
         if s.lasts_s else "-", format_usd(s.usd.value),
         "-" if s.energy_j is None else _kwh(s.energy_j), s.said)
        for s in life.stages
    ]  # fmt: skip
    return table(("stage", "place", "chips", "time", "cost", "energy", ""), rows,
                 right=frozenset({2, 3, 4, 5}), fold=True)  # fmt: skip


def _ways(life: Lifecycle) -> list[str]:
    rows = [
        (str(i + 1), format_usd(w.usd), f"{format_usd(w.low)} to {format_usd(w.high)}",
         f"{w.usd / life.ways[0].usd:.2f}", f"{w.cheapest_share:.0%}",
         "-" if w.kgco2e is None else format_mass(w.kgco2e), w.name)
        for i, w in enumerate(life.ways)
    ]  # fmt: skip
    head = ("", "cost", "90 % band", "ratio", "cheapest", "CO2e", "way")
    lines = table(head, rows, right=frozenset({0, 1, 3, 4, 5}), fold=True)
    best = life.ways[0].places
    if len(set(best.values())) > 1:
        said = "; ".join(f"{stage} on {place}" for stage, place in best.items())
        lines += wrapped(f"1: {said}", indent="   ", hang="   ")
    return lines


def _tornado(swings: Sequence[Swing]) -> list[str]:
    lines = ["What drives the cost (5th to 95th percentile of one, the others at the middle)"]
    largest = max((s.high_usd - s.low_usd for s in swings), default=1.0)
    rows = [
        (s.driver, f"{format_usd(s.low_usd)} to {format_usd(s.high_usd)}",
         "#" * max(1, round(_BAR * (s.high_usd - s.low_usd) / largest)))
        for s in swings[:SWINGS_SHOWN]
    ]  # fmt: skip
    return lines + [f"  {line}" for line in table(("driver", "total", ""), rows)[1:]]


def _leaving(ways: Sequence[Leaving]) -> list[str]:
    """Every way out of a place, and what the best one is made of."""
    best = ways[0]
    lines = [f"Leaving {best.origin} while it is served (months from the start of serving)"]
    rows = [
        (w.place, str(w.month), format_usd(w.cost_usd), f"{w.leave_usd / w.stay_usd - 1:+.1%}",
         f"{w.pays_share:.0%}",
         f"month {w.break_even_month}" if w.break_even_month is not None else "never",
         "-" if w.last_month is None else f"month {w.last_month}")
        for w in ways
    ]  # fmt: skip
    head = ("for", "month", "cost of it", "the life", "pays in", "paid back", "pays until")
    lines += table(head, rows, right=frozenset({1, 2, 3, 4}))
    parts = ", ".join(f"{n} {format_usd(v)}" for n, v in _parts(best.costs))
    lines += wrapped(f"to {best.place} in month {best.month}: {parts or 'nothing'}",
                     indent="  ", hang="  ")  # fmt: skip
    for text in best.flips:
        lines += wrapped(text, indent="  ", hang="  ")
    return lines


def _parts(lines: Sequence[LifeLine]) -> list[tuple[str, float]]:
    sums: dict[str, float] = {}
    for line in lines:
        sums[line.part] = sums.get(line.part, 0.0) + line.usd
    return sorted(sums.items(), key=lambda p: -p[1])


def _portable(found: PortableLife) -> list[str]:
    """Two lives side by side: made for one vendor, and made to run anywhere."""
    lines = wrapped(
        f"Portable: {model_label(found.model)} ({format_count(found.parameters)} parameters) "
        f"beside the life's own ({format_count(found.own_parameters)})", hang="  ",
    )  # fmt: skip
    rows = []
    for place, usd in found.own_usd.items():
        other = found.usd.get(place)
        rows.append((place, format_usd(usd), "-" if other is None else format_usd(other),
                     "-" if other is None else f"{other / usd - 1:+.1%}"))  # fmt: skip
    lines += table(("served on", "own", "portable", ""), rows, right=frozenset({1, 2, 3}))
    if found.leaving:
        best = found.leaving[0]
        lines += wrapped(
            f"leaving {best.origin} with the portable model: best for {best.place}, "
            f"{format_usd(best.leave_usd)} in all, {format_usd(best.cost_usd)} of it for leaving",
            indent="  ", hang="  ")  # fmt: skip
    return lines + wrapped(portable_words(found), indent="  ", hang="  ")


def portable_words(found: PortableLife) -> str:
    """What a portable model costs those who stay, is worth to those who leave, and when it pays."""
    origin = next((w.origin for w in found.leaving), "the origin")
    said = (
        f"it costs {format_usd(abs(found.premium_usd))} {_more(found.premium_usd)} to stay on "
        f"{origin}, and {format_usd(abs(found.worth_usd))} {_more(-found.worth_usd)} to leave: "
    )
    match found.chance:
        case None:
            said += "it is never worth it"
        case 0.0:
            said += "it costs less even for those who stay"
        case chance:
            said += f"worth it where leaving is likelier than {chance:.0%}"
    return said


def _more(value: float) -> str:
    return "more" if value >= 0 else "less"


def _quarters(life: Lifecycle) -> list[str]:
    """Three months a line, and no more than two dozen lines: years where a life is long."""
    width = QUARTER if len(life.months) <= 24 * QUARTER else 12
    year, month = (int(x) for x in life.start.split("-"))
    rows = []
    for i in range(0, len(life.months), width):
        part = life.months[i : i + width]
        at = year * 12 + month - 1 + i
        known = [m.energy_j for m in part if m.energy_j is not None]
        carbon = [m.kgco2e for m in part if m.kgco2e is not None]
        rows.append((
            f"{at // 12}-{at % 12 + 1:02}", format_usd(sum(m.usd for m in part)),
            _kwh(sum(known)) if len(known) == len(part) else "-",
            format_mass(sum(carbon)) if len(carbon) == len(part) else "-",
        ))  # fmt: skip
    head = ("quarter from" if width == QUARTER else "year from", "cost", "energy", "CO2e")
    return table(head, rows, right=frozenset({1, 2, 3}))


def render_life_explanation(life: Lifecycle) -> str:
    """Every line with its formula and its ground, stage by stage."""
    lines = [*_head(life), ""]
    for stage in life.stages:
        own = [line for line in life.lines if line.stage == stage.name]
        lines.append(f"{stage.name}: {format_usd(stage.usd.value)}")
        for line in sorted(own, key=lambda x: -x.usd):
            lines += _line(line)
    for way in life.leaving:
        lines += [
            "",
            f"leaving {way.origin} for {way.place} in month {way.month}: "
            f"{format_usd(way.cost_usd)}",
        ]
        for line in sorted(way.costs, key=lambda x: -x.usd):
            lines += _line(line)
    lines += ["", "What nobody knows today"]
    for d in life.drivers:
        now = f"{d.at}; " if d.at else ""
        lines += wrapped(f"{d.name}: x {d.low:.3g} to x {d.high:.3g} ({now}{d.basis})",
                         indent="  ", hang="  ")  # fmt: skip
    lines += ["", "What each number rests on"]
    for name, e in life.estimates.items():
        lines += wrapped(f"{name.replace('_', ' ')} [{e.unit}]: {e.basis}", indent="  ", hang="  ")
    return page(lines)


def _line(line: LifeLine) -> list[str]:
    moves = ", ".join(f"{n}^{p:g}" if p != 1 else n for n, p in line.drivers.items())
    text = f"{line.part} at {line.place}: {format_usd(line.usd)} = {line.formula}"
    found = wrapped(text, indent="  ", hang="  ")
    found += wrapped(f"rests on {line.basis}" + (f"; moves with {moves}" if moves else ""),
                     indent="      ")  # fmt: skip
    return found


def life_tables(life: Lifecycle) -> dict[str, Any]:
    """The explanation as plain tables: lines, drivers, estimates."""
    return {
        "lines": [asdict(line) for line in life.lines],
        "drivers": [asdict(d) for d in life.drivers],
        "estimates": {name: asdict(e) for name, e in life.estimates.items()},
    }
