"""A lifecycle as FOCUS columns: the forecast beside the bills, as FinOps tools read them.

The columns are those of the FinOps Open Cost and Usage Specification that a charge must have or
should, and units. Since its 1.3 host and service provider stand in the place of ``ProviderName``
and ``PublisherName``, which readers of 1.2 ask for. What only a forecast has stands in ``x_``
columns, as it asks of custom ones; no invoice is there yet.
"""

from __future__ import annotations

import csv
import io
from typing import Final, Literal

from weftline.spec.lifecycle import Lifecycle, LifeLine

__all__ = ["COLUMNS", "FocusVersion", "focus_csv"]

FocusVersion = Literal["1.2", "1.4"]
_BOTH: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency",
    "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass",
    "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart",
    "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost", "InvoiceId",
    "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ServiceCategory",
    "ServiceName", "ServiceSubcategory", "SkuId", "SkuPriceId",
)  # fmt: skip
_OURS: Final = (
    "x_Forecast", "x_Basis", "x_LifecycleStage", "x_LifecyclePart", "x_Drivers", "x_EnergyKwh",
    "x_OperationalKgCo2e", "x_EmbodiedKgCo2e",
)  # fmt: skip
_PROVIDERS: Final[dict[str, tuple[str, str]]] = {
    "1.2": ("ProviderName", "PublisherName"), "1.4": ("HostProviderName", "ServiceProviderName"),
}  # fmt: skip
COLUMNS: Final = {
    version: (*sorted((*_BOTH, *names)), *_OURS) for version, names in _PROVIDERS.items()
}
_ACCELERATORS: Final = (
    "AI and Machine Learning", "Other (AI and Machine Learning)", "Accelerators"
)  # fmt: skip
_OBJECTS: Final = ("Storage", "Object Storage", "Object storage")
_SERVICES: Final = {
    "chips": _ACCELERATORS, "failures": _ACCELERATORS, "set-up": _ACCELERATORS,
    "storage": _OBJECTS, "requests": _OBJECTS,
    "egress": ("Networking", "Network Connectivity", "Data transfer"),
    "network": ("Networking", "Network Infrastructure", "Networking"),
    "CPU nodes": ("Compute", "Virtual Machines", "Virtual machines"),
    "control plane": (
        "Management and Governance", "Other (Management and Governance)", "Control plane"
    ),
    "support": ("Other", "Other (Other)", "Support"),
    "debugging": ("Other", "Other (Other)", "People"),
}  # fmt: skip
"""Category, subcategory and name of the service that a part of a lifecycle is charged as."""


def focus_csv(life: Lifecycle, version: FocusVersion = "1.4") -> str:
    """One charge a line and month, with its header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS[version], restval="", lineterminator="\n")
    writer.writeheader()
    for line in life.lines:
        for offset, share in enumerate(line.by_month):
            if share:
                month = line.first_month + offset
                writer.writerow(_charge(line, life.start, month, share, _PROVIDERS[version]))
    return out.getvalue()


def _charge(
    line: LifeLine, start: str, month: int, share: float, providers: tuple[str, str]
) -> dict[str, str]:
    """What a line costs in one month of the life, ``share`` of it."""
    begin, end = _day(start, month), _day(start, month + 1)
    usd = f"{line.usd * share:.6f}"
    category, subcategory, service = _SERVICES.get(line.part, ("Other", "Other (Other)", line.part))
    hours = line.chip_hours * share
    # A charge of use has a quantity that it is priced by: what has no hours, by the month.
    priced = {"PricingQuantity": "1", "PricingUnit": "Months"}
    if hours:
        amount, unit = f"{hours:.9f}", "Chip-Hours"
        priced = {"ConsumedQuantity": amount, "ConsumedUnit": unit,
                  "PricingQuantity": amount, "PricingUnit": unit}  # fmt: skip
    seller = line.seller or "unknown"
    sku = f"{seller}/{line.place}/{line.part}".replace(" ", "-")
    return {
        "BilledCost": usd, "ContractedCost": usd, "EffectiveCost": usd, "ListCost": usd,
        "BillingAccountId": "forecast", "BillingCurrency": "USD",
        "BillingPeriodStart": begin, "BillingPeriodEnd": end,
        "ChargePeriodStart": begin, "ChargePeriodEnd": end, "ChargeCategory": "Usage",
        "ChargeDescription": line.formula, "ChargeFrequency": "Usage-Based",
        "InvoiceIssuerName": seller, **dict.fromkeys(providers, seller),
        "ServiceCategory": category, "ServiceSubcategory": subcategory, "ServiceName": service,
        "SkuId": sku, "SkuPriceId": f"{sku}/forecast",
        "x_Forecast": "true", "x_Basis": line.basis,
        "x_LifecycleStage": line.stage, "x_LifecyclePart": line.part,
        "x_Drivers": ";".join(f"{n}^{p:g}" for n, p in line.drivers.items()),
        "x_EnergyKwh": _amount(line.energy_j, share / 3.6e6),
        "x_OperationalKgCo2e": _amount(line.kgco2e, share),
        "x_EmbodiedKgCo2e": _amount(line.kgco2e_embodied, share),
        **priced,
    }  # fmt: skip


def _amount(value: float | None, share: float) -> str:
    return "" if value is None else f"{value * share:.6g}"


def _day(start: str, month: int) -> str:
    """The first instant of a month of the life."""
    year, first = (int(x) for x in start.split("-"))
    at = year * 12 + first - 1 + month
    return f"{at // 12:04}-{at % 12 + 1:02}-01T00:00:00Z"
