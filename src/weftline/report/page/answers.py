"""Which page an answer gets: by the kind that it says it is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

from weftline.errors import InputError
from weftline.report.page.chart import Page
from weftline.spec import Plan, ServePlan
from weftline.spec.answers import AnswerKind, kind_of
from weftline.spec.lifecycle import Lifecycle

__all__ = ["page_of"]

_PAGES: Final[Mapping[AnswerKind, tuple[str, str]]] = {
    "collective": ("collective", "collective_page"),
    "burst-advice": ("saving", "saving_page"),
    "codesign": ("codesign", "codesign_page"),
    "comparison": ("comparison", "comparison_page"),
    "difference": ("difference", "difference_page"),
    "spot": ("spot", "spot_page"),
    "audit": ("audit", "audit_page"),
    "policy": ("decision", "decision_page"),
    "policy-verified": ("decision", "decision_page"),
    "portfolio": ("portfolio", "portfolio_page"),
    "quality": ("quality", "quality_page"),
    "burst-list": ("store", "store_page"),
    "burst-checkpoint": ("store", "checkpoint_page"),
}
"""Kind -> (module of this wing, function); what is not here is shown as its tables."""
_SCORES: Final = ("training-score", "memory-score", "collective-score", "serving-score")


def page_of(answer: Plan | ServePlan | Lifecycle | dict[str, Any], *, where: str) -> Page:
    """The page of a plan, or of what a command printed with ``--json``.

    Raises InputError where no command answers like that.
    """
    if not isinstance(answer, dict):
        return _page_of_noun(answer)
    kind = kind_of(answer)
    if kind is None:
        raise InputError(
            "no command answers like this", where=where,
            hint="pages are made of plans (-o plan.json), and of what any command prints with "
                 "--json",
        )  # fmt: skip
    try:
        if kind in _SCORES:
            from weftline.report.page.scores import score_page

            return score_page(answer, kind)
        if kind in _PAGES:
            return _made(*_PAGES[kind])(answer)
        from weftline.report.page.plain import plain_page

        return plain_page(answer, kind)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as wrong:
        raise InputError(
            f"a field is missing or not as the command writes it: {wrong}", where=where,
            hint="write the answer again with --json",
        ) from None  # fmt: skip


def _page_of_noun(answer: Plan | ServePlan | Lifecycle) -> Page:
    if isinstance(answer, Plan):
        from weftline.report.page.training import training_page

        return training_page(answer)
    if isinstance(answer, ServePlan):
        from weftline.report.page.serving import serving_page

        return serving_page(answer)
    from weftline.report.page.lifecycle import lifecycle_page

    return lifecycle_page(answer)


def _made(module: str, name: str) -> Callable[[dict[str, Any]], Page]:
    found: Callable[[dict[str, Any]], Page] = getattr(
        import_module(f"weftline.report.page.{module}"), name
    )
    return found
