"""A capacity portfolio as a page: what to sign and when, against simpler ways to buy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.parts import capital
from weftline.units import format_usd

__all__ = ["portfolio_page"]


def portfolio_page(answer: Mapping[str, Any]) -> Page:
    """The page of ``plan portfolio --json``. Raises KeyError where a field lacks."""
    bought = answer["bought"]
    chips = sum(b["chips"] for b in bought)
    sections = [_ways(answer)]
    if bought:
        sections.append(_signed(answer))
    later = tuple((name, format_usd(usd)) for name, usd in answer["later"].items())
    sections.append(Section(
        title="When demand is known",
        says=tuple(f"Supply that is used up: {text}" for text in answer["binding"]),
        tables=(Table(columns=("offer", "expected cost"), rows=later or (("nothing more", ""),),
                      right=frozenset({1})),)))  # fmt: skip
    return Page(
        title="weftline: what capacity to sign for",
        headline=f"Sign for {chips:,} chips in {len(bought)} commitments: "
                 f"{format_usd(answer['expected_usd'])} expected over "
                 f"{answer['quarters']} quarters",
        lead=(f"{answer['scenarios']} scenarios, seed {answer['seed']}; ways to buy are held "
              "against scenarios that none was planned with.",),
        sections=tuple(sections),
        made=f"weftline {answer['weftline']}. The answer's JSON has every field.",
    )  # fmt: skip


def _ways(answer: Mapping[str, Any]) -> Section:
    ways = sorted(answer["policies"], key=lambda p: p["out_of_sample_usd"])
    best, *others = ways
    title = f"{capital(best['name'])} costs least"
    if others:
        title += f"; {others[0]['name']} costs {others[0]['regret']:.1%} more"
    chart = Chart(
        title=title, kind="range", size="" if len(ways) > 3 else "short",
        data={"x": {"name": "cost over all quarters", "unit": "USD"}, "rows": [
            {"name": p["name"], "low": p["low"], "high": p["high"], "limit": None,
             "value": min(max(p["out_of_sample_usd"], p["low"]), p["high"])} for p in ways]},
        table=Table(
            columns=("way to buy", "cost", "90 % band", "regret", "work without chips"),
            right=frozenset({1, 2, 3, 4}),
            rows=tuple((p["name"], format_usd(p["out_of_sample_usd"]),
                        f"{format_usd(p['low'])} to {format_usd(p['high'])}",
                        f"{p['regret']:+.1%}", f"{p['short']:.2%}") for p in ways)),
    )  # fmt: skip
    return Section(title="Against simpler ways to buy", charts=(chart,))


def _signed(answer: Mapping[str, Any]) -> Section:
    bought = sorted(answer["bought"], key=lambda b: (b["starts"], b["offer"]))
    most = max(bought, key=lambda b: b["usd"])
    offers = list(dict.fromkeys(b["offer"] for b in bought))
    rows = [f"{b['offer']}, {b['chips']:,} chips" for b in bought]
    chart = Chart(
        title=f"{capital(most['offer'])} is the dearest commitment: {format_usd(most['usd'])} for "
              f"{most['chips']:,} chips",
        kind="gantt", size="" if len(rows) > 3 else "short",
        data={"name": "quarter", "unit": "", "until": answer["quarters"], "rows": rows,
              "blocks": [{"row": i, "from": b["starts"], "until": b["starts"] + b["lasts"],
                          "tone": offers.index(b["offer"]) % 10,
                          "name": f"{b['chips']:,} chips of {b['offer']}, signed in Q"
                                  f"{b['signed'] + 1}, {format_usd(b['usd'])}"}
                         for i, b in enumerate(bought)]},
        table=Table(
            columns=("sign in", "starts", "quarters", "chips", "cost", "offer"),
            right=frozenset({2, 3, 4}),
            rows=tuple((f"Q{b['signed'] + 1}", f"Q{b['starts'] + 1}", str(b["lasts"]),
                        f"{b['chips']:,}", format_usd(b["usd"]), f"{b['offer']}, {b['vendor']}")
                       for b in bought)),
    )  # fmt: skip
    return Section(title="What to sign, and when", charts=(chart,))
