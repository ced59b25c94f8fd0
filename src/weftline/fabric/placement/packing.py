"""Placement behind switches: which ranks share a host, a rack, a leaf; the rest is as good.

Two things are chosen. The order of the job's axes: the innermost lies closest. And what must not
straddle a scale-up unit: ranks come in blocks of inner axes, a block stays inside one unit, and
what a unit has left over is spare. Rank order and the framework's own order are among what is
tried, so the answer is never worse than either.

Cost is that of every group as it lies: at each tier the members its units hold, bandwidth bounds
applied tier by tier; the slowest group counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import IntArray
from weftline.fabric.placement.model import AxisTraffic, check_traffic
from weftline.fabric.placement.tiers import Tiers

ORDERS_MOST = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A job's ranks on a network of tiers. Ranks are row-major over ``axes``, the first slowest."""

    axes: Mapping[str, int]
    order: tuple[str, ...]
    """The axes as they are placed, the closest last."""
    block: int
    """Ranks that stay in one scale-up unit together."""
    rank_to_chip: IntArray
    cost_s: float
    cost_by_axis_s: Mapping[str, float]
    shares: Mapping[str, str]
    """Axis -> the innermost tier that holds every one of its groups."""
    spares: tuple[int, ...]
    """Chips left over in scale-up units that the job uses."""
    looked_at: int
    habits: Mapping[str, float] = field(default_factory=dict)
    """What the same costs in rank order, and in the framework's order without whole blocks."""


def pack(
    axes: Mapping[str, int], tiers: Tiers, traffic: Sequence[AxisTraffic], *,
    segment_hosts: int | None = None, together: Sequence[str] = (),
) -> Packed:  # fmt: skip
    """The cheapest placement of a job on a network of tiers.

    ``segment_hosts`` keeps every so many hosts of the job inside one scale-up unit (Slurm's
    ``--segment``, Kueue's podset slice); ``together`` names axes whose groups must not leave one.
    Raises InputError for a job that does not fit or constraints that cannot be kept.
    """
    sizes = {name: int(size) for name, size in axes.items()}
    check_traffic(sizes, traffic)
    ranks = math.prod(sizes.values())
    free = tiers.free()
    have = sum(map(len, free))
    if ranks > have:
        raise InputError(f"a job of {ranks:,} ranks on {have:,} usable chips of {tiers.name}")
    best: Packed | None = None
    looked = 0
    habits: dict[str, float] = {}
    names = list(sizes)
    kept = _kept(sizes, tiers, segment_hosts, together)
    for order in _orders(names, sizes):
        seen: set[bytes] = set()
        for block, even in _blocks(order, sizes, free, kept):
            chips = _filled(ranks, block, free, even=even)
            if chips is None or chips.tobytes() in seen:
                continue
            seen.add(chips.tobytes())
            looked += 1
            found = _placed(sizes, order, block, chips, tiers, traffic)
            if any(not _inside(found, name, tiers) for name in together):
                continue
            if best is None or found.cost_s < best.cost_s * (1 - 1e-12):
                best = found
    for name, order in (("rank order", tuple(names)), ("framework order", _megatron(names))):
        chips = _filled(ranks, 1, free, even=False)
        if chips is not None:
            found = _placed(sizes, order, 1, chips, tiers, traffic)
            habits[name] = found.cost_s
            free_choice = not together and segment_hosts is None
            if free_choice and (best is None or found.cost_s < best.cost_s):
                best = found
    if best is None:
        raise InputError(
            f"no placement keeps {kept} ranks in one {tiers.unit.name} of "
            f"{len(free[0])} usable chips", where="--segment",
            hint="take a smaller segment, or keep fewer axes together",
        )  # fmt: skip
    return Packed(
        axes=sizes, order=best.order, block=best.block, rank_to_chip=best.rank_to_chip,
        cost_s=best.cost_s, cost_by_axis_s=best.cost_by_axis_s, shares=best.shares,
        spares=best.spares, looked_at=looked, habits=habits,
    )  # fmt: skip


def _megatron(names: Sequence[str]) -> tuple[str, ...]:
    """Megatron-Core's default order, tp innermost, then cp, ep, dp, pp; other axes as given."""
    rank = {n: i for i, n in enumerate(("pp", "dp", "dp_in", "ep", "cp", "tp"))}
    known = sorted((n for n in names if n in rank), key=lambda n: rank[n])
    return (*(n for n in names if n not in rank), *known)


def _orders(names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Every order of the axes above one, those of one first; the job's own order before others."""
    one = tuple(n for n in names if sizes[n] == 1)
    wide = [n for n in names if sizes[n] > 1]
    for number, order in enumerate(permutations(wide)):
        if number >= ORDERS_MOST:
            return
        yield (*one, *order)


def _kept(
    sizes: Mapping[str, int], tiers: Tiers, segment_hosts: int | None, together: Sequence[str]
) -> int:
    """Ranks that constraints keep in one scale-up unit; 1 without any."""
    unknown = next((n for n in together if n not in sizes), None)
    if unknown is not None:
        raise InputError(f"the job has no axis `{unknown}`", where="--together",
                         hint=f"it has {', '.join(sizes)}")  # fmt: skip
    kept = math.prod(sizes[n] for n in together)
    if segment_hosts is not None:
        segment = segment_hosts * tiers.chips_per_host
        ranks = math.prod(sizes.values())
        if segment < 1 or ranks % segment:
            raise InputError(f"{ranks} ranks do not make segments of {segment_hosts} hosts",
                             where="--segment")  # fmt: skip
        kept = math.lcm(kept, segment)
    return kept


def _blocks(
    order: Sequence[str], sizes: Mapping[str, int], free: Sequence[IntArray], kept: int
) -> Iterator[tuple[int, bool]]:
    """(ranks that stay together, whether units get equal shares)."""
    room = max(map(len, free))
    found = {1, kept}
    product = 1
    for name in reversed(order):
        product *= sizes[name]
        found.add(product)
    for block in sorted(b for b in found if b <= room and b % kept == 0):
        yield block, False
        yield block, True


def _filled(ranks: int, block: int, free: Sequence[IntArray], *, even: bool) -> IntArray | None:
    """[ranks] chips in order of position: whole blocks a unit, as many as fit or equally many."""
    blocks = -(-ranks // block)
    room = [len(chips) // block for chips in free]
    if sum(room) < blocks:
        return None
    if even:
        needed, total = 0, 0
        for r in sorted(room, reverse=True):
            needed, total = needed + 1, total + r
            if total >= blocks:
                break
        room = [min(r, -(-blocks // needed)) for r in room]
        if sum(room) < blocks:
            return None
    taken = [chips[: r * block] for chips, r in zip(free, room, strict=True)]
    return np.concatenate(taken)[:ranks]


def _placed(
    sizes: Mapping[str, int], order: Sequence[str], block: int, chips: IntArray, tiers: Tiers,
    traffic: Sequence[AxisTraffic],
) -> Packed:  # fmt: skip
    """The map of one order and one filling, and what it costs."""
    names = list(sizes)
    placed = chips.reshape([sizes[n] for n in order])
    grid = np.transpose(placed, [list(order).index(n) for n in names])
    by_axis = {"+".join(t.axes): 0.0 for t in traffic}
    for entry in traffic:
        by_axis["+".join(entry.axes)] += entry.count * _call_s(
            _groups(grid, names, entry.axes), tiers, entry
        )
    shares = {}
    for name in names:
        if sizes[name] > 1:
            groups = _groups(grid, names, (name,))
            inside = (t.name for t in tiers.tiers
                      if (groups // t.size == groups[:, :1] // t.size).all())  # fmt: skip
            shares[name] = next(inside, tiers.tiers[-1].name)
            host = tiers.chips_per_host
            if tiers.rails and (groups % host == groups[:, :1] % host).all():
                shares[name] += ", along rails"
    used = set(chips.tolist())
    units = {int(c) // tiers.unit.size for c in used}
    size = tiers.unit.size
    left = [c for u in sorted(units) for c in range(u * size, (u + 1) * size) if c not in used]
    return Packed(
        axes=dict(sizes), order=tuple(order), block=block, rank_to_chip=grid.reshape(-1),
        cost_s=sum(by_axis.values()), cost_by_axis_s=by_axis, shares=shares, spares=tuple(left),
        looked_at=1,
    )  # fmt: skip


def _groups(grid: IntArray, names: Sequence[str], axes: Sequence[str]) -> IntArray:
    """[groups, members] chips of the groups along some axes."""
    where = [list(names).index(a) for a in axes]
    moved = np.moveaxis(grid, where, range(-len(where), 0))
    return moved.reshape(-1, math.prod(grid.shape[w] for w in where))


def _call_s(groups: IntArray, tiers: Tiers, entry: AxisTraffic) -> float:
    """Seconds of one call in the slowest of the groups."""
    members = groups.shape[1]
    if members == 1:
        return 0.0
    if entry.collective in ("send", "broadcast"):
        pairs = np.stack([groups[:, :-1].reshape(-1), groups[:, 1:].reshape(-1)], axis=1)
        return max(t.latency_s + entry.size_bytes / t.bytes_per_s
                   for t in tiers.tiers if _ends_at(pairs, t.size, tiers))  # fmt: skip
    seconds = np.zeros(len(groups))
    inner = np.ones(len(groups))
    below = groups
    exchange = entry.collective == "all-to-all"
    both = 2.0 if entry.collective == "all-reduce" else 1.0
    for tier in tiers.tiers:
        unit = groups // tier.size
        spread = _distinct(below) / _distinct(unit)
        n = np.maximum(spread, 1.0)
        if exchange:
            crossing = np.where(n > 1, 1 - inner / members, 0.0)
            seconds = np.maximum(seconds, entry.size_bytes * crossing / tier.bytes_per_s)
            seconds = seconds + np.where(n > 1, tier.latency_s, 0.0)
        else:
            share = np.where(n > 1, (n - 1) / n / inner, 0.0)
            hops = np.minimum(n - 1, 2 * np.log2(n))
            seconds = seconds + both * (
                entry.size_bytes * share / tier.bytes_per_s + tier.latency_s * hops
            )
        inner = _fewest(unit)
        below = unit
    return float(seconds.max())


def _ends_at(pairs: IntArray, size: int, tiers: Tiers) -> bool:
    """Whether some pair meets first in this tier."""
    meets = pairs[:, 0] // size == pairs[:, 1] // size
    smaller = [t.size for t in tiers.tiers if t.size < size]
    for less in smaller:
        meets &= pairs[:, 0] // less != pairs[:, 1] // less
    return bool(meets.any())


def _distinct(units: IntArray) -> Any:
    """[groups] how many different units a group is in."""
    ordered = np.sort(units, axis=1)
    return 1.0 + (np.diff(ordered, axis=1) != 0).sum(axis=1)


def _fewest(units: IntArray) -> Any:
    """[groups] members in the unit that holds fewest of the group: what carries it out."""
    ordered = np.sort(units, axis=1)
    members = units.shape[1]
    new = np.concatenate([np.ones((len(units), 1), np.bool_), np.diff(ordered, axis=1) != 0], 1)
    row, start = np.nonzero(new)
    end = np.append(start[1:], members)
    end[np.append(row[1:] != row[:-1], True)] = members
    fewest = np.full(len(units), members, dtype=np.float64)
    np.minimum.at(fewest, row, (end - start).astype(np.float64))
    return fewest


def _inside(found: Packed, name: str, tiers: Tiers) -> bool:
    """Whether an axis' groups stay inside one scale-up unit."""
    names = list(found.axes)
    grid = found.rank_to_chip.reshape([found.axes[n] for n in names])
    unit = _groups(grid, names, (name,)) // tiers.unit.size
    return bool((unit == unit[:, :1]).all())
