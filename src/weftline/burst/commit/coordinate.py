"""The coordinator's part: from ranks that are durable to a checkpoint that exists.

Shares that are all in one store are committed by whoever writes the record there. Where they are in
stores of several nodes, the record follows from the shares alone, so that every node writes the
same bytes: nothing in it is a node's own (no clock, no store, no count of its own commits).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from weftline.burst.commit.commits import Commit, decode_commit, whole_record
from weftline.burst.commit.view import View
from weftline.burst.errors import (
    CheckpointMissingError,
    CommitError,
    CorruptionError,
    MismatchError,
)
from weftline.burst.log.envelope import seal_twice
from weftline.burst.log.record import Prepared, digest_of
from weftline.burst.log.writer import WriterLog, prepared_of, saves_of

__all__ = ["adopt", "await_ranks", "joint_commit", "pack_extra", "write_commit"]

_POLL_S: Final = (0.002, 0.05)
"""Least and most between two looks; a look that takes long is followed by as long a pause."""


def write_commit(view: View, step: int, prepared: Sequence[Prepared], own: WriterLog) -> Commit:
    """Check that every rank is there, whole, and put the record under its name.

    ``own`` is this process's log, whose index need not be read anew. Raises CommitError; nothing
    that was committed before has changed then.
    """
    ranks = sorted(prepared, key=lambda p: p.rank)
    _check_ranks(view, step, ranks)
    with own.committing:
        if all(map(view.is_local, ranks)):
            return _write_commit(view, step, ranks, own)
        commit = joint_commit(ranks, where=view.root)
        if commit.run != view.run:
            raise CommitError(
                f"step {step} belongs to run `{commit.run}`, this store to `{view.run}`",
                where=view.root, hint="open every node's store with the same run=",
            )  # fmt: skip
        _check_whole(view, ranks, own)
        return adopt(view, seal_twice("K", commit))


def joint_commit(ranks: Sequence[Prepared], *, where: str) -> Commit:
    """The record of a checkpoint whose shares are in the stores of several nodes.

    The same on every node: it is made of nothing but the shares. Raises CommitError where they are
    not of one run.
    """
    runs = sorted({r.run for r in ranks})
    if len(runs) > 1 or not runs[0]:
        by_run = {run: [r.rank for r in ranks if r.run == run] for run in runs}
        told = "; ".join(f"`{run}`: ranks {of}" for run, of in by_run.items())
        raise CommitError(
            f"the stores of these ranks belong to different runs: {told}", where=where,
            hint="open every node's store with the same run=",
        )  # fmt: skip
    return Commit(
        store_id="", step=ranks[0].step, sequence=max(r.floor for r in ranks),
        world=ranks[0].world, attempt=ranks[0].attempt,
        created_unix_s=max(r.created_unix_s for r in ranks), ranks=list(ranks), run=runs[0],
    )  # fmt: skip


def adopt(view: View, record: bytes) -> Commit:
    """Put a record that was made elsewhere into this store, durably, unless it has a newer one.

    Raises MismatchError for another run's, CorruptionError for what is no record.
    """
    commit = decode_commit(record)
    if (commit.run or commit.store_id) != view.run:
        raise MismatchError(
            f"step {commit.step} belongs to run `{commit.run}`, this store to `{view.run}`",
            where=view.root,
        )  # fmt: skip
    with view.commits.locked():
        try:
            there = view.commits.read(commit.step)[0]
        except (CheckpointMissingError, CorruptionError):
            there = None
        if there is None or there.order < commit.order:
            view.commits.put(whole_record(record), commit.step)
        elif there != commit:
            raise CommitError(
                f"step {commit.step} was committed again since, as number {there.sequence}",
                where=view.root,
            )  # fmt: skip
    return commit


def _write_commit(view: View, step: int, ranks: list[Prepared], own: WriterLog) -> Commit:
    """Only the check and the rename need the lock; the disk is waited for before and after."""
    commit = Commit(
        store_id=view.store_id, step=step, sequence=view.commits.next_sequence(),
        world=ranks[0].world, attempt=ranks[0].attempt, created_unix_s=time.time(), ranks=ranks,
        run=view.run,
    )  # fmt: skip
    with view.commits.draft(commit, own.writer) as place, view.commits.locked():
        _check_whole(view, ranks, own)
        commit = msgspec.structs.replace(commit, sequence=view.commits.next_sequence())
        place(commit)
    view.commits.sync()
    return commit


def _check_whole(view: View, ranks: Sequence[Prepared], own: WriterLog) -> None:
    """Raise CommitError where a share that should be in this store is not whole there."""
    for rank in ranks:
        if view.is_local(rank) and not _is_whole(view, rank, own):
            raise CommitError(
                f"rank {rank.rank} of step {rank.step} is not whole in this store",
                where=f"{view.writers_folder}/{rank.writer}",
                hint="save the step again",
            )


def _is_whole(view: View, rank: Prepared, own: WriterLog) -> bool:
    """Whether the index has all of this rank's share now; a save may have been dropped since."""
    if own.writer != rank.writer:
        return view.local_manifest(rank, fresh=True) is not None
    with own.lock:
        found = own.manifest(rank.save_id)
    return found is not None and digest_of(found.parts) == rank.digest


def _check_ranks(view: View, step: int, ranks: Sequence[Prepared]) -> None:
    world = ranks[0].world if ranks else 0
    same = all((r.step, r.world, r.attempt) == (step, world, ranks[0].attempt) for r in ranks)
    if not ranks or [r.rank for r in ranks] != list(range(world)) or not same:
        have = ", ".join(f"{r.rank}/{r.world} of step {r.step}" for r in ranks) or "none"
        raise CommitError(
            f"step {step}: these are not the ranks of one save: {have}", where=view.root
        )


def await_ranks(
    view: View, step: int, world: int, attempt: str, timeout_s: float
) -> list[Prepared]:
    """Wait until every rank of this try is durable in this store. Raises CommitError."""
    end = time.monotonic() + timeout_s
    pause = _POLL_S[0]
    while True:
        start = time.monotonic()
        found: dict[int, Prepared] = {}
        for writer in view.writers():
            saves = saves_of(view.index(writer, fresh=True).scan())
            for save_id in sorted(saves):
                seal = saves[save_id]
                if seal and (seal.step, seal.world, seal.attempt) == (step, world, attempt):
                    found[seal.rank] = prepared_of(seal)
        if len(found) == world:
            return [found[r] for r in range(world)]
        if time.monotonic() > end:
            missing = sorted(set(range(world)) - set(found))
            raise CommitError(
                f"step {step}: after {timeout_s:g} s these ranks are not durable: {missing}",
                where=view.root,
                hint="nothing was committed; the checkpoints before stand as they were",
            )
        time.sleep(max(pause, time.monotonic() - start))
        pause = min(_POLL_S[1], 1.25 * pause)


def pack_extra(extra: Mapping[str, Any] | None, where: str) -> bytes:
    """The user's own mapping as MessagePack. Raises MismatchError."""
    if not extra:
        return b""
    try:
        return msgspec.msgpack.encode(dict(extra))
    except (TypeError, ValueError, OverflowError) as e:
        raise MismatchError(
            f"`extra` cannot be stored: {e}", where=where,
            hint="numbers, text, bytes, lists and mappings of those",
        ) from e  # fmt: skip
