"""Checkpoints from elsewhere, loaded without a store of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from weftline.burst.commit.commits import Commit, decode_commit
from weftline.burst.commit.view import Source, View
from weftline.burst.errors import BurstError, CheckpointMissingError
from weftline.burst.files import RealFiles
from weftline.burst.log.reader import ChunkReader
from weftline.burst.read.healing import HealingFetch
from weftline.burst.read.restore import Loaded, load_parts, tensors_of

if TYPE_CHECKING:
    pass

__all__ = ["load_from"]


def find_commit(sources: Sequence[Source], step: int | None) -> Commit:
    """The commit record of a step, or of the newest checkpoint any source has.

    Raises CheckpointMissingError, with what went wrong on the way.
    """
    found: dict[int, Commit] = {}
    known: set[int] = set()
    trouble: list[str] = []
    for source in sources:
        steps = source.steps()
        known.update(steps)
        for s in steps if step is None else [step]:
            if s in found:
                continue
            try:
                found[s] = decode_commit(source.commit(s), path=f"{source.name}: commit of {s}")
            except (KeyError, FileNotFoundError):
                continue
            except BurstError as e:
                trouble.append(str(e))
    if found:
        return max(found.values(), key=lambda c: c.sequence)
    names = ", ".join(s.name for s in sources)
    what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    raise CheckpointMissingError(
        what + "".join(f"; {t}" for t in trouble), where=names,
        hint=f"steps there: {', '.join(map(str, sorted(known))) or 'none'}",
    )  # fmt: skip


def load_from(
    sources: Sequence[Source],
    step: int | None = None,
    names: Iterable[str] | None = None,
    into: Mapping[str, Any] | None = None,
    *,
    verify: bool = True,
    threads: int = 4,
    commit: Commit | None = None,
    select: Callable[[Iterable[str]], list[str]] | None = None,
) -> Loaded:
    """Load a checkpoint that only sources have: the first that has a record whole gives it.

    ``commit`` is that checkpoint where it was chosen before; ``select`` picks among its names.
    Other arguments and errors are those of :meth:`Store.load`.
    """
    commit = find_commit(sources, step) if commit is None else commit
    where = sources[0].name
    files = RealFiles()
    view = View(files, where, store_id="", sources=sources)
    fetch = HealingFetch(view, ChunkReader(files, where, direct=False), commit)
    manifests = [view.manifest(commit, r) for r in commit.ranks]
    if select is not None:
        names = select(tensors_of(manifests))
    with ThreadPoolExecutor(threads, thread_name_prefix="burst-load") as pool:
        arrays, dtypes = load_parts(
            manifests, fetch, pool, names=names, into=into, verify=verify,
            where=f"{where}: checkpoint {commit.step}",
        )  # fmt: skip
    extra = manifests[0].seal.extra
    return Loaded(
        step=commit.step, arrays=arrays, dtypes=dtypes,
        extra=msgspec.msgpack.decode(extra) if extra else {},
    )  # fmt: skip
