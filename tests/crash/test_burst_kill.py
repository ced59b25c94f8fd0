"""Twenty rounds of kill -9; ``kill_rounds.py`` as a program runs a thousand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_rounds.py")


def rounds(count: int, seed: int, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rounds", str(count), "--seed", str(seed),
         "--dir", str(folder)],
        capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "nothing lost" in done.stdout


def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    rounds(20, 1, tmp_path)


@pytest.mark.slow
def test_a_thousand_kills_lose_nothing(tmp_path: Path) -> None:
    rounds(1000, 0, tmp_path)
