"""What breaks a run beside a kill: a loss that is no number, a disk that is full, a slow rank."""

from __future__ import annotations

import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from runs import byte_shards, layout, losses, own_text, recipe, trained

from weftline.runtime.keep import inject
from weftline.runtime.keep.supervise import RunFailedError, supervise
from weftline.runtime.record import read_events
from weftline.runtime.run import run

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_shards(tmp_path_factory.mktemp("data"), own_text())


def test_a_loss_that_is_no_number_is_tried_once_more_and_ends_the_run(
    data: Path, tmp_path: Path
) -> None:
    made = recipe("llama", data, layout(), learning_rate=1e38, clip_norm=0.0)
    with pytest.raises(RunFailedError, match="also when done again") as error:
        trained(made, tmp_path)
    assert "--lr" in str(error.value)
    events = read_events(tmp_path)
    seen = [event["step"] for event in events if event["kind"] == "nan"]
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert not (tmp_path / "model").exists()


def test_a_full_disk_is_told_and_training_goes_on(data: Path, tmp_path: Path) -> None:
    """No file may grow beyond what the records need: a checkpoint's segments do not fit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard: list[dict[str, Any]] = []

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    made = recipe("llama", data, layout(), steps=6, checkpoint_every=2)
    try:
        with pytest.raises(RunFailedError, match="last checkpoint could not be written: no step"):
            run(made, tmp_path, say=heard.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [event["kind"] for event in heard].count("save-failed") >= 3
    assert len(losses(tmp_path)) == 6
    assert not (tmp_path / "model").exists()
    # With room again it goes on from what is kept, nothing here, and ends well.
    assert run(made, tmp_path, say=lambda _: None).finished
    assert (tmp_path / "model").is_dir()


def test_a_step_that_a_checkpoint_holds_has_its_record(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that is killed between its checkpoint and its report does not take the step again."""
    from weftline.runtime.train import worker

    told: Any = worker._Loop._tell

    def dying(loop: Any, step: int, *rest: Any) -> None:
        if loop.generation == 0 and step == 3:
            loop.checkpoints.settle(wait=True)
            os.kill(os.getpid(), signal.SIGKILL)
        told(loop, step, *rest)

    whole = recipe("llama", data, layout(), steps=6, checkpoint_every=2)
    trained(whole, tmp_path / "whole")
    monkeypatch.setattr(worker._Loop, "_tell", dying)
    outcome = trained(whole, tmp_path / "hit")
    assert outcome.finished
    assert outcome.generations == 2
    assert [e["step"] for e in read_events(tmp_path / "hit") if e["kind"] == "ready"] == [0, 4]
    assert losses(tmp_path / "hit") == losses(tmp_path / "whole")


def test_no_thread_of_the_store_runs_when_a_rank_is_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that it held would stay locked in the rank. The second generation is forked, too."""
    fork, seen = os.fork, []

    def forks() -> int:
        seen.append(len(list(Path("/proc/self/task").iterdir())))
        return fork()

    def work(*_: Any, rank: int, store: Any, generation: int, **__: Any) -> bool:
        store.set(f"rank{rank}", "")
        store.wait([f"rank{r}" for r in range(3)])
        if generation == 0 and rank == 2:
            os._exit(1)
        return True

    before = len(list(Path("/proc/self/task").iterdir()))
    monkeypatch.setattr(os, "fork", forks)
    made = recipe("llama", tmp_path, layout(dp=3), steps=1)
    outcome = supervise(made, tmp_path, work, say=lambda _: None)
    assert outcome.finished
    assert outcome.generations == 2
    assert seen == [before] * 6


@pytest.mark.slow
def test_the_rank_that_is_held_back_is_named(data: Path, tmp_path: Path) -> None:
    made = recipe("llama", data, layout(dp=2, zero=3), steps=400, checkpoint_every=0)
    begun = threading.Event()
    named: list[int] = []

    def hold() -> None:
        begun.wait()
        inject.slow(tmp_path, 1, seconds=40.0, share=0.8)

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 3:
            begun.set()
        if event["kind"] == "slow":
            named.append(event["rank"])

    thread = threading.Thread(target=hold)
    thread.start()
    outcome = run(made, tmp_path, say=listen)
    begun.set()
    thread.join()
    assert outcome.finished
    assert outcome.generations == 1
    assert named[:1] == [1]
