"""One value of a measured row changed: that row says what is wrong, and every other is scored."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from weftline.cli.main import run
from weftline.serve.calibrate.names import (
    checkpoint_formats,
    chip_named,
    family_of,
    model_name,
)
from weftline.serve.calibrate.row import Row, Unanswered
from weftline.serve.calibrate.rows import read_rows
from weftline.serve.score import score_rows

GOOD = {
    "id": "good",
    "silicon_data_source": "by hand",
    "backend": "vllm", "backend_version": "0.19.0", "model_path": "meta-llama/Llama-3.1-70B",
    "system": "h200_sxm", "precision": "fp8", "mode": "agg", "isl": "1024", "osl": "1024",
    "gemm_quant_mode": "fp8", "moe_quant_mode": "fp8", "batch_size": "64", "tp_size": "4",
    "pp_size": "1", "attention_dp_size": "1", "moe_tp_size": "4", "moe_ep_size": "1",
    "silicon_ttft_ms": "300", "silicon_tpot_ms": "20",
}  # fmt: skip
SAME = {("precision", "FP8"), ("gemm_quant_mode", "FP8"), ("backend", "VLLM"), ("mode", "Disagg")}
"""Other spellings of what is known."""
REAL = {"int4_wo", "int8_wo", "w4afp8"}
"""Formats that engines do serve."""


def _cases() -> list[tuple[str, str]]:
    file = Path(__file__).parents[2] / "data" / "serving_faults.yaml"
    said = yaml.safe_load(file.read_text(encoding="utf-8"))
    kinds = ("kills_today", "misread_today", "poisons_today")
    return [(c, str(v)) for kind in kinds for c, values in said[kind].items() for v in values]


def _file(tmp_path: Path, **changes: str) -> Path:
    file = tmp_path / "rows.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(GOOD))
        writer.writeheader()
        writer.writerow({**GOOD, "id": "bad", **changes})
        writer.writerow(GOOD)
    return file


@pytest.mark.parametrize(("column", "value"), _cases())
def test_one_wrong_value_is_its_rows_own_affair(
    column: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _file(tmp_path, **{column: value})
    assert run(["score", "serving", str(file), "--json"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    by_id = {r["id"]: r for r in found["rows"]}
    good = by_id["good"]
    assert good["tpot"]["error_pct"] is not None
    alone = score_rows(read_rows(_file(tmp_path))[0], [])
    unharmed = next(r for r in alone["rows"] if r["id"] == "good")
    assert good["tpot"] == pytest.approx(unharmed["tpot"]), "the other row's answer moved"
    bad = by_id["bad"]
    if value in REAL or ((column, value) in SAME and column != "mode"):
        assert bad["tpot"]["error_pct"] is not None
        return
    assert bad["predicted"] is False
    assert bad["reason"].startswith("unanswered: ")
    assert bad["where"].endswith("rows.csv:2")
    if (column, value) in SAME:  # a row of two pools that does not say how many workers
        assert "workers" in bad["reason"]
    elif value in ("", "afd", "tgi", "banana"):
        assert f"`{value or column}`" in bad["reason"]
        assert "is not known" in bad["reason"] or "not stated" in bad["reason"]
    else:
        assert f"`{column}`" in bad["reason"]
        assert "expected" in bad["reason"] or "divide" in bad["reason"]
    summary = found["summary"]
    stated = summary["stating_their_configuration"]
    assert summary["answered_of_stated_pct"] == pytest.approx(100.0 / stated, abs=0.01)


def test_formats_that_only_differ_in_weights_are_priced_apart(tmp_path: Path) -> None:
    """4-bit weights are read in half the time of 8-bit ones: never one format for another."""
    from weftline.serve.score import predict_rows

    times = {}
    for name in ("bf16", "fp8", "int8_wo", "int4_wo"):
        rows, left = read_rows(_file(tmp_path, gemm_quant_mode=name, moe_quant_mode=name,
                                     batch_size="1"))  # fmt: skip
        assert not left
        times[name] = float(predict_rows(rows).values["tpot"][0])
    assert times["int4_wo"] < times["int8_wo"] < times["bf16"]
    assert times["fp8"] < times["bf16"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("b200_sxm", "b200"), ("B300", "b300"), ("NVIDIA B300-SXM-270GB", "b300"),
        ("AMD Instinct MI355X 288GB HBM3e", "mi355x"), ("MI350X", "mi350x"), ("TPU v7", "tpu7x"),
        ("Trainium2", "trainium2"), ("NVIDIA H200-NVL-141GB", "h200-nvl"), ("H200-NVL", "h200-nvl"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"), ("gb200", "gb200-nvl72"),
        ("NVIDIA H100-SXM-80GB", "h100-sxm"), ("RTXPRO6000", "rtx-pro-6000"),
    ],
)  # fmt: skip
def test_chips_are_known_as_benchmarks_write_them(written: str, meant: str) -> None:
    assert chip_named(written) == meant


def test_models_are_known_as_benchmarks_write_them() -> None:
    assert family_of(model_name("Qwen3-30B-A3B-Instruct-2507")) == "qwen3-30b-a3b"
    assert model_name("Qwen/Qwen3-32B") == "qwen3-32b"
    assert model_name("llama2-70b-99.9") == "llama-2-70b"


def test_blocks_are_where_the_checkpoint_or_the_row_says_so() -> None:
    plain, blocks = ("fp8", "fp8"), ("fp8_block", "fp8_block")
    assert checkpoint_formats("nvidia/Qwen3-32B-FP8", "qwen3-32b", *plain) == plain
    assert checkpoint_formats("Qwen3-32B", "qwen3-32b", *plain) == plain
    assert checkpoint_formats("Qwen/Qwen3-32B-FP8", "qwen3-32b", *plain) == blocks
    assert checkpoint_formats("deepseek-r1", "deepseek-r1", *plain) == blocks
    assert checkpoint_formats("GLM-5", "glm-5", "fp8", "fp8_block") == blocks


def test_pools_without_workers_and_bad_layouts_do_not_state_their_configuration(
    tmp_path: Path,
) -> None:
    _, left = read_rows(_file(tmp_path, mode="disagg"))
    assert [u.stated for u in left] == [False]
    rows, left = read_rows(_file(tmp_path, backend="tgi"))
    assert [u.stated for u in left] == [True]
    assert isinstance(rows[0], Row)
    assert isinstance(left[0], Unanswered)


PUBLISHED = {
    "set": "vllm_bench_2026", "model": "Llama-3.1-8B", "precision": "FP8", "accelerator": "H200",
    "n_accel": "1", "tp": "1", "pp": "1", "dp": "1", "ep": "1", "isl": "1024", "osl": "256",
    "concurrency": "32", "scenario": "closed", "engine": "vLLM 0.19", "engine_version": "0.19.0",
    "output_tok_s_total": "3000", "output_tok_s_per_accel": "3000", "ttft_ms": "120",
    "ttft_stat": "mean", "tpot_ms": "9", "tpot_stat": "mean", "derived": "", "note": "",
    "source": "by hand",
}  # fmt: skip


@pytest.mark.parametrize(
    "value", ["", "0", "-3", "nan", "inf", "banana", "2.5", "1e99", "\N{SNOWMAN}"]
)
def test_no_value_of_a_published_row_stops_the_file(value: str, tmp_path: Path) -> None:
    """Every column in turn: the row is answered or says why not, the other one is there."""
    file = tmp_path / "rows.csv"
    for column in PUBLISHED:
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, list(PUBLISHED))
            writer.writeheader()
            writer.writerow({**PUBLISHED, column: value})
            writer.writerow(PUBLISHED)
        rows, left = read_rows(file)
        assert len(rows) + len(left) == 2, column
        good = rows[-1]
        assert good.id == f"{PUBLISHED['set']}:3"
        assert good.output_tokens_per_s == 3000
        for u in left:
            assert u.reason, column
            assert column in u.reason or (value and value in u.reason) or not value, column


def test_columns_that_are_measured_are_not_the_configuration(tmp_path: Path) -> None:
    """A batch of nobody's engine is unanswered and counts against what is answered of stated."""
    rows, left = read_rows(_file(tmp_path, backend="tgi"))
    score = score_rows(rows, left)["summary"]
    assert (score["predicted"], score["stating_their_configuration"]) == (1, 2)
    assert score["answered_of_stated_pct"] == 50.0
