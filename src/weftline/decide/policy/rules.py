"""Rules as data: those that ship, and an organisation's own; and what a user declares of a plan."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError, UnknownNameError
from weftline.spec.decision import OUTCOMES
from weftline.spec.located import Located, read_located
from weftline.spec.parse import Collector
from weftline.units import parse_count, parse_usd

__all__ = ["DECLARED", "Rule", "die_area_mm2", "read_declared", "rules_of", "rules_version"]

KINDS: Final = ("compute", "export", "declaration", "residency", "limit")
QUANTITIES: Final = ("flop", "usd", "energy_kwh", "kgco2e", "chips")
"""What a ``limit`` may bound."""
DECLARED: Final[Mapping[str, str]] = {
    "markets": "where the model will be offered: EU, US-CA, US-NY, none",
    "where": "country that the machines stand in, ISO 3166 alpha-3: USA",
    "who": "who uses them, by country: USA",
    "prior_flop": "operations of earlier training that count towards a threshold: 3e24",
    "revenue": "gross revenue of the developer and its affiliates last year: $600M",
    "acceptable_use": "yes, if the seller's policy is accepted for the intended use",
    "use": "the intended use, in words",
    "die_area": "square millimetres of die by chip: {h100-sxm: 814}",
    "data_class": "class of the data, for an organisation's own rules",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule; which of its fields count follows from its kind."""

    id: str
    title: str
    kind: str
    outcome: str
    source: str
    date: str
    """When the source was read."""
    says: str = ""
    in_force: str = ""
    disagree: str = ""
    market: str = ""
    flop_above: float = 0.0
    revenue_above_usd: float = 0.0
    countries: tuple[str, ...] = ()
    tpp_at_least: float = 0.0
    tpp_and_density: tuple[float, ...] = ()
    tpp_case_by_case_below: float = 0.0
    dram_gb_s_case_by_case_below: float = 0.0
    seller: str = ""
    needs: str = ""
    accepted: str = ""
    allowed: tuple[str, ...] = ()
    quantity: str = ""
    most: float = 0.0


@cache
def _shipped() -> Mapping[str, Any]:
    import yaml

    text = resources.files("weftline.decide").joinpath("data/policy.yaml").read_text("utf-8")
    found: Mapping[str, Any] = yaml.safe_load(text)
    return found


def rules_version() -> str:
    """The day that the shipped rules were last looked at."""
    return str(_shipped()["version"])


def die_area_mm2(chip: str) -> float | None:
    """Die area of a chip where one was read; None is unknown, never small."""
    found = _shipped()["die_area_mm2"]["chips"].get(chip)
    return None if found is None else float(found)


def rules_of(own: Path | None = None) -> tuple[Rule, ...]:
    """The shipped rules, and behind them those of an organisation's file.

    Raises every mistake of the file at once, with its line.
    """
    shipped = tuple(_rule(dict(r)) for r in _shipped()["rules"])
    if own is None:
        return shipped
    root = _document(own, "--rules")
    items = root.value if isinstance(root.value, list) else root.items("rules")
    if not items:
        hint = "rules: [{id: eu-only, kind: residency, allowed: [DEU, FRA]}]"
        raise InputError("no rules", where=f"{own}:1", hint=hint)
    get = Collector()
    found = get.each(items, lambda item: _own(item, f"{own}:{item.line}", str(own)))
    taken = {r.id for r in shipped}
    for rule in found:
        if rule.id in taken:
            get.errors.append(InputError(f"two rules are called `{rule.id}`", where=f"{own}:1"))
        taken.add(rule.id)
    get.raise_all()
    return (*shipped, *found)


def _document(path: Path, where: str) -> Located:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`{path}`: {getattr(error, 'strerror', None) or 'not a text file'}",
                         where=where) from None  # fmt: skip
    return read_located(text, str(path))


def _own(item: Located, where: str, path: str) -> Rule:
    if not isinstance(item.value, dict):
        raise InputError("a rule is a mapping", where=where, hint="{id: eu-only, kind: residency}")
    plain = item.plain()
    known = {f.name for f in fields(Rule)}
    get = Collector()
    for key, held in item.value.items():
        if key not in known:
            at = f"{path}:{held.line}"
            get.errors.append(UnknownNameError("field", key, known, where=at))
    for key, allowed in (("kind", KINDS), ("outcome", OUTCOMES), ("quantity", QUANTITIES)):
        value = plain.get(key)
        if value is not None and value not in allowed:
            get.errors.append(UnknownNameError(key, str(value), allowed, where=where,
                                               hint=f"one of {', '.join(allowed)}"))  # fmt: skip
    lacking = [k for k in ("id", "kind") if k not in plain]
    if lacking:
        get.errors.append(InputError(f"a rule needs {' and '.join(lacking)}", where=where))
    get.raise_all()
    own = {"title": str(plain.get("id")), "outcome": "refuse", "source": path, "date": ""}
    return _rule({**own, **plain})


def _rule(values: dict[str, Any]) -> Rule:
    for name in ("countries", "allowed", "tpp_and_density"):
        if name in values:
            values[name] = tuple(values[name])
    for name in ("flop_above", "revenue_above_usd", "most"):
        if name in values:
            values[name] = float(values[name])
    return Rule(**values)


def read_declared(path: Path | None) -> dict[str, Any]:
    """What the user declares: countries, markets, uses. Raises every mistake with its line."""
    if path is None:
        return {}
    root = _document(path, "--declare")
    if not isinstance(root.value, dict):
        raise InputError("a declaration is a mapping", where=f"{path}:1", hint="where: USA")
    get = Collector()
    found: dict[str, Any] = {}
    for key, held in root.value.items():
        at = f"{path}:{held.line}"
        if key not in DECLARED:
            get.errors.append(UnknownNameError("declaration", key, DECLARED, where=at))
            continue
        value = get(lambda k=key, h=held, a=at: _declared(k, h.plain(), a))  # type: ignore[misc]
        if value is not None:
            found[key] = value
    get.raise_all()
    return found


def _declared(key: str, value: Any, where: str) -> Any:
    if key == "prior_flop":
        return float(parse_count(f"{float(value):.0f}", where=where)) if value else 0.0
    if key == "revenue":
        return parse_usd(str(value), where=where)
    if key == "markets":
        items: Sequence[Any] = value if isinstance(value, list) else [value]
        return tuple(str(v).strip() for v in items if str(v).strip().lower() != "none")
    if key == "die_area":
        if not isinstance(value, dict):
            raise InputError("die areas are a mapping", where=where, hint="{h100-sxm: 814}")
        return {str(k): float(v) for k, v in value.items()}
    if key == "acceptable_use":
        return "yes" if value in (True, "yes", "accepted") else "no"
    if key in ("where", "who"):
        word = str(value).strip().upper()
        if len(word) != 3 or not word.isalpha():
            raise InputError(f"`{value}` is not a country", where=where, hint="USA, DEU, CHN")
        return word
    return str(value)


def day_of(text: str | None, fallback: datetime.date) -> datetime.date:
    """A day as written, or the day it is. Raises InputError."""
    if text is None:
        return fallback
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"`{text}` is not a date", where="--on", hint="2026-11-30") from None
