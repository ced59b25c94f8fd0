"""Times of collectives over the groups of a cluster's layouts: so many ranks, so far apart."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

from weftline.catalog import Accelerator, accelerator
from weftline.fabric.predictor.networks import machine_on
from weftline.fabric.predictor.surface import CollectiveTimes
from weftline.spec import Cluster

_KEPT: Final = 256
"""Clusters whose tables are kept: more than a search has in hand at once."""


_ANY_CHIPS: Final = 1 << 40
"""Chips of a cluster whose groups are those of any larger one."""


class _Known:
    """A cluster as a key: by what its collectives depend on.

    The chip counts by identity: one of a user's own may go by a name that meant another before. How
    many chips there are changes the shape of a torus, and nothing of a group behind switches.
    """

    __slots__ = ("_chip", "_key", "cluster")

    def __init__(self, cluster: Cluster, chip: Accelerator) -> None:
        self.cluster, self._chip = _of_any_size(cluster), chip
        self._key = (id(chip), self.cluster.chips, cluster.chips_per_host, self.cluster.levels,
                     cluster.host)  # fmt: skip

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self._key == other._key


def _of_any_size(cluster: Cluster) -> Cluster:
    """The same without its count of chips, where no level is a torus."""
    inner, *outer = cluster.levels
    if any(level.shape for level in cluster.levels):
        return cluster
    levels = [replace(v, size=_ANY_CHIPS) if v.kind == "clos" else v for v in outer]
    return replace(cluster, chips=_ANY_CHIPS, levels=(inner, *levels))


def group_times(cluster: Cluster) -> CollectiveTimes:
    """Times of collectives on a cluster by (ranks, their stride in chips)."""
    return _times(_Known(cluster, accelerator(cluster.accelerator)))


@lru_cache(maxsize=_KEPT)
def _times(known: _Known) -> CollectiveTimes:
    return CollectiveTimes(partial(machine_on, known.cluster))
