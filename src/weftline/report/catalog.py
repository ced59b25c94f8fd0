"""The catalogue for a reader: each view is built as plain data, and its text from that data.

``--json`` prints the data, the terminal its text, so both hold the same fields.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

from weftline.catalog import accelerators, cpus, fabrics, sources, storage_tiers, unconfirmed_of
from weftline.catalog.accelerators import Accelerator
from weftline.catalog.facts import Choice, Fact, FactSheet
from weftline.catalog.findings import RULES, Finding
from weftline.catalog.validation import KnownFault
from weftline.report.catalog_prices import chip_prices, list_prices, price_line, price_rows
from weftline.report.catalog_text import columns, fold, num, plural
from weftline.report.models import model_rows, render_models
from weftline.report.text import page
from weftline.units import format_bytes, format_rate

KINDS: Final = ("accelerators", "fabrics", "prices", "storage", "cpus", "sources", "models")
FINDINGS_SHOWN: Final = 3
Data = dict[str, Any]


# -- list


def list_data(
    kind: str, vendor: str | None = None, *, chip: str | None = None,
    today: datetime.date | None = None,
) -> Data:  # fmt: skip
    """The rows of ``catalog list KIND``; ``vendor`` (or provider) limits them.

    Of prices, ``chip`` asks for every offer of one chip, and ages are counted to ``today``.
    """
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
        rows = price_rows(vendor, chip, today)
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
    return {"of": kind, "count": len(rows), "rows": rows}


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
        "unconfirmed": list(unconfirmed_of(a)),
    }


def list_text(data: Data) -> str:
    """``catalog list`` for a terminal."""
    rows, kind = data["rows"], data["of"]
    builders = {
        "accelerators": _list_accelerators, "fabrics": _list_fabrics, "prices": list_prices,
        "storage": _list_storage, "cpus": _list_cpus, "sources": _list_sources,
        "models": render_models,
    }  # fmt: skip
    return builders[kind](rows)


def _list_accelerators(rows: Sequence[Data]) -> str:
    vendors = len({r["vendor"] for r in rows})
    head = f"{plural(len(rows), 'accelerator')} of {plural(vendors, 'vendor')}"
    table = [("", "16bit", "8bit", "mem", "", "link", "", "tdp", ""),
             ("id", "TF/s", "TF/s", "GB", "TB/s", "GB/s", "x", "W", "state")]  # fmt: skip
    shown = (("peak.bf16", "bf16_flops", 1e12), ("peak.fp8", "fp8_flops", 1e12),
             ("memory", "memory_bytes", 1e9),
             ("memory_bandwidth", "memory_bandwidth_bytes_per_s", 1e12),
             ("scale_up", "scale_up_bytes_per_s", 1e9), ("scale_up_domain", "scale_up_domain", 1),
             ("tdp", "tdp_w", 1))  # fmt: skip
    table += [
        (
            r["id"],
            *(num(r[k], unit) + ("?" if f in r["unconfirmed"] else "") for f, k, unit in shown),
            r["availability"],
        )
        for r in rows
    ]
    foot = (
        "Peaks are dense, in TFLOP/s; link is what one chip sends, one way, into its scale-up "
        "domain of x chips; a figure with ? has no source."
    )
    return head + "\n\n" + columns(table, right=range(1, 8)) + "\n\n" + fold(foot)


def _list_fabrics(rows: Sequence[Data]) -> str:
    table = [("", "", "", "link", "chip egress", "step latency"),
             ("id", "kind", "chips", "GB/s", "GB/s", "us")]  # fmt: skip
    table += [
        (r["id"], r["kind"], num(r["chips"]), num(r["link_bytes_per_s"], 1e9),
         num(r["chip_egress_bytes_per_s"], 1e9), num(r["alpha_s"], 1e-6))
        for r in rows
    ]  # fmt: skip
    head = f"{len(rows)} fabrics; bandwidths are one direction"
    return head + "\n\n" + columns(table, right=range(2, 6))


def _list_storage(rows: Sequence[Data]) -> str:
    table = [("id", "kind", "USD/GB-month", "capacity")]
    table += [
        (r["id"], r["kind"], num(r["usd_per_gb_month"]),
         format_bytes(r["capacity_bytes"]) if r["capacity_bytes"] else "-")
        for r in rows
    ]  # fmt: skip
    return f"{len(rows)} storage tiers\n\n" + columns(table, right=range(2, 4))


def _list_cpus(rows: Sequence[Data]) -> str:
    table = [("id", "vendor", "cores", "core", "memory")]
    table += [(r["id"], r["vendor"], str(r["cores"]), r["core"], r["memory"]) for r in rows]
    return f"{len(rows)} host CPUs\n\n" + columns(table, right=range(2, 3))


def _list_sources(rows: Sequence[Data]) -> str:
    lines = [f"{len(rows)} sources", ""]
    for r in rows:
        lines.append(f"{r['id']}  ({r['status']}, {r['date']}, {r['licence']})")
        lines.append(fold(r["title"], "  "))
    return page(lines)


# -- show


def show_data(sheet: FactSheet, today: datetime.date) -> Data:
    """``catalog show NAME``: every fact, which was taken and why, prices and sources."""
    data: Data = {"id": sheet.id}
    names = ("vendor", "availability", "launch", "process", "topology", "topology_kind", "kind",
             "provider", "purpose", "note")  # fmt: skip
    data.update({"of" if n == "kind" else n: v for n in names
                 if (v := getattr(sheet, n, None)) is not None})  # fmt: skip
    data["fields"] = [_field_data(sheet, field) for field in sheet.fields()]
    if isinstance(sheet, Accelerator):
        data["answer"] = _chip_answer(sheet)
        data["prices"] = chip_prices(sheet.id, today)
    else:
        data["answer"] = f"{sheet.id}: {getattr(sheet, 'topology', None) or data['of']}"
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


def _source(name: str) -> Data:
    s = sources()[name]
    return {"title": s.title, "status": s.status, "date": s.date, "licence": s.licence}


def show_text(data: Data) -> str:
    """``catalog show`` for a terminal."""
    blocks = [fold(data["answer"])]
    about = [
        f"{label:<10}{data[key]}"
        for label, key in (("launch", "launch"), ("process", "process"), ("network", "topology"))
        if key in data
    ]
    if "note" in data:
        about.append(f"{'note':<10}{data['note']}")
    blocks.append("\n".join(fold(line, "", " " * 10) for line in about))
    blocks.append("\n".join(line for f in data["fields"] for line in _field_lines(f)))
    if "prices" in data:
        lines = ["prices, USD per chip hour"]
        lines += [fold(price_line(p), "  ", " " * 18) for p in data["prices"]]
        blocks.append("\n".join(lines))
    lines = ["sources"]
    for name, s in data["sources"].items():
        lines.append(fold(f"{name} ({s['date']}): {s['title']}", "  ", " " * 4))
    blocks.append("\n".join(lines))
    return page("\n\n".join(b for b in blocks if b).split("\n"))


def _field_lines(field: Mapping[str, Any]) -> list[str]:
    lines = []
    for n, f in enumerate(field["facts"]):
        name = field["field"] if n == 0 else ""
        labels = " ".join(x for x in (f.get("kind"), _way(f.get("direction"))) if x)
        mark = "*" if f["taken"] and len(field["facts"]) > 1 else " "
        value = f"{f['value']:>9,.10g} {f['unit']:<8} {labels:<12}"
        line = f"{name:<18}{mark}{value} {f['status']:<11} {f['source']}"
        lines.append(line.rstrip())
        said = sources()[f["source"]].date
        parts = (
            f"only {f['scope']}" if "scope" in f else "",
            f"dated {f['date']}" if f["date"] != said else "",
            f.get("note", ""),
        )
        extra = "; ".join(x for x in parts if x)
        if extra:
            lines.append(fold(extra, " " * 22))
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
    return [fold(f"took {value}{span}: {field['why']}", " " * 20, " " * 22)]


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
    verdict = f"{plural(errors, 'error')}, {plural(warnings, 'warning')} in {what}"
    if not errors:
        verdict = f"sound: {verdict}"
    if data["counts"]:
        verdict += f" ({', '.join(f'{n} {k}' for k, n in data['counts'].items())})"
    blocks = [fold(verdict)]
    for severity in ("error", "warning"):
        found = [f for f in data["findings"] if f["severity"] == severity]
        for rule in dict.fromkeys(f["rule"] for f in found):
            rows = [f for f in found if f["rule"] == rule]
            blocks.append(_rule_text(severity, rule, rows, everything=everything))
    if data["known_faults"]:
        blocks.append(_known_text(data["known_faults"]))
    return page("\n\n".join(blocks).split("\n"))


def _rule_text(severity: str, rule: str, rows: Sequence[Data], *, everything: bool) -> str:
    lines = [fold(f"{severity}: {rule} x {len(rows)}: {RULES[rule][1]}", "", "  ")]
    shown = rows if everything else rows[:FINDINGS_SHOWN]
    for f in shown:
        evidence = f" ({f['evidence']})" if f["evidence"] else ""
        lines.append(fold(f"{f['where']}: {f['what']}{evidence}", "  ", "    "))
    if len(rows) > len(shown):
        lines.append(f"  and {len(rows) - len(shown)} more: `--all`")
    hint = next((f["hint"] for f in rows if f["hint"]), "")
    if hint:
        lines.append(fold(f"hint: {hint}", "  ", "    "))
    return page(lines)


def _known_text(faults: Sequence[Data]) -> str:
    caught = sum(f["caught_by"] is not None for f in faults)
    head = f"{caught} of {len(faults)} known faults of public catalogues are caught by these rules"
    lines = [head]
    for f in faults:
        lines.append(fold(f"{f['caught_by'] or 'MISSED'}: {f['claim']}", "  ", "    "))
        lines.append(fold(f"{f['evidence'] or f['truth']}", "    ", "    "))
    return page(lines)
