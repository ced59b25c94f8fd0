"""A capacity portfolio in the terminal: what to sign, and what simpler ways to buy would cost."""

from __future__ import annotations

from weftline.report.text import page, table, wrapped
from weftline.spec.portfolio import Portfolio
from weftline.units import format_usd

__all__ = ["render_portfolio"]


def render_portfolio(found: Portfolio) -> str:
    """The expected cost first, then commitments, what is bought later, and the regret table."""
    chips = sum(b.chips for b in found.bought)
    head = (
        f"Best: sign for {chips:,} chips in {len(found.bought)} commitments: "
        f"{format_usd(found.expected_usd)} expected over {found.quarters} quarters"
    )
    lines = [*wrapped(head, hang="      "), ""]
    rows = [
        (f"Q{b.signed + 1}", f"Q{b.starts + 1}", f"{b.lasts}", f"{b.chips:,}",
         format_usd(b.usd), f"{b.offer}, {b.vendor}")
        for b in found.bought
    ]  # fmt: skip
    lines += table(("sign in", "starts", "quarters", "chips", "cost", ""), rows,
                   right=frozenset({2, 3, 4}))  # fmt: skip
    later = ", ".join(f"{name} {format_usd(usd)}" for name, usd in found.later.items())
    lines += wrapped(f"when demand is known: {later or 'nothing more'}", hang="  ")
    lines += ["", "Against simpler ways to buy, on scenarios that none was planned with"]
    ways = [
        (p.name, format_usd(p.out_of_sample_usd), f"{format_usd(p.low)} to {format_usd(p.high)}",
         f"{p.regret:+.1%}", f"{p.short:.2%}")
        for p in found.policies
    ]  # fmt: skip
    lines += table(("", "cost", "90 % band", "regret", "short"), ways, right=frozenset({1, 3, 4}))
    if found.binding:
        lines += ["", *wrapped(f"Supply that is used up: {'; '.join(found.binding)}", hang="  ")]
    lines += ["", f"{found.scenarios} scenarios, seed {found.seed}"]
    return page(lines)
