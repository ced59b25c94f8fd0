"""Every evaluator agrees with the others where all apply, and none is faster than the bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.fabric import topologies
from weftline.fabric.algorithms import algorithms_for, build
from weftline.fabric.bounds import bound
from weftline.fabric.evaluators import evaluate
from weftline.fabric.graph import Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import COLLECTIVES, Schedule

MAX_ROWS = 800
"""Rows up to which the plain event loop is asked too."""


@st.composite
def networks(draw: st.DrawFn) -> Topology:
    """Small networks of every kind, with speeds and latencies that do not divide each other."""
    link = draw(st.sampled_from([1e9, 37e9, 50e9]))
    hop_s = draw(st.sampled_from([0.0, 0.7e-6, 1e-4]))
    kind = draw(st.sampled_from(["torus", "mesh", "switch", "mesh of all", "clos", "nest", "odd"]))
    if kind in ("torus", "mesh"):
        shape = tuple(draw(st.lists(st.integers(2, 4), min_size=1, max_size=2)))
        speeds = [link * draw(st.sampled_from([1.0, 0.5])) for _ in shape]
        return getattr(topologies, kind)(shape, speeds, hop_s)
    chips = draw(st.integers(2, 8))
    if kind == "switch":
        return topologies.switch(chips, link, hop_s, reducing=draw(st.booleans()))
    if kind == "mesh of all":
        return topologies.full_mesh(chips, link, hop_s)
    if kind == "clos":
        return topologies.clos(
            8, link, hop_s, leaf=4, oversubscription=draw(st.sampled_from([1, 2]))
        )
    if kind == "nest":
        return topologies.nested(topologies.switch(3, link, hop_s), 2, link / 8, 2 * hop_s)
    return topologies.hammingmesh((2, 1), (2, 2), link, hop_s)


@settings(max_examples=80, deadline=None)
@given(networks(), st.sampled_from(COLLECTIVES), st.data())
def test_evaluators_agree_on_every_algorithm(
    topology: Topology, collective, data: st.DataObject
) -> None:
    names = algorithms_for(topology, collective)
    assume(names)
    schedule = build(topology, collective, data.draw(st.sampled_from(names)))
    size = data.draw(st.sampled_from([1.0, 1e6, 1e9]))
    flow = evaluate(topology, schedule, size, "flow")
    hows = []
    if isinstance(schedule, OrbitSchedule):
        hows.append("auto")
        rows = schedule.flat_rows
    else:
        rows = schedule.rows
    if rows <= MAX_ROWS:
        hows.append("events")
    for how in hows:
        other = evaluate(topology, schedule, size, how)
        assert other.time_s == pytest.approx(flow.time_s, rel=1e-9), how
        np.testing.assert_allclose(
            other.link_load_bytes, flow.link_load_bytes, rtol=1e-9, atol=1e-6
        )
    if isinstance(schedule, OrbitSchedule):
        by_orbit = evaluate(topology, schedule, size, "orbit")
        assert by_orbit.time_s == pytest.approx(flow.time_s, rel=1e-9)
    target = 1 if collective == "send" else None
    limit = bound(topology, collective, size, target=target)
    assert flow.time_s >= limit.time_s * (1 - 1e-9), limit


@st.composite
def wild_schedules(draw: st.DrawFn) -> tuple[Topology, Schedule]:
    """Rows that prove nothing, on directed graphs of no form: only timing is asked of them."""
    ranks = draw(st.integers(2, 5))
    ring = [(i, (i + 1) % ranks) for i in range(ranks)]
    more = draw(
        st.lists(st.tuples(st.integers(0, ranks - 1), st.integers(0, ranks - 1)), max_size=6)
    )
    links = ring + [(a, b) for a, b in more if a != b]
    speeds = [draw(st.sampled_from([1.0, 2.0, 3.5])) for _ in links]
    delays = [draw(st.sampled_from([0.0, 0.25, 1.0])) for _ in links]
    limit = draw(st.sampled_from([None, np.full(ranks, 2.5)]))
    topology = Topology(
        name="wild", ranks=ranks, source=np.array([a for a, _ in links]),
        destination=np.array([b for _, b in links]), bandwidth_bytes_per_s=np.array(speeds),
        latency_s=np.array(delays), injection_bytes_per_s=limit,
    )  # fmt: skip
    chunks = draw(st.integers(1, 3))
    rows = draw(st.integers(1, 12))
    column = lambda low, high: np.array([draw(st.integers(low, high)) for _ in range(rows)])  # noqa: E731
    source, step = column(0, ranks - 1), np.sort(column(0, 4))
    first = column(0, chunks - 1)
    count = np.array([draw(st.integers(1, chunks - f)) for f in first])
    share = np.array([draw(st.sampled_from([1.0, 2.0, 5.0])) for _ in range(chunks)])
    schedule = Schedule(
        collective="all-reduce", algorithm="wild", ranks=ranks, step=step, source=source,
        destination=(source + column(1, ranks - 1)) % ranks, first_chunk=first, chunk_count=count,
        reduce=np.zeros(rows, dtype=np.bool_), colour=column(0, 1), share=share / share.sum(),
    )  # fmt: skip
    return topology, schedule


@settings(max_examples=150, deadline=None)
@given(wild_schedules())
def test_flow_is_the_event_loop_made_fast(case: tuple[Topology, Schedule]) -> None:
    topology, schedule = case
    events = evaluate(topology, schedule, 8.0, "events")
    flow = evaluate(topology, schedule, 8.0, "flow")
    assert flow.time_s == pytest.approx(events.time_s, rel=1e-9)
    np.testing.assert_allclose(flow.link_load_bytes, events.link_load_bytes, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(4, 4), (3, 4), (2, 3, 3), (5,)]))
def test_an_all_to_all_ends_when_its_busiest_link_does(seed: int, shape: tuple[int, ...]) -> None:
    """Equal messages that start together: max-min fair sharing wastes nothing on the worst link."""
    from weftline.fabric.failures import fail_links

    whole = topologies.torus(shape, 50e9, 0.0)
    try:
        topology = fail_links(whole, seed % 3, seed)
    except InputError:
        assume(False)
    schedule = build(topology, "all-to-all", "direct")
    flow = evaluate(topology, schedule, 1e9, "flow")
    steps = evaluate(topology, schedule, 1e9, "steps")
    assert steps.time_s == pytest.approx(flow.time_s, rel=1e-9)
    busiest = (flow.link_load_bytes / topology.bandwidth_bytes_per_s).max()
    assert flow.time_s == pytest.approx(busiest, rel=1e-9)
