"""Findings about links: lost, capped, one-sided, slow; a rank or a level where it is the cause."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Final

from weftline.launch.preflight.finding import Finding
from weftline.launch.preflight.noise import WORTH, slow_ones, usual
from weftline.spec import Plan

Link = Mapping[str, Any]
Pair = tuple[int, int]
LevelOf = Callable[[int, int], str]
SLOW_LEVEL: Final = 0.7
"""Share of the plan's rate: large messages reach 0.8 to 0.95 of a wire's (fabric_facts)."""
ASYMMETRIC: Final = 1.8
"""One way over the other, where the slower way is a slow link's: two faults are then not one."""
PROBE_CAP: Final = 4.0
"""Small bulk this much faster than large: something caps large messages."""


def leveller(plan: Plan | None, slots: Any, hosts: list[str]) -> LevelOf:
    """Level of two ranks: the innermost of the plan that holds both, else their hosts."""
    if plan is None or slots is None or len(slots) != len(hosts):
        return lambda a, b: "host" if hosts[a] == hosts[b] else "network"
    per = plan.cluster.chips_per_host
    chips = [slot * per + local for slot, local in slots]

    def level(a: int, b: int) -> str:
        for one in plan.cluster.levels:
            if chips[a] // one.size == chips[b] // one.size:
                return one.name
        return plan.cluster.levels[-1].name if plan.cluster.levels else "network"

    return level


def by_level(links: Sequence[Link], level_of: LevelOf) -> dict[str, list[Link]]:
    """Links that answer, by level."""
    found: dict[str, list[Link]] = {}
    for link in links:
        if not link["lost"]:
            found.setdefault(level_of(link["low"], link["high"]), []).append(link)
    return found


def samples_of(links: Sequence[Link]) -> dict[Pair, list[float]]:
    """Pair -> samples of its slower way."""
    return {(k["low"], k["high"]): [min(pair) for pair in zip(k["there"], k["back"], strict=True)]
            for k in links}  # fmt: skip


def levels_of(links: Sequence[Link], level_of: LevelOf) -> dict[str, tuple[float, float]]:
    """Level -> (rate that its links reach in bytes/s, median round trip in s)."""
    return {name: (usual([max(k[way]) for k in some for way in ("there", "back")]),
                   median(k["round_trip_s"] for k in some))
            for name, some in by_level(links, level_of).items()}  # fmt: skip


def slow_links(
    links: Sequence[Link], level_of: LevelOf
) -> tuple[dict[Pair, float], list[Pair], list[Pair]]:
    """(slow pairs with how many times slower, pairs to sample again, sound ones of their levels).

    A pair that was not sampled again, because many of its rank's were, goes with them.
    """
    slow: dict[Pair, float] = {}
    unsettled: list[Pair] = []
    sound: list[Pair] = []
    for some in by_level(links, level_of).values():
        samples = samples_of(some)
        found, left = slow_ones(samples, WORTH["link"])
        best = usual(max(values) for values in samples.values())
        for rank in {rank for pair in found for rank in pair}:
            asked = [p for p in (*found, *left) if rank in p and len(samples[p]) > 1]
            if len(asked) > 1 and all(p in found for p in asked):
                with_it = [p for p in left if rank in p and len(samples[p]) == 1]
                found |= {p: best / max(samples[p]) for p in with_it}
                left = [p for p in left if p not in with_it]
        slow |= found
        if left:
            unsettled += left
            sound += sorted(samples.keys() - found.keys() - set(left),
                            key=lambda p: (-len(samples[p]), p))  # fmt: skip
    return slow, unsettled, sound


def link_findings(
    links: Sequence[Link], level_of: LevelOf, hosts: list[str], excused: set[int]
) -> list[Finding]:
    """What is wrong with links whose ends are sound; the cause where many links have one."""
    found: list[Finding] = []
    kept = [k for k in links if not {k["low"], k["high"]} & excused]
    slow, _, _ = slow_links(kept, level_of)
    levels = levels_of(kept, level_of)
    for link in links:
        low, high = link["low"], link["high"]
        name = f"{hosts[low]} rank {low} - {hosts[high]} rank {high}"
        if link["lost"]:
            small = link["lost"] == "small"
            what = (
                "does not answer"
                if small
                else "passes small messages and loses large ones: an MTU or a filter in between"
            )
            found.append(Finding(kind="lost" if small else "capped", ranks=(low, high),
                                 what=f"{name} {what}"))  # fmt: skip
        elif (low, high) in slow:
            said = _special(link, name, slow[low, high], levels[level_of(low, high)][0])
            if said is not None:
                found.append(said)
                if said.kind == "asymmetric":
                    del slow[low, high]
    return [*found, *_named(slow, kept, level_of, levels, hosts)]


def _special(link: Link, name: str, ratio: float, rate: float) -> Finding | None:
    """A slow link that is slow one way only, or for large messages only."""
    low, high = link["low"], link["high"]
    there, back, probe = (max(link[way]) for way in ("there", "back", "probe"))
    if max(there, back) > ASYMMETRIC * min(there, back):
        way = f"rank {low} to {high}" if there < back else f"rank {high} to {low}"
        what = (
            f"{name}: {way} at {min(there, back) / 1e6:,.0f} MB/s, the other way at "
            f"{max(there, back) / 1e6:,.0f}"
        )
        return Finding(kind="asymmetric", ranks=(low, high), ratio=ratio, what=what)
    if probe > PROBE_CAP * there and probe * WORTH["link"] > rate:
        return Finding(kind="capped", ranks=(low, high), ratio=ratio,
                       what=f"{name}: small messages at {probe / 1e6:,.0f} MB/s, large ones at "
                       f"{there / 1e6:,.0f}")  # fmt: skip
    return None


def _named(
    slow: Mapping[Pair, float], links: Sequence[Link], level_of: LevelOf,
    levels: Mapping[str, tuple[float, float]], hosts: list[str],
) -> list[Finding]:  # fmt: skip
    """A rank whose links of one level are all slow is the cause of them; the others one by one."""
    found, left = [], dict(slow)
    for rank in range(len(hosts)):
        for level in levels:
            all_ = [(k["low"], k["high"]) for k in links if rank in (k["low"], k["high"])
                    and level_of(k["low"], k["high"]) == level]  # fmt: skip
            bad = [pair for pair in all_ if pair in left]
            if len(all_) > 1 and len(bad) == len(all_) and _alone(rank, bad, slow, links):
                ratio = max(left.pop(pair) for pair in bad)
                found.append(Finding(kind="slow-nic", ranks=(rank,), ratio=ratio,
                                     what=f"every {level} link of rank {rank} on {hosts[rank]} is "
                                     f"slow, up to {ratio:.1f} times"))  # fmt: skip
    for (low, high), ratio in left.items():
        rate = levels[level_of(low, high)][0]
        found.append(Finding(kind="slow-link", ranks=(low, high), ratio=ratio,
                             what=f"{hosts[low]} rank {low} - {hosts[high]} rank {high} at "
                             f"{rate / ratio / 1e6:,.0f} MB/s, its level at "
                             f"{rate / 1e6:,.0f} MB/s"))  # fmt: skip
    return found


def _alone(
    rank: int, bad: Sequence[Pair], slow: Mapping[Pair, float], links: Sequence[Link]
) -> bool:
    """Whether the other ends have links beside these that are sound: then the cause is here."""
    for pair in bad:
        other = pair[0] if pair[1] == rank else pair[1]
        rest = [(k["low"], k["high"]) for k in links if other in (k["low"], k["high"])
                and rank not in (k["low"], k["high"])]  # fmt: skip
        if rest and all(p in slow for p in rest):
            return False
    return True


def level_findings(plan: Plan, levels: Mapping[str, tuple[float, float]]) -> list[Finding]:
    """Levels that are slower than the plan took them for."""
    found = []
    for level in plan.cluster.levels:
        if level.name not in levels:
            continue
        rate = levels[level.name][0]
        if rate < SLOW_LEVEL * level.bandwidth_bytes_per_s:
            ratio = level.bandwidth_bytes_per_s / rate
            found.append(Finding(kind="level", ratio=ratio,
                                 what=f"{level.name}: {rate / 1e9:,.2f} GB/s a chip one way, the "
                                 f"plan has {level.bandwidth_bytes_per_s / 1e9:,.2f}"))  # fmt: skip
    return found
