"""``catalog validate``: the shipped catalogue, or a user's, against the rules."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from weftline.catalog._read import (
    ACCELERATOR_FILES,
    accelerator_from,
    data_json,
    data_text,
    sources,
)
from weftline.catalog.date import CATALOG_DATE
from weftline.catalog.fabrics import fabric_from
from weftline.catalog.figure_rules import check_coverage, check_figures, check_sheet
from weftline.catalog.findings import Finding, finding
from weftline.catalog.formats import parse
from weftline.catalog.parsed import Parsed
from weftline.catalog.price_rules import check_prices, quarantined
from weftline.catalog.schema_rules import check_fact
from weftline.errors import InputError, nearest_names
from weftline.spec.located import Located

MAX_AGE_DAYS: Final = 365
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
_CHIP_KEYS: Final = frozenset(
    {
        "id", "vendor", "availability", "launch", "process", "topology", "topology_kind",
        "topology_shape", "purpose", "use", "note", "facts",
    }
)  # fmt: skip
_FABRIC_KEYS: Final = frozenset({"id", "topology", "kind", "chips", "shape", "note", "facts"})
_TOP_KEYS: Final = frozenset(
    {"sources", "accelerators", "fabrics", "prices", "figures", "nccl_constants_us", "closed_forms"}
)
_LIST_KEYS: Final = ("accelerators", "fabrics", "prices", "figures")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFault:
    """A fault of a public catalogue, and the finding the rules made on an excerpt of it."""

    claim: str
    truth: str
    kind: str
    finding: Finding | None
    """None would mean that the rules missed it."""


def validate(
    path: Path | None = None,
    *,
    today: datetime.date | None = None,
    max_age_days: int = MAX_AGE_DAYS,
) -> list[Finding]:
    """Check a catalogue, by default the shipped one, and return what is wrong with it.

    In the shipped one, faulty rows are kept with flags and never taken, so they are warnings; a
    faulty row without its flag is an error. Raises InputError where ``path`` cannot be read.
    """
    day = today or datetime.date.today()
    if path is None:
        return _validate_shipped(day, max_age_days)
    return check(parse(_read(path), str(path), date=day.isoformat()), day, max_age_days)


def check(parsed: Parsed, today: datetime.date, max_age_days: int) -> list[Finding]:
    """All findings on one parsed file."""
    out = list(parsed.findings)
    if parsed.document is not None:
        out.extend(_check_document(parsed.document, parsed.name))
    out.extend(check_prices(parsed.prices, today=today, max_age_days=max_age_days))
    out.extend(check_figures(parsed.figures))
    if parsed.grid_providers:
        out.extend(check_coverage(parsed.grid_providers, f"{parsed.name}:1"))
    return out


def known_faults() -> tuple[KnownFault, ...]:
    """The known faults of public catalogues, each with the finding made on an excerpt of it."""
    listed: Sequence[Mapping[str, Any]] = data_json("published/known_faults.json")["faults"]
    day = datetime.date.fromisoformat(CATALOG_DATE)
    found: dict[str, list[Finding]] = {}
    for name in dict.fromkeys(f["file"] for f in listed):
        text = data_text(f"published/{name}")
        found[name] = check(parse(text, name, date=CATALOG_DATE), day, MAX_AGE_DAYS)
    return tuple(
        KnownFault(claim=f["claim"], truth=f["truth"], kind=f["kind"], finding=hit)
        for f in listed
        for hit in [_first(found[f["file"]], rule=f["rule"], subject=f["subject"])]
    )


def _first(findings: Sequence[Finding], *, rule: str, subject: str) -> Finding | None:
    return next((f for f in findings if f.rule == rule and f.subject == subject), None)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise InputError("larger than 64 MiB: no catalogue", where=str(path))
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", where=str(path)) from error
    except OSError as error:
        hint = "give a file, or nothing for the shipped catalogue"
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from error


def _validate_shipped(today: datetime.date, max_age_days: int) -> list[Finding]:
    out: list[Finding] = []
    for name in (*(f"accelerators/{n}.json" for n in ACCELERATOR_FILES), "fabrics.json"):
        out.extend(check(parse(data_text(name), name, date=CATALOG_DATE), today, max_age_days))
    parsed = parse(data_text("prices.csv"), "prices.csv", date=CATALOG_DATE)
    found = check(parsed, today, max_age_days)
    out.extend(replace(f, severity="warning") if f.rule != "not-readable" else f for f in found)
    held = quarantined(found)
    for row in parsed.prices:
        if tuple(sorted(row.price.flags)) != held.get(row.where, ()):
            text = f"{row.price.provider} {row.price.instance} {row.price.zone}: flags differ"
            rules = " ".join(held.get(row.where, ())) or "none"
            flags = " ".join(row.price.flags) or "none"
            out.append(
                finding("flag-mismatch", row.where, text, f"rules say {rules}, flags say {flags}")
            )
    # Sources that contradict each other are kept on purpose: their conflict is worth a warning.
    conflicts = ("sparse-as-dense",)
    return [replace(f, severity="warning") if f.rule in conflicts else f for f in out]


def _check_document(doc: Located, name: str) -> list[Finding]:
    out: list[Finding] = []
    for key, held in doc.value.items():
        if key not in _TOP_KEYS:
            near = nearest_names(key, _TOP_KEYS)
            hint = (
                f"did you mean `{near[0]}`?" if near else f"one of {', '.join(sorted(_TOP_KEYS))}"
            )
            where = f"{name}:{held.line}"
            out.append(finding("unknown-key", where, f"unknown field `{key}`", "", hint=hint))
        elif key in _LIST_KEYS and not isinstance(held.value, list):
            text = f"`{key}` is a list"
            out.append(finding("not-readable", f"{name}:{held.line}", text, ""))
    own = doc.get("sources")
    known = {*sources(), *(own if isinstance(own, dict) else {})}
    seen: set[str] = set()
    for key in ("accelerators", "fabrics"):
        for record in doc.items(key):
            out.extend(_check_record(record, name, known, seen, accelerator=key == "accelerators"))
    return out


def _check_record(
    record: Located, name: str, known: set[str], seen: set[str], *, accelerator: bool
) -> list[Finding]:
    where = f"{name}:{record.line}"
    owner = str(record.get("id") or "?")
    if not isinstance(record.value, dict) or record.get("id") is None:
        return [finding("missing-key", where, "a record without `id`", "")]
    out = [
        finding("unknown-key", where, f"{owner}: unknown field `{key}`", "", subject=owner)
        for key in record.value
        if key not in (_CHIP_KEYS if accelerator else _FABRIC_KEYS)
    ]
    if owner in seen:
        out.append(finding("duplicate", where, f"`{owner}` is listed twice", "", subject=owner))
    seen.add(owner)
    if not isinstance(record.get("facts"), list):
        out.append(finding("missing-key", where, f"{owner} has no list of `facts`", ""))
    facts = record.items("facts")
    for fact in facts:
        place = f"{name}:{fact.line}"
        out.extend(check_fact(fact, place, owner, known, accelerator=accelerator))
    if not out:
        wheres = {n: f"{name}:{fact.line}" for n, fact in enumerate(facts)}
        build = accelerator_from if accelerator else fabric_from
        out.extend(check_sheet(build(_complete(record.plain(), accelerator)), wheres))
    return out


def _complete(record: dict[str, Any], accelerator: bool) -> dict[str, Any]:
    """What the comparison of a record's own facts needs of it; the rest is not ours to judge."""
    blank: dict[str, Any] = (
        {"vendor": "?", "availability": "shipping", "launch": "n/d", "process": "n/d",
         "topology": "n/d", "topology_kind": "unknown"}
        if accelerator
        else {"topology": "n/d", "kind": "switch", "chips": []}
    )  # fmt: skip
    facts = [{**f, "date": str(f["date"])} for f in record["facts"]]
    return {**blank, "id": str(record["id"]), "facts": facts}
