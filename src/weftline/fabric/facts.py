"""What is known of machines before anything is fitted: ``data/collective_machines.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def machine_facts() -> Mapping[str, Any]:
    """The data file of machines."""
    text = files("weftline.fabric").joinpath("data/collective_machines.json").read_text("utf-8")
    facts: Mapping[str, Any] = json.loads(text)
    return facts


def host_source(path: str) -> str:
    """What is known of a way the host drives its NICs, with where that is from."""
    source: str = machine_facts()["hosts"][path]["source"]
    return source
