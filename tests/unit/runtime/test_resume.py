"""A run goes on where it was: under another layout, after a kill, past a damaged checkpoint."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from runs import byte_shards, layout, losses, own_text, recipe, trained

from weftline.runtime.keep import inject
from weftline.runtime.record import STEPS_FILE, read_events

pytest.importorskip("transformers")
SAVED = layout(dp=2, zero=3)
OTHERS: dict[str, dict[str, Any]] = {
    "one process": {}, "tp x2": {"tp": 2}, "pp x2": {"pp": 2},
    "zero bubble x2": {"pp": 2, "schedule": "zero-bubble"}, "ddp x2": {"dp": 2},
    "fsdp x tp": {"dp": 2, "tp": 2, "zero": 3}, "fsdp2 x4": {"dp": 4, "zero": 3},
}  # fmt: skip
FAST = ("one process", "tp x2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_shards(tmp_path_factory.mktemp("data"), own_text())


@pytest.fixture(scope="module")
def unbroken(constant: tuple[list[float], Path]) -> list[float]:
    """Losses of ten steps that nobody disturbed."""
    return constant[0]


def go_on(name: str, data: Path, half: Path, folder: Path) -> list[float]:
    folder.mkdir(parents=True)
    (half / "checkpoints").rename(folder / "checkpoints")
    parts = OTHERS[name]
    made = recipe(
        "llama", data, layout(**parts), sequence_parallel="tp" in parts, keep=20,
        schedule="constant",
    )  # fmt: skip
    trained(made, folder)
    return losses(folder)


@pytest.fixture(scope="module")
def constant(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], Path]:
    """Ten steps in one go, and the checkpoint after five of them."""
    whole, part = (tmp_path_factory.mktemp(n) for n in ("whole", "part"))
    trained(recipe("llama", data, SAVED, schedule="constant"), whole)
    trained(recipe("llama", data, SAVED, schedule="constant", steps=5), part)
    return losses(whole), part


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in OTHERS]
)
def test_a_run_goes_on_under_another_layout(
    name: str, data: Path, constant: tuple[list[float], Path], tmp_path: Path
) -> None:
    wanted, part = constant
    found = go_on(name, data, _copied(part, tmp_path), tmp_path / "run")
    assert found == pytest.approx(wanted[5:], abs=1e-5)


def _copied(part: Path, folder: Path) -> Path:
    import shutil

    shutil.copytree(part, folder / "half")
    return folder / "half"


def broken(
    data: Path, folder: Path, at: int, what: Any, **more: Any
) -> tuple[Any, list[dict[str, Any]]]:
    """A run of ten steps to which ``what`` is done after step ``at`` (from 0)."""
    heard: list[dict[str, Any]] = []
    done = threading.Event()

    def listen(event: dict[str, Any]) -> None:
        heard.append(event)
        if event["kind"] == "step" and event["step"] == at and not done.is_set():
            done.set()
            what()

    made = recipe("llama", data, SAVED, checkpoint_every=3, schedule="constant", **more)
    folder.mkdir(parents=True, exist_ok=True)
    from weftline.runtime.run import run

    return run(made, folder, say=listen), heard


def test_a_killed_rank_costs_no_bit(data: Path, unbroken: list[float], tmp_path: Path) -> None:
    outcome, heard = broken(data, tmp_path, 4, lambda: inject.kill(tmp_path, 1))
    assert outcome.finished
    assert outcome.generations == 2
    assert losses(tmp_path) == unbroken  # bit for bit
    again = [e["step"] for e in heard if e["kind"] == "ready"]
    assert again in ([0, 3], [0, 0])  # the save after step 3 was whole, or on its way
    # Steps that were done twice had the same loss both times.
    seen: dict[int, set[float]] = {}
    for line in (tmp_path / STEPS_FILE).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        seen.setdefault(row["step"], set()).add(row["loss"])
    assert all(len(values) == 1 for values in seen.values())
    shares = outcome.shares
    assert sum(shares.seconds.values()) == pytest.approx(shares.wall_s, rel=1e-9)
    assert shares.seconds["lost"] > 0
    assert shares.seconds["restart"] > 0
    assert [e["kind"] for e in read_events(tmp_path)].count("death") == 1


def test_a_hung_rank_is_found_and_a_damaged_checkpoint_passed_over(
    data: Path, unbroken: list[float], tmp_path: Path
) -> None:
    outcome, _ = broken(data, tmp_path / "hung", 4, lambda: inject.hang(tmp_path / "hung", 0))
    assert outcome.finished
    assert losses(tmp_path / "hung") == unbroken
    hang = next(e for e in read_events(tmp_path / "hung") if e["kind"] == "hang")
    assert "rank 0 is stopped" in hang["why"]

    def damage() -> None:
        inject.corrupt(tmp_path / "bad")
        inject.kill(tmp_path / "bad", 0)

    outcome, _ = broken(data, tmp_path / "bad", 7, damage, keep=3)
    assert outcome.finished
    assert losses(tmp_path / "bad") == unbroken
    notes = [e["text"] for e in read_events(tmp_path / "bad") if e["kind"] == "note"]
    assert any("was passed over" in text and "CorruptionError" in text for text in notes)
    assert not any("TypeError" in text for text in notes)


def test_sigterm_saves_and_the_run_goes_on(
    data: Path, unbroken: list[float], tmp_path: Path
) -> None:
    outcome, _ = broken(data, tmp_path, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert not outcome.finished
    assert outcome.saved_step == outcome.steps < 10
    first = outcome.steps
    outcome, _ = broken(data, tmp_path, 99, lambda: None)
    assert outcome.finished
    assert losses(tmp_path) == unbroken
    assert first == read_events(tmp_path)[-2]["step"]


@pytest.mark.slow
def test_fifty_kills_cost_no_bit(data: Path, tmp_path: Path) -> None:
    """Any rank, at random moments, over two layouts; the ledger adds up."""
    import random
    import time

    rng = random.Random(5)
    kills = 0
    for name, cut in (("fsdp", SAVED), ("pp", layout(pp=2))):
        whole = tmp_path / f"{name}-whole"
        trained(recipe("llama", data, cut, steps=150, checkpoint_every=2), whole)
        folder = tmp_path / name
        count = [0]

        def listen(event: dict[str, Any], folder: Path = folder, count: list[int] = count) -> None:
            if event["kind"] == "step" and count[0] < 25 and event["step"] >= 5 * count[0]:
                count[0] += 1
                time.sleep(rng.random() * 0.05)
                inject.kill(folder, rng.randrange(2))

        folder.mkdir()
        from weftline.runtime.run import run

        made = recipe("llama", data, cut, steps=150, checkpoint_every=2)
        outcome = run(made, folder, say=listen)
        kills += outcome.shares.failures
        assert losses(folder) == losses(whole)
        shares = outcome.shares
        assert sum(shares.seconds.values()) == pytest.approx(shares.wall_s, rel=1e-9)
    assert kills >= 50
