"""What the commands about training print, at 80 columns and without colour.

Numbers move when constants do: ``pytest tests/golden/test_cli_golden.py --snapshot-update``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from weftline.cli.main import run
from weftline.plan.calibrate.calibration import calibrated

JOB = ("plan", "train", "llama-3.1-8b", "--tokens", "100B", "--on", "h100,mi300x",
       "--max-chips", "64")  # fmt: skip
RUNS = """\
id,accelerator,n_accel,model,layers,hidden,heads,vocab,seq_len,gbs,mbs,tp,pp,cp,precision,\
recompute,framework,iter_time_s,tokens_per_s_per_accel
eight,H100,64,LLAMA3_8B,,,,,8192,128,1,1,1,1,bf16,,Megatron-Core ours,1.75,
seventy,H100,64,LLAMA3_70B,,,,,8192,128,1,4,4,1,bf16,,Megatron-Core ours,13.9,
amd,MI300X,8,LLAMA3_8B,,,,,8192,128,1,1,1,1,bf16,,Megatron-Core ours,,14000
shape,H100,32,GPT-7B,32,4096,32,51200,2048,256,2,2,2,1,bf16,full,Megatron-Core ours,2.0,
no-batch,H100,64,LLAMA3_8B,,,,,8192,,1,1,1,1,bf16,,Megatron-Core ours,1.75,
no-chip,H999,64,LLAMA3_8B,,,,,8192,128,1,1,1,1,bf16,,Megatron-Core ours,1.75,
"""
HELP = (
    (), ("plan",), ("plan", "train"), ("explain",), ("score",), ("score", "training"),
    ("calibrate",), ("doctor",), ("catalog",), ("memory",), ("diff",), ("plan", "serve"),
)  # fmt: skip

Say = Callable[..., str]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WEFTLINE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    calibrated.cache_clear()
    yield
    calibrated.cache_clear()


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command; its output with notes first, and with nothing of this machine in it."""

    def said(*argv: str) -> str:
        assert run(list(argv)) == 0
        out, err = (text.replace(str(tmp_path), "DIR") for text in capsys.readouterr())
        lines = out.splitlines()
        assert max(map(len, lines)) <= 80, max(lines, key=len)
        assert all(line == line.rstrip() for line in lines) or "--help" in argv
        assert "\x1b" not in out + err
        return err + out

    return said


@pytest.fixture
def runs(tmp_path: Path) -> str:
    file = tmp_path / "runs.csv"
    file.write_text(RUNS, encoding="utf-8")
    return str(file)


def test_plan(say: Say, snapshot: SnapshotAssertion) -> None:
    text = say(*JOB)
    assert text.startswith("Best: ")
    assert text == snapshot


def test_plan_with_a_price_of_ones_own(say: Say, snapshot: SnapshotAssertion) -> None:
    assert say(*JOB, "--price", "$2.50/h", "--objective", "cost") == snapshot


def test_plan_of_a_mixture_of_experts_on_a_torus(say: Say, snapshot: SnapshotAssertion) -> None:
    assert (
        say("plan", "train", "mixtral-8x7b", "--tokens", "1T", "--on", "tpu-v5p,trn2",
            "--max-chips", "256", "--objective", "time")
        == snapshot
    )  # fmt: skip


def test_explain(say: Say, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    file = str(tmp_path / "plan.json")
    assert say(*JOB, "-o", file).startswith("plan written to DIR/plan.json\n")
    assert say("explain", file) == snapshot


def test_what_if_and_what_differs(say: Say, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    first, second = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    say(*JOB, "-o", first)
    say(*JOB, "--discount", "20%", "--objective", "time", "-o", second)
    assert say("explain", first, "--what-if", "tp=4,overlap=off") == snapshot(name="turned")
    assert say("explain", first, "--what-if", "accelerator=h200,chips=32") == snapshot(name="anew")
    assert say("diff", first, second) == snapshot(name="diff")


def test_memory(say: Say, snapshot: SnapshotAssertion) -> None:
    assert say("memory", "llama-3.1-8b", "--on", "h100,l4,a10", "--seq", "8192") == snapshot


def test_score(say: Say, runs: str, snapshot: SnapshotAssertion) -> None:
    assert say("score", "training", runs) == snapshot


def test_calibrate(say: Say, runs: str, snapshot: SnapshotAssertion) -> None:
    assert say("calibrate", "--from", runs) == snapshot
    assert say("calibrate", "--reset") == snapshot(name="reset")


def test_doctor(say: Say, snapshot: SnapshotAssertion) -> None:
    """Versions, counts and what is installed differ by machine: the form alone is kept."""
    first, blank, *rest = say("doctor").splitlines()
    assert first.startswith("Ready")
    assert not blank
    heads = [line.split()[:2] for line in rest if not line.startswith(" ")]
    assert {status for _, status in heads} <= {"ok", "missing"}
    assert [name for name, _ in heads] == snapshot


@pytest.mark.parametrize("words", HELP, ids=lambda words: " ".join(words) or "weftline")
def test_help(words: tuple[str, ...], say: Say, snapshot: SnapshotAssertion) -> None:
    text = say(*words, "--help")
    assert re.match(r"Usage: weftline", text)
    assert text == snapshot
