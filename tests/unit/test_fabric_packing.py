"""Placement behind switches: never worse than rank order, racks and segments kept, spares named."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from weftline.cli.main import run
from weftline.errors import InputError
from weftline.fabric.parse import parse_topology
from weftline.fabric.placement import AxisTraffic, Tier, Tiers, check_map, pack, tiers_of

NODES = Tiers(name="64", chips_per_host=8, tiers=(
    Tier(name="host", size=8, bytes_per_s=450e9, latency_s=3.4e-6),
    Tier(name="network", size=64, bytes_per_s=50e9, latency_s=14e-6)))  # fmt: skip
RACKS = Tiers(name="144", chips_per_host=4, tiers=(
    Tier(name="host", size=4, bytes_per_s=900e9, latency_s=3.4e-6),
    Tier(name="rack", size=72, bytes_per_s=900e9, latency_s=3.4e-6),
    Tier(name="network", size=144, bytes_per_s=100e9, latency_s=14e-6)))  # fmt: skip


def _traffic(*entries: tuple[str, str, float, float]) -> list[AxisTraffic]:
    return [AxisTraffic(axes=tuple(a.split("+")), collective=c, size_bytes=s, count=n)  # type: ignore[arg-type]
            for a, c, s, n in entries]  # fmt: skip


def _naive_s(chips: list[int], sizes: dict[str, int], tiers: Tiers, entry: AxisTraffic) -> float:
    """The cost of one all-reduce entry of a map, group by group, written a second time."""
    names = list(sizes)
    worst = 0.0
    groups: dict[Any, list[int]] = {}
    for rank, chip in enumerate(chips):
        index = np.unravel_index(rank, tuple(sizes.values()))
        key = tuple(int(i) for n, i in zip(names, index, strict=True) if n not in entry.axes)
        groups.setdefault(key, []).append(chip)
    for group in groups.values():
        seconds, inner = 0.0, 1
        below = len(group)
        for tier in tiers.tiers:
            units: dict[int, int] = {}
            for chip in group:
                units[chip // tier.size] = units.get(chip // tier.size, 0) + 1
            n = below / len(units)
            if n > 1:
                seconds += 2 * ((n - 1) / n / inner * entry.size_bytes / tier.bytes_per_s
                                + tier.latency_s * min(n - 1, 2 * math.log2(n)))  # fmt: skip
            inner, below = min(units.values()), len(units)
        worst = max(worst, seconds)
    return worst * entry.count


def _pair(rng: random.Random) -> tuple[dict[str, int], Tiers, list[AxisTraffic]]:
    host = rng.choice((2, 4, 8))
    rack = host * rng.choice((1, 2, 3, 9))
    whole = rack * rng.choice((2, 4, 6))
    fast = rng.choice((100e9, 450e9, 900e9))
    tiers = [Tier(name="host", size=host, bytes_per_s=fast, latency_s=3e-6)]
    if rack > host:
        tiers.append(Tier(name="rack", size=rack, bytes_per_s=rng.choice((fast, 100e9)),
                          latency_s=5e-6))  # fmt: skip
    tiers.append(Tier(name="network", size=whole, bytes_per_s=rng.choice((12.5e9, 50e9)),
                      latency_s=14e-6))  # fmt: skip
    made = Tiers(name="random", tiers=tuple(tiers), chips_per_host=host)
    names = ("pp", "dp", "tp")[: rng.choice((2, 3))]
    sizes = dict.fromkeys(names, 1)
    room = whole
    while room > 1 and rng.random() < 0.9:
        factor = rng.choice((2, 2, 3))
        if math.prod(sizes.values()) * factor > whole:
            break
        sizes[rng.choice(names)] *= factor
    traffic = _traffic(*((n, "all-reduce", 10 ** rng.uniform(5, 9), rng.randint(1, 50))
                         for n in names))  # fmt: skip
    return sizes, made, traffic


def _never_worse(pairs: int) -> list[float]:
    rng = random.Random(20261130)
    gains = []
    for _ in range(pairs):
        sizes, tiers, traffic = _pair(rng)
        found = pack(sizes, tiers, traffic)
        check_map(found.rank_to_chip, tiers.chips)
        chips = found.rank_to_chip.tolist()
        cost = sum(_naive_s(chips, sizes, tiers, t) for t in traffic)
        assert found.cost_s == pytest.approx(cost, rel=1e-9)
        ranks = math.prod(sizes.values())
        plain = sum(_naive_s(list(range(ranks)), sizes, tiers, t) for t in traffic)
        assert cost <= plain * (1 + 1e-9)
        assert cost <= found.habits["framework order"] * (1 + 1e-9)
        if cost:
            gains.append(plain / cost)
    return gains


def test_never_worse_than_rank_order_or_the_frameworks_on_random_pairs() -> None:
    gains = _never_worse(40)
    assert max(gains) > 1.5


@pytest.mark.slow
def test_never_worse_on_two_hundred_random_pairs() -> None:
    gains = _never_worse(200)
    assert np.median(gains) >= 1.0


def test_tensor_parallelism_lies_inside_nodes_wherever_the_job_names_it() -> None:
    """Case n10: the gain over tp across nodes is the ratio of what each takes."""
    traffic = _traffic(("tp", "all-reduce", 64e6, 128), ("dp", "all-reduce", 2e9, 1))
    for sizes in ({"tp": 8, "dp": 8}, {"dp": 8, "tp": 8}):
        found = pack(sizes, NODES, traffic)
        assert found.order[-1] == "tp"
        assert found.shares["tp"] == "host"
    assert found.habits["rank order"] == pytest.approx(found.cost_s)
    across = pack({"tp": 8, "dp": 8}, NODES, traffic)
    assert across.habits["rank order"] / across.cost_s > 2


def test_groups_stay_inside_racks_of_sixteen_usable_trays_and_spares_are_named() -> None:
    """Case n9: 24 nodes of GB200 on two racks of 18 trays, of which 16 may be taken."""
    traffic = _traffic(("tp", "all-reduce", 64e6, 128), ("dp", "all-reduce", 2e9, 1))
    found = pack({"dp": 6, "tp": 16}, replace(RACKS, usable_hosts=16), traffic)
    groups = found.rank_to_chip.reshape(6, 16)
    assert (groups // 72 == groups[:, :1] // 72).all()
    # No rank on the trays that are kept free.
    assert (found.rank_to_chip % 72 // 4 < 16).all()
    assert {c // 72 for c in found.spares} == {0, 1}
    with pytest.raises(InputError, match="144 ranks on 128 usable chips"):
        pack({"dp": 9, "tp": 16}, replace(RACKS, usable_hosts=16), traffic)


def test_segments_and_axes_that_belong_together_are_kept() -> None:
    """Slurm's --segment, Kueue's podset slices: whole groups of hosts in one rack, or a refusal."""
    traffic = _traffic(("dp", "all-reduce", 1e9, 1))
    tiers = replace(RACKS, usable_hosts=16)
    found = pack({"dp": 96}, tiers, traffic, segment_hosts=12)
    hosts = found.rank_to_chip.reshape(-1, 48) // 72
    assert (hosts == hosts[:, :1]).all()
    with pytest.raises(InputError, match="do not make segments of 10 hosts"):
        pack({"dp": 96}, tiers, traffic, segment_hosts=10)
    with pytest.raises(InputError, match="no placement keeps 96 ranks in one rack"):
        pack({"dp": 96}, tiers, traffic, together=("dp",))
    with pytest.raises(InputError, match="no axis `ep`"):
        pack({"dp": 96}, tiers, traffic, together=("ep",))


def test_tiers_are_read_from_the_links() -> None:
    clos = tiers_of(parse_topology("h100-clos:64"))
    assert [(t.name, t.size, t.bytes_per_s) for t in clos.tiers] == [
        ("host", 8, 450e9), ("network", 64, 50e9)]  # fmt: skip
    assert clos.rails
    thin = tiers_of(parse_topology("clos:64,leaf=16,oversubscription=4", link="50GB/s",
                                   latency="1us"), 4)  # fmt: skip
    assert [t.size for t in thin.tiers] == [4, 16, 64]
    assert [t.bytes_per_s for t in thin.tiers] == [50e9, 50e9, 12.5e9]
    racks = tiers_of(parse_topology("gb200-clos:144"), 4)
    assert [(t.name, t.size) for t in racks.tiers] == [("host", 4), ("rack", 72), ("network", 144)]
    assert racks.unit.name == "rack"


def test_the_command_places_on_a_clos(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "placement", "--on", "gb200-clos:144", "--usable", "16", "--axes",
             "dp=6,tp=16", "--traffic", "tp:all-reduce:64MB:128", "dp:all-reduce:2GB"]  # fmt: skip
    assert run([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["shares"]["tp"] == "rack"
    assert said["gain"] > 1
    assert any(name.startswith("rack 0 host") for name in said["spare_hosts"])
    assert run(words) == 0
    assert "rank order takes" in capsys.readouterr().out
