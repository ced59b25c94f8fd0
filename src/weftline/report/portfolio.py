"""A capacity portfolio in the terminal: what to sign, and what simpler ways to buy would cost."""

from __future__ import annotations

from weftline.report.text import page, table, wrapped
from weftline.spec.portfolio import Portfolio, SpotAnswer
from weftline.units import format_usd

__all__ = ["render_portfolio", "render_spot"]


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


def render_spot(found: SpotAnswer) -> str:
    """What the job costs, whether it is ever late, and what other ways to run it would cost."""
    less = 1 - found.usd / found.on_demand_usd
    late = "never late on" if not found.late else f"late on {found.late:,} of"
    head = (
        f"Best: {format_usd(found.usd)} a run ({format_usd(found.low)} to "
        f"{format_usd(found.high)}), {less:.0%} less than on demand, "
        f"{late} {found.traces:,} traces"
    )
    rows = [
        (name, format_usd(usd), f"{usd / found.seer_usd - 1:+.1%}")
        for name, usd in (
            ("uniform progress", found.usd), ("spot until the last moment", found.last_moment_usd),
            ("on demand alone", found.on_demand_usd), ("who knows the future", found.seer_usd))
    ]  # fmt: skip
    lines = [*wrapped(head, hang="      "), ""]
    lines += table(("", "cost", "over the seer"), rows, right=frozenset({1, 2}))
    where = found.trace or "two states, by --up and --down"
    lines += ["", *wrapped(
        f"{found.chips:,} chips: {found.spot_hours:,.1f} h on spot, {found.on_demand_hours:,.1f} h "
        f"on demand, {found.idle_hours:,.1f} h idle on average; spot is there "
        f"{found.available:.0%} of the time", hang="  ")]  # fmt: skip
    lines += wrapped(
        f"ratio to the seer {1 + found.over_seer:.3f} on average, {1 + found.over_seer_p95:.3f} at "
        f"the 95th percentile; traces: {where}, seed {found.seed}", hang="  ")  # fmt: skip
    return page(lines)
