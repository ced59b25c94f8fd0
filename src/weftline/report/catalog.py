"""The catalogue for a reader: each view is built as plain data, and its text from that data.

``--json`` prints the data, the terminal its text, so both hold the same fields.
"""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from weftline.catalog import accelerators, best_price, cpus, fabrics, sources, storage_tiers
from weftline.catalog.accelerators import Accelerator
from weftline.catalog.facts import Choice, Fact, FactSheet
from weftline.catalog.findings import RULES, Finding
from weftline.catalog.online import Refreshed
from weftline.catalog.prices import PRICE_TYPES, Price, date_span, shipped_prices
from weftline.catalog.validation import KnownFault
from weftline.errors import InputError
from weftline.report.models import model_rows, render_models
from weftline.report.text import page, width
from weftline.units import format_bytes, format_rate

KINDS: Final = ("accelerators", "fabrics", "prices", "storage", "cpus", "sources", "models")
FINDINGS_SHOWN: Final = 3
Data = dict[str, Any]


# -- list


def list_data(kind: str, vendor: str | None = None) -> Data:
    """The rows of ``catalog list KIND``; ``vendor`` (or provider) limits them."""
    rows: list[Data]
    if kind == "models":
        rows = model_rows(vendor)
    elif kind == "fabrics":
        rows = [
            {
                "id": f.id, "kind": f.kind, "chips": f.domain, "alpha_s": f.alpha_s,
                "link_bytes_per_s": f.link_bytes_per_s,
                "chip_egress_bytes_per_s": f.chip_egress_bytes_per_s,
            }
            for f in fabrics().values()
        ]  # fmt: skip
    elif kind == "prices":
        rows = _price_rows(vendor)
    elif kind == "storage":
        rows = [
            {
                "id": t.id, "provider": t.provider, "kind": t.kind,
                "usd_per_gb_month": None if (p := t.usd_per_byte_month) is None else p * 1e9,
                "capacity_bytes": t.capacity_bytes,
            }
            for t in storage_tiers().values()
            if vendor in (None, t.provider)
        ]  # fmt: skip
    elif kind == "cpus":
        rows = [dict(c) for c in cpus().values() if vendor in (None, c["vendor"])]
    elif kind == "sources":
        rows = [
            {"id": s.id, "status": s.status, "date": s.date, "licence": s.licence, "title": s.title}
            for s in sources().values()
        ]
    else:
        rows = [_chip_row(a) for a in accelerators().values() if vendor in (None, a.vendor)]
    return {"kind": kind, "count": len(rows), "rows": rows}


def _chip_row(a: Accelerator) -> Data:
    return {
        "id": a.id,
        "vendor": a.vendor,
        "availability": a.availability,
        "bf16_flops": a.peak_flops("bf16") or a.peak_flops("fp16"),
        "fp8_flops": a.peak_flops("fp8"),
        "memory_bytes": a.memory_bytes,
        "memory_bandwidth_bytes_per_s": a.memory_bandwidth_bytes_per_s,
        "scale_up_bytes_per_s": a.scale_up_bytes_per_s,
        "scale_up_domain": a.scale_up_domain,
        "tdp_w": a.tdp_w,
    }


def _price_rows(provider: str | None) -> list[Data]:
    groups: dict[tuple[str, str, str], list[Price]] = {}
    for p in shipped_prices():
        if provider in (None, p.provider):
            groups.setdefault((p.listed_as, p.provider, p.price_type), []).append(p)
    rows = []
    for (listed, name, kind), group in sorted(groups.items()):
        sound = [p.usd_per_chip_hour for p in group if not p.flags and p.usd_per_hour is not None]
        rows.append(
            {
                "accelerator": group[0].accelerator or listed,
                "provider": name,
                "price_type": kind,
                "rows": len(group),
                "faulty": len(group) - len(sound),
                "low_usd_per_chip_hour": min(sound, default=None),
                "high_usd_per_chip_hour": max(sound, default=None),
                "newest": max(group, key=lambda p: date_span(p.date)[1]).date,
            }
        )
    return rows


def list_text(data: Data) -> str:
    """``catalog list`` for a terminal."""
    rows, kind = data["rows"], data["kind"]
    builders = {
        "accelerators": _list_accelerators, "fabrics": _list_fabrics, "prices": _list_prices,
        "storage": _list_storage, "cpus": _list_cpus, "sources": _list_sources,
        "models": render_models,
    }  # fmt: skip
    return builders[kind](rows)


def _list_accelerators(rows: Sequence[Data]) -> str:
    vendors = len({r["vendor"] for r in rows})
    head = f"{_plural(len(rows), 'accelerator')} of {_plural(vendors, 'vendor')}"
    table = [("", "16 bit", "8 bit", "memory", "", "scale-up", "", "tdp", ""),
             ("id", "TF/s", "TF/s", "GB", "TB/s", "GB/s", "x", "W", "state")]  # fmt: skip
    table += [
        (
            r["id"], _num(r["bf16_flops"], 1e12), _num(r["fp8_flops"], 1e12),
            _num(r["memory_bytes"], 1e9), _num(r["memory_bandwidth_bytes_per_s"], 1e12),
            _num(r["scale_up_bytes_per_s"], 1e9), _num(r["scale_up_domain"]), _num(r["tdp_w"]),
            r["availability"],
        )
        for r in rows
    ]  # fmt: skip
    foot = "Peaks are dense, in TFLOP/s; scale-up is what one chip sends, one way."
    return head + "\n\n" + _table(table, right=range(1, 8)) + "\n\n" + foot


def _list_fabrics(rows: Sequence[Data]) -> str:
    table = [("", "", "", "link", "chip egress", "step latency"),
             ("id", "kind", "chips", "GB/s", "GB/s", "us")]  # fmt: skip
    table += [
        (r["id"], r["kind"], _num(r["chips"]), _num(r["link_bytes_per_s"], 1e9),
         _num(r["chip_egress_bytes_per_s"], 1e9), _num(r["alpha_s"], 1e-6))
        for r in rows
    ]  # fmt: skip
    head = f"{len(rows)} fabrics; bandwidths are one direction"
    return head + "\n\n" + _table(table, right=range(2, 6))


def _list_prices(rows: Sequence[Data]) -> str:
    total, faulty = sum(r["rows"] for r in rows), sum(r["faulty"] for r in rows)
    table = [("", "", "", "", "", "USD per chip hour", ""),
             ("accelerator", "provider", "type", "rows", "bad", "low to high", "date")]  # fmt: skip
    table += [
        (r["accelerator"], r["provider"], r["price_type"], str(r["rows"]), str(r["faulty"]),
         _span(r["low_usd_per_chip_hour"], r["high_usd_per_chip_hour"]), r["newest"])
        for r in rows
    ]  # fmt: skip
    head = f"{total} prices; {faulty} faulty rows are kept and never taken"
    return head + "\n\n" + _table(table, right=range(3, 5))


def _list_storage(rows: Sequence[Data]) -> str:
    table = [("id", "kind", "USD/GB-month", "capacity")]
    table += [
        (r["id"], r["kind"], _num(r["usd_per_gb_month"]),
         format_bytes(r["capacity_bytes"]) if r["capacity_bytes"] else "-")
        for r in rows
    ]  # fmt: skip
    return f"{len(rows)} storage tiers\n\n" + _table(table, right=range(2, 4))


def _list_cpus(rows: Sequence[Data]) -> str:
    table = [("id", "vendor", "cores", "core", "memory")]
    table += [(r["id"], r["vendor"], str(r["cores"]), r["core"], r["memory"]) for r in rows]
    return f"{len(rows)} host CPUs\n\n" + _table(table, right=range(2, 3))


def _list_sources(rows: Sequence[Data]) -> str:
    lines = [f"{len(rows)} sources", ""]
    for r in rows:
        lines.append(f"{r['id']}  ({r['status']}, {r['date']}, {r['licence']})")
        lines.append(_fold(r["title"], "  "))
    return page(lines)


# -- show


def show_data(sheet: FactSheet, today: datetime.date) -> Data:
    """``catalog show NAME``: every fact, which was taken and why, prices and sources."""
    data: Data = {"id": sheet.id}
    names = ("vendor", "availability", "launch", "process", "topology", "topology_kind", "kind",
             "provider", "purpose", "note")  # fmt: skip
    data.update({n: v for n in names if (v := getattr(sheet, n, None)) is not None})
    data["fields"] = [_field_data(sheet, field) for field in sheet.fields()]
    if isinstance(sheet, Accelerator):
        data["answer"] = _chip_answer(sheet)
        data["prices"] = _chip_prices(sheet.id, today)
    else:
        data["answer"] = f"{sheet.id}: {getattr(sheet, 'topology', None) or data['kind']}"
    used = dict.fromkeys(f.source for f in sheet.all_facts)
    data["sources"] = {i: _source(i) for i in used}
    return data


def _field_data(sheet: FactSheet, field: str) -> Data:
    choice = sheet.choice(field)
    facts = [_fact_data(f, choice) for f in sheet.facts(field)]
    out: Data = {"field": field, "facts": facts}
    if choice is not None:
        out.update(value_si=choice.value, low_si=choice.low, high_si=choice.high, why=choice.why)
    return out


def _fact_data(fact: Fact, choice: Choice | None) -> Data:
    names = ("value", "unit", "kind", "direction", "status", "source", "date", "scope", "note")
    out = {n: v for n in names if (v := getattr(fact, n)) is not None}
    return {**out, "taken": choice is not None and fact is choice.fact}


def _chip_answer(a: Accelerator) -> str:
    parts = []
    for dtype in ("bf16", "fp16", "fp8"):
        peak = a.peak_flops(dtype)
        if peak is not None:
            parts.append(f"{peak / 1e12:g} TFLOP/s {dtype} dense")
            break
    if a.memory_bytes is not None:
        parts.append(format_bytes(a.memory_bytes))
    if a.memory_bandwidth_bytes_per_s is not None:
        parts.append(f"memory {format_rate(a.memory_bandwidth_bytes_per_s)}")
    if a.scale_up_bytes_per_s is not None:
        domain = f" in a domain of {a.scale_up_domain}" if a.scale_up_domain else ""
        parts.append(f"scale-up {format_rate(a.scale_up_bytes_per_s)} a chip one way{domain}")
    state = "HYPOTHETICAL: no maker has announced it" if a.hypothetical else a.availability
    return f"{a.id}: {', '.join(parts) or 'no figure published'} ({a.vendor}, {state})"


def _chip_prices(name: str, today: datetime.date) -> list[Data]:
    out: list[Data] = []
    for kind in PRICE_TYPES:
        try:
            best = best_price(name, kind, today=today)
        except InputError as error:
            out.append({"price_type": kind, "usd_per_chip_hour": None, "why": error.what})
            continue
        out.append(
            {
                "price_type": kind,
                "usd_per_chip_hour": best.usd_per_chip_hour,
                "low": best.low,
                "high": best.high,
                "provider": best.price.provider,
                "region": best.price.region,
                "date": best.price.date,
                "age_days": best.age_days,
                "stale": best.stale,
                "source": best.price.source,
                "why": best.why,
            }
        )
    return out


def _source(name: str) -> Data:
    s = sources()[name]
    return {"title": s.title, "status": s.status, "date": s.date, "licence": s.licence}


def show_text(data: Data) -> str:
    """``catalog show`` for a terminal."""
    blocks = [_fold(data["answer"])]
    about = [
        f"{label:<10}{data[key]}"
        for label, key in (("launch", "launch"), ("process", "process"), ("network", "topology"))
        if key in data
    ]
    if "note" in data:
        about.append(f"{'note':<10}{data['note']}")
    blocks.append("\n".join(_fold(line, "", " " * 10) for line in about))
    blocks.append("\n".join(line for f in data["fields"] for line in _field_lines(f)))
    if "prices" in data:
        lines = ["prices, USD per chip hour"]
        lines += [_fold(_price_line(p), "  ", " " * 18) for p in data["prices"]]
        blocks.append("\n".join(lines))
    lines = ["sources"]
    for name, s in data["sources"].items():
        lines.append(_fold(f"{name} ({s['date']}): {s['title']}", "  ", " " * 4))
    blocks.append("\n".join(lines))
    return page("\n\n".join(b for b in blocks if b).split("\n"))


def _field_lines(field: Mapping[str, Any]) -> list[str]:
    lines = []
    for n, f in enumerate(field["facts"]):
        name = field["field"] if n == 0 else ""
        labels = " ".join(x for x in (f.get("kind"), _way(f.get("direction"))) if x)
        mark = "*" if f["taken"] and len(field["facts"]) > 1 else " "
        value = f"{f['value']:>9,.10g} {f['unit']:<8} {labels:<12}"
        line = f"{name:<18}{mark}{value} {f['status']:<8} {f['source']}"
        lines.append(line.rstrip())
        said = sources()[f["source"]].date
        parts = (
            f"only {f['scope']}" if "scope" in f else "",
            f"dated {f['date']}" if f["date"] != said else "",
            f.get("note", ""),
        )
        extra = "; ".join(x for x in parts if x)
        if extra:
            lines.append(_fold(extra, " " * 22))
    if len(field["facts"]) > 1 or any("direction" in f for f in field["facts"]):
        lines.extend(_taken_lines(field))
    return lines


def _taken_lines(field: Mapping[str, Any]) -> list[str]:
    if "why" not in field:
        return [" " * 20 + "none taken: each holds for one product only, or is unlabelled"]
    value, low, high = (_si(field["field"], field[k]) for k in ("value_si", "low_si", "high_si"))
    span = f" (span {low} to {high})" if low != high else ""
    if not span and field["why"] == "the only figure":
        return []
    return [_fold(f"took {value}{span}: {field['why']}", " " * 20, " " * 22)]


def _way(direction: str | None) -> str:
    names = {"uni": "one way", "bidir": "both ways", "unstated": "way unstated"}
    return names.get(direction or "", "")


def _si(field: str, value: float) -> str:
    if field.startswith("peak."):
        return f"{value / 1e12:g} TFLOP/s"
    if field in ("memory", "memory_usable", "capacity"):
        return format_bytes(value)
    if field == "tdp":
        return f"{value:g} W"
    if field.startswith(("alpha", "measured.latency")):
        return f"{value * 1e6:.3g} us"
    if value >= 1e6:
        return format_rate(value)
    return f"{value:g}"


def _price_line(p: Mapping[str, Any]) -> str:
    if p["usd_per_chip_hour"] is None:
        return f"{p['price_type']:<16}-"
    return f"{p['price_type']:<16}{_span(p['low'], p['high'])}: {p['why']}"


# -- validate


def validate_data(name: str | None, findings: Sequence[Finding], faults: Sequence[KnownFault],
                  counts: Mapping[str, int]) -> Data:  # fmt: skip
    """``catalog validate``: findings, and for the shipped catalogue the known faults."""
    return {
        "catalogue": name or "shipped",
        "counts": dict(counts),
        "errors": sum(f.severity == "error" for f in findings),
        "warnings": sum(f.severity == "warning" for f in findings),
        "findings": [_finding_data(f) for f in findings],
        "known_faults": [
            {
                "claim": k.claim, "truth": k.truth, "kind": k.kind,
                "caught_by": None if k.finding is None else k.finding.rule,
                "evidence": None if k.finding is None else _sentence(k.finding),
            }
            for k in faults
        ],
    }  # fmt: skip


def _finding_data(f: Finding) -> Data:
    names = ("severity", "rule", "where", "subject", "what", "evidence", "hint")
    return {n: getattr(f, n) for n in names}


def _sentence(f: Finding) -> str:
    return f"{f.what} ({f.evidence})" if f.evidence else f.what


def validate_text(data: Data, *, everything: bool = False) -> str:
    """``catalog validate`` for a terminal; ``everything`` lists each finding of a rule."""
    errors, warnings = data["errors"], data["warnings"]
    shipped = data["catalogue"] == "shipped"
    what = "the shipped catalogue" if shipped else data["catalogue"]
    verdict = f"{_plural(errors, 'error')}, {_plural(warnings, 'warning')} in {what}"
    if not errors:
        verdict = f"sound: {verdict}"
    if data["counts"]:
        verdict += f" ({', '.join(f'{n} {k}' for k, n in data['counts'].items())})"
    blocks = [_fold(verdict)]
    for severity in ("error", "warning"):
        found = [f for f in data["findings"] if f["severity"] == severity]
        for rule in dict.fromkeys(f["rule"] for f in found):
            rows = [f for f in found if f["rule"] == rule]
            blocks.append(_rule_text(severity, rule, rows, everything=everything))
    if data["known_faults"]:
        blocks.append(_known_text(data["known_faults"]))
    return page("\n\n".join(blocks).split("\n"))


def _rule_text(severity: str, rule: str, rows: Sequence[Data], *, everything: bool) -> str:
    lines = [_fold(f"{severity}: {rule} x {len(rows)}: {RULES[rule][1]}", "", "  ")]
    shown = rows if everything else rows[:FINDINGS_SHOWN]
    for f in shown:
        evidence = f" ({f['evidence']})" if f["evidence"] else ""
        lines.append(_fold(f"{f['where']}: {f['what']}{evidence}", "  ", "    "))
    if len(rows) > len(shown):
        lines.append(f"  and {len(rows) - len(shown)} more: `--all`")
    hint = next((f["hint"] for f in rows if f["hint"]), "")
    if hint:
        lines.append(_fold(f"hint: {hint}", "  ", "    "))
    return page(lines)


def _known_text(faults: Sequence[Data]) -> str:
    caught = sum(f["caught_by"] is not None for f in faults)
    head = f"{caught} of {len(faults)} known faults of public catalogues are caught by these rules"
    lines = [head]
    for f in faults:
        lines.append(_fold(f"{f['caught_by'] or 'MISSED'}: {f['claim']}", "  ", "    "))
        lines.append(_fold(f"{f['evidence'] or f['truth']}", "    ", "    "))
    return page(lines)


# -- refresh


def refresh_data(done: Refreshed) -> Data:
    """``catalog refresh``: what was fetched, what could not be, and the file."""
    return {
        "path": str(done.path), "rows": done.rows, "faulty": done.faulty, "failed": done.failed,
    }  # fmt: skip


def refresh_text(data: Data) -> str:
    """``catalog refresh`` for a terminal."""
    total = sum(data["rows"].values())
    parts = ", ".join(f"{n} from {name}" for name, n in data["rows"].items())
    lines = [f"{total} prices: {parts}; {data['faulty']} faulty ones are never taken"]
    lines.append(f"written to {data['path']}")
    return page(lines)


# -- pieces


def _num(value: float | None, unit: float = 1.0) -> str:
    if value is None:
        return "-"
    scaled = value / unit
    if scaled >= 100:
        return f"{scaled:.0f}"
    return f"{scaled:.3g}" if scaled >= 0.1 else f"{scaled:.2g}"


def _span(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "-"
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _fold(text: str, first: str = "", rest: str | None = None) -> str:
    return textwrap.fill(
        text, width(), initial_indent=first, subsequent_indent=first if rest is None else rest,
        break_on_hyphens=False,
    )  # fmt: skip


def _table(rows: Sequence[Sequence[str]], right: Iterable[int]) -> str:
    """Columns as wide as their widest cell, two blanks between them, numbers to the right."""
    to_right = set(right)
    widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = []
    for r in rows:
        cells = [
            cell.rjust(w) if c in to_right else cell.ljust(w)
            for c, (cell, w) in enumerate(zip(r, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return page(lines)
