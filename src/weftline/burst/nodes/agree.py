"""Which checkpoint a run goes back to: the newest that is whole somewhere, the same for all ranks.

Every place is asked what it has: this node's store, the memory and the stores of other nodes, the
object store. What they say is put together (by one collective, where ranks ask different places),
and the choice follows from that alone, so that all who see the same come to the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from weftline.burst.commit.commits import Commit, decode_commit
from weftline.burst.errors import BurstError, CheckpointMissingError, MismatchError
from weftline.burst.nodes.shares import share_name
from weftline.burst.remote.objects import RemoteError

if TYPE_CHECKING:
    from weftline.burst.nodes.source import NodeSource
    from weftline.burst.read.reading import StoreReader
    from weftline.burst.remote.checkpoints import RemoteSource

__all__ = [
    "Choice", "Seen", "choose", "run_of", "survey_bucket", "survey_node", "survey_store",
]  # fmt: skip


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """What one place has of one checkpoint."""

    place: str
    """URL of a node or an object store, or the root of a store."""
    record: bytes
    """The commit record."""
    ranks: tuple[int, ...]
    """Ranks whose shares are whole there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The checkpoint to go back to, and where its shares are."""

    record: bytes
    commit: Commit
    holders: dict[int, tuple[str, ...]]
    """Rank -> places that have its share."""
    passed_over: tuple[tuple[int, tuple[int, ...]], ...]
    """Newer checkpoints that are not whole anywhere: step, and the ranks that are lost."""


def survey_store(store: StoreReader, *, most: int = 16) -> list[Seen]:
    """What this node's own store has, of its newest ``most`` checkpoints."""
    found = []
    commits, _ = store.view.commits.all()
    for commit in commits[-most:]:
        try:
            record = store.view.commits.record(commit.step)
        except BurstError:
            continue  # dropped meanwhile
        here = [r.rank for r in commit.ranks if store.view.local_manifest(r) is not None]
        found.append(Seen(store.root, record, tuple(here)))
    return found


def survey_node(node: NodeSource, run: str | None = None) -> list[Seen]:
    """What a node has of a run, in memory and in its store; nothing where it does not answer."""
    found: list[Seen] = []
    try:
        kept: dict[str, set[str]] = {}
        for record in node.records():
            commit = decode_commit(record, path=node.name)
            of = run_of(commit)
            if run is not None and of != run:
                continue
            names = kept.setdefault(of, node.keeps(of) if of not in kept else set())
            held = node.holds(commit.ranks)
            here = [
                r.rank for r, whole in zip(commit.ranks, held, strict=True)
                if whole or share_name(r) in names
            ]  # fmt: skip
            found.append(Seen(node.name, record, tuple(here)))
    except RemoteError:
        pass  # a node that is down has nothing
    return found


def survey_bucket(bucket: RemoteSource) -> list[Seen]:
    """What an object store has: a checkpoint that shows there is whole. Raises RemoteError."""
    return [
        Seen(bucket.name, c.commit, tuple(int(r) for r in c.ranks)) for c in bucket.checkpoints()
    ]


def run_of(commit: Commit) -> str:
    """The run a commit belongs to; in format 1 that is its store."""
    return commit.run or commit.store_id


def choose(
    seen: Iterable[Seen], *, run: str | None = None, step: int | None = None, where: str = ""
) -> Choice:
    """The newest checkpoint (or that of ``step``) whose every share is whole at some place.

    ``run``: of this run; where it is not given all records must be of one. The order of ``seen``
    decides only the order of ``holders``. Raises CheckpointMissingError where there is none, with
    what is missing, and MismatchError for records of several runs.
    """
    commits: dict[bytes, Commit] = {}
    holders: dict[bytes, dict[int, list[str]]] = {}
    for one in seen:
        commit = commits.setdefault(one.record, decode_commit(one.record, path=one.place))
        if run is not None and run_of(commit) != run:
            continue
        if step is not None and commit.step != step:
            continue
        by_rank = holders.setdefault(one.record, {})
        for rank in one.ranks:
            if one.place not in by_rank.setdefault(rank, []):
                by_rank[rank].append(one.place)
    runs = sorted({run_of(commits[record]) for record in holders})
    if len(runs) > 1:
        raise MismatchError(
            f"checkpoints of {len(runs)} runs are there: {', '.join(runs)}", where=where,
            hint="say which with run=",
        )  # fmt: skip
    passed: list[tuple[int, tuple[int, ...]]] = []
    # Two records of one place in the order are two tries of one step: their bytes decide for all.
    for record in sorted(holders, key=lambda r: (commits[r].order, r), reverse=True):
        commit = commits[record]
        lost = tuple(r.rank for r in commit.ranks if not holders[record].get(r.rank))
        if not lost:
            places = {r: tuple(found) for r, found in sorted(holders[record].items())}
            return Choice(record=record, commit=commit, holders=places, passed_over=tuple(passed))
        passed.append((commit.step, lost))
    raise _none(passed, step, where)


def _none(
    passed: Sequence[tuple[int, tuple[int, ...]]], step: int | None, where: str
) -> CheckpointMissingError:
    what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    if not passed:
        return CheckpointMissingError(f"{what} is anywhere", where=where)
    told = "; ".join(f"of step {s} ranks {list(lost)} are lost" for s, lost in passed[:4])
    return CheckpointMissingError(
        f"{what} is whole anywhere: {told}", where=where,
        hint="are all nodes that have copies or stores up, and is the object store given?",
    )  # fmt: skip
