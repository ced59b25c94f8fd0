"""Train from the command line: what cannot run is told in one line, and nothing is half-written."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import machines
import pytest
from commands import weftline
from runs import byte_shards, layout, losses, own_text, recipe, trained

from weftline.runtime.train import worker
from weftline.runtime.train.recipe import write_recipe

pytest.importorskip("transformers")
EXAMPLES = Path(__file__).parents[2] / "examples" / "train"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_shards(tmp_path_factory.mktemp("data"), own_text())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A catalogue of the user's with this machine in it, as if it had been measured."""
    folder = tmp_path_factory.mktemp("catalogue")
    with pytest.MonkeyPatch.context() as patch:
        machines.written(folder, patch)
        yield folder / "machines" / "here.json"


ASKED = (
    "plan", "train", EXAMPLES / "llama-5m.json", "--tokens", "6k", "--seq", 64, "--global-batch", 8,
    "--precision", "fp32", "--on", "here", "--chips", 2,
)  # fmt: skip


@pytest.fixture(scope="module")
def plan(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the two cores of this machine."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    weftline(*ASKED, "-o", path)
    return path


def test_a_plan_is_trained_and_compared(plan: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = weftline("train", plan, "--data", data, "-o", run, "--steps", 6)
    assert "finished at step 6" in said
    assert "100.0%  measured" in said
    assert {p.name for p in run.iterdir()} >= {
        "recipe.json", "plan.json", "steps.jsonl", "events.jsonl", "ledger.json", "metrics.prom",
        "profile.json", "model", "logs", "checkpoints",
    }  # fmt: skip
    shown = json.loads(weftline("compare", plan, run, "--json"))
    assert shown["same"]
    rows = {row["name"].strip(): row for row in shown["rows"]}
    step = rows["step time"]["measured"]
    parts = [row["measured"] for row in shown["rows"] if row["name"].startswith("  ")
             and "reading" not in row["name"] and "saves" not in row["name"]]  # fmt: skip
    assert sum(part for part in parts if part is not None) == pytest.approx(step)
    assert rows["exchanges, exposed"]["measured"] > 0
    assert rows["waiting for saves"]["predicted"] > 0
    assert rows["memory a rank"]["measured"] > 1e8
    assert "weftline_train_loss{" in (run / "metrics.prom").read_text(encoding="utf-8")
    # What the run took is learnt: the same question is answered with it, and says so.
    assert "run of 3 steps" in weftline("calibrate", "--from-run", run)
    assert "step time" in weftline(*ASKED, "-o", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert again["estimates"]["step_time"]["value"] == pytest.approx(step)
    assert again["estimates"]["step_time"]["basis"].startswith("measured here")
    assert "measured here" in weftline("explain", tmp_path / "again.json")
    # A second run does not write over the first.
    assert "--resume" in weftline("train", plan, "--data", data, "-o", run, code=2)
    assert "finished at step 8" in weftline(
        "train", plan, "--data", data, "-o", run, "--steps", 8, "--resume"
    )


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan for chips that are not here."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    weftline("plan", "train", "qwen2.5-0.5b", "--tokens", "1B", "--on", "h100", "--chips", 4,
             "-o", path)  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ((), "the plan is for 4 x h100-sxm"),
        (("--emulate", "--small", "--nproc", 2, "--data", "nowhere"), "weftline prepare"),
        (("--emulate", "--small", "--nproc", 2, "--seq", 10**7), "too few for sequences"),
        (("--emulate", "--small", "--nproc", 3), "is no multiple of"),
        (("--emulate", "--small", "--nproc", 1000), "too many for"),
        (("--emulate", "--nproc", 2, "--model", "nowhere.json"), "no config.json"),
        (("--emulate", "--nproc", 2, "--model", EXAMPLES / "demo.sh"), "cannot read"),
    ],
)
def test_what_cannot_run_is_told(
    more: tuple[object, ...], what: str, elsewhere: Path, data: Path, tmp_path: Path
) -> None:
    given = more if "--data" in more else (*more, "--data", data)
    said = weftline("train", elsewhere, "-o", tmp_path / "run", *given, code=2)
    assert what in said
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_none_cannot_be_broken_or_compared(plan: Path, tmp_path: Path) -> None:
    for how in ("kill", "hang", "slow", "corrupt"):
        assert str(tmp_path) in weftline("inject", how, tmp_path, code=2)
    assert "recipe.json" in weftline("compare", plan, tmp_path, code=2)


def test_a_launcher_starts_the_same_rank(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its place from the environment, all else from the recipe."""
    made = recipe("llama", data, layout(), steps=3)
    trained(made, tmp_path / "ours")
    run = tmp_path / "theirs"
    run.mkdir()
    write_recipe(made, run)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    handler = signal.getsignal(signal.SIGTERM)
    assert worker.main([str(run)]) == 0
    signal.signal(signal.SIGTERM, handler)
    assert losses(run) == losses(tmp_path / "ours")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert worker.main([str(run)]) == 2
    assert "WORLD_SIZE is 3" in capsys.readouterr().err


@pytest.mark.slow
def test_a_launcher_starts_the_same_ranks(data: Path, tmp_path: Path) -> None:
    """As torchrun would, each in a process that knows nothing of the others."""
    made = recipe("llama", data, layout(dp=2, zero=3), steps=4)
    trained(made, tmp_path / "ours")
    run = tmp_path / "theirs"
    run.mkdir()
    write_recipe(made, run)
    command = [sys.executable, "-m", "weftline.runtime.train.worker", str(run)]
    env = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611",
                        "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}  # fmt: skip
    ranks = [
        subprocess.Popen(command, env=env | {"RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(2)
    ]
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    assert losses(run) == losses(tmp_path / "ours")


def test_a_dry_run_needs_no_cluster(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    weftline(
        "plan", "train", "llama-3.1-8b", "--tokens", "1T", "--on", "h100", "--chips", 1024,
        "--layout", "tp=8,pp=2,cp=1,zero=2,schedule=zero-bubble", "--framework", "torchtitan",
        "-o", plan,
    )  # fmt: skip
    found = json.loads(weftline("train", plan, "--dry-run", "--json"))
    assert found["ranks"] == 1024
    assert found["groups"]["tp"] == list(range(8))
    assert len(found["groups"]["fsdp"]) == 64
    shapes = {name: (whole, local) for name, whole, local in found["shapes"]}
    assert shapes["model.layers.0.self_attn.q_proj.weight"] == ([4096, 4096], [8, 4096])
    # Rank 0 of a zero-bubble pipeline has the first stage and the last: half of the layers, the
    # embedding and the head, over 8 x 64 ranks. Rows of the vocabulary do not divide evenly.
    layer = 4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    rows = math.ceil(128256 / 8 / 64)
    wanted = 16 * layer // 512 + 2 * rows * 4096 + (16 * 2 + 1) * 4096 // 64
    assert found["local_parameters"] == wanted
    assert found["activation_bytes"] > 1e9
