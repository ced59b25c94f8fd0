"""What several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from weftline.spec.options import ServingOptions, TrafficOptions

Json = Annotated[bool, Parameter(negative="", help="Print the answer as JSON.")]
"""The flag that every command has."""
Form = Literal["table", "json", "csv", "markdown"]
Format = Annotated[
    Form, Parameter(name="--format", help="table, json, csv or markdown; --json is json.")
]
"""How the answer is written; every command has it."""
Traffic = Annotated[TrafficOptions, Parameter(name="*")]
Serving = Annotated[ServingOptions, Parameter(name="*")]
KEPT_TRAFFIC = TrafficOptions()
KEPT_SERVING = ServingOptions()
"""What holds where nothing is said."""
