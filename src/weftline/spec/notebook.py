"""How a notebook shows an answer: by the report room, found by its name when a cell asks.

Nouns import nothing that shows: a session without a notebook never loads a chart.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Shown"]


class Shown:
    """What answers inherit to be seen in a notebook."""

    __slots__ = ()

    def plot(self) -> Any:
        """The whole page of the answer, as ``weftline report`` writes it, for a notebook's cell."""
        return import_module("weftline.report.notebook").Cell(self, whole=True)

    def _repr_html_(self) -> str:
        """The answer's headline and charts, in small."""
        html: str = import_module("weftline.report.notebook").Cell(self)._repr_html_()
        return html
