"""Rules on the form of a fact: unit, label, status, source and date must all be there."""

from __future__ import annotations

import datetime
import math
from collections.abc import Container, Iterator
from typing import Any, Final

from weftline.catalog.accelerators import DTYPES, FIELDS
from weftline.catalog.facts import DIRECTIONS, KINDS, STATUSES, UNIT_KINDS, UNITS
from weftline.catalog.findings import Finding, finding
from weftline.errors import nearest_names
from weftline.spec.located import Located

FACT_KEYS: Final = frozenset(
    {
        "field", "value", "unit", "kind", "direction", "status", "source", "date", "scope", "note",
    }
)  # fmt: skip
# Of which kind the unit of an accelerator's field is.
FIELD_UNITS: Final = {
    "memory": "size", "memory_usable": "size", "memory_bandwidth": "bandwidth",
    "scale_up": "bandwidth", "scale_up_domain": "count", "scale_out": "bandwidth", "tdp": "power",
    "chips_per_host": "count",
}  # fmt: skip
_STATED: Final = tuple(s for s in STATUSES if s not in ("given", "measured"))
"""What a file can say; what the user gives on the command line stands in none."""
DIRECTED: Final = frozenset({"scale_up", "scale_out", "link", "chip_egress", "host_egress"})


def good_date(text: object) -> bool:
    """True for ``2026-07-20``, ``2026-07``, ``2026`` and ``2026-xx``."""
    if isinstance(text, datetime.date):
        return True
    parts = str(text).removesuffix("-xx").split("-")
    if not all(p.isascii() and p.isdigit() for p in parts) or len(parts) > 3 or len(parts[0]) != 4:
        return False
    numbers = [int(p) for p in parts] + [1] * (3 - len(parts))
    try:
        datetime.date(*numbers)
    except ValueError:
        return False
    return True


def positive(value: float) -> bool:
    """True for a finite number above zero that fits a float."""
    try:
        return 0 < float(value) < math.inf
    except OverflowError:
        return False


def check_fact(
    fact: Located, where: str, owner: str, sources: Container[str], *, accelerator: bool
) -> Iterator[Finding]:
    """All faults in the form of one fact record."""
    if not isinstance(fact.value, dict):
        yield finding("not-readable", where, f"{owner}: a fact is a mapping", repr(fact.plain()))
        return
    field = str(fact.get("field"))
    subject = f"{owner} {field}"
    for key in fact.value:
        if key not in FACT_KEYS:
            near = nearest_names(key, FACT_KEYS)
            hint = f"did you mean `{near[0]}`?" if near else ""
            text = f"{subject}: unknown field `{key}`"
            yield finding("unknown-key", where, text, "", hint=hint, subject=owner)
    if not isinstance(fact.get("field"), str):
        yield finding("missing-key", where, f"{owner}: a fact without `field`", "", subject=owner)
        return
    if accelerator and not _known_field(field):
        near = nearest_names(field, (*FIELDS, *(f"peak.{d}" for d in DTYPES)))
        hint = (
            f"did you mean `{near[0]}`?" if near else f"one of {', '.join(FIELDS)}, peak.<format>"
        )
        text = f"{owner}: unknown field `{field}`"
        yield finding("unknown-key", where, text, "", hint=hint, subject=owner)
    yield from _number(fact, where, subject, owner)
    yield from _unit(fact, where, subject, owner, field, accelerator=accelerator)
    yield from _labels(fact, where, subject, owner, field)
    yield from _origin(fact, where, subject, owner, sources)


def _known_field(field: str) -> bool:
    return field in FIELDS or (field.startswith("peak.") and field[5:] in DTYPES)


def _number(fact: Located, where: str, subject: str, owner: str) -> Iterator[Finding]:
    value: Any = fact.get("value")
    if value is None:
        yield finding("missing-key", where, f"{subject} has no `value`", "", subject=owner)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        text = f"{subject}: `{value}` is not a number"
        hint = "the unit stands in `unit`"
        yield finding("not-readable", where, text, "", hint=hint, subject=owner)
    # A request within a region can be free; every other number must be above zero.
    elif not positive(value) and not (value == 0 and fact.get("unit") == "USD/GB"):
        yield finding("not-positive", where, f"{subject} is {value}", "", subject=owner)


def _unit(
    fact: Located, where: str, subject: str, owner: str, field: str, *, accelerator: bool
) -> Iterator[Finding]:
    unit = fact.get("unit")
    if not isinstance(unit, str) or unit not in UNITS:
        near = nearest_names(str(unit), UNITS) if unit else ()
        hint = f"did you mean `{near[0]}`?" if near else f"one of {', '.join(UNITS)}"
        said = f"has unknown unit `{unit}`" if unit else "has no unit"
        yield finding("unit-missing", where, f"{subject} {said}", "", hint=hint, subject=owner)
        return
    wanted = "rate of operations" if field.startswith("peak.") else FIELD_UNITS.get(field)
    if accelerator and wanted is not None and UNIT_KINDS[unit] != wanted:
        text = f"{subject}: `{unit}` is a {UNIT_KINDS[unit]}"
        evidence = f"`{field}` is a {wanted}"
        yield finding("unit-mismatch", where, text, evidence, subject=owner)


def _labels(fact: Located, where: str, subject: str, owner: str, field: str) -> Iterator[Finding]:
    kind, direction = fact.get("kind"), fact.get("direction")
    if (kind is not None or field.startswith("peak.")) and kind not in KINDS:
        text = f"{subject} says neither dense nor sparse"
        hint = "add `kind: dense`, `kind: sparse` or `kind: unstated`"
        yield finding("label-missing", where, text, "", hint=hint, subject=owner)
    if (direction is not None or field in DIRECTED) and direction not in DIRECTIONS:
        text = f"{subject} says nothing of its direction"
        hint = "add `direction: uni`, `direction: bidir` or `direction: unstated`"
        yield finding("label-missing", where, text, "", hint=hint, subject=owner)


def _origin(
    fact: Located, where: str, subject: str, owner: str, sources: Container[str]
) -> Iterator[Finding]:
    status, source, date = fact.get("status"), fact.get("source"), fact.get("date")
    if status not in _STATED:
        hint = f"one of {', '.join(_STATED)}"
        text = f"{subject}: status `{status}`"
        yield finding("status-unknown", where, text, "", hint=hint, subject=owner)
    if not isinstance(source, str) or source not in sources:
        hint = "list it under `sources`"
        text = f"{subject}: no source `{source}`" if source else f"{subject} has no source"
        yield finding("source-dangling", where, text, "", hint=hint, subject=owner)
    if date is None or not good_date(date):
        text = f"{subject}: `{date}` is not a date" if date else f"{subject} has no date"
        hint = "write 2026-11-21, 2026-11 or 2026"
        yield finding("date-missing", where, text, "", hint=hint, subject=owner)
