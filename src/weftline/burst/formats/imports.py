"""Checkpoints from elsewhere, loaded without a store of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from weftline.burst.commit.commits import Commit
from weftline.burst.commit.view import Source, View
from weftline.burst.files import RealFiles
from weftline.burst.log.reader import ChunkReader
from weftline.burst.read.healing import HealingFetch
from weftline.burst.read.restore import Loaded, load_parts, tensors_of

__all__ = ["load_from"]

_THREADS: Final = 4


def load_from(
    sources: Sequence[Source],
    commit: Commit,
    *,
    verify: bool = True,
    select: Callable[[Iterable[str]], list[str]] | None = None,
) -> Loaded:
    """Load a checkpoint that only sources have: the first that has a record whole gives it.

    ``select`` picks among its names. Raises as :meth:`Store.load`.
    """
    where = sources[0].name
    files = RealFiles()
    view = View(files, where, store_id="", sources=sources)
    fetch = HealingFetch(view, ChunkReader(files, where, direct=False), commit)
    manifests = [view.manifest(commit, r) for r in commit.ranks]
    names = None if select is None else select(tensors_of(manifests))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="burst-load") as pool:
        arrays, dtypes = load_parts(
            manifests, fetch, pool, names=names, into=None, verify=verify,
            where=f"{where}: checkpoint {commit.step}",
        )  # fmt: skip
    extra = manifests[0].seal.extra
    return Loaded(
        step=commit.step, arrays=arrays, dtypes=dtypes,
        extra=msgspec.msgpack.decode(extra) if extra else {},
    )  # fmt: skip
