"""Placement: orders and their hops, JAX's rule, the cost model against flows, the search."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.cli.main import run
from weftline.errors import InputError, UnknownNameError
from weftline.fabric.evaluators import evaluate
from weftline.fabric.graph import Grid
from weftline.fabric.parse import parse_topology
from weftline.fabric.placement import (
    ORDERS,
    AxisTraffic,
    axes_of_layout,
    check_map,
    compare,
    grid_speeds,
    jax_arrangement,
    jax_placement,
    order_points,
    place,
    place_layout,
    ring_points,
    ring_quality,
    ring_time_s,
)
from weftline.fabric.placement.orders import ring_hops
from weftline.fabric.placement.search import arrangements, placement_of
from weftline.fabric.schedule import Schedule
from weftline.fabric.topologies import torus
from weftline.spec import Layout

RANK_ORDERS = Path(__file__).parents[2] / "src/weftline/fabric/data/torus_rank_order_ring_cost.csv"
LINK = 100e9


def _traffic(*entries: tuple[str, str, float, float]) -> list[AxisTraffic]:
    return [AxisTraffic(axes=(a,), collective=c, size_bytes=s, count=n)  # type: ignore[arg-type]
            for a, c, s, n in entries]  # fmt: skip


# --- orders -------------------------------------------------------------------------------------


def test_published_hops_of_row_major_morton_and_snake_are_reproduced() -> None:
    with RANK_ORDERS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21
    for row in rows:
        shape = tuple(int(s) for s in row["torus_dims"].split("x"))
        order = row["rank_order"].split("(")[0]
        grid = Grid(shape=shape, wraps=(True,) * len(shape))
        found = ring_quality(grid.rank(order_points(shape, order)), grid)
        said = (int(row["max_hops_between_consecutive_ranks"]), float(row["mean_hops"]))
        assert (found.hops_most, round(found.hops_mean, 4)) == said, row
        assert found.flows_most == int(row["max_flows_on_one_directed_link"]), row


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_rings_visit_every_chip_in_single_hops_where_a_ring_exists(
    shape: list[int], closes: bool
) -> None:
    wraps = (closes,) * len(shape)
    points = ring_points(shape, wraps)
    assert len(np.unique(points, axis=0)) == math.prod(shape) == len(points)
    sides = [s for s in shape if s > 1]
    plane = len(sides) >= 2 and (closes or any(s % 2 == 0 for s in sides))
    closed_line = len(sides) == 1 and (closes or sides[0] == 2)
    hops = ring_hops(points, Grid(shape=tuple(shape), wraps=wraps))
    if plane or closed_line or not sides:
        assert hops.max(initial=0) <= 1
    assert hops[:-1].max(initial=0) <= 1


def test_the_placed_ring_is_all_one_hop_where_row_major_and_slurm_are_not() -> None:
    for shape in ((4, 4), (4, 4, 4), (8, 8, 8), (4, 4, 16)):
        topology = torus(shape, LINK, 1e-6)
        ranks = math.prod(shape)
        found = place({"dp": ranks}, topology, _traffic(("dp", "all-reduce", 1e9, 1)))
        assert topology.grid is not None
        assert ring_quality(found.rank_to_chip, topology.grid).hops_most == 1
        for order, least in (("row-major", 2), ("morton", 2)):
            chips = topology.grid.rank(order_points(shape, order))
            assert ring_quality(chips, topology.grid).hops_most >= least


def test_an_order_that_does_not_exist_is_named() -> None:
    with pytest.raises(UnknownNameError, match="hilbert"):
        order_points((4, 4), "hilbert")


def test_a_rank_map_that_is_no_permutation_names_the_ranks() -> None:
    with pytest.raises(InputError, match="ranks 0 and 2 are both put on chip 1"):
        check_map(np.array([1, 0, 1, 3]), 4)
    with pytest.raises(InputError, match="rank 3 is put on chip 7 of 4"):
        check_map(np.array([0, 1, 2, 7]), 4)


# --- JAX's rule ---------------------------------------------------------------------------------

# (physical shape, logical sizes) and the assignment matrices that jax 0.10.2's
# mesh_utils._create_device_mesh_for_nd_torus returned, without and with splitting; None: refused.
JAX_SAID: tuple[tuple[Any, Any, Any, Any], ...] = (
    ((2, 4, 6), (6, 8, 1), ((1, 2, 1), (1, 4, 1), (6, 1, 1)), ((1, 2, 1), (1, 4, 1), (6, 1, 1))),
    ((1, 16, 1), (8, 1, 2, 1), None, ((1, 1, 1, 1), (8, 1, 2, 1), (1, 1, 1, 1))),
    ((6, 2), (4, 3), None, ((2, 3), (2, 1))),
    ((8, 16, 1), (1, 2, 16, 4), None, ((1, 2, 1, 4), (1, 1, 16, 1), (1, 1, 1, 1))),
    ((6, 8, 2), (16, 6), ((1, 6), (8, 1), (2, 1)), ((1, 6), (8, 1), (2, 1))),
    ((3, 2), (2, 1, 1, 3), ((1, 1, 1, 3), (2, 1, 1, 1)), ((1, 1, 1, 3), (2, 1, 1, 1))),
    ((6, 4), (12, 1, 2, 1), None, ((3, 1, 2, 1), (4, 1, 1, 1))),
    ((16, 8), (4, 2, 16), None, ((1, 1, 16), (4, 2, 1))),
    ((8, 3, 1), (4, 2, 3), None, ((4, 2, 1), (1, 1, 3), (1, 1, 1))),
    ((3, 6), (1, 9, 2), None, ((1, 3, 1), (1, 3, 2))),
    ((2, 16, 1), (2, 8, 1, 2), None, ((1, 1, 1, 2), (2, 8, 1, 1), (1, 1, 1, 1))),
    ((2, 16), (8, 4), None, ((1, 2), (8, 2))),
    ((6, 16, 8), (96, 8), ((6, 1), (16, 1), (1, 8)), ((6, 1), (16, 1), (1, 8))),
    ((6, 6, 16), (18, 4, 2, 4), None, ((3, 1, 1, 2), (3, 1, 1, 2), (2, 4, 2, 1))),
    ((3, 3), (3, 3, 1, 1), ((1, 3, 1, 1), (3, 1, 1, 1)), ((1, 3, 1, 1), (3, 1, 1, 1))),
    ((8, 8, 6), (8, 2, 3, 8), None, ((1, 1, 1, 8), (8, 1, 1, 1), (1, 2, 3, 1))),
    ((6, 6), (6, 6), ((1, 6), (6, 1)), ((1, 6), (6, 1))),
    ((8, 6, 8), (24, 16), None, ((1, 8), (3, 2), (8, 1))),
    ((6, 16, 16), (2, 16, 8, 6), None, ((1, 1, 1, 6), (2, 1, 8, 1), (1, 16, 1, 1))),
    ((6, 3, 6), (3, 3, 3, 4), None, ((1, 3, 1, 2), (1, 1, 3, 1), (3, 1, 1, 2))),
    ((6, 2, 4), (4, 12), ((1, 6), (1, 2), (4, 1)), ((1, 6), (1, 2), (4, 1))),
    ((2, 6, 8), (3, 8, 4), None, ((1, 1, 2), (3, 1, 2), (1, 8, 1))),
    ((1, 2, 6), (6, 2), ((1, 1), (1, 2), (6, 1)), ((1, 1), (1, 2), (6, 1))),
    ((16, 2), (4, 1, 8), None, ((4, 1, 4), (1, 1, 2))),
    ((8, 4), (4, 1, 8), ((1, 1, 8), (4, 1, 1)), ((1, 1, 8), (4, 1, 1))),
    ((4, 3, 8), (4, 1, 2, 12), None, ((1, 1, 1, 4), (1, 1, 1, 3), (4, 1, 2, 1))),
    ((3, 16, 2), (4, 24), None, ((1, 3), (4, 4), (1, 2))),
    ((8, 4, 2), (4, 8, 2), ((1, 8, 1), (4, 1, 1), (1, 1, 2)), ((1, 8, 1), (4, 1, 1), (1, 1, 2))),
)  # fmt: skip


@pytest.mark.parametrize(("shape", "sizes", "whole", "split"), JAX_SAID)
def test_jax_rule_does_what_jax_does(
    shape: tuple[int, ...], sizes: tuple[int, ...], whole: Any, split: Any
) -> None:
    for allowed, said in ((False, whole), (True, split)):
        found = jax_arrangement(shape, sizes, split=allowed)
        if said is None:
            assert found is None
            continue
        assert found is not None
        table = [[1] * len(sizes) for _ in shape]
        for axis, factors in enumerate(found):
            for job, factor in factors:
                table[axis][job] = factor
        assert tuple(tuple(row) for row in table) == said


# --- the cost model -----------------------------------------------------------------------------


def _ring_rows(groups: np.ndarray[Any, Any], ranks: int) -> Schedule:
    """All-gather of every group by a ring both ways round, all groups at once."""
    count, n = groups.shape
    rows = []
    for way in (0, 1):
        for step in range(n - 1):
            for g in range(count):
                for i in range(n):
                    a, b = groups[g, i], groups[g, (i + (1 if way == 0 else -1)) % n]
                    home = (i - step) % n if way == 0 else (i + step) % n
                    chunk = (g * n + home) * 2 + way
                    rows.append((step, a, b, chunk, 1, 0, 2 * g + way))
    table = np.asarray(sorted(rows), dtype=np.int64)
    return Schedule(
        collective="all-gather", algorithm="rings", ranks=ranks, step=table[:, 0],
        source=table[:, 1], destination=table[:, 2], first_chunk=table[:, 3],
        chunk_count=table[:, 4], reduce=table[:, 5].astype(np.bool_), colour=table[:, 6],
        share=np.full(count * n * 2, 1 / (2 * n)),
        owner=np.repeat(groups.reshape(-1), 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "axes", "axis"),
    [((8,), {"a": 8}, "a"), ((8,), {"a": 4, "b": 2}, "a"), ((8,), {"a": 2, "b": 4}, "a"),
     ((4, 4), {"a": 4, "b": 4}, "a"), ((4, 8), {"a": 8, "b": 4}, "a")],
)  # fmt: skip
def test_closed_forms_agree_with_flows_on_the_real_links(
    shape: tuple[int, ...], axes: dict[str, int], axis: str
) -> None:
    """Each job axis on one physical axis: the formula against fair flow of all groups at once."""
    topology = torus(shape, LINK, 0.0)
    traffic = _traffic((axis, "all-gather", 1e9, 1))
    speeds = grid_speeds(topology)
    sizes = list(axes.values())
    compared = 0
    for arrangement in arrangements(speeds, shape, sizes):
        placed = placement_of(axes, speeds, shape, arrangement, traffic)
        number = placed.rank_to_chip.reshape(sizes)
        groups = np.moveaxis(number, 0, -1).reshape(-1, sizes[0])
        spans = placed.physical[axis]
        # A ring both ways is what the formula takes on one axis on which the members close.
        if len(spans) != 1 or spans[0][1] * spans[0][2] != shape[spans[0][0]]:
            continue
        flow = evaluate(topology, _ring_rows(groups, topology.ranks), 1e9, how="flow").time_s
        assert flow == pytest.approx(placed.cost_s, rel=0.02), arrangement
        compared += 1
    assert compared


def test_whole_torus_all_reduce_and_all_to_all_match_the_evaluators() -> None:
    from weftline.fabric.algorithms import build

    topology = torus((4, 4, 4), LINK, 1e-6)
    for collective, name, size in (("all-reduce", "bucket", 1e9), ("all-to-all", "direct", 1e9)):
        found = place({"dp": 64}, topology, _traffic(("dp", collective, size, 1)))
        real = evaluate(topology, build(topology, collective, name), size)  # type: ignore[arg-type]
        assert found.cost_s == pytest.approx(real.time_s, rel=0.02)


def test_ring_time_counts_the_sharing_of_links() -> None:
    """Interleaved groups on a ring share every link: twice the time of groups side by side."""
    topology = torus((8,), LINK, 0.0)
    speeds = grid_speeds(topology)
    axes, traffic = {"a": 4, "b": 2}, _traffic(("b", "all-gather", 1e9, 1))
    near = ring_time_s(speeds, np.arange(8), axes, traffic)
    far = ring_time_s(speeds, np.array([0, 4, 1, 5, 2, 6, 3, 7]), axes, traffic)
    assert near == pytest.approx(1e9 / 2 / LINK)
    assert far == pytest.approx(4 * near)


# --- the search ---------------------------------------------------------------------------------


def test_never_worse_than_jax_on_random_tori_and_jobs() -> None:
    """Short form of bench/placement.py: 25 pairs, JAX with and without splitting axes."""
    rng = random.Random(20261121)
    refused = 0
    for _ in range(25):
        shape = [rng.choice((2, 3, 4, 6, 8)) for _ in range(rng.choice((2, 3)))]
        topology = torus(shape, [rng.choice((50e9, 100e9)) for _ in shape], 1e-6)
        names = ("pp", "dp", "tp")[: rng.choice((2, 3))]
        axes = _job(rng, math.prod(shape), names)
        traffic = _traffic(
            *(
                (
                    n,
                    rng.choice(("all-reduce", "all-gather", "all-to-all")),
                    10 ** rng.uniform(6, 9),
                    rng.randint(1, 100),
                )
                for n in names
            )
        )
        best = place(axes, topology, traffic)
        check_map(best.rank_to_chip, topology.ranks)
        for split in (False, True):
            other = jax_placement(axes, grid_speeds(topology), traffic, split=split)
            refused += other is None
            assert other is None or best.cost_s <= other.cost_s * (1 + 1e-12)
        rings = place(axes, topology, traffic, "rings")
        check_map(rings.rank_to_chip, topology.ranks)
        speeds = grid_speeds(topology)
        assert rings.cost_s == ring_time_s(speeds, rings.rank_to_chip, axes, traffic)
        for order in ORDERS:
            chips = speeds.grid.rank(order_points(shape, order))
            assert rings.cost_s <= ring_time_s(speeds, chips, axes, traffic) * (1 + 1e-12)
    assert refused > 0


def _job(rng: random.Random, chips: int, names: tuple[str, ...]) -> dict[str, int]:
    sizes = dict.fromkeys(names, 1)
    factor = 2
    while chips > 1:
        while chips % factor == 0:
            sizes[rng.choice(names)] *= factor
            chips //= factor
        factor += 1
    return sizes


@given(st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=3), st.randoms())
@settings(max_examples=25, deadline=None)
def test_every_arrangement_is_a_permutation_and_alike_axes_come_once(
    shape: list[int], rng: random.Random
) -> None:
    topology = torus(shape, LINK, 0.0)
    speeds = grid_speeds(topology)
    axes = _job(rng, math.prod(shape), ("a", "b"))
    seen = set()
    for arrangement in arrangements(speeds, shape, list(axes.values())):
        placed = placement_of(axes, speeds, tuple(shape), arrangement, [])
        check_map(placed.rank_to_chip, topology.ranks)
        turned = tuple(sorted(zip(shape, arrangement, strict=True)))
        assert turned not in seen
        seen.add(turned)
    assert seen


def test_a_smaller_job_takes_a_box_and_an_impossible_one_is_refused() -> None:
    topology = torus((4, 4), LINK, 0.0)
    traffic = _traffic(("dp", "all-reduce", 1e9, 1))
    assert place({"dp": 8}, topology, traffic).box in {(4, 2), (2, 4)}
    with pytest.raises(InputError, match="no box of 4x4 has 5 chips"):
        place({"dp": 5}, topology, traffic)
    with pytest.raises(InputError, match="32 ranks on 16 chips"):
        place({"dp": 32}, topology, traffic)
    with pytest.raises(InputError, match="no grid"):
        place({"dp": 8}, parse_topology("switch:8", link="1GB/s"), traffic)
    with pytest.raises(UnknownNameError, match="axis `tp`"):
        place({"dp": 16}, topology, _traffic(("tp", "all-reduce", 1e9, 1)))


def test_a_layout_is_placed_by_its_own_rank_numbers() -> None:
    layout = Layout(tp=4, dp=4, pp=4, ep=8)
    assert axes_of_layout(layout) == {"pp": 4, "dp": 2, "dp_in": 2, "cp": 1, "tp": 4}
    topology = torus((4, 4, 4), LINK, 1e-6)
    traffic = [
        AxisTraffic(axes=("tp",), collective="all-reduce", size_bytes=64e6, count=100),
        AxisTraffic(axes=("ep",), collective="all-to-all", size_bytes=64e6, count=50),
        AxisTraffic(axes=("dp",), collective="all-reduce", size_bytes=1e9),
        AxisTraffic(axes=("pp",), collective="send", size_bytes=1e7, count=16),
    ]
    found = place_layout(layout, topology, traffic)
    check_map(found.rank_to_chip, 64)
    assert set(found.cost_by_axis_s) == {"tp", "dp_in+cp+tp", "dp+dp_in", "pp"}
    # Ranks of one tensor-parallel group are neighbours in the plan's numbering.
    assert layout.coordinates(1)["tp"] == 1


def test_compare_says_where_jax_refuses() -> None:
    traffic = _traffic(("tp", "all-reduce", 1e8, 10), ("dp", "all-reduce", 1e9, 1))
    found = compare({"dp": 16, "tp": 4}, torus((8, 8), LINK, 0.0), traffic)
    by_order = {r["order"]: r for r in found["orders"]}
    assert by_order["jax"]["note"] == "JAX refuses this shape"
    assert by_order["search"]["bucket_s"] <= by_order["jax, splitting axes"]["bucket_s"]
    assert found["cost_s"] == by_order["search"]["bucket_s"]


# --- the command --------------------------------------------------------------------------------


def test_command_gives_table_json_and_all_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["simulate", "placement", "--on", "torus:4x4", "--link", "100GB/s"]
    job = ["--axes", "dp=4,tp=4", "--traffic", "tp:all-reduce:64MB:10", "dp:all-reduce:1GB"]
    assert run([*base, *job, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(found["rank_to_chip"]) == list(range(16))
    assert {r["order"] for r in found["orders"]} >= {"search", "jax", "row-major", "morton"}
    assert run([*base, *job, "--measure", "rings"]) == 0
    assert "arrangements looked at" in capsys.readouterr().out
    assert run([*base, "--axes", "dp:4", "--traffic", "tp:all-reduce", "x:y:1MB"]) == 2
    said = capsys.readouterr().err
    assert said.count("error:") == 3
    assert "unknown collective `y`" in said
