"""Which page an answer gets: by its fields, since every command's JSON names what it is of."""

from __future__ import annotations

from typing import Any

from weftline.errors import InputError
from weftline.report.page.chart import Page
from weftline.spec import Plan, ServePlan
from weftline.spec.lifecycle import Lifecycle

__all__ = ["page_of"]


def page_of(answer: Plan | ServePlan | Lifecycle | dict[str, Any], *, where: str) -> Page:
    """The page of a plan, or of what a command printed with ``--json``.

    Raises InputError where no command answers like that.
    """
    if isinstance(answer, Plan):
        from weftline.report.page.training import training_page

        return training_page(answer)
    if isinstance(answer, ServePlan):
        from weftline.report.page.serving import serving_page

        return serving_page(answer)
    if isinstance(answer, Lifecycle):
        from weftline.report.page.lifecycle import lifecycle_page

        return lifecycle_page(answer)
    try:
        if {"collective", "network", "algorithm", "time_s"} <= answer.keys():
            from weftline.report.page.collective import collective_page

            return collective_page(answer)
        if {"burst", "blocking", "forms_s", "job"} <= answer.keys():
            from weftline.report.page.saving import saving_page

            return saving_page(answer)
        if {"model", "layout", "rows", "explains"} <= answer.keys():
            from weftline.report.page.comparison import comparison_page

            return comparison_page(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        raise InputError(
            f"a field is missing or not as the command writes it: {wrong}", where=where,
            hint="write the answer again with --json",
        ) from None  # fmt: skip
    raise InputError(
        "no page is known for this answer", where=where,
        hint="pages are made of plans (-o plan.json), and of --json of simulate collective, "
             "compare and burst advise",
    )  # fmt: skip
