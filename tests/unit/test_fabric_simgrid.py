"""SimGrid platforms: written here in the manual's form, and beside SimGrid itself where it is."""

from __future__ import annotations

import heapq
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from weftline.errors import InputError
from weftline.fabric import Topology
from weftline.fabric.formats.files import import_fabric
from weftline.fabric.formats.networks import simgrid

SUPPORT = Path(__file__).parents[1] / "support" / "simgrid_routes.py"
HEAD = """<?xml version="1.0"?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
"""
CLUSTER = 'prefix="n" suffix="" speed="1Gf" bw="10Gbps" lat="2us"'


def platform(body: str) -> str:
    return f"{HEAD}{body}\n</platform>"


def cluster(radical: str, more: str = "", name: str = "c") -> str:
    return f'<cluster id="{name}" radical="{radical}" {CLUSTER} {more}/>'


FLAT = platform(cluster("0-3,8"))
BACKBONE = platform(cluster("0-3", 'bb_bw="1.5GBps" bb_lat="5us"'))
TORUS = platform(cluster("0-23", 'topology="TORUS" topo_parameters="4,3,2"'))
FAT = platform(cluster("0-15", 'topology="FAT_TREE" topo_parameters="2;4,4;1,2;1,2"'))
DRAGON = platform(cluster("0-23", 'topology="DRAGONFLY" topo_parameters="2,2;2,3;3,1;2"'))
ROUTES = platform("""<zone id="z" routing="Full">
  <host id="a" speed="1Gf"/><host id="b" speed="1Gf"/><host id="c" speed="1Gf"/>
  <router id="r"/>
  <link id="la" bandwidth="1GBps" latency="1us"/><link id="lb" bandwidth="2GBps" latency="2us"/>
  <link id="lc" bandwidth="4GBps" latency="0"/><link id="self" bandwidth="9GBps" latency="0"/>
  <route src="a" dst="a"><link_ctn id="self"/></route>
  <route src="a" dst="r"><link_ctn id="la"/></route>
  <route src="b" dst="r"><link_ctn id="lb"/></route>
  <route src="a" dst="b"><link_ctn id="la"/><link_ctn id="lb"/></route>
  <route src="a" dst="c"><link_ctn id="la"/><link_ctn id="lc"/></route>
  <route src="b" dst="c"><link_ctn id="lb"/><link_ctn id="lc"/></route>
</zone>""")
UNNAMED = (
    ROUTES.replace('<router id="r"/>', "")
    .replace('<route src="a" dst="r"><link_ctn id="la"/></route>', "")
    .replace('<route src="b" dst="r"><link_ctn id="lb"/></route>', "")
)
ZONES = platform(f"""<zone id="z" routing="Full">
  {cluster("0-3", 'bb_bw="1.5GBps" bb_lat="5us"', "one")}
  {cluster("4-7", "", "two")}{cluster("8-9", "", "three")}
  <link id="between" bandwidth="1GBps" latency="9us"/>
  <zoneRoute src="one" dst="two" gw_src="none_router" gw_dst="ntwo_router">
    <link_ctn id="between"/></zoneRoute>
  <zoneRoute src="one" dst="three" gw_src="none_router" gw_dst="nthree_router">
    <link_ctn id="between"/></zoneRoute>
  <zoneRoute src="two" dst="three" gw_src="ntwo_router" gw_dst="nthree_router">
    <link_ctn id="between"/></zoneRoute>
</zone>""")
FILES = {"flat": FLAT, "backbone": BACKBONE, "torus": TORUS, "fat tree": FAT, "dragonfly": DRAGON,
         "routes": ROUTES, "unnamed": UNNAMED, "zones": ZONES}  # fmt: skip


def ways(topology: Topology, start: int) -> dict[int, tuple[int, float, float]]:
    """Node -> links, seconds and slowest rate of the way of fewest links to it."""
    out: dict[int, list[tuple[int, float, float]]] = {}
    for a, b, rate, delay in zip(
        topology.source.tolist(), topology.destination.tolist(),
        topology.bandwidth_bytes_per_s.tolist(), topology.latency_s.tolist(), strict=True,
    ):  # fmt: skip
        out.setdefault(a, []).append((b, rate, delay))
    done: dict[int, tuple[int, float, float]] = {}
    front = [(0, 0.0, -1e30, start)]
    while front:
        hops, delay, slowest, node = heapq.heappop(front)
        if node in done:
            continue
        done[node] = (hops, delay, -slowest)
        if node == start or node >= topology.ranks or topology.chips_forward:
            for there, rate, more in out.get(node, ()):
                heapq.heappush(front, (hops + 1, delay + more, max(slowest, -rate), there))
    return done


def test_a_route_is_its_slowest_link_and_the_sum_of_their_latencies() -> None:
    for text, switches in ((ROUTES, 1), (UNNAMED, 1)):
        found = simgrid.read(text, "f")
        assert (found.ranks, found.switches) == (3, switches)
        assert ways(found, 0)[2] == (2, pytest.approx(1e-6), 1e9)
        assert ways(found, 1)[2] == (2, pytest.approx(2e-6), 2e9)
        assert "3 links" in found.basis["shared"]


def test_what_passes_a_backbone_crosses_it_once() -> None:
    found = simgrid.read(BACKBONE, "f")
    assert ways(found, 0)[3] == (3, pytest.approx(9e-6), 1.25e9)
    into = found.destination.tolist()
    assert sum(found.bandwidth_bytes_per_s[into.index(node)] == 1.5e9 for node in (4, 5)) == 1
    assert simgrid.read(FLAT, "f").labels == ("n0", "n1", "n2", "n3", "n8", "nc_router")
    # Three clusters over one link: 2 us, the backbone's 5, the link's 9, 2 us.
    assert ways(simgrid.read(ZONES, "f"), 0)[4][1:] == (pytest.approx(18e-6), 1e9)


def test_a_torus_is_one_with_the_first_side_fastest() -> None:
    found = simgrid.read(TORUS, "f")
    assert found.grid is not None
    assert found.grid.shape == (2, 3, 4)
    assert [ways(found, 0)[i][0] for i in (1, 2, 3, 4, 8, 12, 18)] == [1, 2, 1, 1, 1, 1, 4]
    # Two hosts on an axis have two cables between them.
    assert ways(found, 0)[12][2] == 2 * ways(found, 0)[1][2] == 2.5e9


def test_a_fat_tree_and_a_dragonfly_have_the_cables_they_mean() -> None:
    fat = simgrid.read(FAT, "f")
    assert (fat.ranks, fat.switches) == (16, 6)
    # 16 to the leaves, each of 4 leaves to both cores by two cables.
    assert fat.bandwidth_bytes_per_s.sum() == pytest.approx(2 * (16 + 4 * 2 * 2) * 1.25e9)
    dragon = simgrid.read(DRAGON, "f")
    assert (dragon.ranks, dragon.switches) == (24, 12)
    # 24 hosts, 4 chassis of 3 green pairs, 2 groups of 3 black pairs of 3 cables, a blue pair of 2.
    assert dragon.bandwidth_bytes_per_s.sum() == pytest.approx(2 * (24 + 12 + 18 + 2) * 1.25e9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ROUTES.replace('<link_ctn id="lc"/></route>', '<link_ctn id="lx"/></route>'),
         "f:13: unknown link `lx`"),
        (ROUTES.replace('dst="b"', 'dst="q"', 1), "f:12: .*`q`, which is no host"),
        (platform('<zone id="z" routing="Vivaldi"/>'), "f:4: unknown routing `Vivaldi`"),
        (FAT.replace("0-15", "0-14"), "f:4: 15 hosts where topo_parameters mean 16"),
        (FAT.replace("2;4,4", "2;4"), "f:4: topo_parameters of unequal length"),
        (FLAT.replace("10Gbps", "10Gb/h"), "f:4"),
        (FLAT.replace('<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">',
                      '<!DOCTYPE platform [<!ENTITY x "y">]>'), "f:2: a document type"),
        (UNNAMED.replace('<route src="b" dst="c"><link_ctn id="lb"/>',
                         '<route src="b" dst="c"><link_ctn id="la"/>'), "no path of cables"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        simgrid.read(text, "f")


def test_the_importer_knows_it(tmp_path: Path) -> None:
    path = tmp_path / "p.xml"
    path.write_text(FAT)
    found = import_fabric(path)
    assert found.format == "simgrid"
    assert found.ends_are_hosts


def _pythons() -> Iterator[str]:
    for name in ("python3", "/usr/bin/python3"):
        path = shutil.which(name)
        if (
            path
            and not subprocess.run(
                [path, "-c", "import simgrid"], capture_output=True, check=False
            ).returncode
        ):
            yield path


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_simgrid_routes_as_fast_and_as_far(name: str, tmp_path: Path) -> None:
    python = next(_pythons(), None)
    if python is None:
        pytest.skip("no Python has SimGrid: apt-get install python3-simgrid")
    path = tmp_path / "p.xml"
    path.write_text(FILES[name])
    run = subprocess.run([python, str(SUPPORT), str(path)], capture_output=True, text=True,
                         check=True)  # fmt: skip
    rows = json.loads(run.stdout[run.stdout.index("[") :])
    found = simgrid.read(FILES[name], "f")
    labels = found.labels or tuple(f"n{i}" for i in range(found.ranks))
    number = {label: i for i, label in enumerate(labels)}
    assert len(rows) >= 6
    for a, b, rate, delay in rows:
        _, seconds, slowest = ways(found, number[a])[number[b]]
        # Inside a group SimGrid's dragonfly routes as from its first chassis: a cable more or less.
        spare = 2e-6 if name == "dragonfly" else 0.0
        assert abs(seconds - delay) < spare + 1e-12, (a, b)
        # Two cables between two hosts count together here; a route takes one of them.
        assert slowest in (pytest.approx(rate), pytest.approx(2 * rate)), (a, b)
