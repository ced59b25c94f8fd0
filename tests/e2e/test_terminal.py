"""What a person at a terminal sees: something at once, one line after Ctrl-C, any width and set."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pty = pytest.importorskip("pty")
WEFTLINE = [sys.executable, "-m", "weftline"]
TRAIN = [*WEFTLINE, *shlex.split("plan train llama-3.1-8b --tokens 100B --on h100 --chips 64")]
TELLS_S = 0.5


@contextmanager
def at_terminal(command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command with a terminal of 80 columns for all its streams."""
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=env | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until_end(ours: int) -> str:
    parts = []
    while True:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        parts.append(data)
    return b"".join(parts).decode()


def test_something_appears_at_once_and_leaves_no_trace() -> None:
    waits = []
    for _ in range(5):  # neighbours may hold one up
        began = time.monotonic()
        with at_terminal(TRAIN) as (process, ours):
            assert select.select([ours], [], [], 30)[0]
            waits.append(time.monotonic() - began)
            said = read_until_end(ours)
            assert process.wait() == 0
        if min(waits) < TELLS_S:
            break
    assert min(waits) < TELLS_S
    status, _, answer = said.rpartition("\r\x1b[K")
    assert "weftline plan train llama-3.1-8b" in status
    assert answer.startswith("Best: 64 x h100-sxm")
    assert "\x1b" not in answer


def test_nothing_of_it_reaches_a_pipe() -> None:
    done = subprocess.run(TRAIN, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Best: 64 x h100-sxm")
    assert done.stderr == ""


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.08, 0.15, 0.25])
def test_an_interrupt_is_answered_in_one_line(after_s: float) -> None:
    """The first line stands before the parser is imported: what follows is imports, then work."""
    slow = [*WEFTLINE, *shlex.split("plan serve llama-3.1-70b --rate 12/s --tpot 40ms")]
    with at_terminal(slow) as (process, ours):
        assert select.select([ours], [], [], 30)[0]
        time.sleep(after_s)
        os.kill(process.pid, signal.SIGINT)
        said = read_until_end(ours)
        assert process.wait() == 130
    assert said.rpartition("\r\x1b[K")[2].split() == ["stopped"]
    assert "Traceback" not in said


def test_an_encoding_that_lacks_our_characters_is_served_in_ascii() -> None:
    command = [
        *WEFTLINE,
        *["simulate", "serving", "llama-3.1-8b", "--rate", "4/s", "--requests", "200"],
    ]
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, check=True, env=env)
    text = done.stdout.decode("ascii")
    assert "|####" in text
    assert "?" not in text
    helped = [*WEFTLINE, "plan", "train", "--help"]
    shown = subprocess.run(helped, capture_output=True, check=True, env=env)
    assert "+--" in shown.stdout.decode("ascii")
