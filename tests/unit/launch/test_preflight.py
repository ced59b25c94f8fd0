"""Preflight without a fabric: its rounds, its verdict on a simulated thousand chips, its budget."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from weftline.launch.preflight import measure
from weftline.launch.preflight.judge import judge, suspects
from weftline.launch.preflight.rounds import disjoint, rounds_of, turns_of


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 8, 9, 16, 23, 64, 100, 1000])
def test_rounds_are_disjoint_few_and_reach_everyone(ranks: int) -> None:
    rounds = rounds_of(ranks)
    for pairs in rounds:
        used = Counter(rank for pair in pairs for rank in pair)
        assert all(count == 1 for count in used.values())
        assert all(0 <= a < b < ranks for a, b in pairs)
    met = {rank for pairs in rounds for pair in pairs for rank in pair}
    assert met == (set(range(ranks)) if ranks > 1 else set())
    assert len(rounds) <= max(7, 2 * (ranks - 1).bit_length())
    if ranks <= 8:
        pairs = [pair for some in rounds for pair in some]
        assert sorted(pairs) == [(a, b) for a in range(ranks) for b in range(a + 1, ranks)]
    # Every power of two is a distance: neighbours, and the two halves of the cluster.
    distances = {b - a for pairs in rounds for a, b in pairs}
    assert {1 << k for k in range((ranks - 1).bit_length())} <= distances or ranks <= 2


@pytest.mark.parametrize("seed", range(3))
def test_pairs_measured_again_are_disjoint_and_all_there(seed: int) -> None:
    rng = random.Random(seed)
    pairs: list[tuple[int, ...]] = list({tuple(sorted(rng.sample(range(12), 2)))
                                         for _ in range(20)})  # fmt: skip
    rounds = disjoint(pairs)
    assert sorted(p for some in rounds for p in some) == sorted(pairs)
    for some in rounds:
        assert len({rank for pair in some for rank in pair}) == 2 * len(some)


def test_one_rank_of_each_host_computes_at_a_time() -> None:
    assert turns_of(["a", "a", "b", "b", "c"]) == ((0, 2, 4), (1, 3))


# --- a thousand chips, simulated ------------------------------------------------------------------

RANKS, PER_HOST = 1000, 8
NVLINK, NIC, TRIP_S = 300e9, 40e9, 20e-6


def simulated(seed: int, *, slow: dict[tuple[int, int], float] | None = None,
              nic: dict[int, float] | None = None,
              chip: dict[int, float] | None = None) -> list[dict[str, Any]]:  # fmt: skip
    """Reports of 125 hosts of 8: rates vary by 10 %, what is injected is a share of them."""
    rng = random.Random(seed)
    reports = [
        {"rank": r, "device": "cuda:0", "disk_bytes_per_s": 2e9, "disk_error": "",
         "store_error": "", "links": [], "work_per_s": 700 * rng.uniform(0.97, 1.0)
         * (chip or {}).get(r, 1.0),
         "facts": {"host": f"n{r // PER_HOST}", "interfaces": ["eth0"], "rdma": ["mlx5_0"] * 8,
                   "cores": list(range(96)), "gpus": ["H100"] * 8}}
        for r in range(RANKS)
    ]  # fmt: skip
    for pairs in rounds_of(RANKS):
        for a, b in pairs:
            base = NVLINK if a // PER_HOST == b // PER_HOST else NIC
            share = (slow or {}).get((a, b), 1.0)
            if base == NIC:
                share *= min((nic or {}).get(a, 1.0), (nic or {}).get(b, 1.0))
            there, back = (base * share * rng.uniform(0.9, 1.0) for _ in "ab")
            reports[a]["links"].append({
                "low": a, "high": b, "round_trip_s": TRIP_S, "there": there, "back": back,
                "probe": there, "offset_s": 1e-5, "lost": ""})  # fmt: skip
    return reports


@pytest.mark.parametrize("seed", range(5))
def test_a_sound_cluster_has_no_findings(seed: int) -> None:
    verdict = judge(simulated(seed), None, None, against_plan=False)
    assert verdict.findings == ()
    assert verdict.slowdown == 1.0


def test_a_bad_link_a_bad_nic_and_a_slow_chip_are_named_among_a_thousand() -> None:
    pairs = [pair for some in rounds_of(RANKS) for pair in some]
    bad = next(p for p in pairs if p[1] - p[0] == 64 and p[0] > 300)
    reports = simulated(1, slow={bad: 0.2}, nic={77: 0.25}, chip={500: 0.7})
    found = judge(reports, None, None, against_plan=False).findings
    assert {(f.kind, f.ranks) for f in found} == {
        ("slow-link", bad), ("slow-nic", (77,)), ("slow-rank", (500,))}  # fmt: skip
    again, ranks = suspects(reports, None, None)
    assert bad in again
    assert ranks == [500]


def test_a_thousand_chips_are_measured_within_a_minute() -> None:
    """Virtual time of every phase, on the slow side: a link at a tenth, suspects to the last pass.

    Rates of gloo over 100 Gb/s where NCCL's would be; the store answers 20,000 requests a second.
    """
    pair = measure.PINGS * 200e-6 + (measure.PROBE_BYTES / 1e9) + (
        2 * measure.REPEATS * measure.BULK_S)  # fmt: skip
    store = RANKS * 3 / 20_000  # two requests to meet, one to count
    links = len(rounds_of(RANKS)) * (pair + 2 * store)
    work = measure.WORK_WINDOWS * measure.WORK_S
    once = PER_HOST * (work + store)
    told = RANKS / 20_000 * 3
    again = measure.ROUNDS_AGAIN * (pair + 2 * store) + PER_HOST * (work + store) + told
    passes = 0.0
    for _ in range(measure.PASSES):
        if links + once + passes > measure.CONFIRM_UNTIL_S:
            break
        passes += measure.PAUSE_S + again
    disks = measure.REPEATS * measure.DISK_BYTES / 0.2e9 + 3 * told
    groups = 4 * 1.5  # four axes: making the groups, three all-reduces of 1 MiB
    total = links + once + passes + disks + groups
    assert links < 25
    assert total < 60, (links, once, passes, disks)
