"""Two plans beside each other: what they share in numbers, and limits on how far they may lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from weftline.errors import InputError, UnknownNameError
from weftline.spec.estimate import Estimate
from weftline.spec.lifecycle import Lifecycle
from weftline.spec.parse import Collector
from weftline.spec.plan import Plan
from weftline.spec.serve_plan import ServePlan

__all__ = ["Changed", "Difference", "Limit", "Moved", "difference", "parse_limits"]

AnyPlan = Plan | ServePlan | Lifecycle
_ALIASES: Final = {
    "cost": ("cost", "cost_per_hour"), "time": ("train_time",), "step": ("step_time",),
    "tokens": ("tokens_per_s",),
}  # fmt: skip
"""Short names of estimates, the first that both plans have."""
_ALL_IF_EMPTY: Final = frozenset({"accelerators", "chips", "engines"})
_LEFT_OUT: Final = frozenset({"trace", "arrived_s"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One estimate of both plans."""

    name: str
    unit: str
    before: float | None
    after: float | None
    apart: bool
    """Whether the bands do not meet: the difference is more than what is not known."""

    @property
    def share(self) -> float | None:
        """After over before, less one; None where one is missing or before is 0."""
        if self.before is None or self.after is None or self.before == 0:
            return None
        return self.after / self.before - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """One field that is not the same in both, as text."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """``cost>5%``: where a difference counts as too much."""

    text: str
    name: str
    above: bool
    amount: float
    relative: bool

    def crossed(self, moved: Moved) -> bool:
        """Whether the estimate went beyond it; one that is missing on a side did, too."""
        value = moved.share if self.relative else moved.after
        if value is None:
            return True
        return value > self.amount if self.above else value < self.amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What differs between two plans of one kind."""

    of: str
    asked: tuple[Changed, ...]
    """Fields of the question."""
    chosen: tuple[Changed, ...]
    """Chip, count, layout, framework or engine, price."""
    moved: tuple[Moved, ...]


def difference(before: AnyPlan, after: AnyPlan) -> Difference:
    """Hold two plans beside each other. Raises InputError where they are of two kinds."""
    if type(before) is not type(after):
        kinds = {Plan: "to train", ServePlan: "to serve", Lifecycle: "for a whole life"}
        raise InputError(f"one plan is {kinds[type(before)]} and the other {kinds[type(after)]}",
                         hint="give two of one kind")  # fmt: skip
    first, second = _numbers(before), _numbers(after)
    moved = []
    for name in (*first, *(n for n in second if n not in first)):
        a, b = first.get(name), second.get(name)
        unit = a.unit if a is not None else b.unit if b is not None else ""
        apart = a is not None and b is not None and (a.high < b.low or b.high < a.low)
        moved.append(Moved(
            name=name, unit=unit, before=None if a is None else a.value,
            after=None if b is None else b.value, apart=apart,
        ))  # fmt: skip
    kind = before.kind if not isinstance(before, Plan) else "train"
    return Difference(
        of=kind, asked=_changed(_asked(before), _asked(after)),
        chosen=_changed(_chosen(before), _chosen(after)), moved=tuple(moved),
    )  # fmt: skip


def _numbers(plan: AnyPlan) -> dict[str, Estimate]:
    """The estimates of a plan; of a whole life also what leaving its place costs and saves."""
    found = dict(plan.estimates)
    for way in plan.leaving if isinstance(plan, Lifecycle) else ():
        saves, costs = way.stay_usd - way.leave_usd, way.cost_usd
        found |= {
            f"leave_for_{way.place}_saves": Estimate(
                value=saves, unit="USD", low=min(way.low, saves), high=max(way.high, saves),
                basis="staying less leaving, of the whole life"),
            f"leave_for_{way.place}_costs": Estimate(
                value=costs, unit="USD", low=costs, high=costs, basis="the leaving itself"),
        }  # fmt: skip
    return found


def _asked(plan: AnyPlan) -> dict[str, str]:
    if isinstance(plan, Lifecycle):
        return dict(_leaves("", plan.asked))
    if isinstance(plan, Plan):
        return _flat(plan.job)
    return {k: str(v) for k, v in plan.asked.items()} or _flat(plan.demand)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Fields of a file by their way to them; stages and places by their names, not their order."""
    if isinstance(value, Mapping):
        for key, held in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), held)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for i, held in enumerate(value):
            if isinstance(held, Mapping):
                own = held.get("name", held.get("kind", i))
                yield from _leaves(f"{name}.{own}", held)
        plain = [str(held) for held in value if not isinstance(held, Mapping)]
        if plain:
            yield name, ", ".join(plain)
    else:
        yield name, str(value)


def _chosen(plan: AnyPlan) -> dict[str, str]:
    found: dict[str, str] = {"weftline": plan.weftline, "catalog": plan.catalog_date}
    if isinstance(plan, Lifecycle):
        found |= {f"{s.name} on": s.place for s in plan.stages}
        found |= {
            f"leave {way.origin} for {way.place}": f"pays in month {way.month}" if way.pays
            else "never pays" for way in plan.leaving
        }  # fmt: skip
        return found | {f"{s.name} as": s.said for s in plan.stages if s.said}
    if isinstance(plan, Plan):
        found |= {"accelerator": plan.cluster.accelerator, "chips": f"{plan.cluster.chips:,}",
                  "framework": plan.framework, **_flat(plan.layout)}  # fmt: skip
    else:
        found |= {k: v for k, v in _flat(plan.fleet).items() if k != "layout"}
        found |= {k: str(v) for k, v in plan.fleet.layout.items()}
    if plan.price is not None:
        found |= {"price": f"{plan.price.usd_per_chip_hour.value:.4g} USD/chip-hour",
                  "seller": " ".join((plan.price.provider, plan.price.region)).strip()}  # fmt: skip
    return found


def _flat(value: Any) -> dict[str, str]:
    """The fields of a noun as text; nested nouns with their own fields."""
    found: dict[str, str] = {}
    for f in fields(value):
        held = getattr(value, f.name)
        if f.name in _LEFT_OUT or held is None:
            continue
        if is_dataclass(held):
            found |= _flat(held)
        elif isinstance(held, tuple | list):
            empty = "all" if f.name in _ALL_IF_EMPTY else "none"
            found[f.name] = ", ".join(map(_named, held)) or empty
        elif isinstance(held, Mapping):
            found[f.name] = ", ".join(f"{k}={v}" for k, v in held.items()) or "none"
        else:
            found[f.name] = str(held)
    return found


def _named(item: Any) -> str:
    """An item of a list as text; a chip of the user's own by its name, then its figures."""
    if not isinstance(item, Mapping) or "id" not in item:
        return str(item)
    figures = ", ".join(f"{k} {v}" for k, v in item.items() if k not in ("id", "of"))
    return f"{item['id']} ({figures})" if figures else f"{item['id']}"


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Changed, ...]:
    names = [*before, *(n for n in after if n not in before)]
    return tuple(
        Changed(field=n, before=before.get(n, "-"), after=after.get(n, "-"))
        for n in names if before.get(n) != after.get(n)
    )  # fmt: skip


def parse_limits(
    texts: Sequence[str], known: Difference, *, where: str = "--fail-if"
) -> tuple[tuple[Limit, Moved], ...]:
    """``cost>5%,step_time<-10%,memory>70e9`` with the estimate each holds. Raises all mistakes.

    With ``%`` the change is held, in percent of the first plan; without, the second plan's value.
    """
    get = Collector(where)
    by_name = {m.name: m for m in known.moved}

    def one(part: str) -> tuple[Limit, Moved]:
        match = re.fullmatch(r"([\w.-]+)\s*([<>])\s*([+-]?[\d.]+(?:e[+-]?\d+)?)\s*(%?)", part)
        if match is None:
            raise InputError(f"`{part}` is not a limit", where=where, hint="cost>5%")
        name, sign, number, percent = match.groups()
        names = _ALIASES.get(name, (name.replace("-", "_"),))
        found = next((n for n in names if n in by_name), None)
        if found is None:
            raise UnknownNameError("estimate", name, [*by_name, *_ALIASES], where=where,
                                   hint=f"one of {', '.join(by_name)}")  # fmt: skip
        amount = float(number) / (100 if percent else 1)
        limit = Limit(text=part, name=found, above=sign == ">", amount=amount,
                      relative=bool(percent))  # fmt: skip
        return limit, by_name[found]

    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    limits = get.each(parts, one)
    get.raise_all()
    return limits
