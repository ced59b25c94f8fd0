"""An answer in a notebook's cell: the page of ``weftline report`` in a frame of its own.

The frame carries the page's own policy and may run the page's scripts and nothing else: it cannot
reach the notebook around it. ``Cell`` is the entry point that :mod:`weftline.spec.notebook` asks.
"""

from __future__ import annotations

import html
from dataclasses import asdict, replace
from typing import Any, Final

from weftline.report.page import document, page_of
from weftline.report.page.chart import Page
from weftline.spec.answers import AnswerKind, stamped
from weftline.spec.audit import Audit
from weftline.spec.codesign import Codesign
from weftline.spec.decision import Decision
from weftline.spec.portfolio import Portfolio, SpotAnswer

__all__ = ["Cell"]

_SMALL_PX: Final = 560
_WHOLE_PX: Final = 900
_PLAIN: Final[tuple[tuple[type, AnswerKind], ...]] = (
    (Audit, "audit"), (Codesign, "codesign"), (Decision, "policy"), (Portfolio, "portfolio"),
    (SpotAnswer, "spot"),
)  # fmt: skip
"""Answers whose page is made of their fields, as ``--json`` prints them."""


class Cell:
    """The answer as rich output; ``whole`` keeps tables and sentences, else charts alone."""

    def __init__(self, answer: Any, *, whole: bool = False) -> None:
        kind = next((kind for noun, kind in _PLAIN if isinstance(answer, noun)), None)
        found = answer if kind is None else stamped(kind, asdict(answer))
        self._page = page_of(found, where="this answer")
        self._whole = whole

    def _repr_html_(self) -> str:
        page = self._page if self._whole else _charts_of(self._page)
        inner = html.escape(document(page), quote=True)
        return (
            f'<iframe title="{html.escape(page.headline, quote=True)}" sandbox="allow-scripts" '
            f'style="width:100%;height:{_WHOLE_PX if self._whole else _SMALL_PX}px;border:0" '
            f'srcdoc="{inner}"></iframe>'
        )

    def __repr__(self) -> str:
        """The headline."""
        return self._page.headline


def _charts_of(page: Page) -> Page:
    """The page without what stands beside its charts."""
    kept = tuple(replace(s, says=(), tables=()) for s in page.sections if s.charts)
    return replace(page, lead=(), sections=kept) if kept else page
