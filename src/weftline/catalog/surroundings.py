"""What surrounds the chips: storage, egress, energy, carbon, failures, claims, policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from weftline.catalog._lookup import find
from weftline.catalog._read import data_json, data_rows
from weftline.catalog.facts import Fact, FactSheet, Status

GridScope = Literal["aws", "azure", "gcp", "country"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageTier(FactSheet):
    """A place to keep bytes. Facts: ``price`` (USD/GB-month), ``put``, ``get``, ``throughput``."""

    provider: str
    kind: Literal["object", "file", "local"]

    @property
    def usd_per_byte_month(self) -> float | None:
        """US dollars to keep one byte for one month; where classes differ, of the cheapest."""
        found = [f.value for f in self.facts("price")]
        return min(found) / 1e9 if found else None

    @property
    def capacity_bytes(self) -> float | None:
        """Bytes of one host's local disks; None for services."""
        return self.si("capacity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """What leaving a provider for the internet costs, in steps of the month's volume."""

    provider: str
    service: str
    region: str
    free_gb: float
    steps: tuple[tuple[float | None, float], ...]
    """(up to this many GB, USD per GB), cumulative; None ends the list."""
    inter_region_usd_per_gb: float
    source: str
    date: str

    def usd(self, size_bytes: float) -> float:
        """US dollars to send this many bytes to the internet in one month."""
        left, done, total = max(0.0, size_bytes / 1e9 - self.free_gb), 0.0, 0.0
        for up_to, price in self.steps:
            part = left if up_to is None else min(left, up_to - done)
            total += part * price
            left -= part
            done += part
            if left <= 0:
                break
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Pue:
    """Power usage effectiveness: all of a data centre's energy over that of its machines."""

    value: float
    source: str
    date: str
    why: str
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GridIntensity:
    """Carbon of the grid, gCO2e per kWh, and the span over sources."""

    scope: str
    region: str
    gco2e_per_kwh: float
    period: str
    source: str
    why: str
    low: float
    high: float

    @property
    def kgco2e_per_joule(self) -> float:
        """kgCO2e for one joule drawn from the grid."""
        return self.gco2e_per_kwh / 1e3 / 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Embodied:
    """Carbon of making one part of a machine, kgCO2e."""

    part: str
    value: float
    unit: str
    status: Status
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyPrice:
    """Price of electricity in USD per kWh, as a span: no open source gives it by site."""

    low: float
    value: float
    high: float
    unit: str
    status: Status
    source: str
    date: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmApiPrice:
    """What one hosted model costs, USD per million tokens; None where its maker states none."""

    key: str
    provider: str
    mode: str
    input_usd_per_1m: float | None
    output_usd_per_1m: float | None
    cache_read_usd_per_1m: float | None
    max_input_tokens: int | None
    max_output_tokens: int | None


@cache
def storage_tiers() -> Mapping[str, StorageTier]:
    """All storage tiers by id."""
    return MappingProxyType(
        {
            r["id"]: StorageTier(
                **{k: v for k, v in r.items() if k != "facts"},
                all_facts=tuple(Fact(**f) for f in r["facts"]),
            )
            for r in data_json("storage.json")["tiers"]
        }
    )


@cache
def _egress() -> Mapping[str, Egress]:
    return {
        r["provider"]: Egress(**{**r, "steps": tuple((a, b) for a, b in r["steps"])})
        for r in data_json("storage.json")["egress_to_internet"]
    }


def egress(provider: str) -> Egress:
    """Egress prices of ``aws``, ``azure``, ``gcp`` or ``oci``; raises UnknownNameError."""
    return find("provider", provider, _egress())


@cache
def _energy() -> Any:
    return data_json("energy.json")


def pue(provider: str, region: str | None = None) -> Pue:
    """PUE of a provider, of one region where known; of disagreeing sources the highest (worst)."""
    rows = [r for r in _energy()["pue"] if r["provider"] == provider.lower()]
    if not rows:
        find("provider", provider, {r["provider"]: r for r in _energy()["pue"]})
    exact = [r for r in rows if region and r.get("region") == region]
    used = exact or [r for r in rows if "region" not in r]
    best = max(used, key=lambda r: float(r["value"]))
    values = [float(r["value"]) for r in used]
    many = f"highest of {len(used)} sources" if len(used) > 1 else "the only figure"
    place = f"of {region}" if exact else "of the provider as a whole"
    return Pue(
        value=best["value"],
        source=best["source"],
        date=best["date"],
        why=f"{many}, {place}",
        low=min(values),
        high=max(values),
    )


@cache
def _grid() -> Mapping[tuple[str, str], tuple[Mapping[str, str], ...]]:
    table: dict[tuple[str, str], tuple[Mapping[str, str], ...]] = {}
    for row in data_rows("grid_intensity.csv"):
        key = (row["scope"], row["region"])
        table[key] = (*table.get(key, ()), row)
    return table


def grid_intensity(scope: str, region: str) -> GridIntensity:
    """Carbon of a cloud region's or a country's grid; of disagreeing sources the highest (worst).

    ``scope`` is ``aws``, ``azure``, ``gcp`` or ``country`` (ISO 3166 alpha-3 code as region).
    """
    table = _grid()
    find("scope", scope, {s: s for s, _ in table})
    wanted = region.upper() if scope == "country" else region
    rows = (
        find("region", wanted, {r: rows for (s, r), rows in table.items() if s == scope})
        if (scope, wanted) not in table
        else table[scope, wanted]
    )
    best = max(rows, key=lambda r: float(r["gco2e_per_kwh"]))
    values = [float(r["gco2e_per_kwh"]) for r in rows]
    return GridIntensity(
        scope=scope,
        region=best["region"],
        gco2e_per_kwh=float(best["gco2e_per_kwh"]),
        period=best["period"],
        source=best["source"],
        why=f"highest of {len(rows)} sources" if len(rows) > 1 else "the only figure",
        low=min(values),
        high=max(values),
    )


def grid_rows() -> tuple[Mapping[str, str], ...]:
    """All rows of the grid table: scope, region, gco2e_per_kwh, period, source, note."""
    return tuple(row for rows in _grid().values() for row in rows)


@cache
def embodied() -> Mapping[str, Embodied]:
    """Carbon of making a machine: ``server``, ``per_cpu``, ``per_ssd``, ``per_gpu_card``."""
    return MappingProxyType({r["part"]: Embodied(**r) for r in _energy()["embodied"]})


def embodied_lifespan_years() -> float:
    """Years over which the carbon of making a machine is spread (the same source)."""
    return float(_energy()["embodied_lifespan_years"])


def energy_price() -> EnergyPrice:
    """Price of electricity, USD per kWh, as a span."""
    return EnergyPrice(**_energy()["energy_price"])


def measured_serving() -> Sequence[Mapping[str, Any]]:
    """Measured serving points with energy: model, gpu, seqs, tok_s, j_per_tok, itl_ms."""
    return tuple(_energy()["measured_serving"])


@cache
def reliability() -> Mapping[str, Any]:
    """Failure rates, goodput gains and reported goodput, interval theory; each with its basis."""
    return MappingProxyType(data_json("reliability.json"))


@cache
def llm_api_prices() -> Mapping[str, LlmApiPrice]:
    """Prices of hosted models by key (litellm's names)."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    def whole(text: str) -> int | None:
        return round(float(text)) if text else None

    return MappingProxyType(
        {
            r["key"]: LlmApiPrice(
                key=r["key"],
                provider=r["provider"],
                mode=r["mode"],
                input_usd_per_1m=number(r["input_usd_per_1m"]),
                output_usd_per_1m=number(r["output_usd_per_1m"]),
                cache_read_usd_per_1m=number(r["cache_read_usd_per_1m"]),
                max_input_tokens=whole(r["max_input_tokens"]),
                max_output_tokens=whole(r["max_output_tokens"]),
            )
            for r in data_rows("llm_api_prices.csv")
        }
    )


@cache
def claims() -> tuple[Mapping[str, str], ...]:
    """Published claims: id, document, quote, metric, value, public_value, source, verdict, test."""
    return tuple(data_rows("claims.csv"))


@cache
def policy() -> Mapping[str, Any]:
    """Compute thresholds, export-control performance and acceptable use."""
    return MappingProxyType(data_json("policy.json"))


@cache
def cpus() -> Mapping[str, Mapping[str, Any]]:
    """Host CPUs by id."""
    return MappingProxyType({r["id"]: r for r in data_json("cpus.json")["cpus"]})
