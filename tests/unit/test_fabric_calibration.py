"""Collectives on real machines: reading rows, the physics, the held-out error, bad input."""

from __future__ import annotations

import csv
import json
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.cli.main import run
from weftline.errors import InputError
from weftline.fabric.calibration import (
    MIB,
    Constants,
    bus_factor,
    calibration,
    collective_name,
    collective_time_s,
)
from weftline.fabric.fit import left_out_key, score_left_out
from weftline.fabric.machines import read_machine
from weftline.fabric.score import read_collectives, score_collectives

PAGE = Path(__file__).parents[2] / "docs" / "fabric-accuracy.md"
ROWS = Path(__file__).parents[2] / "src/weftline/fabric/data/collectives_measured.csv"


@cache
def _held_out() -> dict[str, Any]:
    return score_left_out(*read_collectives(ROWS))


def test_the_error_on_machines_left_out_keeps_its_targets() -> None:
    """10 % from 1 MiB up, 25 % below: every machine predicted from the others alone."""
    found = _held_out()
    assert found["bands"]["1 MiB and up"]["median_pct"] <= 10
    assert found["bands"]["below 1 MiB"]["median_pct"] <= 25
    assert found["summary"]["predicted"] >= 190
    # A band of 90 % that holds far fewer, or all, says nothing.
    assert 80 <= found["summary"]["interval_coverage_pct"] <= 97


def test_the_shipped_file_says_the_error_that_is_measured_now() -> None:
    said = calibration().record["left_out_median_error_pct"]
    for band, sums in _held_out()["bands"].items():
        assert said[band] == pytest.approx(sums["median_pct"], rel=0.02)
        assert f"| {band} | {sums['median_pct']:.1f} % |" in PAGE.read_text("utf-8")


def test_a_machine_is_left_out_whole() -> None:
    """Runs of 4 to 8 H200 on one switch are one machine; the same chips over EFA another."""
    known, _ = read_collectives(ROWS)
    keys: dict[str, set[str]] = {}
    for row in known:
        keys.setdefault(left_out_key(row), set()).add(row.system)
    assert {"4x H200", "8x H200"} <= keys["h200-sxm"]
    assert "4x p5en.48xlarge (32x H200)" not in keys["h200-sxm"]


def test_every_row_is_predicted_or_has_a_reason() -> None:
    with ROWS.open(encoding="utf-8") as file:
        total = len(list(csv.DictReader(file)))
    found = score_collectives(*read_collectives(ROWS))
    assert found["summary"]["rows"] == total == len(found["rows"])
    for row in found["rows"]:
        assert (row["predicted_s"] is None) == bool(row["reason"])
    lacking = [r for r in found["rows"] if r["predicted_s"] is None]
    assert any("no accelerator is named" in r["reason"] for r in lacking)


def test_error_is_predicted_over_measured() -> None:
    found = score_collectives(*read_collectives(ROWS))
    rows = [r for r in found["rows"] if r["error_pct"] is not None]
    errors = [100 * (r["predicted_s"] / r["measured_s"] - 1) for r in rows]
    assert found["summary"]["median_pct"] == pytest.approx(
        statistics.median(abs(e) for e in errors)
    )
    assert found["summary"]["bias_pct"] == pytest.approx(statistics.fmean(errors))


# --- physics ------------------------------------------------------------------------------------


def test_in_switch_reduction_beats_the_ring_bound_of_its_wire() -> None:
    """8 x H200 reach 480 GB/s bus bandwidth over 450 GB/s of wire; a ring cannot."""
    machine = read_machine("8x H200", "NVLink4+NVSwitch", 8, 1)
    for algorithm, low, high in (("auto", 450e9, 520e9), ("Ring", 300e9, 450e9)):
        seconds, _ = collective_time_s(
            calibration().constants, machine, "all-reduce", 16 * 2**30, algorithm=algorithm
        )
        bus = 16 * 2**30 / seconds * bus_factor("all-reduce", 8)
        assert low < bus < high


def test_no_row_is_predicted_faster_than_the_wires_allow() -> None:
    """With every share at 1 the time is a lower bound that no measured row may undercut."""
    ideal = Constants(
        host_s=0.0, one_node_latency=1e-9, many_nodes_latency=1e-9, ramp=1e-9,
        ring_share=1 / 0.8, nvls_share=1 / 0.74, nic_share=1.0, mesh_share=1.0, torus_share=1.0,
        neuron_share=1.0, copy_share=1.0, neuron_call_s=1e-9,
    )  # fmt: skip
    known, _ = read_collectives(ROWS)
    for row in known:
        if row.measured_s and row.machine.kind != "neuron":
            assert row.predicted_s(ideal) < row.measured_s, row.line


@given(
    st.sampled_from(["8x H100", "8x B200", "16x A100", "8x MI300X", "TPU v5p 4x4x4", "trn2"]),
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "alltoall", "broadcast"]),
    st.floats(3, 10),
)
@settings(max_examples=80, deadline=None)
def test_time_rises_with_size_and_the_band_holds_it(
    system: str, collective: str, digits: float
) -> None:
    ranks = {"16x A100": 16, "TPU v5p 4x4x4": 64, "trn2": 16}.get(system, 8)
    machine = read_machine(system, "", ranks, 2 if ranks == 16 and "A100" in system else 1)
    kind = collective_name(collective)
    small = calibration().predict(machine, kind, 10**digits)
    large = calibration().predict(machine, kind, 2 * 10**digits)
    assert 0 < small.low_s < small.time_s < small.high_s
    assert large.time_s >= small.time_s * (1 - 1e-12)


def test_networks_are_read_from_free_text() -> None:
    two = read_machine("2x p4de.24xlarge (A100-80G)", "NVLink3 / EFAv1 4x100Gbps", 16, 2)
    assert two.network is not None
    assert two.network.node_bytes_per_s == pytest.approx(50e9)
    ndr = read_machine("DGX H100", "InfiniBand NDR", 64, 8)
    assert ndr.network is not None
    assert ndr.network.node_bytes_per_s == pytest.approx(400e9)
    p6 = read_machine("4x p6-b200.48xlarge", "EFAv4", 32, 4)
    assert p6.chip == "b200"
    assert p6.network is not None
    assert p6.network.name == "EFA v4"
    unsaid = read_machine("16 x H100", "", 16, 2)
    assert "usual" in unsaid.assumed
    # One chip of each node has its share of the node's ports.
    one = read_machine("8 x H100, one a node", "InfiniBand NDR", 8, 8)
    assert one.network is not None
    assert one.network.node_bytes_per_s == pytest.approx(50e9)


def test_a_line_of_a_tpu_slice_has_one_link_and_a_closed_axis_two() -> None:
    line = read_machine("TPU v5e 4x4 slice (no wraparound), one axis of 4", "ICI", 4, 1)
    assert line.wire_bytes_per_s == pytest.approx(45e9)
    closed = read_machine("TPU v5e 16x16, one axis of 16", "ICI", 16, 1)
    assert closed.wire_bytes_per_s == pytest.approx(90e9)


# --- bad input ----------------------------------------------------------------------------------


def _file(tmp_path: Path, *rows: str) -> Path:
    head = (
        "system,fabric,collective,algorithm,ranks,nodes,size_bytes,time_us,busbw_GBps,kind,source"
    )
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([head, *rows]) + "\n", "utf-8")
    return path


def test_rows_of_unseen_systems_are_answered(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "8x MI300X,xGMI,all_reduce,rccl,8,1,4294967296,,312.9,measured,elsewhere",
        "4x p6-b200,EFAv4,all_reduce,nccl,32,4,17179869184,,381.8,measured,elsewhere",
        "72x GB200 NVL72,NVLink5,all_gather,nccl,72,1,1073741824,2000,,measured,elsewhere",
        "1024x Cerebras,none,all_reduce,x,8,1,8,1,,measured,elsewhere",
        "8x H100,NVLink4,frobnicate,x,8,1,8,1,,measured,elsewhere",
    )
    found = score_collectives(*read_collectives(path))
    assert found["summary"]["predicted"] == 3
    # Published by others and not among the rows of the fit.
    assert all(abs(r["error_pct"]) < 20 for r in found["rows"][:2])
    reasons = [r["reason"] for r in found["rows"] if r["reason"]]
    assert "no accelerator" in reasons[0]
    assert "unknown collective" in reasons[1]


def test_mistakes_in_a_file_name_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows.csv:2: column `time_us`: `fast`"):
        read_collectives(_file(tmp_path, "8x H100,x,all_reduce,x,8,1,8,fast,,measured,x"))
    empty = tmp_path / "empty.csv"
    empty.write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(InputError, match="lacks the columns system, collective"):
        read_collectives(empty)
    with pytest.raises(InputError, match="cannot read"):
        read_collectives(tmp_path / "none.csv")
    with pytest.raises(InputError, match="one machine"):
        score_left_out(*read_collectives(_file(tmp_path, "8x H100,x,all_reduce,x,8,1,8,9,,,x")))


def test_command_gives_json_and_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _file(tmp_path, f"8x H100,NVLink4,all_reduce,x,8,1,{int(MIB)},28.56,64.24,measured,x")
    assert run(["score", "collectives", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"rows", "predicted", "mape_pct", "median_pct", "bias_pct", "interval_coverage_pct"} == (
        set(found["summary"])
    )
    assert {"summary", "groups", "rows"} <= set(found)
    assert run(["score", "collectives", str(path), "--max-median", "0.001%"]) == 4
    assert "Median error" in capsys.readouterr().out
    assert run(["score", "collectives", str(tmp_path / "none.csv")]) == 2
