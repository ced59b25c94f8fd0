"""Synthesis: proved right by the checker, and near its own bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.fabric import topologies
from weftline.fabric.checker import check, check_orbit
from weftline.fabric.evaluators import evaluate
from weftline.fabric.failures import fail_links
from weftline.fabric.graph import Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.synthesis import SYNTHESIZED, Synthesis, balanced_shares, subgroup, synthesize

GIB = 2**30
LINK, HOP_S = 50 * GIB, 0.5e-6


def prove(made: Synthesis, topology: Topology) -> None:
    if isinstance(made.schedule, OrbitSchedule):
        check_orbit(made.schedule, topology)
    else:
        check(made.schedule, topology)
    assert made.timing.time_s >= made.bound.time_s * (1 - 1e-9)


@pytest.mark.parametrize("collective", ["all-gather", "reduce-scatter", "all-reduce"])
def test_an_8_cube_is_within_a_hundredth_of_the_bound(collective) -> None:
    cube = topologies.torus((8, 8, 8), LINK, HOP_S)
    made = synthesize(cube, collective, GIB)
    prove(made, cube)
    assert made.method == "symmetry quotient"
    assert made.ratio_to_bound <= 1.01


@pytest.mark.parametrize("seed", [0, 1])
def test_a_4_cube_with_two_dead_cables_is_near_the_bound_of_any_schedule(seed: int) -> None:
    """Unequal shares reach it; equal ones could not, as `two_phase_s` shows."""
    cube = fail_links(topologies.torus((4, 4, 4), LINK, HOP_S), 2, seed)
    made = synthesize(cube, "all-reduce", GIB, chunks=400)
    prove(made, cube)
    assert made.ratio_to_bound <= 1.10
    assert made.bound.two_phase_s is not None
    assert made.timing.time_s < made.bound.two_phase_s


def test_unequal_speeds_of_axes_are_all_used() -> None:
    """The trn2 UltraServer's speeds: 128, 128 and 64 GB/s."""
    box = topologies.torus((4, 4, 4), [128e9, 128e9, 64e9], 1.5e-6)
    made = synthesize(box, "all-reduce", GIB)
    prove(made, box)
    assert made.ratio_to_bound <= 1.02


@st.composite
def networks(draw: st.DrawFn) -> Topology:
    kind = draw(st.sampled_from(["grid", "graph", "switch", "nest", "group"]))
    if kind == "grid":
        shape = tuple(draw(st.lists(st.integers(2, 3), min_size=1, max_size=2)))
        whole = topologies.grid(shape, LINK, HOP_S, wraps=tuple(draw(st.booleans()) for _ in shape))
        try:
            return fail_links(whole, draw(st.integers(0, 1)), draw(st.integers(0, 9)))
        except InputError:
            assume(False)
    if kind == "switch":
        return topologies.switch(draw(st.integers(2, 5)), LINK, HOP_S)
    if kind == "nest":
        return topologies.nested(topologies.switch(2, LINK, HOP_S), 2, LINK / 4, HOP_S)
    if kind == "group":
        members = draw(st.lists(st.integers(0, 8), min_size=2, max_size=5, unique=True))
        return subgroup(topologies.torus((3, 3), LINK, HOP_S), members)
    ranks = draw(st.integers(2, 5))
    pair = st.tuples(st.integers(0, ranks - 1), st.integers(0, ranks - 1))
    more = [(a, b) for a, b in draw(st.lists(pair, max_size=6)) if a != b]
    links = [(i, (i + 1) % ranks) for i in range(ranks)] + more
    return Topology(
        name="any", ranks=ranks, source=np.array([a for a, _ in links]),
        destination=np.array([b for _, b in links]),
        bandwidth_bytes_per_s=np.array([LINK * draw(st.sampled_from([1, 2])) for _ in links]),
        latency_s=np.full(len(links), HOP_S),
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(networks(), st.sampled_from(SYNTHESIZED), st.integers(5, 40), st.integers(0, 3))
def test_whatever_is_synthesized_is_proved(
    topology: Topology, collective, chunks: int, seed: int
) -> None:
    made = synthesize(topology, collective, 1e8, chunks=chunks, seed=seed)
    prove(made, topology)
    again = synthesize(topology, collective, 1e8, chunks=chunks, seed=seed)
    assert again.timing.time_s == made.timing.time_s


@given(st.lists(st.floats(1.0, 100.0), min_size=1, max_size=20))
def test_balanced_shares_keep_all_links_busy_equally_long(bandwidth: list[float]) -> None:
    speeds = np.array(bandwidth)
    shares = balanced_shares(speeds)
    assert shares.sum() == pytest.approx(1.0)
    assert (shares >= 0).all()
    seconds = (1 - shares) / speeds
    owners = shares > 1e-12
    assert seconds[owners] == pytest.approx(seconds[owners].max())
    assert (seconds <= seconds[owners].max() * (1 + 1e-9)).all()


def test_a_group_uses_the_chips_between_its_members() -> None:
    """Two opposite corners of a 3x3 mesh: both ways round, twice a link's bandwidth."""
    mesh = topologies.mesh((3, 3), LINK, HOP_S)
    pair = subgroup(mesh, [0, 8])
    assert (pair.ranks, pair.switches) == (2, 7)
    made = synthesize(pair, "all-gather", GIB)
    prove(made, pair)
    assert made.timing.time_s == pytest.approx(GIB / 2 / (2 * LINK), rel=0.02)
    assert evaluate(pair, made.schedule, GIB).time_s == made.timing.time_s


def test_what_cannot_be_synthesized_is_said() -> None:
    ring = topologies.ring(4, LINK, HOP_S)
    with pytest.raises(InputError, match="nothing to synthesize for all-to-all"):
        synthesize(ring, "all-to-all", GIB)
    with pytest.raises(InputError, match="one chip"):
        synthesize(subgroup(ring, [2]), "all-reduce", GIB)
    with pytest.raises(InputError, match="chip 7 is not one"):
        subgroup(ring, [0, 7])
    with pytest.raises(InputError, match="named twice"):
        subgroup(ring, [0, 1, 1])
    with pytest.raises(InputError, match="no chips"):
        subgroup(ring, [])
    with pytest.raises(InputError, match="ways through switches"):
        synthesize(topologies.clos(2048, LINK, HOP_S), "all-gather", GIB)
