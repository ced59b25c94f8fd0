"""The one graph every part of this room speaks of: chips, switches and directed links.

Nodes 0 .. ranks-1 are chips, ranks .. ranks+switches-1 are switches. A link is directed; a cable
that works both ways is two links. Builders for rings, tori, Clos networks and the rest stand in
``topologies``; importers of real clusters in ``formats``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weftline.errors import InputError

IntArray = np.ndarray[Any, np.dtype[np.int64]]
FloatArray = np.ndarray[Any, np.dtype[np.float64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Chips at integer points: rank = sum of coordinate * stride, first axis slowest (row-major).

    ``wraps[i]`` says whether axis i closes on itself. ``twist[i]`` is the offset along the first
    axis that a wrap-around of axis i adds (twisted torus, Camara et al. 2010); all zero otherwise.
    """

    shape: tuple[int, ...]
    wraps: tuple[bool, ...]
    twist: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.shape or any(side < 1 for side in self.shape):
            raise InputError(
                f"a grid of {'x'.join(map(str, self.shape)) or 'no'} chips cannot be",
                hint="every side is a whole number from 1: 4x4x4",
            )
        if len(self.wraps) != len(self.shape) or (
            self.twist and len(self.twist) != len(self.shape)
        ):
            raise InputError(f"{len(self.shape)} sides, {len(self.wraps)} wrap-arounds")

    @property
    def size(self) -> int:
        """Chips of the grid."""
        return math.prod(self.shape)

    @property
    def is_symmetric(self) -> bool:
        """Whether every shift along every axis maps links on links: all axes longer than 2 wrap."""
        sides = zip(self.wraps, self.shape, strict=True)
        return all(w or s <= 2 for w, s in sides) and not any(self.twist)

    def coordinates(self, rank: IntArray | int) -> IntArray:
        """[..., axes] coordinates of ``rank``."""
        return np.stack(np.unravel_index(np.asarray(rank), self.shape), axis=-1).astype(np.int64)

    def rank(self, coordinates: IntArray) -> IntArray:
        """Rank of [..., axes] ``coordinates``, each taken modulo its side."""
        point = np.asarray(coordinates) % np.asarray(self.shape)
        return np.asarray(np.ravel_multi_index(tuple(np.moveaxis(point, -1, 0)), self.shape))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Topology:
    """A network: directed links with one-way bandwidth and latency, and what is known of its form.

    Raises InputError for links that leave the graph, for bandwidths that are not positive and for
    arrays of unequal length.
    """

    name: str
    ranks: int
    switches: int = 0
    source: IntArray
    """[links] node a link leaves."""
    destination: IntArray
    """[links] node a link enters."""
    bandwidth_bytes_per_s: FloatArray
    """[links] one direction."""
    latency_s: FloatArray
    """[links] time of an empty message over the link."""
    kind: str = "graph"
    """``ring``, ``line``, ``torus``, ``mesh``, ``full-mesh``, ``switch``, ``fat-tree``,
    ``dragonfly``, ``hammingmesh``, ``nested`` or ``graph``."""
    grid: Grid | None = None
    """The grid of the chips, where they lie on one."""
    levels: tuple[int, ...] = ()
    """Chips that reach each other at each level, innermost first: (8, 1024) for 8-chip hosts."""
    group: Grid | None = None
    """Shifts of the ranks, numbered as on this grid, that map the whole network on itself."""
    interchangeable: bool = False
    """Whether every permutation of the chips does (one switch, a full mesh of equal links)."""
    link_class: IntArray | None = None
    """[links] which links are alike: on a grid 2 * axis, + 1 where the link leads down the axis;
    elsewhere one number for every set of links that the shifts of ``group`` map on each other."""
    chips_forward: bool = True
    """Whether chips pass on what is not theirs, as on a torus; under switches they do not."""
    reducing: BoolArray | None = None
    """[switches] whether a switch adds up what passes it (NVLS, SHARP); None where none does."""
    injection_bytes_per_s: FloatArray | None = None
    """[ranks] what a chip can send in all, where that is less than its links together."""
    chip: str = ""
    """The catalogue's name of the chips, where they are known: what is measured of them counts."""
    across: str = ""
    """The network between the units of a nest, as measured rows name it: ``InfiniBand NDR``."""
    labels: tuple[str, ...] = ()
    """Names of the nodes, chips first, where they come from a cluster's own description."""
    failed: tuple[int, ...] = ()
    """Links taken out or slowed, as indices into the links of the whole network."""
    basis: Mapping[str, str] = field(default_factory=dict)
    """What a bandwidth or latency rests on, direction and source: name -> text."""

    def __post_init__(self) -> None:
        links = len(self.source)
        arrays = (self.destination, self.bandwidth_bytes_per_s, self.latency_s)
        if any(len(a) != links for a in arrays):
            raise InputError(f"`{self.name}`: arrays of links have unequal lengths")
        ends = np.concatenate([self.source, self.destination]) if links else np.zeros(0, np.int64)
        if links and (ends.min() < 0 or ends.max() >= self.nodes):
            raise InputError(
                f"`{self.name}`: a link ends at node {int(ends.max())}, there are {self.nodes}",
                hint="chips are 0 .. ranks-1, switches follow",
            )
        if links and not (self.bandwidth_bytes_per_s > 0).all():
            bad = int(np.argmin(self.bandwidth_bytes_per_s))
            raise InputError(
                f"`{self.name}`: link {int(self.source[bad])} -> {int(self.destination[bad])} has "
                f"bandwidth {self.bandwidth_bytes_per_s[bad]:g} bytes/s",
                hint="a failed link is left out, not given zero bandwidth",
            )
        if links and not (np.isfinite(self.latency_s) & (self.latency_s >= 0)).all():
            raise InputError(f"`{self.name}`: a latency is below zero or not a number")

    @property
    def nodes(self) -> int:
        """Chips and switches."""
        return self.ranks + self.switches

    @property
    def links(self) -> int:
        """Directed links."""
        return len(self.source)

    @property
    def is_symmetric(self) -> bool:
        """Whether shifts of ``group`` map the whole network on itself, speeds included."""
        return self.group is not None and not self.failed

    def reduces(self) -> bool:
        """Whether some switch adds up what passes it."""
        return self.reducing is not None and bool(self.reducing.any())

    def egress_bytes_per_s(self) -> FloatArray:
        """[ranks] what each chip can send at once: its links together, or its injection limit."""
        out = np.bincount(self.source, weights=self.bandwidth_bytes_per_s, minlength=self.nodes)
        chips = np.asarray(out[: self.ranks], dtype=np.float64)
        limit = self.injection_bytes_per_s
        return chips if limit is None else np.asarray(np.minimum(chips, limit), dtype=np.float64)

    def ingress_bytes_per_s(self) -> FloatArray:
        """[ranks] what each chip can receive at once over its links together."""
        into = np.bincount(
            self.destination, weights=self.bandwidth_bytes_per_s, minlength=self.nodes
        )
        return np.asarray(into[: self.ranks])

    def components(self) -> IntArray:
        """[nodes] which nodes can reach each other both ways: equal numbers do."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components

        ones = np.ones(self.links, dtype=np.int8)
        graph = csr_array((ones, (self.source, self.destination)), shape=(self.nodes, self.nodes))
        _, label = connected_components(graph, directed=True, connection="strong")
        return np.asarray(label, dtype=np.int64)

    def require_connected(self) -> Topology:
        """This network, or InputError with two chips that cannot reach each other."""
        label = self.components()[: self.ranks]
        apart = np.flatnonzero(label != label[0]) if self.ranks else label
        if len(apart):
            other = int(apart[0])
            raise InputError(
                f"`{self.name}` is not connected: {self.label(0)} and {self.label(other)} cannot "
                f"reach each other both ways ({len(np.unique(label))} separate parts)",
                hint="fail fewer links, or take another seed; a cable that works both ways is "
                "two links",
            )
        return self

    def label(self, node: int) -> str:
        """What a reader calls a node: its own name, its coordinates, or its number."""
        if node < len(self.labels):
            return self.labels[node]
        if node >= self.ranks:
            return f"switch {node - self.ranks}"
        if self.grid is not None and len(self.grid.shape) > 1:
            point = ",".join(str(int(c)) for c in self.grid.coordinates(node))
            return f"chip {node} ({point})"
        return f"chip {node}"

    def grid_links(self) -> IntArray:
        """[ranks, axes, 2] the link that leaves a chip up and down each axis; -1 where none does.

        A side of 2 has one cable: both entries name the same link. Raises InputError off a grid.
        """
        if self.grid is None or self.link_class is None:
            raise InputError(f"the chips of `{self.name}` do not lie on a grid")
        found = np.full((self.ranks, len(self.grid.shape), 2), -1, dtype=np.int64)
        chips = np.flatnonzero(
            (self.link_class >= 0) & (self.source < self.ranks) & (self.destination < self.ranks)
        )
        axis, down = np.divmod(self.link_class[chips], 2)
        found[self.source[chips], axis, down] = chips
        for two, side in enumerate(self.grid.shape):
            if side == 2:
                link = found[:, two].max(axis=-1)
                found[:, two] = link[:, None]
        return found
