"""Closed forms of collectives against explicit loops over ranks, links and pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from weftline.errors import InputError
from weftline.fabric import (
    all_to_all_cost,
    gather_cost,
    members_per_level,
    send_cost,
    torus_shape,
)
from weftline.spec import Level

RATES = (900e9, 50e9, 5e9)


def switched(*sizes: int) -> tuple[Level, ...]:
    """A hierarchy of switches; ``sizes`` are chips reached at each level."""
    return tuple(
        Level(name=f"l{i}", kind="switch", size=size, bandwidth_bytes_per_s=RATES[i], latency_s=0.0)
        for i, size in enumerate(sizes)
    )


def torus(*shape: int, rate: float = 600e9) -> tuple[Level, ...]:
    return (
        Level(name="t", kind="torus", size=math.prod(shape), shape=shape, latency_s=0.0,
              bandwidth_bytes_per_s=rate),
    )  # fmt: skip


def one(value: float) -> np.ndarray:
    return np.array([float(value)])


# --- where the ranks of a group lie -------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(8, 64), (4, 16, 64), (1, 32), (2, 8, 64)])
def test_members_per_level_counts_ranks_where_they_lie(sizes: tuple[int, ...]) -> None:
    """A rank's domain at a level is its index over the level's size: count them, level by level."""
    chips = sizes[-1]
    powers = [2**k for k in range(chips.bit_length())]
    for size, stride in itertools.product(powers, powers):
        if size * stride > chips:
            continue
        found = members_per_level(switched(*sizes), one(size), one(stride))
        ranks = [i * stride for i in range(size)]
        below = 1
        for level_size, members in zip(sizes, found, strict=True):
            first = [r for r in ranks if r // level_size == 0]
            assert members[0] == len({r // below for r in first}), (sizes, size, stride)
            below = level_size
        assert math.prod(float(n[0]) for n in found) == pytest.approx(size)


def test_members_per_level_multiply_to_the_size_even_where_nothing_divides() -> None:
    sizes, strides = np.meshgrid(np.arange(1.0, 25.0), np.arange(1.0, 25.0))
    fits = sizes * strides <= 96
    found = members_per_level(switched(6, 20, 96), sizes[fits], strides[fits])
    np.testing.assert_allclose(math.prod(found), sizes[fits])


def test_a_group_larger_than_the_cluster_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit 64 chips"):
        members_per_level(switched(8, 64), one(64), one(2))


# --- all-gather and reduce-scatter --------------------------------------------------------------


def gather_bytes(sizes: tuple[int, ...], ranks: list[int], nbytes: float) -> list[float]:
    """Bytes the busiest rank sends at each level of a hierarchical ring all-gather.

    Outermost level first: at each level the ranks that differ only there form a ring, and pass on
    everything they hold, chunk by chunk, until all of the ring hold the same.
    """
    held = {rank: {rank} for rank in ranks}
    chunk = nbytes / len(ranks)
    sent = [dict.fromkeys(ranks, 0.0) for _ in sizes]
    bounds = (1, *sizes)
    for level in reversed(range(len(sizes))):
        rings: dict[tuple[int, int], list[int]] = {}
        for rank in ranks:
            rings.setdefault((rank // bounds[level + 1], rank % bounds[level]), []).append(rank)
        for ring in rings.values():
            moving = {rank: set(held[rank]) for rank in ring}
            for _ in range(len(ring) - 1):
                moving = {ring[(i + 1) % len(ring)]: moving[r] for i, r in enumerate(ring)}
                for i, receiver in enumerate(ring):
                    sent[level][ring[i - 1]] += len(moving[receiver]) * chunk
                    held[receiver] |= moving[receiver]
    assert all(h == set(ranks) for h in held.values())
    return [max(level.values()) for level in sent]


@pytest.mark.parametrize("sizes", [(16,), (4, 16), (4, 16, 64), (8, 64), (2, 8, 32)])
def test_gather_cost_is_the_bytes_of_an_explicit_all_gather(sizes: tuple[int, ...]) -> None:
    powers = [2**k for k in range(sizes[-1].bit_length())]
    for size, stride in itertools.product(powers, powers):
        if size * stride > sizes[-1]:
            continue
        sent = gather_bytes(sizes, [i * stride for i in range(size)], nbytes=1.0)
        seconds = [b / rate for b, rate in zip(sent, RATES, strict=False)]
        cost = gather_cost(switched(*sizes), one(size), one(stride))
        assert cost.up_s_per_byte[0] == pytest.approx(seconds[0]), (size, stride)
        assert cost.out_s_per_byte[0] == pytest.approx(sum(seconds[1:]))


def test_gather_on_one_level_is_the_ring_bound() -> None:
    """(N-1)/N * M/B, half of nccl-tests' all-reduce factor."""
    for n in (1, 2, 3, 7, 8):
        cost = gather_cost(switched(8), one(n), one(1))
        assert cost.up_s_per_byte[0] * RATES[0] == pytest.approx((n - 1) / n)


@pytest.mark.parametrize(("size", "members"), [(8, 8), (8, 2), (8, 4), (2, 2)])
def test_full_mesh_gather_is_a_direct_exchange(size: int, members: int) -> None:
    """Every member sends its 1/n to each other over the one link between them, all at once."""
    level = Level(name="m", kind="full-mesh", size=size, bandwidth_bytes_per_s=448e9, latency_s=0.0)
    link = 448e9 / (size - 1)
    cost = gather_cost((level,), one(members), one(1))
    assert cost.up_s_per_byte[0] == pytest.approx(1 / members / link)


def test_latency_counts_the_cheaper_of_ring_and_tree() -> None:
    level = Level(name="s", kind="switch", size=64, bandwidth_bytes_per_s=1.0, latency_s=1e-6)
    found = gather_cost((level,), np.array([1.0, 2.0, 4.0, 8.0, 64.0]), np.ones(5)).latency_s
    np.testing.assert_allclose(found, np.array([0, 1, 3, 6, 12]) * 1e-6)


def test_a_gather_takes_both_sides_and_an_all_to_all_the_slower_one() -> None:
    for cost_of, combined in ((gather_cost, sum), (all_to_all_cost, max)):
        cost = cost_of(switched(8, 64), one(64), one(1))
        up, out = float(cost.up_s_per_byte[0]), float(cost.out_s_per_byte[0])
        assert cost.seconds(1e9, 0.8, 0.5)[0] == pytest.approx(
            1e9 * combined((up / 0.8, out / 0.5))
        )
    both = gather_cost(switched(8, 64), np.array([8.0, 64.0]), np.ones(2))
    taken = both.take(np.array([1]))
    assert taken.seconds(1e9, 1.0, 1.0)[0] == both.seconds(1e9, 1.0, 1.0)[1]


# --- torus --------------------------------------------------------------------------------------


def place(rank: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Coordinates of a rank; the first side varies fastest."""
    found = []
    for side in shape:
        found.append(rank % side)
        rank //= side
    return tuple(found)


def axis_rates(shape: tuple[int, ...], size: int, stride: int) -> list[float]:
    """Link rates a group sees along each axis while all groups of its kind are busy.

    Along an axis a group's members form a ring where they go all round it, else a line. Each pair
    of neighbours talks over the links between them, in both directions; a link that several groups
    cross is shared. A line moves what one direction of it moves.
    """
    chips = math.prod(shape)
    starts = [b for b in range(chips) if b // stride % size == 0]
    found = []
    for axis, side in enumerate(shape):
        load: dict[tuple[tuple[int, ...], int], int] = {}
        rate = 0
        for start in starts:
            columns: dict[tuple[int, ...], list[int]] = {}
            for i in range(size):
                at = place(start + i * stride, shape)
                columns.setdefault(at[:axis] + at[axis + 1 :], []).append(at[axis])
            for column, members in columns.items():
                members.sort()
                if len(members) < 2:
                    continue
                gap = members[1] - members[0]
                closed = len(members) * gap == side and side > 2
                rate = 2 if closed else 1
                for a, b in itertools.pairwise(
                    [*members, *([members[0] + side] if closed else [])]
                ):
                    for x in range(a, b):
                        key = (column, x % side)
                        load[key] = load.get(key, 0) + 1
        found.append(rate / max(load.values()) if load else 0.0)
    return found


SHAPES = [(4, 4), (8, 4), (16,), (4, 4, 4), (2, 4, 4), (2, 2, 2), (8, 8), (16, 4)]


def groups(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    powers = [2**k for k in range(math.prod(shape).bit_length())]
    return [(n, s) for n in powers[1:] for s in powers if n * s <= math.prod(shape)]


@pytest.mark.parametrize("shape", SHAPES)
def test_torus_gather_uses_the_links_a_group_owns(shape: tuple[int, ...]) -> None:
    link = 600e9 / (2 * len(shape))
    for size, stride in groups(shape):
        expected = sum(axis_rates(shape, size, stride))
        cost = gather_cost(torus(*shape), one(size), one(stride))
        links = (size - 1) / size / cost.up_s_per_byte[0] / link
        assert links == pytest.approx(expected), (shape, size, stride)


def all_to_all_load(shape: tuple[int, ...], size: int) -> float:
    """Load of the busiest link, one rank's bytes = 1, contiguous groups, axis after axis.

    A route takes the shorter way round an axis that the group closes, half of the bytes each way
    where both are as long.
    """
    load: dict[tuple[tuple[int, ...], int, int], float] = {}

    def step(at: list[int], axis: int, direction: int, hops: int, weight: float) -> None:
        x = at[axis]
        for _ in range(hops):
            here = (*at[:axis], x, *at[axis + 1 :])
            load[here, axis, direction] = load.get((here, axis, direction), 0.0) + weight
            x = (x + direction) % shape[axis]

    for a, b in itertools.product(range(size), repeat=2):
        at, goal = list(place(a, shape)), place(b, shape)
        for axis, side in enumerate(shape):
            inner = math.prod(shape[:axis])
            closed = side > 2 and size >= inner * side
            ahead = (goal[axis] - at[axis]) % side
            if not closed:
                step(at, axis, 1 if goal[axis] > at[axis] else -1, abs(goal[axis] - at[axis]),
                     1 / size)  # fmt: skip
            elif 2 * ahead == side:
                step(at, axis, 1, ahead, 0.5 / size)
                step(at, axis, -1, ahead, 0.5 / size)
            else:
                step(at, axis, *((1, ahead) if 2 * ahead < side else (-1, side - ahead)), 1 / size)
            at[axis] = goal[axis]
    return max(load.values())


@pytest.mark.parametrize("shape", [(4, 4), (8, 4), (16,), (4, 4, 4), (2, 2, 2), (8, 8)])
def test_torus_all_to_all_is_the_busiest_link(shape: tuple[int, ...]) -> None:
    link = 600e9 / (2 * len(shape))
    for size in (2**k for k in range(1, math.prod(shape).bit_length())):
        cost = all_to_all_cost(torus(*shape), one(size), one(1))
        found = cost.up_s_per_byte[0] * link
        assert found == pytest.approx(all_to_all_load(shape, size)), (shape, size)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("multiple", [1, 4])
def test_torus_shape_is_exact_and_most_cubic(dims: int, multiple: int) -> None:
    for chips in [*range(1, 65), 96, 128, 192, 256, 512, 1024]:
        shape = torus_shape(chips, dims, multiple)
        assert math.prod(shape) == chips
        assert len(shape) == dims
        sides = [d for d in range(1, chips + 1) if chips % d == 0]
        every = [s for s in itertools.combinations_with_replacement(sides, dims)
                 if math.prod(s) == chips]  # fmt: skip
        whole = [s for s in every if all(side % multiple == 0 for side in s)]
        best = min(max(s) / min(s) for s in whole or every)
        assert max(shape) / min(shape) == best, (chips, dims, multiple, shape)


@pytest.mark.parametrize(
    ("chips", "shape"),
    [(4, (1, 2, 2)), (8, (2, 2, 2)), (16, (2, 2, 4)), (64, (4, 4, 4)), (128, (4, 4, 8)),
     (512, (8, 8, 8)), (8960, (16, 20, 28))],
)  # fmt: skip
def test_torus_shapes_are_those_tpu_slices_have(chips: int, shape: tuple[int, ...]) -> None:
    assert torus_shape(chips, 3, 4) == shape


# --- all-to-all and sends -----------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(16,), (4, 16), (4, 16, 64), (8, 64)])
def test_all_to_all_counts_the_pairs_that_leave_a_domain(sizes: tuple[int, ...]) -> None:
    """A level carries what leaves the level below: count the members outside that domain."""
    powers = [2**k for k in range(sizes[-1].bit_length())]
    for size, stride in itertools.product(powers, powers):
        if size * stride > sizes[-1]:
            continue
        ranks = [i * stride for i in range(size)]
        seconds = []
        for below, here, rate in zip((1, *sizes), sizes, RATES, strict=False):
            beside = {r // below for r in ranks if r // here == 0}
            leaving = sum(r // below != 0 for r in ranks) if len(beside) > 1 else 0
            seconds.append(leaving / size / rate)
        cost = all_to_all_cost(switched(*sizes), one(size), one(stride))
        assert cost.up_s_per_byte[0] == pytest.approx(seconds[0]), (size, stride)
        assert cost.out_s_per_byte[0] == pytest.approx(max(seconds[1:], default=0.0))


def test_send_takes_the_innermost_level_that_reaches() -> None:
    levels = switched(8, 64)
    cost = send_cost(levels, np.array([1.0, 7.0, 8.0, 63.0]))
    np.testing.assert_allclose(cost.up_s_per_byte, np.array([1, 1, 0, 0]) / RATES[0])
    np.testing.assert_allclose(cost.out_s_per_byte, np.array([0, 0, 1, 1]) / RATES[1])


def test_send_on_a_torus_has_one_link() -> None:
    cost = send_cost(torus(4, 4, 4), one(1))
    assert cost.up_s_per_byte[0] == pytest.approx(6 / 600e9)
