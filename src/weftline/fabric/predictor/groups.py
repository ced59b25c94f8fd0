"""Times of collectives over the groups of a cluster's layouts: so many ranks, so far apart."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Final

from weftline.catalog import Accelerator, accelerator
from weftline.fabric.predictor.networks import machine_on
from weftline.fabric.predictor.surface import CollectiveTimes
from weftline.spec import Cluster

_KEPT: Final = 256
"""Clusters whose tables are kept: more than a search has in hand at once."""


class _Known:
    """A cluster as a key: by what its collectives depend on.

    The chip counts by identity: one of a user's own may go by a name that meant another before.
    """

    __slots__ = ("_chip", "_key", "cluster")

    def __init__(self, cluster: Cluster, chip: Accelerator) -> None:
        self.cluster, self._chip = cluster, chip
        self._key = (id(chip), cluster.chips, cluster.chips_per_host, cluster.levels, cluster.host)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self._key == other._key


def group_times(cluster: Cluster) -> CollectiveTimes:
    """Times of collectives on a cluster by (ranks, their stride in chips)."""
    return _times(_Known(cluster, accelerator(cluster.accelerator)))


@lru_cache(maxsize=_KEPT)
def _times(known: _Known) -> CollectiveTimes:
    return CollectiveTimes(partial(machine_on, known.cluster))
