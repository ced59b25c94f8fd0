"""Algorithms and the checker: what they accept, what they count, and how a fault is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from weftline.errors import InputError, UnknownNameError
from weftline.fabric import (
    ALGORITHMS,
    COLLECTIVES,
    OrbitSchedule,
    Schedule,
    algorithms_for,
    build,
    check,
    check_orbit,
    expand,
    fail_links,
    parse_topology,
)
from weftline.fabric.algorithms.tree import parents
from weftline.fabric.bounds import bound
from weftline.fabric.choice import CLOSE, SYNTHESIZED, choose, flat_rows
from weftline.fabric.evaluators import evaluate

ROWS = ("step", "source", "destination", "first_chunk", "chunk_count", "reduce", "colour")


def _flat(text: str, collective: str, algorithm: str, **options: Any) -> Schedule:
    made = build(parse_topology(text, 1e9, 1e-6), collective, algorithm, **options)  # type: ignore[arg-type]
    return expand(made) if isinstance(made, OrbitSchedule) else made


def _changed(flat: Schedule, **columns: Any) -> Schedule:
    """The schedule with some columns changed, rows in order of step again."""
    whole = {name: np.array(columns.get(name, getattr(flat, name))) for name in ROWS}
    order = np.argsort(whole["step"], kind="stable")
    return replace(flat, **{k: v[order] for k, v in whole.items()})


def _without(flat: Schedule, row: int) -> Schedule:
    return replace(flat, **{n: np.delete(getattr(flat, n), row) for n in ROWS})


# --- the checker names what is wrong --------------------------------------------------------------


def test_a_missing_contribution_is_named_with_rank_chunk_and_step() -> None:
    """Ring of 3: without rank 0's first block (its step 0) chunk 2 misses rank 0 at the end."""
    flat = _flat("ring:3", "all-reduce", "ring")
    row = int(np.flatnonzero((flat.step == 0) & (flat.source == 0))[0])
    chunk = int(flat.first_chunk[row])
    with pytest.raises(InputError) as raised:
        check(_without(flat, row))
    assert f"chunk {chunk} of rank" in raised.value.what
    assert "lacks the contribution of rank 0" in raised.value.what
    assert "last written in step" in raised.value.what


def test_a_doubled_contribution_is_named_with_rank_chunk_and_step() -> None:
    flat = _flat("ring:3", "all-reduce", "ring")
    twice = _changed(flat, **{n: np.append(getattr(flat, n), getattr(flat, n)[0]) for n in ROWS})
    with pytest.raises(InputError) as raised:
        check(twice)
    assert raised.value.what.startswith("step 0: the contribution of rank 0 to chunk")
    assert "a second time, from rank 0" in raised.value.what


def test_faults_of_form_and_order_are_named() -> None:
    flat = _flat("ring:4", "all-gather", "ring")
    late = _changed(flat, step=np.where(flat.source == 1, 0, flat.step))
    with pytest.raises(
        InputError, match=r"step 0: rank 1 sends chunk \d+ to rank \d before it has"
    ):
        check(late)
    with pytest.raises(InputError, match=r"row \d+ of the schedule is of step 1, after step 2"):
        check(replace(flat, **{n: getattr(flat, n)[::-1] for n in ROWS}))
    with pytest.raises(InputError, match=r"rank \d+ sends to itself"):
        check(_changed(flat, destination=flat.source))
    with pytest.raises(InputError, match=r"destination 9 is outside 0\.\.3"):
        check(_changed(flat, destination=np.full(flat.rows, 9)))
    with pytest.raises(InputError, match="steps of two colours have no order"):
        check(_changed(flat, colour=np.arange(flat.rows) % 2))
    with pytest.raises(InputError, match=r"make up 0\.5 of the buffer"):
        check(replace(flat, share=flat.share / 2))
    with pytest.raises(InputError, match=r"rank 0 has 0\.4 of the buffer at home, not 1/4"):
        check(replace(flat, share=np.array([0.4, 0.2, 0.2, 0.2])))
    with pytest.raises(InputError, match="needs the owner of every chunk"):
        check(replace(flat, owner=None))
    with pytest.raises(InputError, match=r"not ranks 0 \.\. 3"):
        check(replace(flat, owner=np.array([0, 1, 2, 7])))
    with pytest.raises(InputError, match="4 ranks on `ring:5` with 5 chips"):
        check(flat, parse_topology("ring:5", 1e9))


def test_two_writes_at_once_are_a_race_unless_both_add() -> None:
    chain = _flat("line:3", "broadcast", "double-binary-tree", pieces=1)
    copies = {n: np.append(getattr(chain, n), getattr(chain, n)[0]) for n in ROWS}
    with pytest.raises(InputError, match="two rows write chunk 0 of rank"):
        check(_changed(chain, **copies))
    check(_flat("switch:8", "all-reduce", "double-binary-tree", pieces=1))


def test_a_broadcast_that_leaves_a_rank_out() -> None:
    flat = _flat("ring:4", "broadcast", "chain", pieces=1)
    last = int(np.flatnonzero(flat.step == flat.step.max())[0])
    missed = int(flat.destination[last])
    with pytest.raises(InputError, match=rf"never written\) never comes to rank {missed}"):
        check(_without(flat, last))


def test_an_all_to_all_with_uneven_shares() -> None:
    flat = _flat("switch:4", "all-to-all", "direct")
    assert flat.owner is not None
    assert flat.target is not None
    share = flat.share.copy()
    share[(flat.owner == 0) & (flat.target == 1)] = 0.5
    with pytest.raises(InputError, match=r"rank 0 has 0\.5 of its buffer for rank 1, not 1/4"):
        check(replace(flat, share=share))


def test_only_switches_that_reduce_may_add() -> None:
    flat = _flat("switch:4,nvls", "all-reduce", "nvls")
    check(flat, parse_topology("switch:4,nvls", 1e9))
    with pytest.raises(InputError, match="switch 0 of `switch:4` keeps and adds nothing"):
        check(flat, parse_topology("switch:4", 1e9))
    with pytest.raises(InputError, match="has 0 switches, the schedule uses 1"):
        check(flat, parse_topology("ring:4", 1e9))


def test_the_symmetric_proof_finds_faults_too() -> None:
    network = parse_topology("torus:4x4", 1e9)
    made = build(network, "all-reduce", "bucket")
    assert isinstance(made, OrbitSchedule)
    check_orbit(made, network)
    scatter = build(network, "reduce-scatter", "bucket")
    assert isinstance(scatter, OrbitSchedule)
    check_orbit(replace(made, block=made.block + 1))  # an all-reduce does not care who is at home
    with pytest.raises(InputError, match=r"lacks the contribution|a second time"):
        check_orbit(replace(scatter, block=scatter.block + 1))
    with pytest.raises(InputError, match="lacks the contribution"):
        check_orbit(replace(made, reduce=np.zeros(made.rows, np.bool_)))
    with pytest.raises(InputError, match="its blocks make up"):
        check_orbit(replace(made, fraction=made.fraction / 2))
    swap = build(network, "all-to-all", "ordered")
    assert isinstance(swap, OrbitSchedule)
    assert swap.came is not None
    assert swap.displacement is not None
    with pytest.raises(InputError, match="sent on from where it is not"):
        check_orbit(replace(swap, came=swap.came + 1))
    with pytest.raises(InputError, match="of every rank never comes to its target"):
        check_orbit(replace(swap, displacement=swap.displacement + 4))
    with pytest.raises(InputError, match="16 ranks on `ring:5`"):
        check_orbit(made, parse_topology("ring:5", 1e9))


def test_65536_chips_are_proved_by_symmetry() -> None:
    """All-to-all on 32x32x64 as it is; the checker's sets make an all-reduce of 4,096 enough."""
    swap = build(parse_topology("torus:32x32x64", 1e9), "all-to-all", "direct")
    assert isinstance(swap, OrbitSchedule)
    assert check_orbit(swap).by_symmetry
    ring = build(parse_topology("torus:16x16x16", 1e9), "all-reduce", "bucket")
    assert isinstance(ring, OrbitSchedule)
    assert ring.flat_rows == 4096 * 6 * 2 * 45
    assert check_orbit(ring).ranks == 4096


# --- algorithms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(2, 40))
def test_every_rank_is_a_leaf_of_one_of_the_two_trees(n: int) -> None:
    """Sanders et al.: so each sends and receives one buffer, whatever N is (one rank excepted)."""
    inner = []
    for second in (False, True):
        parent = parents(n, second=second)
        assert (parent < 0).sum() == 1
        children = np.bincount(parent[parent >= 0], minlength=n)
        assert children.max() <= 2
        depth, at = 0, np.arange(n)
        while (at >= 0).any():
            at = np.where(at >= 0, parent[at], -1)
            depth += 1
        assert depth <= int(np.ceil(np.log2(n + 1))) + 1
        inner.append(children > 0)
    assert (inner[0] & inner[1]).sum() <= (1 if n % 2 else 0)


def test_what_does_not_run_says_what_does() -> None:
    for text, collective, algorithm, says, hint in (
        ("switch:8", "all-reduce", "bucket", "needs a torus or mesh", "`ring`"),
        ("torus:8x4,twist=0x4", "all-reduce", "bucket", "twisted torus", "synthesize"),
        ("torus:4x6", "all-reduce", "swing", "sides are powers of two", "`bucket`"),
        ("torus:32x64", "all-reduce", "swing", "2,048 ranks", "at most 1024"),
        ("ring:6", "all-gather", "halving-doubling", "power of two ranks, not 6", "`ring`"),
        ("ring:6", "all-reduce", "hierarchical", "one level only", "switch:8/clos:128"),
        ("ring:6", "all-reduce", "direct", "all reach each other alike", "`hierarchical`"),
        ("switch:8", "all-reduce", "nvls", "NVLS needs one switch", "switch:8,nvls"),
        ("mesh:4x4", "all-to-all", "ordered", "needs a torus", "`direct`"),
        ("ring:6", "all-to-all", "ring", "`ring` does no all-to-all", "direct"),
    ):
        with pytest.raises(InputError) as raised:
            build(parse_topology(text, 1e9), collective, algorithm)  # type: ignore[arg-type]
        assert says in raised.value.what
        assert hint in (raised.value.hint or "")
    ring = parse_topology("ring:4", 1e9)
    with pytest.raises(UnknownNameError, match="did you mean `bucket`"):
        build(ring, "all-reduce", "buckets")
    with pytest.raises(UnknownNameError, match="unknown collective `all-gether`"):
        build(ring, "all-gether", "ring")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="root 4 is no rank"):
        build(ring, "broadcast", "chain", root=4)
    with pytest.raises(InputError, match="sends to itself"):
        build(ring, "send", "direct", root=1, target=1)
    with pytest.raises(InputError, match="target 9 is no rank"):
        build(ring, "send", "direct", target=9)


@pytest.mark.parametrize("text", ["torus:4x4", "mesh:3x3", "switch:8,nvls", "switch:4/clos:3",
                                  "dragonfly:1x2x1", "full-mesh:6", "clos:8,sharp"])  # fmt: skip
def test_an_algorithm_is_listed_exactly_where_it_builds(text: str) -> None:
    network = parse_topology(text, "4GB/s,1GB/s" if "/" in text else "1GB/s", "1us")
    for collective in COLLECTIVES:
        listed = algorithms_for(network, collective)
        assert listed
        for name in ALGORITHMS:
            try:
                build(network, collective, name)
                built = True
            except InputError:
                built = False
            assert built == (name in listed), (collective, name)


def test_rows_are_counted_before_they_are_written() -> None:
    """The estimate decides what `auto` leaves out: never less than half of what is written."""
    for text in ("torus:4x4", "mesh:4x3", "switch:8,nvls", "switch:4/clos:3", "fat-tree:4"):
        network = parse_topology(text, "4GB/s,1GB/s" if "/" in text else "1GB/s", "1us")
        for collective in COLLECTIVES:
            for name in algorithms_for(network, collective):
                made = build(network, collective, name, pieces=1)
                rows = 0 if isinstance(made, OrbitSchedule) else made.rows
                assert rows <= 2 * flat_rows(name, network, collective), (text, collective, name)


# --- auto -----------------------------------------------------------------------------------------


def test_auto_takes_the_fastest_or_one_close_to_the_bound() -> None:
    network = parse_topology("torus:4x4", "100GB/s", "1us")
    for size in (1e3, 1e6, 1e9):
        quick = choose(network, "all-reduce", size)
        found = choose(network, "all-reduce", size, everything=True)
        times = [c.time_s for c in found.candidates if c.time_s is not None]
        assert times == sorted(times)
        assert len(times) == len(algorithms_for(network, "all-reduce"))
        for name in algorithms_for(network, "all-reduce"):
            made = build(network, "all-reduce", name)
            assert found.timing.time_s <= evaluate(network, made, size).time_s * (1 + 1e-9)
        least = bound(network, "all-reduce", size).time_s
        assert quick.timing.time_s <= max(found.timing.time_s, CLOSE * least) * (1 + 1e-9)


def test_auto_changes_with_size() -> None:
    """Few steps while latency counts, all links at work when bytes do."""
    network = parse_topology("torus:8x8", "100GB/s", "1us")
    small, large = (choose(network, "all-reduce", size) for size in (1e3, 1e9))
    assert small.schedule.algorithm in ("halving-doubling", "swing", "double-binary-tree")
    assert large.schedule.algorithm == "bucket"


def test_auto_says_what_it_left_out() -> None:
    network = parse_topology("torus:8x8x8", "100GB/s", "1us")
    found = choose(network, "all-reduce", 1e9)
    left = {c.algorithm: c.reason for c in found.candidates if c.time_s is None}
    assert left["swing"] == "left out: bucket is near the bound"
    found = choose(fail_links(network, 3), "all-reduce", 1e9, own=False)
    left = {c.algorithm: c.reason for c in found.candidates if c.time_s is None}
    assert "rows to write" in left["swing"]
    assert left["double-binary-tree"].startswith("left out: its busiest link alone takes")


def test_a_network_with_faults_gets_a_schedule_of_its_own() -> None:
    broken = fail_links(parse_topology("torus:4x4", "100GB/s", "1us"), 2, seed=1)
    found = choose(broken, "all-reduce", 1e9)
    assert found.schedule.algorithm == SYNTHESIZED
    check(found.schedule, broken)  # type: ignore[arg-type]
    by_name = choose(broken, "all-reduce", 1e9, own=False)
    assert found.timing.time_s < by_name.timing.time_s


def test_a_broadcast_on_a_torus_uses_all_links_of_the_root() -> None:
    """Named algorithms use two of its six links; the bound counts all."""
    torus = parse_topology("torus:4x4x4", "100GB/s", "1us")
    found = choose(torus, "broadcast", 1e9)
    assert found.schedule.algorithm == SYNTHESIZED
    check(found.schedule, torus)  # type: ignore[arg-type]
    assert found.timing.time_s < 1.05 * 1e9 / 600e9
    assert choose(torus, "broadcast", 1e9, own=False).timing.time_s > 2 * found.timing.time_s


@pytest.mark.parametrize("root", [0, 6])
def test_a_broadcast_under_rails_uses_every_card_of_the_roots_unit(root: int) -> None:
    """Four chips at 50 GB/s out of a unit bring in 200 GB/s: the cut that bounds it."""
    nest = parse_topology("switch:4/clos:3", "450GB/s,50GB/s", "1us")
    made = build(nest, "broadcast", "hierarchical", pieces=64, root=root)
    check(made, nest)  # type: ignore[arg-type]
    least = bound(nest, "broadcast", 1e9, root=root)
    assert least.time_s == pytest.approx(1e9 / 200e9)
    assert evaluate(nest, made, 1e9).time_s < 1.1 * least.time_s


def test_following_every_message_times_what_the_quick_evaluators_chose() -> None:
    broken = fail_links(parse_topology("ring:5", "100GB/s", "1us"), 1)
    quick = choose(broken, "all-reduce", 1e5, "bucket")
    followed = choose(broken, "all-reduce", 1e5, "bucket", how="events")
    assert followed.timing.evaluator == "events"
    assert followed.timing.time_s == pytest.approx(quick.timing.time_s)
    assert followed.pieces == quick.pieces


def test_a_torus_with_a_failed_link_still_runs_every_algorithm() -> None:
    broken = fail_links(parse_topology("torus:4x4", "100GB/s", "1us"), 1, seed=3)
    whole = parse_topology("torus:4x4", "100GB/s", "1us")
    for name in algorithms_for(broken, "all-reduce"):
        made = build(broken, "all-reduce", name)
        slower = evaluate(broken, made, 1e9).time_s
        assert slower >= evaluate(whole, made, 1e9).time_s * (1 - 1e-9)
