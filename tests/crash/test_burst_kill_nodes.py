"""Nodes with disks of their own, killed for real; `make crash` runs 500 rounds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kill_nodes.py")


def rounds(count: int, folder: Path, *, nodes: int | None = None, limit_s: float) -> None:
    command = [sys.executable, str(PROGRAM), "--rounds", str(count), "--dir", str(folder)]
    if nodes is not None:
        command += ["--nodes", str(nodes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    assert done.returncode == 0, done.stderr[-6000:]


def test_four_nodes_lose_nothing_that_is_left(tmp_path: Path) -> None:
    rounds(6, tmp_path, nodes=4, limit_s=200)


@pytest.mark.slow
def test_many_nodes_lose_nothing_that_is_left(tmp_path: Path) -> None:
    rounds(500, tmp_path, limit_s=3600)
