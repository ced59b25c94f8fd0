"""What binds a life to its place as charts: leaving by month, and a model made to run anywhere."""

from __future__ import annotations

from weftline.report.lifecycle import portable_words
from weftline.report.page.chart import Chart, Section, Table
from weftline.report.page.parts import capital
from weftline.report.text import model_label
from weftline.spec.lifecycle import Lifecycle
from weftline.units import format_usd

__all__ = ["leaving_section", "portable_section"]


def leaving_section(life: Lifecycle) -> Section | None:
    """Leaving a place: the cost of the whole life by the month of leaving, and what that costs."""
    if not life.leaving:
        return None
    best = life.leaving[0]
    title = (
        f"Leaving {best.origin} for {best.place} in month {best.month} saves "
        f"{format_usd(best.stay_usd - best.leave_usd)}"
        if best.pays else f"Leaving {best.origin} never pays"
    )  # fmt: skip
    months = max(len(w.by_month) for w in life.leaving)
    chart = Chart(
        title=title, kind="line",
        data={"x": {"name": "month of serving in which one leaves", "unit": ""},
              "y": {"name": "cost of the whole life", "unit": "USD", "min": 0},
              "series": [
                  {"name": f"stay on {best.origin}",
                   "points": [[best.first_month, best.stay_usd],
                              [best.first_month + months - 1, best.stay_usd]]},
                  *({"name": f"for {w.place}",
                     "points": [[w.first_month + i, v]
                                for i, v in enumerate(w.by_month)]} for w in life.leaving)],
              "marks": []},
        table=Table(
            columns=("for", "what is paid", "US dollars", "how", "rests on"), right=frozenset({2}),
            rows=tuple((w.place, x.part, format_usd(x.usd), x.formula, x.basis)
                       for w in life.leaving for x in w.costs)),
        note="Months count from the start of serving; costs of leaving are at the month shown.",
    )  # fmt: skip
    return Section(title=f"What binds to {best.origin}", charts=(chart,))


def portable_section(life: Lifecycle) -> Section | None:
    """The same life of a portable model, beside the one made for a vendor."""
    found = life.portable
    both = {} if found is None else {p: v for p, v in found.own_usd.items() if p in found.usd}
    if found is None or not both:
        return None
    said = portable_words(found)
    chart = Chart(
        title=capital(said), kind="pairs", size="" if len(both) > 2 else "short",
        data={"x": {"name": "cost of the whole life", "unit": "USD"}, "names": ["own", "portable"],
              "rows": [{"name": p, "first": v, "second": found.usd[p]} for p, v in both.items()]},
        table=Table(
            columns=("served on", "own", "portable", "more"), right=frozenset({1, 2, 3}),
            rows=tuple((p, format_usd(v), format_usd(found.usd[p]), f"{found.usd[p] / v - 1:+.1%}")
                       for p, v in both.items())),
        note=f"{model_label(found.model)} beside the life's own model, each served to the end on "
             "one place.",
    )  # fmt: skip
    return Section(title="What a portable model is worth", charts=(chart,))
