"""What every command has."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Json = Annotated[bool, Parameter(negative="", help="Print the answer as JSON.")]
"""The flag that every command has."""
