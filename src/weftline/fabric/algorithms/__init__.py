"""Named algorithms: one table from (collective, name) to what builds the schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.algorithms.alltoall import direct_all_to_all, ordered_all_to_all
from weftline.fabric.algorithms.bucket import bucket
from weftline.fabric.algorithms.exchange import halving_doubling, swing
from weftline.fabric.algorithms.hierarchical import direct, hierarchical
from weftline.fabric.algorithms.nvls import in_network, nvls
from weftline.fabric.algorithms.pipeline import chain_broadcast, rail_broadcast, send
from weftline.fabric.algorithms.ring import ring
from weftline.fabric.algorithms.tree import double_binary_tree
from weftline.fabric.graph import Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import COLLECTIVES, Collective, Schedule

AnySchedule = Schedule | OrbitSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What some algorithms take beside the network: pieces of a pipeline, ends of a message."""

    pieces: int | None = None
    """None: the algorithm's own number."""
    root: int = 0
    target: int = 1


def _levels(topology: Topology, collective: Collective, options: Options) -> AnySchedule:
    if collective == "broadcast":
        return rail_broadcast(topology, pieces=options.pieces or 16, root=options.root)
    return hierarchical(topology, collective, pieces=options.pieces or 1)


Builder = Callable[[Topology, Collective, Options], AnySchedule]
_REDUCING: Final[tuple[Collective, ...]] = ("all-reduce", "reduce-scatter", "all-gather")
_TABLE: Final[Mapping[str, tuple[tuple[Collective, ...], Builder]]] = {
    "ring": (_REDUCING, lambda t, c, _o: ring(t, c)),
    "bidirectional-ring": (_REDUCING, lambda t, c, _o: ring(t, c, both_ways=True)),
    "bucket": (_REDUCING, lambda t, c, o: bucket(t, c, pieces=o.pieces)),
    "swing": (_REDUCING, lambda t, c, _o: swing(t, c)),
    "halving-doubling": (_REDUCING, lambda t, c, _o: halving_doubling(t, c)),
    "double-binary-tree": (
        ("all-reduce", "broadcast"),
        lambda t, c, o: double_binary_tree(t, c, pieces=o.pieces or 8, root=o.root),
    ),
    "hierarchical": ((*_REDUCING, "broadcast"), _levels),
    "nvls": (_REDUCING, lambda t, c, o: nvls(t, c, pieces=o.pieces or 8)),
    "in-network": (("all-reduce",), lambda t, c, o: in_network(t, c, pieces=o.pieces or 8)),
    "chain": (
        ("broadcast",), lambda t, _c, o: chain_broadcast(t, pieces=o.pieces or 16, root=o.root),
    ),
    "ordered": (("all-to-all",), lambda t, _c, _o: ordered_all_to_all(t)),
    "direct": ((*_REDUCING, "all-to-all", "send"), lambda t, c, o: _direct(t, c, o.root, o.target)),
}  # fmt: skip
ALGORITHMS: Final[tuple[str, ...]] = tuple(_TABLE)


def _direct(topology: Topology, collective: Collective, root: int, target: int) -> AnySchedule:
    if collective == "all-to-all":
        return direct_all_to_all(topology)
    if collective == "send":
        return send(topology, root=root, target=target)
    return direct(topology, collective)


def build(
    topology: Topology,
    collective: Collective,
    algorithm: str,
    *,
    pieces: int | None = None,
    root: int = 0,
    target: int = 1,
) -> AnySchedule:
    """The schedule of one named algorithm: rows of one chip where symmetry allows, else all.

    Raises UnknownNameError for a name, InputError where the algorithm does not do the collective or
    does not run on the network.
    """
    if collective not in COLLECTIVES:
        raise UnknownNameError("collective", collective, COLLECTIVES,
                               hint=f"one of {', '.join(COLLECTIVES)}")  # fmt: skip
    if algorithm not in _TABLE:
        raise UnknownNameError("algorithm", algorithm, _TABLE,
                               hint=f"one of {', '.join(_TABLE)}")  # fmt: skip
    does, builder = _TABLE[algorithm]
    if collective not in does:
        raise InputError(
            f"`{algorithm}` does no {collective}",
            hint=f"{collective}: {', '.join(n for n, (d, _) in _TABLE.items() if collective in d)}",
        )
    if not 0 <= root < topology.ranks:
        raise InputError(f"root {root} is no rank", hint=f"ranks are 0 .. {topology.ranks - 1}")
    return builder(topology, collective, Options(pieces=pieces, root=root, target=target))


def algorithms_for(topology: Topology, collective: Collective) -> tuple[str, ...]:
    """Names of the algorithms that do the collective on this network, tried without building big.

    An algorithm counts if its preconditions hold; those that only fail on size are left out too.
    """
    return tuple(
        name for name, (does, _) in _TABLE.items()
        if collective in does and _accepts(name, topology, collective)
    )  # fmt: skip


def _accepts(name: str, topology: Topology, collective: Collective) -> bool:
    """Whether an algorithm's preconditions hold, without writing its rows."""
    grid = topology.grid
    symmetric = grid is not None and grid.is_symmetric
    pow2 = grid is not None and all(s & (s - 1) == 0 for s in grid.shape)
    ranks = topology.ranks
    if name == "bucket":
        return grid is not None and not any(grid.twist)
    if name == "ordered":
        return symmetric
    if name == "swing":
        alike = topology.interchangeable and ranks & (ranks - 1) == 0
        return ranks <= 1024 and ((symmetric and pow2) or (grid is None and alike))
    if name == "halving-doubling":
        return collective == "all-reduce" or ranks & (ranks - 1) == 0
    if name == "hierarchical":
        levels = topology.levels
        return (
            len(levels) > 1 and levels[-1] == ranks and levels[0] not in (1, ranks)
            and not any(o % i for i, o in pairwise(levels))
        )  # fmt: skip
    if name in ("nvls", "in-network"):
        kind = "switch" if name == "nvls" else "clos"
        return topology.switches == 1 and topology.reduces() and topology.kind == kind
    if name == "direct" and collective not in ("all-to-all", "send"):
        return topology.interchangeable and topology.is_symmetric
    if name == "direct" and collective == "send":
        return ranks > 1
    return True
