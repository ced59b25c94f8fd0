"""How a notebook shows an answer: by what the package's entry point names, when a cell asks.

Nouns stand below everything that draws and import none of it. Who draws them is named where the
package is put together: the entry point ``cell`` of the group ``weftline.notebook`` in
``pyproject.toml``. A session without a notebook never loads a chart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final

from weftline.errors import InputError

__all__ = ["GROUP", "Shown"]

GROUP: Final = "weftline.notebook"
"""Of entry points; ``cell`` in it is called as ``cell(answer, whole=...)`` and gives an object with
``_repr_html_``."""


class Shown:
    """What answers inherit to be seen in a notebook."""

    __slots__ = ()

    def plot(self) -> Any:
        """The whole page of the answer, as ``weftline report`` writes it, for a notebook's cell.

        Raises InputError where the package is not installed but only on the path.
        """
        drawn_by = _drawn_by()
        if drawn_by is None:
            raise InputError(
                f"no entry point `cell` of the group `{GROUP}` is installed", where="plot()",
                hint="install the package: pip install -e . in its folder",
            )  # fmt: skip
        return drawn_by(self, whole=True)

    def _repr_html_(self) -> str | None:
        """The answer's headline and charts, in small; None where nothing draws it."""
        drawn_by = _drawn_by()
        html: str | None = None if drawn_by is None else drawn_by(self, whole=False)._repr_html_()
        return html


@cache
def _drawn_by() -> Callable[..., Any] | None:
    found = next(iter(entry_points(group=GROUP, name="cell")), None)
    drawn_by: Callable[..., Any] | None = None if found is None else found.load()
    return drawn_by
