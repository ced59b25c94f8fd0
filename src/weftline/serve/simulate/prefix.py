"""What a prefix cache could find in a trace: the most there is, and how it falls with its size.

A block is found if it was used before and has not been pushed out since. With least-recently-used
order that is so exactly if fewer other blocks than the cache holds were used in between (the stack
distance of Mattson et al., 1970), so one pass over the trace gives the rate for every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from weftline.errors import InputError
from weftline.serve.simulate.tables import kernel
from weftline.spec import Traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixUse:
    """Block uses of a trace in order, and how far back each block was last used."""

    block_tokens: int
    uses: int
    distinct: int
    distances: NDArray[np.int64]
    """[uses] distinct blocks used since the last use, itself included; 0 for a first use."""

    @property
    def ideal_hit_rate(self) -> float:
        """Share of block uses found in a cache without end."""
        return 1.0 - self.distinct / self.uses

    def hit_rate(self, blocks: int) -> float:
        """Share of block uses found in a cache of ``blocks`` blocks, least recently used out."""
        return float(np.mean((self.distances > 0) & (self.distances <= blocks)))

    def hit_rates(self, tokens: Sequence[float]) -> list[float]:
        """:meth:`hit_rate` of caches that hold so many tokens."""
        return [self.hit_rate(int(size // self.block_tokens)) for size in tokens]


def prefix_use(traffic: Traffic) -> PrefixUse:
    """Follow the prefix blocks of a trace. Raises InputError where it has none."""
    if traffic.hash_ids is None or traffic.hash_starts is None or traffic.hash_ids.size == 0:
        raise InputError(
            f"{traffic.name} says nothing of prefixes",
            hint="a trace with `hash_ids`, for example mooncake-conversation",
        )
    starts, ids = traffic.hash_starts, traffic.hash_ids
    # Deepest first within a request: the front of a prompt is the last to be pushed out.
    lengths = np.diff(starts)
    owner = np.repeat(np.arange(lengths.size), lengths)
    at = np.arange(ids.size)
    order = ids[starts[:-1][owner] + starts[1:][owner] - 1 - at]
    distinct = int(np.unique(ids).size)
    return PrefixUse(
        block_tokens=traffic.hash_block_tokens, uses=int(ids.size), distinct=distinct,
        distances=_distances(order),
    )  # fmt: skip


def _distances(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stack distances, by a tree of counts over the time of each block's last use."""
    n = blocks.size
    found: Any = np.zeros(n, np.int64)
    last = np.full(int(blocks.max()) + 1, -1, np.int64)
    stack_distances(blocks, last, np.zeros(n + 1, np.int64), found)
    return np.asarray(found)


@kernel
def stack_distances(blocks: Any, last: Any, tree: Any, found: Any) -> None:
    """Fill ``found`` with the LRU stack distance of each use.

    ``last`` is -1 for every block and ``tree`` zero; the tree counts, by time of last use, the
    blocks whose last use that is (Fenwick, 1994).
    """
    n = len(blocks)
    for t in range(n):
        before = last[blocks[t]]
        if before >= 0:
            count = 0
            i = t
            while i > 0:
                count += tree[i]
                i -= i & -i
            i = before
            while i > 0:
                count -= tree[i]
                i -= i & -i
            found[t] = count
            i = before + 1
            while i <= n:
                tree[i] -= 1
                i += i & -i
        i = t + 1
        while i <= n:
            tree[i] += 1
            i += i & -i
        last[blocks[t]] = t
