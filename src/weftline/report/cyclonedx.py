"""A lifecycle as a CycloneDX 1.7 bill of materials: the model's card with the energy of each stage.

What the standard has no place for (embodied carbon, bands, dollars, what it rests on) stands in
properties under ``weftline:``. The whole of it is a forecast and says so.
"""

from __future__ import annotations

import json
import math
import uuid
from typing import Any, Final

from weftline.spec.lifecycle import Lifecycle, LifeStage

__all__ = ["cyclonedx_json"]

SPEC: Final = "1.7"
KWH_J: Final = 3.6e6
ACTIVITIES: Final = {
    "preprocess": "data-preparation", "train": "training", "evaluate": "validation",
    "finetune": "fine-tuning", "rollouts": "training", "serve": "inference",
}  # fmt: skip
"""Kind of stage -> the standard's word; other kinds are ``other``."""


def cyclonedx_json(life: Lifecycle) -> str:
    """The document as JSON; the same answer gives the same serial number."""
    used = [_activity(life, s) for s in life.stages if s.energy_j]
    card: dict[str, Any] = {
        "modelParameters": {"task": "text-generation"},
        "considerations": {"environmentalConsiderations": {"energyConsumptions": used}},
        "properties": _properties(life),
    }
    seed = uuid.uuid5(uuid.NAMESPACE_URL, f"weftline:{life.model}:{life.estimates['cost'].value}")
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX", "specVersion": SPEC, "serialNumber": f"urn:uuid:{seed}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "weftline",
                                      "version": life.weftline}]},
            "component": {"type": "machine-learning-model", "bom-ref": "model",
                          "name": life.model, "modelCard": card},
        },
    }  # fmt: skip
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _activity(life: Lifecycle, stage: LifeStage) -> dict[str, Any]:
    kwh = _kwh(stage.energy_j or 0.0)
    lines = [x for x in life.lines if x.stage == stage.name]
    sellers = dict.fromkeys(x.seller for x in lines if x.energy_j)
    made = sum(x.kgco2e_embodied for x in lines)
    found: dict[str, Any] = {
        "activity": ACTIVITIES.get(stage.kind, "other"),
        "energyProviders": [
            # Which source the grid burns is not known, its carbon is.
            {"organization": {"name": seller}, "energySource": "unknown",
             "energyProvided": _measure(sum(_kwh(x.energy_j or 0.0) for x in lines
                                            if x.seller == seller))}
            for seller in sellers
        ],
        "activityEnergyCost": _measure(kwh),
        "properties": [
            _property("stage", stage.name), _property("place", stage.place),
            _property("forecast", "true"), _property("embodied_kgco2e", f"{made:.6g}"),
        ],
    }  # fmt: skip
    if stage.kgco2e is not None:
        found["co2CostEquivalent"] = {"value": _rounded(stage.kgco2e / 1000), "unit": "tCO2eq"}
    return found


def _properties(life: Lifecycle) -> list[dict[str, str]]:
    found = [_property("forecast", f"from {life.start}"),
             _property("catalogue", life.catalog_date)]  # fmt: skip
    for name in ("energy", "carbon", "embodied_carbon", "sci_per_m_tokens", "cost"):
        e = life.estimates.get(name)
        if e is not None:
            band = f"{e.low:.6g} to {e.high:.6g}"
            found.append(_property(name, f"{e.value:.6g} ({band}) {e.unit}; {e.basis}"))
    return found


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"weftline:{name}", "value": value}


def _measure(kwh: float) -> dict[str, Any]:
    return {"value": _rounded(kwh), "unit": "kWh"}


def _kwh(joules: float) -> float:
    return joules / KWH_J


def _rounded(value: float) -> float:
    """Six digits: nobody knows more."""
    return 0.0 if not value else round(value, 5 - math.floor(math.log10(abs(value))))
