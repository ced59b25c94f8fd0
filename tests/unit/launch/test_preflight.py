"""Preflight without a fabric: rounds, noise, many chips in virtual time, files of topologies."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from virtual_ranks import Fabric, preflight_of

from weftline.errors import InputError
from weftline.launch.preflight.discover import discover
from weftline.launch.preflight.judge import judge
from weftline.launch.preflight.noise import chance, slow_ones
from weftline.launch.preflight.rounds import disjoint, rounds_of, turns_of
from weftline.launch.preflight.topology import places_in, topology_findings
from weftline.launch.preflight.transport import TorchTransport

DATA = Path(__file__).parents[1] / "data" / "network"


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


# --- many chips in virtual time ------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.4], ids=["quiet", "usual", "loud"])
def test_sound_clusters_have_no_findings_however_loud(noise: float) -> None:
    for seed in range(3):
        reports, _ = preflight_of(Fabric(32, noise=noise, seed=seed))
        verdict = judge(reports, None, None, against_plan=False)
        assert verdict.findings == ()
        assert verdict.slowdown == 1.0


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.4], ids=["quiet", "usual", "loud"])
def test_a_bad_link_a_bad_nic_and_a_slow_chip_are_named(noise: float) -> None:
    """Among ranks that do not all meet: the pair is one that is measured."""
    fabric = Fabric(32, noise=noise, slow={(3, 11): 0.15}, nic={17: 0.2}, chip={29: 0.4}, seed=1)
    reports, _ = preflight_of(fabric)
    found = judge(reports, None, None, against_plan=False).findings
    assert {(f.kind, f.ranks) for f in found} == {
        ("slow-link", (3, 11)), ("slow-nic", (17,)), ("slow-rank", (29,))}  # fmt: skip


@pytest.mark.slow
def test_a_thousand_chips_are_measured_within_a_minute() -> None:
    """Virtual time of the code itself, three faults in it, groups of four axes made and timed."""
    fabric = Fabric(1000, slow={(3, 259): 0.2}, nic={501: 0.25}, chip={995: 0.7}, seed=1)
    reports, seconds = preflight_of(fabric, {axis: [] for axis in ("tp", "cp", "dp", "pp")})
    assert seconds < 60, reports[0]["took_s"]
    found = judge(reports, None, None, against_plan=False).findings
    assert {(f.kind, f.ranks) for f in found} == {
        ("slow-link", (3, 259)), ("slow-nic", (501,)), ("slow-rank", (995,))}  # fmt: skip


# --- slower, or only held up ----------------------------------------------------------------------


def test_the_chance_is_that_of_drawing_the_lowest() -> None:
    """Counted: of all ways to give out the samples, those that leave one member so low."""
    own, others = [1.0, 2.0, 4.0], [3.0, 5.0, 6.0, 7.0]
    ways = [set(some) for some in itertools.combinations(range(7), 3)]
    as_low = sum(max(some) <= 3 for some in ways)  # its best is the fourth lowest of all
    assert chance(own, others) == pytest.approx(as_low / len(ways))
    assert chance([], others) == chance(own, []) == 1.0


def test_sound_members_are_seldom_called_slow() -> None:
    """Heavy noise, all equal: at most the promised share is named, over 4,000 questions."""
    rng = random.Random(5)
    named = 0
    for _ in range(1000):
        drawn = {n: [rng.paretovariate(1.2) ** -1 for _ in range(8)] for n in range(4)}
        named += len(slow_ones(drawn, 1.25)[0])
    assert named <= 4  # 2 expected at the most


# --- what is there, by its own files --------------------------------------------------------------


def host_facts(name: str, **more: Any) -> dict[str, Any]:
    return {"facts": {"host": name, "names": [name], "rdma": {}, "topology": "", **more}}


def planned(per_host: int, domain: int) -> tuple[Any, dict[str, Any]]:
    """Eight chips on hosts of ``per_host``, racks of ``domain`` hosts, 450 and 50 GB/s."""
    level = SimpleNamespace(name="NVLink", size=per_host * domain, bandwidth_bytes_per_s=450e9)
    out = SimpleNamespace(name="scale-out", size=8, bandwidth_bytes_per_s=50e9)
    plan = SimpleNamespace(layout=SimpleNamespace(chips=8), cluster=SimpleNamespace(
        chips_per_host=per_host, chips=8, levels=(level, out)))  # fmt: skip
    raw = {"layout": {"tp": 8, "cp": 1, "dp": 1, "pp": 1},
           "cluster": {"chips_per_host": per_host},
           "rank_map": {"runs": [(0, 1, 8)], "tiers": ["rack", "host", "chip"],
                        "shape": [8 // per_host // domain, domain, per_host]}}  # fmt: skip
    return plan, raw


def said_of(reports: list[dict[str, Any]], per_host: int, domain: int = 1) -> list[str]:
    plan, raw = planned(per_host, domain)
    return [f.what for f in topology_findings(reports, plan, raw)]


def test_what_nccl_found_is_held_against_the_plan(tmp_path: Path) -> None:
    """NCCL's XML of two GPUs on 18 NVLinks; then one GPU with 12 of them, and a NIC at half."""
    xml = (DATA / "nccl_topo.xml").read_text()
    sound, worse = tmp_path / "sound.xml", tmp_path / "worse.xml"
    sound.write_text(xml)
    worse.write_text(xml.replace('count="18"', 'count="12"', 1))
    port = tmp_path / "sys/class/infiniband/mlx5_0/ports/1"
    port.mkdir(parents=True)
    (port / "rate").write_text("400 Gb/sec (4X NDR)\n")
    (port / "state").write_text("4: ACTIVE\n")
    facts = {name: discover(tmp_path, {"NCCL_TOPO_FILE": str(path), "WEFTLINE_HOST": name,
                                       "WEFTLINE_LOCAL_RANK": "0"})
             for name, path in (("a", sound), ("b", worse))}  # fmt: skip
    assert facts["a"]["rdma"] == {"mlx5_0": 50e9}
    for one in facts.values():
        one["rdma"] = {"mlx5_0": 50e9, "mlx5_1": 50e9}
    facts["b"]["rdma"] = {"mlx5_0": 50e9}
    reports = [{"facts": facts["a"]}] * 6 + [{"facts": facts["b"]}] * 2
    assert said_of(reports, 2) == [
        "host b: 300 GB/s from chip 0 to the others by NCCL_TOPO_FILE, the plan has 450.0 at "
        "NVLink",
        "host b: RDMA devices carry 25.0 GB/s a chip, the plan has 50.0 at scale-out",
    ]
    assert any("2 chips by NCCL_TOPO_FILE, the plan has 4 a host" in said
               for said in said_of([{"facts": facts["a"]}] * 8, 4))  # fmt: skip


def test_a_clouds_own_file_says_which_hosts_are_apart() -> None:
    """EC2's three hosts: the third stands under another leaf, the plan wants pairs together."""
    names = ["i-0a1", "i-0a3", "i-0a2", "i-0a3"]
    ranks = [name for name in names for _ in range(2)]
    places = places_in(DATA / "ec2_topology.json", [["x", name] for name in ranks])
    reports = [host_facts(name, place=places[n]) for n, name in enumerate(ranks)]
    said = said_of(reports, 2, domain=2)
    assert len(said) == 2
    assert said[0].startswith("the plan's domain 0 of 2 hosts stands in 2: nn-1")
    with pytest.raises(InputError, match="none of the job's hosts is in it: elsewhere"):
        places_in(DATA / "ec2_topology.json", [["elsewhere"]])


def test_slurm_says_it_by_variable() -> None:
    """SLURM_TOPOLOGY_ADDR: switches, then the host."""
    where = {"n0": "top.s0.n0", "n1": "top.s1.n1", "n2": "top.s1.n2", "n3": "top.s1.n3"}
    reports = [host_facts(name, topology=where[name]) for name in where for _ in range(2)]
    assert said_of(reports, 2, domain=2) == [
        "the plan's domain 0 of 2 hosts stands in 2: top.s0, top.s1"]  # fmt: skip


def test_without_gpus_the_nccl_way_is_tried_by_its_interface() -> None:
    """No GPU is here: a stand-in for torch says which device and messages are asked for."""
    calls: list[Any] = []
    world = TorchTransport.__new__(TorchTransport)
    world.rank, world.size, world.device, world._group = 0, 2, "cuda:0", None
    world._buffers = {}

    class Work:
        def wait(self, limit: Any) -> None:
            calls.append(("wait", limit.total_seconds()))

    def post(buffer: str, peer: int, group: Any) -> Work:
        assert group is None
        calls.append((buffer, peer))
        return Work()

    def zeros(size: int, dtype: str, device: str) -> str:
        calls.append((size, dtype, device))
        return "buffer"

    world._torch = SimpleNamespace(uint8="u8", zeros=zeros, cuda=SimpleNamespace(
        synchronize=lambda: calls.append("synchronize")))  # fmt: skip
    world._dist = SimpleNamespace(isend=post, irecv=post)
    world.send(1, 8)
    world.receive(1, 8)
    assert calls == [(8, "u8", "cuda:0"), ("buffer", 1), ("wait", 4.0), "synchronize",
                     ("buffer", 1), ("wait", 4.0), "synchronize"]  # fmt: skip
