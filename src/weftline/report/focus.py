"""A lifecycle as FOCUS columns: the forecast beside the bills, as FinOps tools read them.

The columns are those of the FinOps Open Cost and Usage Specification that a charge must have, and
units. Since its 1.3 host, service provider and issuer stand in the place of ``ProviderName`` and
``PublisherName``. What only a forecast has stands in ``x_`` columns, as it asks of custom ones.
"""

from __future__ import annotations

import csv
import io
from typing import Final

from weftline.spec.lifecycle import Lifecycle

__all__ = ["COLUMNS", "focus_csv"]

COLUMNS: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency",
    "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass",
    "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart",
    "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost", "HostProviderName",
    "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ServiceCategory",
    "ServiceName", "ServiceProviderName", "SkuId", "SkuPriceId",
    "x_Forecast", "x_Basis", "x_LifecycleStage", "x_LifecyclePart", "x_Drivers", "x_EnergyKwh",
    "x_OperationalKgCo2e", "x_EmbodiedKgCo2e",
)  # fmt: skip
_SERVICES: Final = {
    "chips": ("AI and Machine Learning", "Accelerators"),
    "failures": ("AI and Machine Learning", "Accelerators"),
    "set-up": ("AI and Machine Learning", "Accelerators"),
    "storage": ("Storage", "Object storage"), "requests": ("Storage", "Object storage"),
    "egress": ("Networking", "Data transfer"), "network": ("Networking", "Networking"),
    "CPU nodes": ("Compute", "Virtual machines"),
    "control plane": ("Management and Governance", "Control plane"),
    "support": ("Other", "Support"), "debugging": ("Other", "People"),
}  # fmt: skip


def focus_csv(life: Lifecycle) -> str:
    """One charge a line and month, with its header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for line in life.lines:
        for offset, share in enumerate(line.by_month):
            if not share:
                continue
            month = line.first_month + offset
            begin, end = _day(life.start, month), _day(life.start, month + 1)
            usd = f"{line.usd * share:.6f}"
            category, service = _SERVICES.get(line.part, ("Other", line.part))
            hours = line.chip_hours * share
            # A charge of use has a quantity that it is priced by: what has no hours, by the month.
            priced = {"PricingQuantity": "1", "PricingUnit": "Months"}
            if hours:
                amount, unit = f"{hours:.9f}", "Chip-Hours"
                priced = {"ConsumedQuantity": amount, "ConsumedUnit": unit,
                          "PricingQuantity": amount, "PricingUnit": unit}  # fmt: skip
            seller = line.seller or "unknown"
            sku = f"{seller}/{line.place}/{line.part}".replace(" ", "-")
            writer.writerow({
                "BilledCost": usd, "ContractedCost": usd, "EffectiveCost": usd, "ListCost": usd,
                "BillingAccountId": "forecast", "BillingCurrency": "USD",
                "BillingPeriodStart": begin, "BillingPeriodEnd": end,
                "ChargePeriodStart": begin, "ChargePeriodEnd": end, "ChargeCategory": "Usage",
                "ChargeDescription": line.formula, "ChargeFrequency": "Usage-Based",
                "HostProviderName": seller, "InvoiceIssuerName": seller,
                "ServiceProviderName": seller, "ServiceCategory": category, "ServiceName": service,
                "SkuId": sku, "SkuPriceId": f"{sku}/forecast",
                "x_Forecast": "true", "x_Basis": line.basis,
                "x_LifecycleStage": line.stage, "x_LifecyclePart": line.part,
                "x_Drivers": ";".join(f"{n}^{p:g}" for n, p in line.drivers.items()),
                "x_EnergyKwh": _amount(line.energy_j, share / 3.6e6),
                "x_OperationalKgCo2e": _amount(line.kgco2e, share),
                "x_EmbodiedKgCo2e": _amount(line.kgco2e_embodied, share),
                **priced,
            })  # fmt: skip
    return out.getvalue()


def _amount(value: float | None, share: float) -> str:
    return "" if value is None else f"{value * share:.6g}"


def _day(start: str, month: int) -> str:
    """The first instant of a month of the life."""
    year, first = (int(x) for x in start.split("-"))
    at = year * 12 + first - 1 + month
    return f"{at // 12:04}-{at % 12 + 1:02}-01T00:00:00Z"
