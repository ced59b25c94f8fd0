"""What four ranks save, any number of ranks loads bit for bit: DTensor, FSDP2, DDP, async_save."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import reshard_ranks


def reshard(folder: Path, save_world: int, load_worlds: list[int]) -> None:
    command = [sys.executable, reshard_ranks.__file__, str(folder / "store"), str(save_world)]
    done = subprocess.run(
        [*command, *map(str, load_worlds)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]


def test_four_ranks_save_and_three_load(tmp_path: Path) -> None:
    reshard(tmp_path, 4, [3])


@pytest.mark.slow
@pytest.mark.parametrize("save_world", [1, 2, 4])
def test_any_ranks_save_and_any_load(tmp_path: Path, save_world: int) -> None:
    reshard(tmp_path, save_world, [1, 2, 3, 8])
