"""Every algorithm on every network it accepts is proved; the checker agrees with a slow oracle."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.fabric import (
    COLLECTIVES,
    OrbitSchedule,
    Schedule,
    Topology,
    algorithms_for,
    build,
    check,
    check_orbit,
    expand,
    parse_topology,
)

COLUMNS = (
    "step", "source", "destination", "first_chunk", "chunk_count", "reduce", "colour",
)  # fmt: skip
SIDES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@st.composite
def networks(draw: st.DrawFn) -> Topology:
    """A small network of any kind this room can build."""
    kind = draw(st.sampled_from(
        ["grid", "twisted", "switch", "full-mesh", "clos", "fat-tree", "dragonfly", "hammingmesh",
         "nest"]
    ))  # fmt: skip
    if kind == "grid":
        sides = draw(SIDES)
        wraps = "".join(draw(st.lists(st.sampled_from("yn"), min_size=len(sides),
                                      max_size=len(sides))))  # fmt: skip
        speeds = ",".join(f"{draw(st.integers(1, 3))}GB/s" for _ in sides)
        return parse_topology(f"torus:{'x'.join(map(str, sides))},wrap={wraps}", speeds, "1us")
    if kind == "twisted":
        return parse_topology("torus:6x3,twist=0x3", "1GB/s", "1us")
    if kind == "switch":
        nvls = draw(st.sampled_from(["", ",nvls"]))
        return parse_topology(f"switch:{draw(st.integers(1, 9))}{nvls}", "1GB/s", "1us")
    if kind == "full-mesh":
        return parse_topology(f"full-mesh:{draw(st.integers(1, 9))}", "1GB/s", "1us")
    if kind == "clos":
        text = draw(st.sampled_from(
            ["clos:12", "clos:8,sharp", "clos:12,leaf=4,oversubscription=2", "clos:10,leaf=4"]
        ))  # fmt: skip
        return parse_topology(text, "1GB/s", "1us")
    if kind == "nest":
        inside = draw(st.sampled_from(["switch:3", "torus:2x3", "mesh:2x2", "full-mesh:4"]))
        across = draw(st.sampled_from(
            ["clos:1", "clos:4", "ring:3", "torus:2x2", "full-mesh:3", "clos:4,leaf=2"]
        ))  # fmt: skip
        return parse_topology(f"{inside}/{across}", "4GB/s,1GB/s", "1us")
    size = {"fat-tree": "4", "dragonfly": "1x2x1", "hammingmesh": "2x2x2x2"}[kind]
    return parse_topology(f"{kind}:{size}", "1GB/s", "1us")


@settings(max_examples=150, deadline=None)
@given(networks(), st.sampled_from(COLLECTIVES), st.integers(1, 3), st.data())
def test_every_algorithm_is_proved(
    network: Topology, collective: str, pieces: int, data: st.DataObject
) -> None:
    root = data.draw(st.integers(0, network.ranks - 1))
    others = [r for r in range(network.ranks) if r != root]
    target = data.draw(st.sampled_from(others)) if others else root
    for name in algorithms_for(network, collective):  # type: ignore[arg-type]
        made = build(network, collective, name, pieces=pieces, root=root, target=target)  # type: ignore[arg-type]
        if isinstance(made, OrbitSchedule):
            check_orbit(made, network)
            flat = expand(made)
            assert np.isclose(flat.fractions().sum(), made.fraction.sum() * network.ranks)
            made = flat
        proof = check(made, network)
        assert proof.rows == made.rows
        if collective in ("all-reduce", "reduce-scatter") and not made.switches:
            # Every contribution but one moves, and every answer: no schedule sends less.
            halves = 2 if collective == "all-reduce" else 1
            assert made.fractions().sum() >= halves * (network.ranks - 1) - 1e-9


# --- the checker against an oracle that counts contributions one by one ---------------------------


def _oracle(schedule: Schedule) -> bool:
    """Whether the schedule works, by following every chunk at every rank with plain counters."""
    reducing = schedule.collective in ("all-reduce", "reduce-scatter")
    ranks, answer = range(schedule.ranks), Counter(dict.fromkeys(range(schedule.ranks), 1))
    for chunk in range(schedule.chunks):
        if reducing:
            held = {r: Counter({r: 1}) for r in ranks}
        else:
            start = schedule.root if schedule.owner is None else int(schedule.owner[chunk])
            held = {start: Counter({0: 1})}
            answer = Counter({0: 1})
        mine = (schedule.first_chunk <= chunk) & (
            chunk < schedule.first_chunk + schedule.chunk_count
        )
        for step in sorted(set(schedule.step[mine].tolist())):
            before = {k: v.copy() for k, v in held.items()}
            writers: dict[int, list[bool]] = {}
            for row in np.flatnonzero(mine & (schedule.step == step)):
                here, there = int(schedule.source[row]), int(schedule.destination[row])
                if here not in before:
                    return False
                writers.setdefault(there, []).append(bool(schedule.reduce[row]))
                if schedule.reduce[row]:
                    held[there] = held.get(there, Counter()) + before[here]
                else:
                    held[there] = before[here].copy()
            if any(len(w) > 1 and not all(w) for w in writers.values()):
                return False
            if any(max(c.values(), default=0) > 1 for c in held.values()):
                return False
        if schedule.collective == "reduce-scatter":
            needed = [int(schedule.owner[chunk])]  # type: ignore[index]
        elif schedule.collective == "all-to-all":
            needed = [int(schedule.target[chunk])]  # type: ignore[index]
        else:
            needed = list(ranks)
        if any(held.get(r) != answer for r in needed):
            return False
    return True


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["ring:4", "torus:2x3", "switch:4", "line:3", "mesh:2x2", "switch:2/clos:2"]),
    st.sampled_from(["all-reduce", "reduce-scatter", "all-gather", "all-to-all", "broadcast"]),
    st.sampled_from(["none", "drop", "twice", "again", "flag", "move", "earlier"]),
    st.data(),
)
def test_the_checker_agrees_with_counting(
    text: str, collective: str, damage: str, data: st.DataObject
) -> None:
    network = parse_topology(text, "1GB/s" if "/" not in text else "2GB/s,1GB/s", "1us")
    name = data.draw(st.sampled_from(algorithms_for(network, collective)))  # type: ignore[arg-type]
    made = build(network, collective, name, pieces=2)  # type: ignore[arg-type]
    flat = expand(made) if isinstance(made, OrbitSchedule) else made
    row = data.draw(st.integers(0, flat.rows - 1))
    broken = _damaged(flat, damage, row, data)
    try:
        check(broken, network)
        passed = True
    except InputError:
        passed = False
    assert passed == _oracle(broken)
    if damage == "none":
        assert passed


def _damaged(flat: Schedule, damage: str, row: int, data: st.DataObject) -> Schedule:
    """The schedule with one row left out, doubled, turned or moved."""
    columns = {name: np.array(getattr(flat, name)) for name in COLUMNS}
    if damage == "drop":
        columns = {k: np.delete(v, row) for k, v in columns.items()}
    elif damage in ("twice", "again"):
        columns = {k: np.append(v, v[row]) for k, v in columns.items()}
        if damage == "again":
            columns["step"][-1] = flat.steps
    elif damage == "flag":
        columns["reduce"][row] ^= True
    elif damage == "move":
        others = [r for r in range(flat.ranks) if r != columns["source"][row]]
        columns["destination"][row] = data.draw(st.sampled_from(others))
    elif damage == "earlier":
        columns["step"][row] = data.draw(st.integers(0, int(columns["step"][row])))
    order = np.argsort(columns["step"], kind="stable")
    return replace(flat, **{k: v[order] for k, v in columns.items()})


def test_a_schedule_of_many_blocks_is_followed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for one chunk at a time the proof and the fault found are the same."""
    monkeypatch.setattr("weftline.fabric.checker.BLOCK_BYTES", 1)
    made = build(parse_topology("torus:3x3", "1GB/s", "1us"), "all-reduce", "bucket")
    assert isinstance(made, OrbitSchedule)
    flat = expand(made)
    check(flat)
    short = {name: getattr(flat, name)[:-1] for name in COLUMNS}
    with pytest.raises(InputError, match="lacks the contribution of rank"):
        check(replace(flat, **short))
