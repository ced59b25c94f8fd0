"""The fit's own parts: reading rows, the fastest of equals, what is left out, a whole small fit."""

from __future__ import annotations

import builtins
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weftline.errors import InputError
from weftline.operators import tables
from weftline.operators.fit.base import Family, fit_both
from weftline.operators.fit.experts import _sound
from weftline.operators.fit.profiles import SHAPES, layer_shape
from weftline.operators.fit.rows import fastest, read_columns, where
from weftline.operators.fit.tables import _aligned


def test_reads_csv_plain_and_packed(tmp_path: Path) -> None:
    text = "kind,m,latency\nx,1,0.5\ny,2,\n"
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with gzip.open(tmp_path / "a.csv.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    for name in ("a.csv", "a.csv.gz"):
        rows = read_columns(tmp_path / name)
        assert rows["kind"].tolist() == ["x", "y"]
        assert rows["m"].tolist() == [1.0, 2.0]
        assert np.isnan(rows["latency"][1])
    with pytest.raises(InputError, match="no such table"):
        read_columns(tmp_path / "b.csv")


def test_parquet_without_pyarrow_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="pyarrow"):
        read_columns(tmp_path / "a.parquet")


def test_the_fastest_kernel_of_a_shape_is_kept() -> None:
    rows = {"m": np.array([1, 2, 1, 2]), "latency": np.array([5.0, 3.0, 4.0, 9.0])}
    found = fastest(rows, ["m"])
    assert found["m"].tolist() == [1, 2]
    assert found["latency"].tolist() == [4.0, 3.0]
    assert where(rows, rows["m"] == 2)["latency"].tolist() == [3.0, 9.0]


def test_what_is_left_out() -> None:
    assert _aligned(np.array([1, 9, 16, 17, 24, 129, 256, 257])).tolist() == [
        True, True, True, False, True, False, True, False,
    ]  # fmt: skip
    rows = {
        "hidden_size": np.array([7168, 7168, 2816, 2880]),
        "num_experts": np.array([256, 384, 128, 128]),
        "inter_size": np.array([2048, 2048, 704, 2880]),
        "moe_tp_size": np.array([1, 1, 8, 8]),
        "moe_dtype": np.array(["fp8_block", "fp8_block", "bfloat16", "w4a16_mxfp4"]),
    }
    assert _sound(rows).tolist() == [False, True, False, True]


def test_profiled_layers_have_the_shapes_of_their_model() -> None:
    llama = SHAPES["meta-llama/Llama-3.1-8B"]
    assert layer_shape("qkv_proj", llama, 1) == (6144, 4096)
    assert layer_shape("gate_up_proj", llama, 2) == (14336, 4096)
    assert layer_shape("down_proj", llama, 2) == (4096, 7168)
    assert layer_shape("layernorm", llama, 1) is None


def test_a_small_fit_writes_what_is_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    axes: list[list[float]] = [[1, 16, 256], [64, 4096]]
    sizes = [2 ** rng.uniform(0, 8, 500), 2 ** rng.uniform(6, 12, 500)]
    seconds = 1e-6 * (3 + sizes[0] * sizes[1] / 1e4)
    surface, held = fit_both(axes, sizes, seconds, [np.round(sizes[0])])
    assert 0 < held["rows"] < 500
    assert held["median_pct"] < 25
    made = Family("gemm")
    made.add("gemm", "h200-sxm", "bf16", axes, surface, 500, held)
    made.constant("answer", 42, "counted")
    made.write(tmp_path)
    json.loads((tmp_path / "operators_gemm.json").read_text(encoding="utf-8"))
    tables.read_from(tmp_path)
    try:
        back = tables.table("gemm", "gemm", "h200-sxm", "bf16")
        assert tables.number("gemm", "answer") == 42
        assert back.seconds(*sizes) == pytest.approx(surface.seconds(*sizes), rel=0.005)
        with pytest.raises(KeyError):
            tables.table("gemm", "gemm", "h200-sxm", "fp8")
    finally:
        tables.read_from(None)
