"""Groups on a torus against explicit loops over ranks, links and pairs; groups on other levels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from weftline.errors import InputError
from weftline.fabric import cluster_of, domain_of, group_times, torus_shape
from weftline.fabric.predictor.constants import Constants
from weftline.fabric.predictor.direct import direct_ways
from weftline.fabric.predictor.machines import Machine
from weftline.fabric.predictor.networks import machine_on
from weftline.fabric.torus import axes_of

LINK = 100e9


def slice_on(shape: tuple[int, ...], size: int) -> Machine:
    """``size`` ranks, beside each other, of a torus whose axes all close."""
    axes = axes_of(shape, [True] * len(shape), size, 1)
    own = tuple(axis.links * LINK for axis in axes)
    return Machine(
        chip="tpu-v4", kind="torus", generation="google", ranks=size, domains=1,
        wire_bytes_per_s=sum(own), ring_bytes_per_s=sum(own), axes_bytes_per_s=own,
        shape=tuple(axis.ranks for axis in axes),
        is_line=any(axis.ranks > 2 and not axis.closed for axis in axes),
    )  # fmt: skip


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
    for size, stride in groups(shape):
        expected = axis_rates(shape, size, stride)
        found = [axis.links for axis in axes_of(shape, [True] * len(shape), size, stride)]
        assert found == pytest.approx(expected), (shape, size, stride)


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
    """What the predictor moves over its busiest axis, at link rate and without latency."""
    for size in (2**k for k in range(1, math.prod(shape).bit_length())):
        made = slice_on(shape, size)
        (way,) = direct_ways(Constants(line_share=1.0), made, "all-to-all")
        found = LINK / way.bytes_per_s
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


# --- where the ranks of a group lie -------------------------------------------------------------


@pytest.mark.parametrize("chip", ["h100-sxm", "gb200-nvl72", "mi300x", "l4", "tpu-v5p"])
def test_a_group_lies_in_as_many_domains_as_its_ranks_do(chip: str) -> None:
    cluster = cluster_of(chip, 288)
    domain = domain_of(cluster)
    for size, stride in itertools.product((2, 4, 8, 16, 36, 72), (1, 2, 4, 8, 72)):
        if size * stride > cluster.chips:
            continue
        # Where strides do not divide a domain the fewest of its ranks that share one count.
        inside = max(1, min(size, domain // stride))
        made = machine_on(cluster, size, stride)
        assert (made.ranks, made.domains) == (size, math.ceil(size / inside)), (size, stride)


def test_cards_without_links_meet_over_the_bus_of_their_host() -> None:
    cluster = cluster_of("l4", 16)
    assert machine_on(cluster, 8).kind == "pcie"
    assert machine_on(cluster, 8).network is None
    assert machine_on(cluster, 16).domains == 2


def test_a_slice_of_a_cluster_is_the_slice_that_is_named() -> None:
    for chip, chips in (("tpu-v5p", 64), ("tpu-v5e", 256), ("trainium2", 64), ("tpu-v6e", 8)):
        from weftline.catalog import accelerator
        from weftline.fabric import machine_from

        named = machine_from(accelerator(chip), chips, chips)
        found = machine_on(cluster_of(chip, chips), chips)
        assert found.wire_bytes_per_s == pytest.approx(named.wire_bytes_per_s), chip
        assert (sorted(found.shape), found.is_line) == (sorted(named.shape), named.is_line), chip


def test_a_group_larger_than_the_cluster_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit 64 chips"):
        machine_on(cluster_of("h100-sxm", 64), 64, 2)


def test_groups_behind_switches_are_those_of_a_larger_cluster() -> None:
    small, large = (group_times(cluster_of("h100-sxm", chips)) for chips in (64, 1024))
    assert small is large
    tori = [group_times(cluster_of("tpu-v5p", chips)) for chips in (64, 1024)]
    assert tori[0] is not tori[1]


def test_a_send_on_a_torus_has_one_link() -> None:
    cluster = cluster_of("tpu-v5p", 64)
    made = machine_on(cluster, 2)
    assert made.wire_bytes_per_s == pytest.approx(cluster.levels[0].bandwidth_bytes_per_s / 6)


def test_groups_are_what_predict_says_and_one_rank_costs_nothing() -> None:
    times = group_times(cluster_of("h100-sxm", 64))
    found = times.groups(
        "all-gather", np.array([1.0, 8.0, 64.0, 8.0]), np.array([1.0, 1.0, 1.0, 8.0])
    )
    seconds = found.seconds(2.0**20)
    assert seconds[0] == 0
    assert 0 < seconds[1] < seconds[2]
    assert list(found.several) == [0, 0, 1, 1]
    assert found.take(np.array([2])).seconds(2.0**20) == seconds[2:3]
