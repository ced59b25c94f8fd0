"""What several commands share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from weftline.spec.options import ServingOptions, TrafficOptions

Json = Annotated[bool, Parameter(negative="", help="Print the answer as JSON.")]
"""The flag that every command has."""
Traffic = Annotated[TrafficOptions, Parameter(name="*")]
Serving = Annotated[ServingOptions, Parameter(name="*")]
KEPT_TRAFFIC = TrafficOptions()
KEPT_SERVING = ServingOptions()
"""What holds where nothing is said."""
