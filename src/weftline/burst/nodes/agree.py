"""Which checkpoint a run goes back to: the newest that is whole somewhere, the same for all ranks.

Every place is asked what it has: this node's store, the memory and the stores of other nodes, the
object store. It names the commit records it knows and, apart from them, the shares it has: a node
that died while a checkpoint was being committed has shares of it and no record. What all say is put
together (by one collective, where ranks ask different places), and the choice follows from that
alone, so that all who see the same come to the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from weftline.burst.commit.commits import Commit, decode_commit
from weftline.burst.errors import BurstError, CheckpointMissingError, MismatchError
from weftline.burst.nodes.shares import share_id, shares_of
from weftline.burst.remote.objects import CredentialsError, RemoteError

if TYPE_CHECKING:
    from weftline.burst.nodes.source import NodeSource
    from weftline.burst.read.reading import StoreReader
    from weftline.burst.remote.checkpoints import RemoteSource

__all__ = [
    "Choice", "Seen", "choose", "run_of", "survey_bucket", "survey_node", "survey_store",
]  # fmt: skip


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """What one place has."""

    place: str
    """URL of a node or an object store, or the root of a store."""
    records: tuple[bytes, ...]
    """Commit records."""
    shares: frozenset[str]
    """Shares that are whole there, by :func:`share_id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The checkpoint to go back to, and where its shares are."""

    record: bytes
    commit: Commit
    holders: dict[int, tuple[str, ...]]
    """Rank -> places that have its share."""
    passed_over: tuple[tuple[int, tuple[int, ...]], ...]
    """Newer checkpoints that are not whole anywhere: step, and the ranks that are lost."""


def survey_store(store: StoreReader, *, most: int = 16) -> Seen:
    """What this node's own store has: its newest ``most`` records, and its shares."""
    records = []
    commits, _ = store.view.commits.all()
    for commit in commits[-most:]:
        with suppress(BurstError):  # dropped meanwhile
            records.append(store.view.commits.record(commit.step))
    return Seen(store.root, tuple(records), frozenset(shares_of(store.view)))


def survey_node(node: NodeSource) -> Seen:
    """What a node has, in memory and in its store; nothing where it does not answer.

    Raises CredentialsError: a node that is there and refuses is no node that is lost.
    """
    try:
        found = node.found()
    except CredentialsError:
        raise
    except RemoteError:
        return Seen(node.name, (), frozenset())
    return Seen(node.name, tuple(found.records), frozenset(found.shares))


def survey_bucket(bucket: RemoteSource) -> Seen:
    """What an object store has: a checkpoint that shows there is whole. Raises RemoteError."""
    records = tuple(c.commit for c in bucket.checkpoints())
    ranks = [r for record in records for r in decode_commit(record, path=bucket.name).ranks]
    return Seen(bucket.name, records, frozenset(share_id(r) for r in ranks))


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
    places = list(seen)
    commits: dict[bytes, Commit] = {}
    for one in places:
        for record in one.records:
            commits.setdefault(record, decode_commit(record, path=one.place))
    wanted = {
        record: commit for record, commit in commits.items()
        if (run is None or run_of(commit) == run) and (step is None or commit.step == step)
    }  # fmt: skip
    runs = sorted({run_of(commit) for commit in wanted.values()})
    if len(runs) > 1:
        raise MismatchError(
            f"checkpoints of {len(runs)} runs are there: {', '.join(runs)}", where=where,
            hint="say which with run=",
        )  # fmt: skip
    passed: list[tuple[int, tuple[int, ...]]] = []
    # Two records of one place in the order are two tries of one step: their bytes decide for all.
    for record in sorted(wanted, key=lambda r: (wanted[r].order, r), reverse=True):
        commit = wanted[record]
        holders = {
            rank.rank: tuple(dict.fromkeys(p.place for p in places if share_id(rank) in p.shares))
            for rank in commit.ranks
        }
        lost = tuple(rank for rank, have in holders.items() if not have)
        if not lost:
            return Choice(record=record, commit=commit, holders=holders, passed_over=tuple(passed))
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
