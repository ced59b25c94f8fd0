"""``weftline score serving`` end to end: what it prints, exits with, and says of bad files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import weftline.serve
from weftline.cli.main import run

DATA = Path(weftline.serve.__file__).parent / "data"


def _few(tmp_path: Path) -> Path:
    import gzip

    lines = gzip.decompress((DATA / "serving_silicon.csv.gz").read_bytes()).decode().splitlines()
    file = tmp_path / "few.csv"
    file.write_text("\n".join([lines[0], *lines[1:1500:50]]) + "\n", encoding="utf-8")
    return file


def test_json_has_the_promised_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "serving", str(_few(tmp_path)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"summary", "groups", "rows"}
    assert found["summary"]["rows"] == len(found["rows"]) == 30
    assert found["summary"]["predicted"] == sum("tpot" in r for r in found["rows"])
    for metric in ("ttft", "tpot", "throughput"):
        assert set(found["summary"][metric]) >= {
            "mape_pct", "median_pct", "bias_pct", "interval_coverage_pct",
        }  # fmt: skip


def test_a_crossed_threshold_exits_with_4(tmp_path: Path) -> None:
    assert run(["score", "serving", str(_few(tmp_path)), "--max-median", "0.001%"]) == 4


def test_bad_files_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "serving", str(tmp_path / "absent.csv")]) == 2
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n", encoding="utf-8")
    assert run(["score", "serving", str(other)]) == 2
    assert "neither" in capsys.readouterr().err
