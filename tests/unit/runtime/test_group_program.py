"""Programs of the process group: right in every interleaving, and in no other way than proved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from interleavings import RacedError, System

from weftline.errors import InputError
from weftline.fabric import OrbitSchedule, Schedule, build, expand, parse_topology
from weftline.runtime.group import direct
from weftline.runtime.group.across import between_hosts
from weftline.runtime.group.program import (
    FLUSH,
    POST,
    WAIT,
    Op,
    Program,
    chunks_of,
    laid_on,
    schedule_streams,
)  # fmt: skip

ALL = ("ring", "bidirectional-ring", "swing", "halving-doubling", "double-binary-tree", "direct")


def schedule(form: str, name: str, kind: Any = "all-reduce", pieces: int | None = None) -> Schedule:
    found = build(parse_topology(form, "1GB/s", "1us"), kind, name, pieces=pieces)
    return expand(found) if isinstance(found, OrbitSchedule) else found


def of_all(made: Schedule) -> list[Program]:
    return [schedule_streams(made, rank=r) for r in range(made.ranks)]


def sums(
    programs: list[Program], pieces: int = 2, *, remote: Any = None, guarded: bool = True
) -> int:
    """Explore an all-reduce; every rank ends with every rank's numbers in every chunk."""
    ranks, chunks = len(programs), len(programs[0].chunks.low)
    holds = {("has", r, c) for r in range(ranks) for c in range(chunks)}
    if remote is not None:
        far = np.array(remote)
        holds |= {("far", int(a), int(b)) for a, b in np.argwhere(far)}
        programs = [between_hosts(programs, r, far) for r in range(ranks)]
    system = System([programs] * pieces, holds=holds, guarded=guarded)
    return system.explore(everything(ranks, chunks))


def everything(ranks: int, chunks: int | None = None) -> Any:
    """What an all-reduce leaves on a rank: all ranks' numbers, in every chunk."""
    return lambda _piece, _rank: {c: range(ranks) for c in range(chunks or ranks)}


def without(program: Program, *kinds: int) -> Program:
    return replace(
        program, streams=tuple(tuple(o for o in s if o.op not in kinds) for s in program.streams)
    )


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_direct_sum_is_right_in_every_interleaving(ranks: int) -> None:
    assert sums([direct.all_reduce(r, ranks) for r in range(ranks)], 2 if ranks == 2 else 1) > 100


@pytest.mark.parametrize(("form", "name"), [
    ("switch:2", "ring"), ("switch:2", "halving-doubling"), ("switch:3", "ring"),
    ("ring:3", "bucket"), ("switch:3", "direct"),
])  # fmt: skip
def test_schedules_are_right_in_every_interleaving(form: str, name: str) -> None:
    made = schedule(form, name)
    assert sums(of_all(made), 2 if made.ranks == 2 else 1) > 100


@pytest.mark.slow
@pytest.mark.parametrize(("form", "name"), [
    ("switch:2", "double-binary-tree"), ("switch:3", "bidirectional-ring"), ("switch:4", "swing"),
    ("switch:4", "halving-doubling"),
])  # fmt: skip
def test_larger_schedules_are_right_in_every_interleaving(form: str, name: str) -> None:
    assert sums(of_all(schedule(form, name)), 1) > 100


TWO_HOSTS = [[a % 2 != b % 2 for b in range(3)] for a in range(3)]


@pytest.mark.parametrize("remote", [
    [[False, True], [True, False]], TWO_HOSTS, [[a != b for b in range(3)] for a in range(3)]
])  # fmt: skip
def test_between_hosts_nobody_waits_in_a_circle_though_sockets_hold_nothing(remote: Any) -> None:
    ranks = len(remote)
    assert sums([direct.all_reduce(r, ranks) for r in range(ranks)], 1, remote=remote) > 50
    assert sums(of_all(schedule(f"switch:{ranks}", "ring")), 1, remote=remote) > 50


def test_steps_that_read_what_others_write_are_taken_in_two_halves() -> None:
    """Two ranks that swap and add whole buffers at once: no named algorithm does, files may."""
    made = Schedule(
        collective="all-reduce", algorithm="swap", ranks=2, step=np.array([0, 0]),
        source=np.array([0, 1]), destination=np.array([1, 0]), first_chunk=np.array([0, 0]),
        chunk_count=np.array([1, 1]), reduce=np.array([True, True]), colour=np.array([0, 0]),
        share=np.array([1.0]),
    )  # fmt: skip
    assert sums(of_all(made)) > 20
    assert sums(of_all(made), remote=[[False, True], [True, False]], pieces=1) > 20


def test_the_explorer_sees_what_is_taken_away() -> None:
    """Each rule of the protocol, left out, is found: the check can fail."""
    two = [direct.all_reduce(r, 2) for r in range(2)]
    with pytest.raises(RacedError):
        sums([without(p, WAIT) for p in two])
    with pytest.raises(RacedError):
        sums([without(p, POST) for p in two])
    # Two operations that lay a slot out otherwise, one entering while the other is still read.
    other = [direct.all_gather(r, 2) for r in range(2)]
    holds = {("has", r, c) for r in range(2) for c in range(2)}

    def mixed(piece: int, _rank: int) -> Any:
        return {c: range(2) if piece % 2 else [c] for c in range(2)}

    assert System([other, two, other], holds=holds).explore(mixed) > 100
    with pytest.raises(RacedError):
        System([other, two, other], holds=holds, guarded=False).explore(mixed)
    # A sender that goes on to the next piece before the last was received.
    far = np.array([[False, True], [True, False]])
    sent = [between_hosts([direct.broadcast(r, 0) for r in range(2)], r, far) for r in range(2)]
    holds = {("has", 0, 0), ("far", 0, 1), ("far", 1, 0)}

    def roots(_piece: int, rank: int) -> Any:
        return {0: [0]} if rank else {}

    assert System([sent, sent], holds=holds).explore(roots) > 10
    late = [without(p, FLUSH) for p in sent]
    with pytest.raises(RacedError):
        System([late, late], holds=holds).explore(roots)


def test_what_a_switch_adds_up_is_refused_by_name() -> None:
    made = build(parse_topology("switch:4,nvls", "1GB/s", "1us"), "all-reduce", "nvls")
    with pytest.raises(InputError, match="adds up in a switch"):
        schedule_streams(made, rank=0)


@pytest.mark.parametrize("length", [1, 5, 63, 1000, 4096, 100_003])
def test_chunks_lie_without_gaps_whatever_the_length(length: int) -> None:
    for name in ALL:
        made = schedule("switch:4", name)
        low, many = chunks_of(made).edges(length)
        assert many.sum() == length
        assert (low[1:] == (low + many)[:-1]).all()
        laid, _ = laid_on(schedule_streams(made, rank=1), length, length)
        assert (laid[:, 4] + laid[:, 7] <= length).all()


def test_an_instruction_is_a_row_of_seven() -> None:
    assert len(Op(WAIT)) == 7
