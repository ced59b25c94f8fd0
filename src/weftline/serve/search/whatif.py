"""What a serving plan would be with some knobs turned: the same question, asked again.

Chip and engine stay those of the plan unless they are turned; the fleet is the cheapest that keeps
the targets there, simulated as the plan's own was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from weftline.errors import InputError, UnknownNameError
from weftline.serve.search.asked import serve_job_of
from weftline.serve.search.plan import plan_serve
from weftline.spec import ServePlan
from weftline.spec.options import FleetOptions, ServingOptions, TrafficOptions

__all__ = ["KNOBS", "ServeWhatIf", "serve_what_if"]

_WHERE: Final = "--what-if"
_NAMED: Final[Mapping[str, str]] = {
    "accelerator": "on", "framework": "engine", "chips": "max_chips", "batch": "max_batch",
    "seq": "input",
}  # fmt: skip
"""Knobs that training has, by the option that asks for the same of a fleet."""
_PLAIN: Final = (
    "price", "precision", "engine", "kv", "rate", "input", "output", "ttft", "tpot", "e2e",
    "discount", "region", "max_chips", "max_batch", "routing", "policy", "speculate", "burstiness",
    "spread", "seed", "disaggregated", "prefix_cache", "cache_hit", "within", "headroom",
    "engine_version",
)  # fmt: skip
_DEGREES: Final = ("tp", "pp", "dp", "ep")
KNOBS: Final = (*_NAMED, *_PLAIN, *_DEGREES, "host")
_COMPARED: Final = (
    "ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99", "e2e_p50", "rate_most", "cost_per_m_input",
    "cost_per_m_output", "energy_per_output_token",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeWhatIf:
    """The plan as it is and as it would be."""

    changes: dict[str, str]
    fleet: tuple[str, str]
    chips: tuple[int, int]
    """Spares included."""
    usd_per_hour: tuple[float | None, float | None]
    estimates: dict[str, dict[str, Any]]
    """By name: unit, and value before and after."""


def serve_what_if(
    plan: ServePlan, changes: Mapping[str, str], *, progress: Callable[[str], None] | None = None
) -> ServeWhatIf:
    """Ask the plan's question again with ``changes``.

    Raises InputError(s) for values that cannot be, NoFeasiblePlanError where nothing then does.
    """
    if not plan.asked:
        raise InputError("the plan does not keep its question", where=_WHERE,
                         hint="make the plan again with this version")  # fmt: skip
    asked = dict(plan.asked)
    parts = [f for f in (plan.fleet, plan.fleet.beside) if f is not None]
    asked |= {
        name: ",".join(dict.fromkeys(said))
        for name, said in (("on", [f.accelerator.partition("+")[0] for f in parts]),
                           ("engine", [f.engine for f in parts]))
    }  # fmt: skip
    degrees = [f"{name}={changes[name]}" for name in _DEGREES if name in changes]
    if degrees:
        asked["layout"] = ",".join(degrees)
    for name, value in changes.items():
        if name not in (*_DEGREES, "host"):
            asked[_NAMED.get(name, name)] = value
    if "host" in changes:
        said = [str(asked["chip_set"])] if asked.get("chip_set") else []
        said += [f"{name.strip()}.host={changes['host']}" for name in str(asked["on"]).split(",")]
        asked["chip_set"] = ",".join(said)
    if "accelerator" in changes and not {"engine", "framework"} & changes.keys():
        asked["engine"] = str(plan.asked.get("engine", "all"))
    job = serve_job_of(
        str(asked["model"]), _options(FleetOptions, asked), _options(TrafficOptions, asked),
        _options(ServingOptions, asked), where=lambda _: _WHERE,
    )  # fmt: skip
    return _compared(plan, plan_serve(job, progress=progress), changes)


def _options(kind: type[Any], asked: Mapping[str, Any]) -> Any:
    """The fields of one dataclass of options, each as its type."""
    given: dict[str, Any] = {}
    for f in fields(kind):
        if f.name not in asked:
            continue
        value = asked[f.name]
        match str(f.type):
            case "float" | "int" if not isinstance(value, int | float):
                value = _number(f.name, value)
                value = int(value) if f.type == "int" else value
            case "bool" if not isinstance(value, bool):
                value = _flag(f.name, value)
        given[f.name] = value
    return replace(kind(), **given)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name}={text}: a number is needed", where=_WHERE) from None


def _flag(name: str, text: str) -> bool:
    if text not in ("on", "off"):
        raise UnknownNameError(name, text, ("on", "off"), where=_WHERE, hint="on or off")
    return text == "on"


def _compared(plan: ServePlan, other: ServePlan, changes: Mapping[str, str]) -> ServeWhatIf:
    both = (plan, other)

    def value(p: ServePlan, name: str) -> float | None:
        found = p.estimates.get(name)
        return None if found is None else found.value

    estimates = {
        name: {
            "unit": next(p.estimates[name].unit for p in both if name in p.estimates),
            "value": (value(plan, name), value(other, name)),
        }
        for name in _COMPARED if any(name in p.estimates for p in both)
    }  # fmt: skip
    before, after = (
        p.fleet.counted()
        if p.fleet.beside
        else f"{p.fleet.replicas} x {p.fleet.chips_per_replica} {p.fleet.name} "
        f"{p.fleet.short()} {p.fleet.engine}"
        for p in both
    )
    return ServeWhatIf(
        changes=dict(changes), fleet=(before, after),
        chips=(plan.fleet.chips, other.fleet.chips),
        usd_per_hour=(value(plan, "cost_per_hour"), value(other, "cost_per_hour")),
        estimates=estimates,
    )  # fmt: skip
