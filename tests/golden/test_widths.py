"""What is printed follows the terminal, from 60 to 160 columns, and any encoding can hold it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from weftline.cli import terminal
from weftline.cli.main import run

PLAN = ("plan", "train", "llama-3.1-8b", "--tokens", "100B", "--on", "h100,mi300x",
        "--max-chips", "64")  # fmt: skip
SIMULATION = ("simulate", "serving", "llama-3.1-8b", "--rate", "4/s", "--requests", "200")
COMMANDS = {
    "plan": PLAN,
    "serve": ("plan", "serve", "llama-3.1-8b", "--rate", "2/s", "--tpot", "40ms", "--on",
              "h100,l40s", "--precision", "bf16"),
    "simulation": SIMULATION,
    "collective": ("simulate", "collective", "all-reduce", "1GB", "--on", "torus:8x8", "--link",
                   "100GB/s", "--latency", "1us"),
    "catalog": ("catalog", "show", "h100"),
    "fabrics": ("catalog", "list", "fabrics"),
    "help": (),
}  # fmt: skip
TIMES = re.compile(r"(?m)^simulated in .*$|in [\d.]+ s\.$")


def said(
    command: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:  # fmt: skip
    monkeypatch.setattr(terminal, "columns", lambda: columns)
    assert run(list(command)) == 0
    return TIMES.sub("", capsys.readouterr().out)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFTLINE_DATA_DIR", str(tmp_path))


@pytest.mark.parametrize("columns", [60, 80, 160])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_line_is_wider_than_the_terminal(
    command: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    lines = said(command, columns, monkeypatch, capsys).splitlines()
    assert max(map(len, lines)) <= columns, max(lines, key=len)


@pytest.mark.parametrize("columns", [60, 160])
def test_a_plan_and_its_explanation(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion,
) -> None:  # fmt: skip
    file = str(tmp_path / "plan.json")
    assert said((*PLAN, "-o", file), columns, monkeypatch, capsys) == snapshot(name="plan")
    assert said(("explain", file), columns, monkeypatch, capsys) == snapshot(name="explanation")


def test_ascii(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    snapshot: SnapshotAssertion,
) -> None:  # fmt: skip
    text = said(SIMULATION, 80, monkeypatch, capsys)
    plain = text.encode("ascii", "weftline").decode("ascii")
    assert len(plain) == len(text)
    assert "?" not in plain
    assert plain == snapshot
