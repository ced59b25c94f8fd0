"""The fastest named algorithm for one collective of one size on one network.

Every algorithm that runs on the network is timed with the cheapest exact evaluator, pipelines with
several numbers of pieces, and the fastest is taken. What has too many rows to be worth writing out,
or could gain too little, is left out, and said so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from weftline.errors import InputError
from weftline.fabric.algorithms import ALGORITHMS, AnySchedule, algorithms_for, build
from weftline.fabric.algorithms.bucket import axis_speeds, is_even
from weftline.fabric.bounds import Bound, bound
from weftline.fabric.evaluators import Timing, evaluate
from weftline.fabric.graph import Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.routing import routes
from weftline.fabric.schedule import Collective
from weftline.units import format_duration

__all__ = ["SYNTHESIZED", "Candidate", "Choice", "choose"]

AUTO_ROWS: Final = 400_000
"""Rows written out for one candidate at most while choosing; a named algorithm may have more."""
EXCHANGE_ROWS: Final = 4_200_000
"""The same for an all-to-all, which is one step: 2,048 chips, seconds of work."""
PIECE_ROWS: Final = 1_200_000
"""Rows written out for one number of pieces at most."""
FEW_ROWS: Final = 1_000
"""Rows up to which an algorithm is timed without a look at its busiest link first."""
CLOSE: Final = 1.05
"""An algorithm this close to the bound ends the search."""
NEAR: Final = 1.02
"""Pieces that bring an algorithm this close to the bound are enough."""
OWN_RANKS: Final = 512
"""Chips up to which a network gets a schedule of its own unasked: seconds of work."""
FOLLOWING: Final = ("flow", "events")
"""Evaluators whose work grows with every message."""
SYNTHESIZED: Final = "synthesized"
PIECES: Final[tuple[int, ...]] = (1, 4, 16, 64, 256)
"""Numbers of pieces tried for a pipeline along a chain or tree."""
BUCKET_PIECES: Final[tuple[int, ...]] = (1, 4, 8, 16, 32)
"""Numbers of pieces tried where phases on unequal axes or levels can overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One algorithm that was looked at: its time, or why it has none."""

    algorithm: str
    time_s: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The schedule taken, its time, and all that were looked at, fastest first."""

    schedule: AnySchedule
    timing: Timing
    candidates: tuple[Candidate, ...]
    pieces: int | None = None
    """Pieces of the pipeline, where it is one."""
    least: Bound | None = None
    """The lower bound it was held against, where one was asked for."""


def choose(
    topology: Topology,
    collective: Collective,
    size_bytes: float,
    algorithm: str = "auto",
    *,
    how: str = "auto",
    root: int = 0,
    target: int = 1,
    everything: bool = False,
    own: bool = True,
) -> Choice:
    """The schedule and time of ``algorithm``, or of the fastest one for ``auto``.

    ``auto`` begins with what needs no rows to be written and stops at a time close to the bound,
    unless ``everything`` is to be timed. Networks with faults, and broadcasts from chip to chip,
    also get a schedule of their own, named ``synthesized``, unless ``own`` is False; it may be
    asked for by that name. Raises
    UnknownNameError and InputError as ``build`` and ``evaluate`` do, and InputError where no
    algorithm does the collective on this network.
    """
    task = _Task(topology, collective, size_bytes, how, root, target)
    if algorithm == SYNTHESIZED:
        made = task.synthesized()
        candidates = (Candidate(algorithm=SYNTHESIZED, time_s=made.timing.time_s),)
        return replace(made, candidates=candidates)
    if algorithm == "auto":
        names = list(algorithms_for(topology, collective))
    else:
        build_check(topology, collective, algorithm)
        names = [algorithm]
    names.sort(key=lambda n: flat_rows(n, topology, collective))
    if algorithm == "auto" and own and task.deserves_its_own():
        # A broadcast's named algorithms use few of the links of a chip: the other comes first.
        free = sum(flat_rows(n, topology, collective) == 0 for n in names)
        names.insert(0 if collective == "broadcast" else max(free, 1), SYNTHESIZED)
    least = bound(
        topology, collective, size_bytes, root=root, target=target if collective == "send" else None
    )
    least_s = least.time_s
    found: list[Candidate] = []
    best: Choice | None = None
    for name in names:
        reason = ""
        if algorithm == "auto" and not everything:
            reason = task.not_worth_it(name, least_s, best)
        if reason:
            found.append(Candidate(algorithm=name, time_s=None, reason=reason))
            continue
        made = task.fastest(name, least_s)
        found.append(Candidate(algorithm=name, time_s=made.timing.time_s))
        if best is None or made.timing.time_s < best.timing.time_s:
            best = made
    if best is None:
        raise InputError(
            f"no algorithm does {collective} on `{topology.name}` in rows that can be written out",
            hint="name one with --algorithm, or synthesize a schedule",
        )
    found.sort(key=lambda c: math.inf if c.time_s is None else c.time_s)
    return replace(best, candidates=tuple(found), least=least)


@dataclass(frozen=True, slots=True)
class _Task:
    """What every algorithm is held against."""

    topology: Topology
    collective: Collective
    size_bytes: float
    how: str
    root: int
    target: int

    def fastest(self, name: str, least_s: float) -> Choice:
        """The best of one algorithm over the numbers of pieces worth trying.

        The evaluators that follow every message only time what the quick ones find best.
        """
        if name == SYNTHESIZED:
            return self.synthesized()
        quick = "auto" if self.how in FOLLOWING else self.how
        best: Choice | None = None
        for pieces in _pieces(name, self.topology, self.collective):
            made = self._build(name, pieces)
            timing = evaluate(self.topology, made, self.size_bytes, quick)
            if best is not None and timing.time_s >= best.timing.time_s:
                break  # more pieces cost more latency than they save
            best = Choice(schedule=made, timing=timing, candidates=(), pieces=pieces)
            if timing.time_s <= NEAR * least_s:
                break
        if best is None:
            raise InputError(f"`{name}` has no form that can be written out here")
        if self.how not in (quick, best.timing.evaluator):
            timing = evaluate(self.topology, best.schedule, self.size_bytes, self.how)
            best = replace(best, timing=timing)
        return best

    def _build(self, name: str, pieces: int | None) -> AnySchedule:
        return build(
            self.topology, self.collective, name, pieces=pieces, root=self.root, target=self.target
        )

    def synthesized(self) -> Choice:
        """A schedule made for this network. Raises InputError where none can be."""
        from weftline.fabric.synthesis import synthesize

        made = synthesize(self.topology, self.collective, self.size_bytes, root=self.root)
        named = replace(made.schedule, algorithm=SYNTHESIZED)
        return Choice(schedule=named, timing=made.timing, candidates=())

    def deserves_its_own(self) -> bool:
        """Whether a synthesized schedule competes: few chips, something to arrange, and faults or
        a broadcast over several links of each chip."""
        if self.collective in ("all-to-all", "send") or not 1 < self.topology.ranks <= OWN_RANKS:
            return False
        spread = self.collective == "broadcast" and not self.topology.switches
        return bool(self.topology.failed) or spread

    def not_worth_it(self, name: str, least_s: float, best: Choice | None) -> str:
        """Why an algorithm is left out; empty where it is timed."""
        rows = flat_rows(name, self.topology, self.collective) if name != SYNTHESIZED else 0
        if best is not None and best.timing.time_s <= CLOSE * least_s:
            return f"left out: {best.schedule.algorithm} is near the bound"
        if rows > (EXCHANGE_ROWS if self.collective == "all-to-all" else AUTO_ROWS):
            return f"left out: {rows:,} rows to write"
        if best is None or rows <= FEW_ROWS or name == SYNTHESIZED:
            return ""
        # Pieces change when bytes move, not over which links: one piece tells the least time.
        made = self._build(name, 1)
        if isinstance(made, OrbitSchedule):
            return ""
        busy = routes(self.topology, made.source, made.destination).loads(
            self.topology.links, made.fractions() * self.size_bytes
        )
        needed_s = float((busy / self.topology.bandwidth_bytes_per_s).max(initial=0.0))
        if needed_s > best.timing.time_s:
            return f"left out: its busiest link alone takes {format_duration(needed_s)}"
        return ""


def build_check(topology: Topology, collective: Collective, algorithm: str) -> None:
    """Raise what ``build`` raises for a name that does not fit, before rows are written."""
    if algorithm not in ALGORITHMS or algorithm not in algorithms_for(topology, collective):
        build(topology, collective, algorithm)


def _pieces(name: str, topology: Topology, collective: Collective) -> tuple[int | None, ...]:
    """Numbers of pieces worth trying: pipelines gain from them, and rows grow with them."""
    if name == "bucket" and topology.grid is not None:
        # Rings of equal sides are busy all the time; on chains and unequal axes pieces fill gaps.
        even = topology.grid.is_symmetric and is_even(topology.grid, axis_speeds(topology))
        if even and not topology.failed:
            return (None,)
        tried = BUCKET_PIECES
    elif name == "hierarchical":
        tried = PIECES if collective == "broadcast" else BUCKET_PIECES
    elif name in ("double-binary-tree", "chain", "nvls", "in-network"):
        tried = PIECES
    else:
        return (None,)
    rows = flat_rows(name, topology, collective)
    return tuple(p for p in tried if p == 1 or p * rows <= PIECE_ROWS)


def flat_rows(name: str, topology: Topology, collective: Collective) -> int:
    """Rows that an algorithm writes out on a network (for one piece of a pipeline); 0 by symmetry.

    The counts follow from the algorithms: N - 1 transfers of each chunk in each half.
    """
    ranks = topology.ranks
    halves = 2 if collective == "all-reduce" else 1
    grid = topology.grid
    symmetric = topology.is_symmetric
    alike = topology.interchangeable and symmetric
    if name in ("ring", "bidirectional-ring"):
        if (topology.kind == "ring" or topology.interchangeable) and symmetric:
            return 0
        return halves * ranks * (ranks - 1) * (2 if name != "ring" else 1)
    if name == "bucket" and grid is not None:
        if grid.is_symmetric:
            return 0
        sides = sum(s - 1 for s in grid.shape)
        rings = any(w and s > 2 for w, s in zip(grid.wraps, grid.shape, strict=True))
        return halves * ranks * sides * len(grid.shape) * (2 if rings else 1)
    if name == "swing":
        ways = 2 * sum(s > 1 for s in grid.shape) if grid is not None else 2
        return halves * ranks * (ranks - 1) * ways
    if name == "halving-doubling":
        return 0 if alike else halves * ranks * ranks.bit_length()
    if name == "hierarchical" and collective == "broadcast":
        return ranks * topology.levels[0]
    if name == "hierarchical":
        if topology.group is not None and symmetric:
            return 0
        return halves * ranks * (topology.levels[0] + ranks // topology.levels[0])
    if collective == "send":
        return 1
    if name in ("direct", "ordered"):
        by_symmetry = symmetric if grid is None else grid.is_symmetric
        if by_symmetry and (collective == "all-to-all" or alike):
            return 0
        return ranks * ranks if collective == "all-to-all" else 1
    if name == "nvls":
        return 2 * ranks * ranks
    return 2 * halves * ranks
