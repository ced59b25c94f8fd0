"""Every layout trains as one process does: the same losses over ten steps of real text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from runs import byte_shards, layout, losses, own_text, recipe, trained

pytest.importorskip("transformers")
CLOSE = 1e-4
FAMILIES = ("llama", "qwen3", "qwen3_moe", "mistral", "gemma")
LAYOUTS: dict[str, dict[str, Any]] = {
    "ddp x2": {"dp": 2},
    "zero1 x2": {"dp": 2, "zero": 1},
    "fsdp2 x2": {"dp": 2, "zero": 3},
    "fsdp2 x4": {"dp": 4, "zero": 3},
    "hsdp x4": {"dp": 4, "zero": 3, "shard": 2},
    "tp x2": {"tp": 2, "split": False},
    "tp+sp x2": {"tp": 2},
    "cp x2": {"cp": 2},
    "cp x2, zero3": {"cp": 2, "zero": 3},
    "pp x2": {"pp": 2},
    "pp x4": {"pp": 4},
    "interleaved x2": {"pp": 2, "vp": 2, "schedule": "interleaved"},
    "zero bubble x2": {"pp": 2, "schedule": "zero-bubble"},
    "ep x2": {"dp": 2, "ep": 2, "zero": 3},
    "ep x2 over 4": {"dp": 4, "ep": 2, "zero": 3},
    "ep x2 over tp": {"dp": 2, "tp": 2, "ep": 2, "zero": 1},
    "fsdp x tp": {"dp": 2, "tp": 2, "zero": 3},
    "replicas of tp": {"dp": 2, "tp": 2},
    "replicas of pp": {"dp": 2, "pp": 2},
    "fsdp x pp": {"dp": 2, "pp": 2, "zero": 3},
    "tp x pp": {"tp": 2, "pp": 2},
    "cp x dp": {"cp": 2, "dp": 2},
    "data innermost": {"dp": 2, "tp": 2, "zero": 3, "order": ("dp", "tp", "cp", "pp")},
}
BACKENDS = ("gloo", "weftline")
SHORT = [
    ("llama", "fsdp2 x2"), ("llama", "tp+sp x2"), ("gemma", "zero bubble x2"),
    ("qwen3_moe", "ep x2"),
]  # fmt: skip
STEPS = 10
FEW = 5
"""Steps of the short form, whose losses are compared with the first of ten."""
LONG = [
    (family, name)
    for family in FAMILIES
    for name, parts in LAYOUTS.items()
    if "ep" not in parts or family == "qwen3_moe"
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_shards(tmp_path_factory.mktemp("data"), own_text())


@pytest.fixture(scope="module")
def one_process(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Losses of a family on one process."""

    @cache
    def of(family: str) -> list[float]:
        folder = tmp_path_factory.mktemp(family)
        trained(recipe(family, data, layout(), steps=STEPS, schedule="constant"), folder)
        return losses(folder)

    return of


def check(
    family: str, name: str, data: Path, one_process: Any, folder: Path, steps: int, **more: Any
) -> None:
    parts = dict(LAYOUTS[name])
    split = parts.pop("split", parts.get("tp", 1) > 1)
    made = recipe(family, data, layout(**parts), sequence_parallel=split, steps=steps,
                  schedule="constant", **more)  # fmt: skip
    outcome = trained(made, folder)
    found, wanted = losses(folder), one_process(family)
    assert outcome.finished
    assert outcome.generations == 1
    assert len(found) == steps
    assert found == pytest.approx(wanted[:steps], abs=CLOSE)
    assert wanted[-1] < wanted[0] - 0.5  # it does learn


@pytest.mark.parametrize(("family", "name"), SHORT)
def test_losses_are_those_of_one_process(
    family: str, name: str, data: Path, one_process: Any, tmp_path: Path
) -> None:
    check(family, name, data, one_process, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("family", "name"), LONG)
def test_losses_are_those_of_one_process_in_every_layout(
    family: str, name: str, backend: str, data: Path, one_process: Any, tmp_path: Path
) -> None:
    check(family, name, data, one_process, tmp_path, STEPS, backend=backend)
