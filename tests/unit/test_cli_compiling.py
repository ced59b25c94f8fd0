"""The line on a first run: said once, on a terminal, when a kernel really is compiled."""

from __future__ import annotations

import sys
import time

import numba
import pytest

from weftline.cli.compiling import compiling_said
from weftline.cli.slow import slow_said


def test_the_line_comes_when_a_kernel_is_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = numba.njit(lambda x: 2 * x)
    with compiling_said():
        twice(1)
    assert capsys.readouterr().err == ""  # a pipe
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with compiling_said():
        twice(1)
    assert capsys.readouterr().err == ""  # compiled already
    with compiling_said():
        twice(1.5)
        twice(1j)
    assert capsys.readouterr().err.count("compiling") == 1


def test_what_takes_long_says_so_and_what_is_quicker(capsys: pytest.CaptureFixture[str]) -> None:
    with slow_said("timing 64 chips", "--algorithm ring", after_s=0.01):
        time.sleep(0.2)
    assert capsys.readouterr().err == "still timing 64 chips; quicker: --algorithm ring\n"
    with slow_said("nothing", after_s=30):
        pass
    assert capsys.readouterr().err == ""
