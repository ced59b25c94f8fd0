"""The closed forms of the fabric facts, reproduced to 1 % by real schedules on real graphs.

M bytes a rank, N ranks, b one link one way, B what a chip sends, a latency of a step, d axes of k.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pytest

from weftline.fabric import OrbitSchedule, build, expand, parse_topology
from weftline.fabric.bounds import bound
from weftline.fabric.evaluators import evaluate

M: Final = 2.0**30
LINK: Final = 50e9
SLOW: Final = "1us"


def _time(text: str, collective: str, algorithm: str, *, latency: str = SLOW, size: float = M,
          link: str = "50GB/s", pieces: int | None = None) -> float:  # fmt: skip
    network = parse_topology(text, link, latency)
    made = build(network, collective, algorithm, pieces=pieces)  # type: ignore[arg-type]
    return evaluate(network, made, size).time_s


@pytest.mark.parametrize("size", [1e4, 1e7, M])
@pytest.mark.parametrize("n", [4, 9, 16])
def test_ring(n: int, size: float) -> None:
    """2(N-1)a + 2(N-1)/N M/b; half the bandwidth term with both directions."""
    a = 1e-6
    for name, ways in (("ring", 1), ("bidirectional-ring", 2)):
        formula = 2 * (n - 1) * a + 2 * (n - 1) / n * size / LINK / ways
        assert _time(f"ring:{n}", "all-reduce", name, size=size) == pytest.approx(formula, rel=1e-6)


@pytest.mark.parametrize("size", [1e4, M])
def test_halving_doubling_where_nothing_blocks(size: float) -> None:
    """2 log2 N a + 2(N-1)/N M/B on a switch."""
    formula = 2 * 4 * 1e-6 + 2 * 15 / 16 * size / LINK
    found = _time("switch:16", "all-reduce", "halving-doubling", size=size)
    assert found == pytest.approx(formula, rel=1e-6)


def test_halving_doubling_on_a_line_sends_half_the_buffer_in_every_step() -> None:
    """Congestion: 2^s messages of M/2^(s+1) share a link in step s, log2 N times in each half."""
    found = _time("line:16", "all-reduce", "halving-doubling", latency="1ns")
    assert found == pytest.approx(4 * M / LINK, rel=0.01)


def test_double_binary_tree() -> None:
    """2 log2 N a + about 2M/B for many pieces: either tree keeps a rank busy one way at a time."""
    found = _time("switch:16", "all-reduce", "double-binary-tree", pieces=128)
    assert found == pytest.approx(2 * M / LINK, rel=0.02)


@pytest.mark.parametrize(("sides", "k", "d"), [("6", 6, 1), ("4x4", 4, 2), ("4x4x4", 4, 3),
                                               ("8x8x8", 8, 3)])  # fmt: skip
@pytest.mark.parametrize("size", [1e6, M])
def test_bucket(sides: str, k: int, d: int, size: float) -> None:
    """2 d (k-1) a + 2(N-1)/N M/(2 d b)."""
    n = k**d
    formula = 2 * d * (k - 1) * 1e-6 + 2 * (n - 1) / n * size / (2 * d * LINK)
    found = _time(f"torus:{sides}", "all-reduce", "bucket", size=size)
    assert found == pytest.approx(formula, rel=1e-6)


@pytest.mark.parametrize(("sides", "k", "d"), [("8", 8, 1), ("4x4", 4, 2), ("8x8", 8, 2),
                                               ("4x4x4", 4, 3)])  # fmt: skip
def test_swing(sides: str, k: int, d: int) -> None:
    """2M/(2db) Xi_D, Xi_D = sum over visits v of an axis of delta(v) (2^D-1)/2^(D(v+1))."""
    xi = sum(
        abs(1 - (-2) ** (v + 1)) / 3 * (2**d - 1) / 2 ** (d * (v + 1))
        for v in range(int(math.log2(k)))
    )
    found = _time(f"torus:{sides}", "all-reduce", "swing", latency="1ns")
    assert found == pytest.approx(2 * M / (2 * d * LINK) * xi, rel=0.01)


@pytest.mark.parametrize("sides", ["8", "4x4", "4x4x4"])
def test_a_mesh_takes_exactly_twice_a_torus(sides: str) -> None:
    """Corner chips have half the links: twice the time, step by step, reduced and then gathered.

    Left to run on, chips in the middle of a line have gathered all blocks before those at its ends,
    and begin the next axis on links the others still need: the gathering takes up to 8 % more.
    """
    for collective in ("all-reduce", "reduce-scatter", "all-gather"):
        in_step = [_in_step(f"{kind}:{sides}", collective) for kind in ("torus", "mesh")]
        assert in_step[1] / in_step[0] == pytest.approx(2.0, rel=1e-9)
        torus, mesh = (
            _time(f"{kind}:{sides}", collective, "bucket", latency="0.000001ns", pieces=1)
            for kind in ("torus", "mesh")
        )
        assert torus == pytest.approx(in_step[0], rel=1e-6)
        more = {"reduce-scatter": 1.0, "all-gather": 1.081, "all-reduce": 1.041}[collective]
        assert 1 - 1e-6 <= mesh / torus / 2 <= more + 1e-6
    piped = _time(f"mesh:{sides}", "all-gather", "bucket", latency="0.000001ns", pieces=8)
    alone = _time(f"torus:{sides}", "all-gather", "bucket", latency="0.000001ns")
    assert piped / alone == pytest.approx(2.0, rel=0.005)  # in pieces nobody runs far ahead


def _in_step(text: str, collective: str) -> float:
    """Time of a bucket schedule whose steps all begin together, without latency."""
    made = build(parse_topology(text, "50GB/s", "1us"), collective, "bucket", pieces=1)  # type: ignore[arg-type]
    flat = expand(made) if isinstance(made, OrbitSchedule) else made
    key = (flat.step * flat.ranks + flat.source) * flat.ranks + flat.destination
    loads = np.bincount(key, weights=flat.fractions()).reshape(-1)
    loads = np.append(loads, np.zeros(-len(loads) % flat.ranks**2))
    return float(loads.reshape(-1, flat.ranks**2).max(axis=1).sum() * M / LINK)


@pytest.mark.parametrize(("sides", "torus_gbs"), [("4x4", 213.3), ("4x4x4", 304.8)])
def test_forestcolls_figures(sides: str, torus_gbs: float) -> None:
    """ForestColl's runs at 50 GB/s a link: bus bandwidth without the factor of two of all-reduce.

    213.3 and 304.8 GB/s on the torus are N/(N-1) times what all links of a chip carry; the mesh is
    106.7 and 152.4, half of it.
    """
    n, d = eval_sides(sides)
    torus = bound(parse_topology(f"torus:{sides}", "50GB/s", "0.001ns"), "all-gather", M)
    mesh = bound(parse_topology(f"mesh:{sides}", "50GB/s", "0.001ns"), "all-gather", M)
    assert M / torus.time_s / 1e9 == pytest.approx(torus_gbs, rel=0.01)
    assert M / mesh.time_s / 1e9 == pytest.approx(torus_gbs / 2, rel=0.01)
    assert 2 * d * LINK * n / (n - 1) / 1e9 == pytest.approx(torus_gbs, rel=0.01)


def eval_sides(sides: str) -> tuple[int, int]:
    """(chips, axes) of 4x4x4."""
    found = [int(s) for s in sides.split("x")]
    return math.prod(found), len(found)


def test_hierarchical_is_a_sum_and_pipelined_the_greater_part() -> None:
    """2(g-1)/g M/B_in + 2(K-1)/K (M/g)/B_out; max() of the two if pipelined."""
    g, k, inside, across = 8, 16, 450e9, 50e9
    parts = 2 * (g - 1) / g * M / inside, 2 * (k - 1) / k * (M / g) / across
    one, many = (
        _time(f"switch:{g}/clos:{k}", "all-reduce", "hierarchical", latency="1ns",
              link="450GB/s,50GB/s", pieces=pieces) for pieces in (1, 128)
    )  # fmt: skip
    assert one == pytest.approx(sum(parts), rel=0.01)
    assert many == pytest.approx(max(parts), rel=0.01)


@pytest.mark.parametrize(("sides", "longest"), [("8", 8), ("4x8", 8), ("4x4x4", 4), ("8x8x8", 8)])
def test_all_to_all_on_torus_and_mesh(sides: str, longest: int) -> None:
    """M k_max/(8b) with even k and wraps, M k_max/(4b) on a mesh."""
    torus = _time(f"torus:{sides}", "all-to-all", "direct", latency="1ns")
    assert torus == pytest.approx(M * longest / (8 * LINK), rel=0.01)
    if math.prod(int(s) for s in sides.split("x")) <= 64:
        mesh = _time(f"mesh:{sides}", "all-to-all", "direct", latency="1ns")
        assert mesh == pytest.approx(M * longest / (4 * LINK), rel=0.01)


def test_all_to_all_on_16x16x16_is_12_times_the_injection_bound() -> None:
    """6k/8 = 12 against (N-1)/N M/B, B what all six links of a chip send together."""
    n = 16**3
    injection = (n - 1) / n * M / (6 * LINK)
    found = _time("torus:16x16x16", "all-to-all", "direct", latency="1ns")
    assert found / injection == pytest.approx(12.0, rel=0.001)


def test_all_to_all_from_neighbour_to_neighbour_is_as_fast_where_sides_are_equal() -> None:
    direct, ordered = (
        _time("torus:8x8x8", "all-to-all", name, latency="1ns") for name in ("direct", "ordered")
    )
    assert ordered == pytest.approx(direct, rel=0.001)


@pytest.mark.parametrize("over", [1.0, 2.0, 4.0])
def test_an_oversubscribed_clos(over: float) -> None:
    """max(M f_local/B, M f_cross o/B); here 24 of 32 chips are under other leaves."""
    found = _time(f"clos:32,leaf=8,oversubscription={over:g}", "all-to-all", "direct",
                  latency="1ns")  # fmt: skip
    assert found == pytest.approx(M / LINK * max(31 / 32, 24 / 32 * over), rel=0.01)


def test_uneven_tori_stay_near_their_bound() -> None:
    """Shares by linear programme, in 8 pieces: 0.97 of the bound and more at 1 GiB."""
    for text, link in (("trn2-ultraserver", None), ("torus:8x8x16", "100GB/s"),
                       ("torus:4x4x8", "100GB/s"), ("torus:4x8", "100GB/s")):  # fmt: skip
        network = parse_topology(text, link, "1us" if link else None)
        made = build(network, "all-reduce", "bucket")
        share = bound(network, "all-reduce", M).time_s / evaluate(network, made, M).time_s
        assert 0.97 <= share <= 1.0, (text, share)


@pytest.mark.parametrize(("text", "link", "algorithm", "least_share"), [
    ("trn2-ultraserver-efa:256", None, "hierarchical", 0.9),
    ("mi300x-clos:64", None, "hierarchical", 0.95),
    ("switch:4/torus:4x4", "450GB/s,50GB/s", "hierarchical", 0.92),
    ("torus:8x4,wrap=yn", "50GB/s", "bucket", 0.94),
    ("mesh:4x8", "50GB/s", "bucket", 0.94),
])  # fmt: skip
def test_levels_and_open_axes_stay_near_their_bound(
    text: str, link: str | None, algorithm: str, least_share: float
) -> None:
    """Orders of the axes shared out so that all links, inside and across, have the same to do."""
    network = parse_topology(text, link, "0.1us" if link else None)
    made = build(network, "all-reduce", algorithm, pieces=32)
    share = bound(network, "all-reduce", M).time_s / evaluate(network, made, M).time_s
    assert least_share <= share <= 1.0


def test_overlapped_halves_beat_the_best_two_phases_on_a_mesh() -> None:
    """Reduction loads the ends of a line, gathering its middle: in pieces both fit together."""
    network = parse_topology("mesh:4x4", "50GB/s", "1ns")
    least = bound(network, "all-reduce", M)
    assert least.two_phase_s is not None
    whole, cut = (
        evaluate(network, build(network, "all-reduce", "bucket", pieces=p), M).time_s
        for p in (1, 32)
    )
    assert whole >= least.two_phase_s
    assert least.time_s <= cut < 0.75 * least.two_phase_s


def test_nvls_sends_a_chips_buffer_once_and_a_block_more() -> None:
    """A chip sends M (1 + 1/N) through a reducing switch, against 2 M (N-1)/N without."""
    nvls = _time("switch:8,nvls", "all-reduce", "nvls", latency="1ns", pieces=128)
    assert nvls == pytest.approx(M * (1 + 1 / 8) / LINK, rel=0.01 + 3 / 128)
    assert nvls > M * (1 + 1 / 8) / LINK
    sharp = _time("clos:8,sharp", "all-reduce", "in-network", latency="1ns", pieces=128)
    assert sharp == pytest.approx(M / LINK, rel=0.01)


def test_loads_add_up_to_what_is_sent() -> None:
    network = parse_topology("torus:4x4", "50GB/s", "1us")
    made = build(network, "all-reduce", "bucket")
    timing = evaluate(network, made, M)
    assert timing.link_load_bytes.sum() == pytest.approx(2 * 15 * M)
    assert np.allclose(timing.link_load_bytes, timing.link_load_bytes[0])
