"""Schedule files against their consumers: loaded by their rules, run on numbers, proved again."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from executors import (
    MSCCL_RULES,
    RefusedError,
    load_msccl,
    load_mscclpp,
    run_msccl,
    run_mscclpp,
)

from weftline.cli.main import run
from weftline.errors import InputError
from weftline.fabric.algorithms import algorithms_for, build
from weftline.fabric.checker import check
from weftline.fabric.formats.programs import msccl, mscclpp, plans
from weftline.fabric.formats.programs.blocks import EXECUTORS
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.parse import parse_topology
from weftline.fabric.schedule import Schedule

NETWORKS = ("ring:4", "torus:2x3", "switch:5")
COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "broadcast")


def _flat(network: str, collective: str, algorithm: str) -> Schedule:
    link = "100GB/s,10GB/s" if "/" in network else "100GB/s"
    topology = parse_topology(network, link=link, latency="1us")
    made = build(topology, collective, algorithm)  # type: ignore[arg-type]
    return expand(made) if isinstance(made, OrbitSchedule) else made


def _cases() -> list[tuple[str, str, str]]:
    found = []
    for network in NETWORKS:
        topology = parse_topology(network, link="1GB/s,1GB/s" if "/" in network else "1GB/s")
        for collective in COLLECTIVES:
            found += [(network, collective, a) for a in algorithms_for(topology, collective)]  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("network", "collective", "algorithm"), _cases())
def test_every_schedule_loads_and_gives_the_right_numbers(
    network: str, collective: str, algorithm: str
) -> None:
    flat = _flat(network, collective, algorithm)
    for in_place in (True, False):
        for consumer in MSCCL_RULES:
            text = msccl.write(flat, executor=consumer, in_place=in_place, instances=2)
            algo = load_msccl(text, consumer)
            if consumer == "rccl":
                assert run_msccl(algo, 1, slots=0)
                assert run_msccl(algo, 2, slots=2)
                check(msccl.read(text, "f"))
        text = plans.write(flat, in_place=in_place, instances=2)
        plan = load_mscclpp(text)
        assert run_mscclpp(plan, 1)
        check(mscclpp.read(text, "f"))


def test_the_interpreters_see_a_wait_that_lacks() -> None:
    """A check of the check: without its waits a program gives wrong numbers in some order."""
    algo = load_msccl(msccl.write(_flat("ring:4", "all-reduce", "ring")), "rccl")
    for step in algo.iter("step"):
        step.attrib["depid"] = "-1"
    assert not all(run_msccl(algo, seed, slots=2) for seed in range(8))
    plan = load_mscclpp(plans.write(_flat("ring:4", "all-reduce", "ring")))
    for gpu in plan["gpus"]:
        for block in gpu["threadblocks"]:
            block["ops"] = [op for op in block["ops"] if op["name"] != "wait"]
    assert not all(run_mscclpp(plan, seed) for seed in range(4))


def test_what_was_written_before_loads_nowhere() -> None:
    """The attributes and the name that the parsers ask for: each alone stops a file."""
    text = msccl.write(_flat("ring:4", "reduce-scatter", "ring"))
    for name in ("minBytes", "maxBytes", "outofplace"):
        without = re.sub(rf' {name}="[^"]*"', "", text)
        with pytest.raises(RefusedError, match=name):
            load_msccl(without, "msccl-executor-nccl")
    with pytest.raises(RefusedError, match="unsupported collective"):
        load_msccl(text.replace("reducescatter", "reduce_scatter"), "rccl")


def test_our_table_of_limits_is_the_consumers() -> None:
    for name, rules in MSCCL_RULES.items():
        ours = EXECUTORS[name]
        assert (ours.steps, ours.blocks, ours.channels, ours.blocks_per_channel) == (
            rules["steps"], rules["blocks"], rules["channels"], rules["per_channel"])  # fmt: skip


def test_long_connections_go_on_in_further_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank of a ring of 8 sends 14 times: with 5 steps a block it needs three of them."""
    monkeypatch.setitem(EXECUTORS, "rccl", replace(EXECUTORS["rccl"], steps=5))  # type: ignore[arg-type]
    algo = load_msccl(msccl.write(_flat("ring:8", "all-reduce", "ring"), executor="rccl"), "rccl")
    sends = [len(tb) for tb in algo[0] if tb.attrib["send"] != "-1"]
    assert sum(sends) >= 14
    assert len(sends) >= 3
    assert max(sends) <= 5
    assert run_msccl(algo, 3)


def test_more_units_than_one_step_moves_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halving on 16 ranks sends 8 units at once; an executor that moves 4 gets them in two."""
    less = replace(EXECUTORS["rccl"], count_below=5)
    monkeypatch.setitem(EXECUTORS, "rccl", less)  # type: ignore[arg-type]
    flat = _flat("switch:16", "all-reduce", "halving-doubling")
    algo = load_msccl(msccl.write(flat, executor="rccl"), "rccl")
    assert max(int(step.attrib["cnt"]) for tb in algo[0] for step in tb) == 4
    assert run_msccl(algo, 4)


@pytest.mark.parametrize(
    ("network", "collective", "algorithm", "executor", "said"),
    [
        ("switch:70", "all-to-all", "direct", "rccl", "more than 64 thread blocks"),
        ("switch:70", "all-to-all", "direct", "any", "msccl-executor-nccl and rccl"),
        ("switch:4", "send", "direct", "any", "MSCCL has no send"),
    ],
)
def test_what_no_cutting_helps_is_refused_with_the_limit(
    network: str, collective: str, algorithm: str, executor: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        msccl.write(_flat(network, collective, algorithm), executor=executor)


@pytest.mark.parametrize("collective", ["all-reduce", "all-gather"])
def test_nvls_is_written_read_and_run(collective: str) -> None:
    flat = _flat("switch:8,nvls", collective, "nvls")
    text = plans.write(flat, instances=4)
    assert run_mscclpp(load_mscclpp(text), 1, cut=4)
    back = mscclpp.read(text, "f")
    check(back, parse_topology("switch:8,nvls", link="1GB/s"))
    assert back.switches == 1
    with pytest.raises(InputError, match="no reduce-scatter"):
        plans.write(_flat("switch:8,nvls", "reduce-scatter", "nvls"))


def test_a_result_in_the_wrong_place_is_no_proof() -> None:
    """Every row may be right and the sum still lie where nobody looks for it."""
    text = msccl.write(_flat("ring:4", "all-reduce", "ring"), in_place=False)
    moved = text.replace('dstbuf="o"', 'dstbuf="s"').replace('srcbuf="o"', 'srcbuf="s"')
    with pytest.raises(InputError, match=r"ends with o\[0\] of rank 0 empty"):
        msccl.read(moved, "f")


def test_plans_use_several_thread_blocks() -> None:
    plan = load_mscclpp(plans.write(_flat("ring:4", "all-reduce", "ring")))
    assert all(len(gpu["threadblocks"]) >= 8 for gpu in plan["gpus"])
    long = load_mscclpp(plans.write(_flat("ring:16", "all-reduce", "ring"), instances=1))
    assert len(long["gpus"][0]["threadblocks"]) > 1
    assert long["gpus"][0]["semaphores"]
    assert run_mscclpp(long, 1)


# --- the command ----------------------------------------------------------------------------------


def test_schedule_command_proves_times_and_shows_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ring.xml"
    path.write_text(msccl.write(_flat("ring:4", "all-reduce", "ring"), in_place=False), "utf-8")
    assert run(["schedule", "check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["proved"]
    on = ["--on", "ring:4", "--link", "100GB/s", "--latency", "1us"]
    assert run(["schedule", "time", str(path), "1GB", *on, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    # 6 steps of a quarter over one link: 1.5 GB at 100 GB/s and 6 latencies.
    assert said["time_s"] == pytest.approx(1.5e9 / 100e9 + 6e-6, rel=1e-3)
    assert run(["schedule", "show", str(path)]) == 0
    assert "sends 1.5" in capsys.readouterr().out
    assert run(["schedule", "time", str(path), "1GB", "--on", "ring:8", "--link", "1GB/s"]) == 2
    assert "4 ranks" in capsys.readouterr().err
    path.write_text("<algo", "utf-8")
    assert run(["schedule", "check", str(path)]) == 2
