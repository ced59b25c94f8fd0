"""Ranks of torch.distributed on nodes with disks of their own: saved, lost, restored elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import node_ranks
import pytest


def on_nodes(folder: Path, count: int, load_worlds: list[int]) -> None:
    command = [sys.executable, node_ranks.__file__, str(folder), str(count)]
    done = subprocess.run(
        [*command, *map(str, load_worlds)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]


def test_four_nodes_save_lose_one_and_two_ranks_restore(tmp_path: Path) -> None:
    on_nodes(tmp_path, 4, [2])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4, 8])
def test_any_nodes_save_and_any_ranks_restore(tmp_path: Path, count: int) -> None:
    on_nodes(tmp_path, count, [1, 3, 8])
