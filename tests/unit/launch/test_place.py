"""Placement: the plan's map comes out whatever the launcher numbers, or one line says why not."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from placed import MAP, SAID, small_plan

from weftline.launch import place as place_module_function
from weftline.launch.place import Facts, PlacementError, facts_of, slots_of

SOURCE = Path(sys.modules[place_module_function.__module__].__file__ or "")
RANK = Path(__file__).parents[2] / "support" / "placed.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with a copy of place.py, a plan and a folder for what the ranks say."""
    shutil.copy(SOURCE, tmp_path / "weftline_place.py")
    (tmp_path / "out").mkdir()
    small_plan(tmp_path / "plan.json")
    return tmp_path


def start(
    job: Path, processes: list[dict[str, Any]], *, wait_before: int = -1, **env: str
) -> list[tuple[int, str, float]]:
    """Run one process a set of facts; (exit code, last line of stderr, seconds) of each."""
    port = free_port()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WEFTLINE", "SLURM", "OMPI"))}
    shared = {**clean, "WEFTLINE_RENDEZVOUS": f"127.0.0.1:{port}", **env}
    began = time.monotonic()
    running = []
    for number, facts in enumerate(processes):
        if number == wait_before:
            time.sleep(3)
        own = {f"WEFTLINE_{k.upper()}": str(v) for k, v in facts.items() if k != "plan"}
        plan = job / facts.get("plan", "plan.json")
        command = [sys.executable, "-S", "-E", str(RANK), str(job), str(plan), str(job / "out")]
        running.append(subprocess.Popen(command, env={**shared, **own}, text=True,
                                        stderr=subprocess.PIPE))  # fmt: skip
    found = []
    for process in running:
        said = process.communicate(timeout=30)[1]
        found.append((process.returncode, said.strip(), time.monotonic() - began))
    return found


def said(job: Path, restart: int = 0) -> dict[tuple[str, int], int]:
    """(host, local index) -> rank, from what every process wrote."""
    lines = [json.loads(p.read_text()) for p in (job / "out").glob(f"*.{restart}.json")]
    assert len({(line["MASTER_ADDR"], line["MASTER_PORT"]) for line in lines}) == 1
    assert all(line["WORLD_SIZE"] == str(len(MAP)) for line in lines)
    assert all(line["LOCAL_RANK"] == str(line["local"]) for line in lines)
    return {(line["host"], line["local"]): int(line["RANK"]) for line in lines}


FOUR = [
    {"host": h, "local_rank": c, "rank": 2 * i + c, "world_size": 4}
    for i, h in enumerate(("n0", "n1"))
    for c in (0, 1)
]


def test_the_planned_map_comes_out(job: Path) -> None:
    assert [code for code, _, _ in start(job, FOUR)] == [0] * 4
    assert said(job) == {(f"n{slot}", local): rank for (slot, local), rank in SAID.items()}


def test_named_hosts_are_found_in_any_order_of_the_launcher(job: Path) -> None:
    turned = [{**f, "rank": 3 - f["rank"]} for f in FOUR]
    assert {code for code, _, _ in start(job, turned, WEFTLINE_HOSTS="n1,n0")} == {0}
    names = ["n1", "n0"]
    assert said(job) == {(names[slot], local): rank for (slot, local), rank in SAID.items()}


def one_reason(found: list[tuple[int, str, float]]) -> str:
    """The line that all processes ended with, each in less than ten seconds."""
    lines = {text for _, text, _ in found}
    assert all(code == 1 for code, _, _ in found), found
    assert len(lines) == 1, lines
    assert max(seconds for _, _, seconds in found) < 10.0
    line = lines.pop()
    assert line.startswith("weftline: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("change", "env", "expected"),
    [
        pytest.param({3: {"host": "n9"}}, {"WEFTLINE_HOSTS": "n0,n1"},
                     "host n9 is not in the plan, which names n0, n1", id="wrong host"),
        pytest.param({3: None}, {"WEFTLINE_PLACE_WAIT_S": "0.7"},
                     "3 of 4 processes came in 0.7 s: host n1 has no process with local index 1, "
                     "planned as rank 2", id="missing process"),
        pytest.param({2: None, 3: None}, {"WEFTLINE_PLACE_WAIT_S": "0.7"},
                     "2 of 4 processes came in 0.7 s: the plan wants 2 hosts, 1 came: n0",
                     id="missing host"),
        pytest.param({n: {"world_size": 2} for n in range(4)}, {},
                     "the plan has 4 ranks on 2 hosts, the launcher started 2: start as many as "
                     "planned, or plan again for what there is", id="too few"),
        pytest.param({3: {"local_rank": 0}}, {},
                     "host n1 has two processes with local index 0", id="twice"),
        pytest.param({2: {"host": "n0", "local_rank": 2}, 3: {"host": "n0", "local_rank": 3}}, {},
                     "the plan wants 2 hosts, 1 came: n0", id="all on one host"),
        pytest.param({}, {"WEFTLINE_HOSTS": "n0,n1,n2"},
                     "3 host names for the 2 hosts of the plan", id="too many names"),
    ],
)  # fmt: skip
def test_what_cannot_be_ends_every_process_with_one_line(
    job: Path, change: dict[int, Any], env: dict[str, str], expected: str
) -> None:
    processes = [
        {**facts, **(change.get(n) or {})}
        for n, facts in enumerate(FOUR)
        if n not in change or change[n] is not None
    ]
    assert one_reason(start(job, processes, **env)) == f"weftline: {expected}"
    assert not list((job / "out").iterdir())


def test_plans_that_differ_do_not_meet(job: Path) -> None:
    small_plan(job / "other.json", (0, 1, 2, 3))
    found = start(job, [*FOUR[:3], {**FOUR[3], "plan": "other.json"}])
    assert "has another plan, or other host names, than the first" in one_reason(found)


def test_a_restart_does_not_meet_the_start_before_it(job: Path) -> None:
    """A start that waits for a lost process makes room for the next start of the same job."""
    both = [{**f, "restart": 0} for f in FOUR[:3]] + [{**f, "restart": 1} for f in FOUR]
    found = start(job, both, wait_before=3)  # the first start is waiting by then
    assert one_reason(found[:3]) == "weftline: start 1 of the job has begun"
    assert [code for code, _, _ in found[3:]] == [0] * 4
    assert said(job, 1) == {(f"n{slot}", local): rank for (slot, local), rank in SAID.items()}


def test_a_leader_that_dies_is_reported(job: Path) -> None:
    port = free_port()
    code = f"import socket\nc, _ = socket.create_server(('127.0.0.1', {port})).accept()\nc.recv(9)"
    dying = subprocess.Popen([sys.executable, "-c", code])
    time.sleep(0.3)
    with pytest.raises(PlacementError, match=r"^weftline: 1 of 4 processes came in 0.3 s"):
        place_module_function(job / "plan.json", rendezvous=f"127.0.0.1:{port}", host="n0",
                              local=0, wait_s=0.3, publish=False)  # fmt: skip
    dying.wait(timeout=5)


def test_a_stranger_on_the_port_does_not_disturb(job: Path) -> None:
    """Garbage, silence and a hang-up at the leader's port: the ranks are placed all the same."""
    port = free_port()
    clean = [*FOUR]

    def disturb() -> None:
        for text in (b"GET / HTTP/1.1\r\n\r\n", b'{"key": 1}\n', b""):
            for _ in range(40):
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=0.2) as other:
                        other.sendall(text)
                    break
                except OSError:
                    time.sleep(0.02)

    thread = threading.Thread(target=disturb)
    thread.start()
    found = start(job, clean, WEFTLINE_RENDEZVOUS=f"127.0.0.1:{port}")
    thread.join()
    assert [code for code, _, _ in found] == [0] * 4, found


def test_who_says_nothing_holds_nobody_up(job: Path) -> None:
    """Eight connections that stay silent, as a port scan leaves them, before all but the leader."""
    port = free_port()
    silent: list[socket.socket] = []

    def connect() -> None:
        end = time.monotonic() + 5
        while len(silent) < 8 and time.monotonic() < end:
            try:
                silent.append(socket.create_connection(("127.0.0.1", port), timeout=0.2))
            except OSError:
                time.sleep(0.01)

    thread = threading.Thread(target=connect)
    thread.start()
    found = start(job, FOUR, wait_before=1, WEFTLINE_RENDEZVOUS=f"127.0.0.1:{port}")
    thread.join()
    assert len(silent) == 8
    assert [code for code, _, _ in found] == [0] * 4, found
    assert max(seconds for _, _, seconds in found) < 8  # three of them are start()'s own pause
    for one in silent:
        one.close()


# --- what needs no process ------------------------------------------------------------------------


def test_a_rank_map_is_read_host_by_host() -> None:
    plan = {"layout": {"tp": 2, "cp": 1, "dp": 2, "pp": 1}, "cluster": {"chips_per_host": 2},
            "rank_map": {"runs": [[6, 1, 2], [0, 1, 2]]}}  # fmt: skip
    assert slots_of(plan) == [(1, 0), (1, 1), (0, 0), (0, 1)]
    assert slots_of({**plan, "rank_map": None}) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    with pytest.raises(PlacementError, match="3 chips for 4 ranks"):
        slots_of({**plan, "rank_map": {"runs": [[0, 1, 3]]}})


def test_a_real_plan_is_read_as_it_reads_itself() -> None:
    """place.py has its own reader of rank maps; it says what `Plan.rank` says."""
    import json as json_module

    from launchers import small_train_plan

    from weftline.spec.serialize import plan_to_json

    plan = small_train_plan()
    own = [plan.rank(rank) for rank in range(4)]
    found = slots_of(json_module.loads(plan_to_json(plan)))
    assert found == [(place["host"], place["local_chip"]) for place in own]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"TORCHELASTIC_RUN_ID": "j", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1",
          "TORCHELASTIC_RESTART_COUNT": "2", "MASTER_ADDR": "h0"},
         Facts(host="me", local=1, order=3, size=4, job="j", restart=2, rendezvous="h0:25139")),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4",
          "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n5",
          "SLURM_STEP_NODELIST": "n[05-07,9],m1", "SLURM_TOPOLOGY_ADDR": "s0.s2.n5"},
         Facts(host="n5", local=0, order=2, size=4, job="7", topology="s0.s2.n5",
               rendezvous="n05:22346")),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
          "OMPI_COMM_WORLD_LOCAL_RANK": "1", "WEFTLINE_RENDEZVOUS": "a:1"},
         Facts(host="me", local=1, order=1, size=2, rendezvous="a:1")),
    ],
)  # fmt: skip
def test_facts_come_from_each_launcher(
    env: dict[str, str], expected: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "me")
    assert facts_of(env) == expected


@pytest.mark.parametrize("seed", range(4))
def test_racks_stay_together_whatever_the_launcher_numbers(seed: int) -> None:
    """Hosts of one rack, and racks of one block, get neighbouring planned hosts."""
    from weftline.launch.place import _bind, _Told

    rng = random.Random(seed)
    where = {f"n{i}": f"b{i // 4}.r{i // 2}.n{i}" for i in range(8)}
    hosts = rng.sample(list(where), 8)
    told = [_Told(host=h, local=0, order=n, port=0, topology=where[h]) for n, h in enumerate(hosts)]
    found, how = _bind(told, 8, [], 2)
    assert how == "topology"
    assert sorted(found) == sorted(hosts)
    for depth in (1, 2):
        groups = [g for g, _ in itertools.groupby(".".join(where[h].split(".")[:depth])
                                                  for h in found)]  # fmt: skip
        assert len(groups) == len(set(groups))
    assert found[0] == hosts[0]  # among equals the launcher's order


def test_a_rack_that_does_not_hold_whole_domains_is_refused() -> None:
    from weftline.launch.place import _bind, _Told

    told = [_Told(host=f"n{i}", local=0, order=i, port=0, topology=f"r{i // 3}.n{i}")
            for i in range(4)]  # fmt: skip
    with pytest.raises(PlacementError, match="r0 has 3 hosts, the plan puts 2 in one domain"):
        _bind(told, 4, [], 2)
