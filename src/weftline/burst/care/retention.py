"""What stays: checkpoints that retention keeps, and the saves of a log that are wanted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from weftline.burst.commit.commits import Commit
from weftline.burst.commit.view import View
from weftline.burst.log.writer import WriterLog
from weftline.burst.options import Retention

__all__ = ["dropped_by", "lasting_saves", "live_saves"]

_WAITING: Final = 3
"""Sealed saves that may wait for their commit, beside those in flight."""


def dropped_by(commits: Sequence[Commit], retention: Retention, pinned: Iterable[int]) -> list[int]:
    """Steps that retention lets go. ``commits`` are in the order of commit; the newest stays."""
    if retention.last is None:
        return []
    keep = {c.step for c in commits[-max(1, retention.last) :]} | set(pinned)
    # While a copy is missing a node that is lost takes its share with it: what every node could
    # then go back to stays.
    keep.update(itertools.islice((c.step for c in reversed(commits) if c.copied), 1))
    every = retention.every
    return [c.step for c in commits if c.step not in keep and not (every and c.step % every == 0)]


def live_saves(view: View, log: WriterLog) -> Callable[[int], bool]:
    """Which saves of a writer are wanted; the caller holds the lock of commits.

    Committed ones, those in flight, and the few sealed after the newest committed one, which a
    coordinator may be about to commit. While a commit record cannot be read, everything is.
    """
    dropped = {s for s, seal in log.seals.items() if seal is None}
    wanted = _wanted(view, log)
    if wanted is None:
        return lambda save: save not in dropped
    return lambda save: save in log.in_flight or (save in wanted and save not in dropped)


def unwanted_saves(view: View, log: WriterLog) -> set[int]:
    """Sealed saves of a log that :func:`live_saves` does not want; on the same terms."""
    wanted = _wanted(view, log)
    if wanted is None:
        return set()
    sealed = {s for s, seal in log.seals.items() if seal is not None}
    return sealed - wanted - log.in_flight


def _wanted(view: View, log: WriterLog) -> set[int] | None:
    """Committed saves and those that wait for it; None while a record cannot be read."""
    commits, errors = view.commits.known()
    if errors:
        return None
    wanted = {
        r.save_id for c in commits for r in c.ranks
        if r.store_id == view.store_id and r.writer == log.writer
    }  # fmt: skip
    newest = max(wanted, default=0)
    waiting = sorted([s for s, seal in log.seals.items() if seal is not None and s > newest])
    wanted.update(waiting[-(log.options.max_in_flight + _WAITING) :])
    return wanted


def lasting_saves(view: View, log: WriterLog, rolling: Retention) -> set[int] | None:
    """Which saves of a log outlive the next few, when ``rolling`` is applied after each of them.

    None for all: with deduplication or differences later saves lean on earlier ones.
    """
    if rolling.last is None or log.options.dedup:
        return None
    pinned, every = set(view.commits.pins()), rolling.every
    return {
        r.save_id for c in view.commits.known()[0]
        if c.step in pinned or (every and c.step % every == 0)
        for r in c.ranks if r.store_id == view.store_id and r.writer == log.writer
    }  # fmt: skip
