"""Evaluators: by hand, against SimGrid, with other tenants, at scale, and asked nonsense."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.errors import InputError, UnknownNameError
from weftline.fabric import topologies
from weftline.fabric.algorithms import build
from weftline.fabric.evaluators import (
    Background,
    algorithm_bandwidth,
    bus_bandwidth,
    evaluate,
    fair_rates,
)
from weftline.fabric.failures import fail_links, slow_links
from weftline.fabric.graph import Topology
from weftline.fabric.orbit import expand
from weftline.fabric.predictor.constants import Constants
from weftline.fabric.predictor.direct import direct_ways
from weftline.fabric.predictor.machines import Machine
from weftline.fabric.routing import routes
from weftline.fabric.schedule import Schedule
from weftline.fabric.torus import axes_of

LINK, HOP_S = 1e9, 1e-3
GIB = 2**30
SIMGRID_S = {4: 0.00657149977648, 8: 0.00667464548564, 16: 0.00671003794491}
"""SimGrid 3.32 (CM02, network/crosstraffic:0, TCP-gamma 0), all-reduce of 1 GiB by `bucket` on a
cube of this side, 50 GiB/s a link one way, 0.5 us: run by bench/collectives_simgrid.py."""


def rows(topology: Topology, *moves: tuple[int, int, int, int], chunks: int = 2) -> Schedule:
    """A schedule of (step, source, destination, chunk) rows; chunks are equal."""
    step, source, destination, chunk = (
        np.array(c, dtype=np.int64) for c in zip(*moves, strict=True)
    )
    return Schedule(
        collective="all-reduce", algorithm="by hand", ranks=topology.ranks, step=step,
        source=source, destination=destination, first_chunk=chunk,
        chunk_count=np.ones(len(step), dtype=np.int64), reduce=np.ones(len(step), dtype=np.bool_),
        colour=np.zeros(len(step), dtype=np.int64), share=np.full(chunks, 1 / chunks),
    )  # fmt: skip


# --- what waits for what ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flow", "events"])
def test_a_chunk_is_sent_on_when_it_has_come(how: str) -> None:
    line = topologies.line(3, LINK, HOP_S)
    schedule = rows(line, (0, 0, 1, 0), (1, 1, 2, 0))
    timing = evaluate(line, schedule, 2e9, how)
    assert timing.time_s == pytest.approx(2 * (1.0 + HOP_S))
    assert timing.link_load_bytes.sum() == pytest.approx(2e9)


@pytest.mark.parametrize("how", ["flow", "events"])
def test_one_connection_sends_in_turn_and_hides_its_latency(how: str) -> None:
    """Chunk 1 needs nothing of chunk 0, and follows it on the wire without a gap."""
    line = topologies.line(3, LINK, HOP_S)
    schedule = rows(line, (0, 0, 1, 0), (1, 0, 1, 1), (2, 1, 2, 1))
    assert evaluate(line, schedule, 2e9, how).time_s == pytest.approx(3.0 + 2 * HOP_S)


@pytest.mark.parametrize("how", ["flow", "events"])
def test_messages_of_one_step_share_a_link_fairly(how: str) -> None:
    """0 -> 2 and 1 -> 2 share 1 -> 2; 0 -> 2 also has 0 -> 1 to itself, which does not help."""
    line = topologies.line(3, LINK, HOP_S)
    schedule = rows(line, (0, 0, 2, 0), (0, 1, 2, 1))
    # From 1 ms one flows alone, from 2 ms both at half speed until the first is done.
    assert evaluate(line, schedule, 2e9, how).time_s == pytest.approx(2.0 + HOP_S)


def test_rows_of_one_message_count_once() -> None:
    """Two chunk ranges from chip 0 and one row from chip 1: halves of the link, not thirds."""
    line = topologies.line(3, LINK, 0.0)
    schedule = rows(line, (0, 0, 2, 0), (0, 0, 2, 2), (0, 1, 2, 1), (1, 2, 1, 1), chunks=4)
    assert evaluate(line, schedule, 4e9, "flow").time_s == pytest.approx(3.0)
    assert evaluate(line, schedule, 4e9, "events").time_s == pytest.approx(3.0)


# --- against the oracle -------------------------------------------------------------------------


@pytest.mark.parametrize("side", sorted(SIMGRID_S))
def test_cubes_take_what_simgrid_says(side: int) -> None:
    cube = topologies.torus((side,) * 3, 50 * GIB, 0.5e-6)
    orbit = build(cube, "all-reduce", "bucket")
    for how in ("auto", "orbit"):
        assert evaluate(cube, orbit, GIB, how).time_s == pytest.approx(SIMGRID_S[side], rel=1e-6)
    if side == 4:
        flat = evaluate(cube, orbit, GIB, "flow").time_s
        assert flat == pytest.approx(SIMGRID_S[side], rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None or not Path("/usr/include/simgrid/s4u.hpp").exists(),
    reason="SimGrid is not installed",
)
def test_a_cube_run_on_simgrid() -> None:
    bench = Path(__file__).parents[2] / "bench" / "collectives_simgrid.py"
    done = subprocess.run(
        [sys.executable, str(bench), "4x4x4"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])[0]
    assert found["ours_s"] == pytest.approx(found["simgrid_s"], rel=1e-6)
    assert found["simgrid_s"] == pytest.approx(SIMGRID_S[4], rel=1e-9)


# --- fair sharing -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(4, 4), (3, 3, 3), (6,)]),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=30),
    st.integers(0, 99),
)
def test_rates_are_max_min_fair(
    shape: tuple[int, ...], pairs: list[tuple[int, int]], seed: int
) -> None:
    """The certificate: nothing is overfull, and each flow has a full link where none has more."""
    whole = topologies.torus(shape, LINK, HOP_S)
    speeds = LINK * np.random.default_rng(seed).choice([0.5, 1.0, 3.0], whole.links)
    topology = replace(whole, bandwidth_bytes_per_s=speeds)
    source, destination = (np.array(c) % topology.ranks for c in zip(*pairs, strict=True))
    rate = fair_rates(topology, source, destination)
    taken = routes(topology, source, destination)
    flow = np.repeat(np.arange(len(source)), np.diff(taken.start))
    used = np.bincount(taken.links, rate[flow] * taken.weights, topology.links)
    assert (used <= speeds * (1 + 1e-9)).all()
    most = np.zeros(topology.links)
    np.maximum.at(most, taken.links, rate[flow])
    held = (used >= speeds * (1 - 1e-9))[taken.links] & (
        rate[flow] >= most[taken.links] * (1 - 1e-9)
    )
    assert set(flow[held]) == set(np.flatnonzero(source != destination))
    assert np.isinf(rate[source == destination]).all()


# --- formulas -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (4, 4), (4, 4, 4)])
def test_the_planners_tori_are_what_the_evaluators_say(shape: tuple[int, ...]) -> None:
    """Bandwidth terms of an all-gather and an all-to-all over the whole of a torus."""
    topology = topologies.torus(shape, LINK, 0.0)
    axes = axes_of(shape, [True] * len(shape), topology.ranks, 1)
    wire = sum(axis.links for axis in axes) * LINK
    made = Machine(
        chip="tpu-v4", kind="torus", generation="google", ranks=topology.ranks, domains=1, hop_s=0,
        wire_bytes_per_s=wire, ring_bytes_per_s=wire, shape=shape,
        axes_bytes_per_s=tuple(axis.links * LINK for axis in axes),
    )  # fmt: skip
    for kind, algorithm in (("all-gather", "bucket"), ("all-to-all", "direct")):
        (way,) = direct_ways(Constants(), made, kind)
        schedule = build(topology, kind, algorithm)
        for how in ("auto", "flow"):
            assert evaluate(topology, schedule, 1e9, how).time_s == pytest.approx(
                1e9 / way.bytes_per_s
            )


@pytest.mark.parametrize(
    ("topology", "collective", "algorithm"),
    [
        (topologies.torus((4, 4), LINK, HOP_S), "all-reduce", "bucket"),
        (topologies.torus((3, 3), LINK, 0.0), "all-to-all", "direct"),
        (topologies.ring(5, LINK, HOP_S), "reduce-scatter", "bidirectional-ring"),
        (topologies.switch(8, LINK, HOP_S), "all-reduce", "halving-doubling"),
        (topologies.switch(6, LINK, HOP_S), "all-gather", "ring"),
        (topologies.full_mesh(6, LINK, HOP_S), "all-reduce", "direct"),
    ],
)
def test_formulas_are_exact(topology: Topology, collective, algorithm: str) -> None:
    schedule = build(topology, collective, algorithm)
    formula = evaluate(topology, schedule, 1e9, "closed-form")
    assert evaluate(topology, schedule, 1e9).evaluator == "closed-form"
    for how in ("orbit", "flow"):
        other = evaluate(topology, schedule, 1e9, how)
        assert formula.time_s == pytest.approx(other.time_s, rel=1e-12)
        np.testing.assert_allclose(formula.link_load_bytes, other.link_load_bytes)


def test_the_formula_of_a_torus_exchange_says_what_latency_may_add() -> None:
    cube = topologies.torus((4, 4), LINK, HOP_S)
    schedule = build(cube, "all-to-all", "direct")
    formula = evaluate(cube, schedule, 1.0, "closed-form")
    exact = evaluate(cube, schedule, 1.0)
    assert not formula.exact
    assert exact.exact
    assert "up to 0.003 s more" in formula.note
    assert formula.time_s <= exact.time_s <= formula.time_s + 3.001 * HOP_S


# --- faults and other tenants -------------------------------------------------------------------


def test_a_tenant_takes_its_fair_share_and_no_more_than_its_limit() -> None:
    line = topologies.line(3, LINK, HOP_S)
    schedule = rows(line, (0, 0, 1, 0), chunks=1)
    alone = evaluate(line, schedule, 1e9).time_s
    assert alone == pytest.approx(1.0 + HOP_S)
    shared = evaluate(line, schedule, 1e9, background=[Background(source=0, destination=2)])
    assert shared.evaluator == "flow"
    assert shared.time_s == pytest.approx(2.0 + HOP_S)
    limited = Background(source=0, destination=2, limit_bytes_per_s=0.2 * LINK)
    assert evaluate(line, schedule, 1e9, background=[limited]).time_s == pytest.approx(
        1 / 0.8 + HOP_S
    )
    elsewhere = Background(source=2, destination=1)
    assert evaluate(line, schedule, 1e9, background=[elsewhere]).time_s == pytest.approx(alone)


def test_a_tenant_delays_a_symmetric_schedule_too() -> None:
    cube = topologies.torus((3, 3), LINK, HOP_S)
    orbit = build(cube, "all-reduce", "bucket")
    tenant = [Background(source=0, destination=4)]
    assert evaluate(cube, orbit, 1e9, background=tenant).time_s > evaluate(cube, orbit, 1e9).time_s


def test_a_chip_that_cannot_feed_its_links_slows_them_all() -> None:
    whole = topologies.torus((3, 3), LINK, 0.0)
    half = replace(whole, injection_bytes_per_s=np.full(9, 2 * LINK))
    orbit = build(half, "all-reduce", "bucket")
    times = {how: evaluate(half, orbit, 1e9, how).time_s for how in ("auto", "flow", "events")}
    assert times["flow"] == pytest.approx(2 * evaluate(whole, orbit, 1e9).time_s)
    assert times["auto"] == pytest.approx(times["flow"])
    assert times["events"] == pytest.approx(times["flow"])


def test_a_slow_link_slows_those_who_wait_for_it() -> None:
    ring = topologies.ring(6, LINK, 0.0)
    slow = slow_links(ring, 1, 0.5, seed=1)
    orbit = build(slow, "all-reduce", "bucket")
    times = {how: evaluate(slow, orbit, 6e9, how).time_s for how in ("flow", "events", "steps")}
    assert times["flow"] == pytest.approx(times["events"])
    assert times["steps"] == pytest.approx(times["flow"])
    assert times["flow"] == pytest.approx(2 * evaluate(ring, orbit, 6e9).time_s)


def test_steps_are_exact_where_nothing_is_broken_and_near_where_something_is() -> None:
    cube = topologies.torus((4, 4, 4), 50e9, 1e-6)
    orbit = build(cube, "all-reduce", "bucket")
    assert evaluate(cube, orbit, 1e9, "steps").time_s == pytest.approx(
        evaluate(cube, orbit, 1e9, "flow").time_s
    )
    # Large, where colours drift apart on detours, and small, where few wait for the detours.
    for network, size in ((cube, 1e9), (cube, 1e5), (topologies.ring(16, 50e9, 1e-6), 1e5)):
        broken = fail_links(network, 1, seed=3)
        orbit = build(network, "all-reduce", "bucket")
        flow, steps = (evaluate(broken, orbit, size, how) for how in ("flow", "steps"))
        assert not steps.exact
        assert flow.exact
        assert steps.low_s is not None
        assert steps.high_s is not None
        assert steps.low_s <= flow.time_s * (1 + 1e-9)
        assert flow.time_s <= steps.high_s
        assert steps.low_s <= steps.time_s < steps.high_s
        np.testing.assert_allclose(steps.link_load_bytes, flow.link_load_bytes)


def test_large_broken_networks_are_timed_by_steps() -> None:
    cube = fail_links(topologies.torus((16, 16, 8), 50e9, 1e-6), 2, seed=0)
    timing = evaluate(cube, build(cube, "all-reduce", "bucket"), 1e9)
    assert timing.evaluator == "steps"
    assert "near faults" in timing.note
    exchange = evaluate(cube, build(cube, "all-to-all", "direct"), 1e9)
    assert exchange.evaluator == "steps"
    assert exchange.busiest_share > 0.99


# --- what is said -------------------------------------------------------------------------------


def test_bandwidths_are_those_of_nccl_tests() -> None:
    """A line of nccl-tests on 8 GPUs: 2 GiB in 12,000 us is 179 GB/s algbw, 313 GB/s busbw."""
    assert algorithm_bandwidth(2**31, 12e-3) == pytest.approx(178.96e9, rel=1e-4)
    assert bus_bandwidth("all-reduce", 8, 2**31, 12e-3) == pytest.approx(313.2e9, rel=1e-4)
    assert bus_bandwidth("all-gather", 8, 8.0, 1.0) == pytest.approx(7.0)
    assert bus_bandwidth("broadcast", 8, 8.0, 1.0) == pytest.approx(8.0)


def test_the_busiest_link_is_named() -> None:
    line = topologies.line(4, LINK, HOP_S)
    timing = evaluate(line, build(line, "all-to-all", "direct"), 4e9)
    ends = {int(line.source[timing.busiest_link]), int(line.destination[timing.busiest_link])}
    assert ends == {1, 2}
    assert timing.busiest_share == pytest.approx(4.0 / timing.time_s)


def test_nothing_to_move_takes_no_time() -> None:
    ring = topologies.ring(4, LINK, 0.0)
    assert evaluate(ring, build(ring, "all-reduce", "ring"), 0.0).time_s == 0.0


def test_nonsense_is_refused() -> None:
    ring = topologies.ring(4, LINK, HOP_S)
    orbit = build(ring, "all-reduce", "ring")
    flat = expand(orbit)
    with pytest.raises(UnknownNameError, match="did you mean `events`"):
        evaluate(ring, flat, 1.0, "event")
    with pytest.raises(InputError, match="bytes"):
        evaluate(ring, flat, -1.0)
    with pytest.raises(InputError, match="written out"):
        evaluate(ring, flat, 1.0, "orbit")
    with pytest.raises(InputError, match="4 ranks on `ring:6`"):
        evaluate(topologies.ring(6, LINK, HOP_S), flat, 1.0)
    with pytest.raises(InputError, match="not symmetric"):
        evaluate(topologies.line(4, LINK, HOP_S), orbit, 1.0, "orbit")
    with pytest.raises(InputError, match="no formula"):
        evaluate(topologies.line(4, LINK, HOP_S), orbit, 1.0, "closed-form")
    with pytest.raises(InputError, match="no other tenants"):
        evaluate(ring, orbit, 1.0, "orbit", background=[Background(source=0, destination=1)])
    with pytest.raises(InputError, match="chip 9"):
        evaluate(ring, orbit, 1.0, background=[Background(source=0, destination=9)])
