"""What several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from weftline.spec.options import ServingOptions, TrafficOptions

Json = Annotated[bool, Parameter(negative="", help="Print the answer as JSON.")]
"""The flag that every command has."""
As = Annotated[
    str | None,
    Parameter(name="--as", help="Take a config.json of unknown type as a plain stack: llama."),
]
Form = Literal["table", "json", "csv", "markdown"]
Format = Annotated[
    Form, Parameter(name="--format", help="table, json, csv or markdown; --json is json.")
]
"""How the answer is written; every command has it."""
Plot = Annotated[
    bool,
    Parameter(
        negative="", help="Pictures below the answer: costs, memory by stage, one pipeline, rates."
    ),
]
"""Of plans, in characters."""


def taken_as(model: str, kind: str | None) -> str:
    """The model as it is looked for: its name, or how a file of unknown type is to be taken."""
    return model if kind is None else f"as={kind}:{model}"


Traffic = Annotated[TrafficOptions, Parameter(name="*")]
Serving = Annotated[ServingOptions, Parameter(name="*")]
KEPT_TRAFFIC = TrafficOptions()
KEPT_SERVING = ServingOptions()
"""What holds where nothing is said."""
