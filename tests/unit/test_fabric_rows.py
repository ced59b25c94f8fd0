"""Rows of measured collectives: how they are read and scored, what is left out, bad input."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest

from weftline.cli.main import run
from weftline.errors import InputError
from weftline.fabric.predictor.fit import left_out_key, score_left_out
from weftline.fabric.predictor.predict import MIB
from weftline.fabric.predictor.reading import read_machine
from weftline.fabric.predictor.score import read_collectives, score_collectives

ROWS = Path(__file__).parents[2] / "src/weftline/fabric/data/collectives_measured.csv"


# --- rows ---------------------------------------------------------------------------------------


def _file(tmp_path: Path, *rows: str) -> Path:
    head = (
        "system,fabric,collective,algorithm,ranks,nodes,size_bytes,time_us,busbw_GBps,kind,source"
    )
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([head, *rows]) + "\n", "utf-8")
    return path


def test_a_system_is_left_out_whole() -> None:
    """Runs of 4 to 8 H200 on one switch by one source are one system; over EFA another."""
    known, _ = read_collectives(ROWS)
    keys: dict[str, set[str]] = {}
    for row in known:
        keys.setdefault(left_out_key(row), set()).add(row.system)
    assert {"4x H200", "8x H200"} <= keys["h200-sxm, stas00/ml-engineering"]
    assert "4x p5en.48xlarge (32x H200)" not in keys["h200-sxm, stas00/ml-engineering"]
    racks = keys["gb200-nvl72 over InfiniBand NDR, coreweave/nccl-tests"]
    assert len(racks) == 2


def test_every_row_is_predicted_or_has_a_reason() -> None:
    with ROWS.open(encoding="utf-8") as file:
        total = len(list(csv.DictReader(file)))
    found = score_collectives(*read_collectives(ROWS))
    assert found["summary"]["rows"] == total == len(found["rows"])
    for row in found["rows"]:
        assert (row["predicted_s"] is None) == bool(row["reason"])
    unnamed = [r for r in found["rows"] if "not named" in r["system"]]
    assert all("names no chip" in r["assumed"] for r in unnamed)


def test_error_is_predicted_over_measured() -> None:
    found = score_collectives(*read_collectives(ROWS))
    rows = [r for r in found["rows"] if r["error_pct"] is not None]
    errors = [100 * (r["predicted_s"] / r["measured_s"] - 1) for r in rows]
    assert found["summary"]["median_pct"] == pytest.approx(
        statistics.median(abs(e) for e in errors)
    )
    assert found["summary"]["bias_pct"] == pytest.approx(statistics.fmean(errors))


def test_two_digits_leave_open_what_they_leave_open(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "8x H100,NVLink4,all_reduce,x,8,1,8589934592,,0.9,measured,x",
        "8x H100,NVLink4,all_reduce,x,8,1,8589934592,31289.0,480.43,measured,x",
        "8x H100,NVLink4,all_reduce,x,8,1,8589934592,41.86,1.37,measured,time derived from busbw",
    )
    known, _ = read_collectives(path)
    assert [r.rounding for r in known] == pytest.approx([0.05 / 0.9, 0.05 / 31289, 0.005 / 1.37])


def test_racks_are_domains_and_nodes_of_a_rack_are_not() -> None:
    def domains(system: str, ranks: int, nodes: int, domain: int | None = None) -> int:
        return read_machine(system, "InfiniBand NDR", ranks, nodes, domain=domain).domains

    assert domains("GB200 NVL72", 72, 18) == 1
    assert domains("GB200 NVL72", 144, 36) == 2
    assert domains("GB200 NVL72", 1440, 360) == 20
    assert domains("GB200 NVL72", 72, 18, domain=36) == 2
    assert domains("DGX H100", 64, 8) == 8
    assert domains("Trn2 UltraServer", 64, 4) == 1


def test_networks_are_read_from_free_text() -> None:
    two = read_machine("2x p4de.24xlarge (A100-80G)", "NVLink3 / EFAv1 4x100Gbps", 16, 2)
    assert two.network is not None
    assert 8 * two.network.chip_bytes_per_s == pytest.approx(50e9)
    ndr = read_machine("DGX H100", "InfiniBand NDR", 64, 8)
    assert ndr.network is not None
    assert ndr.network.chip_bytes_per_s == pytest.approx(50e9)
    p6 = read_machine("4x p6-b200.48xlarge", "EFAv4", 32, 4)
    assert p6.chip == "b200"
    assert p6.network is not None
    assert p6.network.name == "EFA v4"
    unsaid = read_machine("16 x H100", "", 16, 2)
    assert "usual" in unsaid.assumed
    tcp = read_machine("16 x H100", "Ethernet TCP 100Gbps", 16, 2)
    assert tcp.network is not None
    assert tcp.network.host.path == "tcp"
    bridged = read_machine("2x H100 NVL", "NVLink bridge", 2, 1)
    cards = read_machine("4x H100 NVL", "PCIe", 4, 1)
    assert bridged.wire_bytes_per_s == pytest.approx(300e9)
    assert (cards.kind, cards.wire_bytes_per_s) == ("pcie", 32e9)


def test_a_rank_alone_on_its_node_has_the_port_beside_it() -> None:
    def share(fabric: str, ranks: int, nodes: int) -> float:
        made = read_machine("A100 SXM", fabric, ranks, nodes)
        assert made.network is not None
        return made.network.chip_bytes_per_s / 1e9

    assert share("InfiniBand 8x200Gbps", 16, 2) == 25
    assert share("InfiniBand 8x200Gbps", 2, 2) == 25
    assert share("InfiniBand 1x200Gbps", 2, 2) == 25
    assert share("InfiniBand 1x200Gbps", 16, 2) == 25 / 8
    assert share("EFA 32x100Gbps", 2, 2) == 50


def test_a_line_of_a_tpu_slice_has_one_link_and_a_closed_axis_two() -> None:
    line = read_machine("TPU v5e 4x4 slice (no wraparound), one axis of 4", "ICI", 4, 1)
    assert line.wire_bytes_per_s == pytest.approx(45e9)
    closed = read_machine("TPU v5e 16x16, one axis of 16", "ICI", 16, 1)
    assert closed.wire_bytes_per_s == pytest.approx(90e9)


# --- bad input ----------------------------------------------------------------------------------


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
    assert {"rows", "predicted", "mape_pct", "median_pct", "p90_pct", "bias_pct",
            "interval_coverage_pct"} == set(found["summary"])  # fmt: skip
    assert {"summary", "groups", "rows"} <= set(found)
    assert run(["score", "collectives", str(path), "--max-median", "0.001%"]) == 4
    assert "Median error" in capsys.readouterr().out
    assert run(["score", "collectives", str(tmp_path / "none.csv")]) == 2
