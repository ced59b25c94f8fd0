"""Groups keep the plan's order, which DeviceMesh alone would sort away."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from weftline.errors import InputError
from weftline.launch.mesh import axes_of, groups_of, jax_devices

RANKS = Path(__file__).parents[2] / "support" / "mesh_ranks.py"


def plan_file(folder: Path, **more: object) -> Path:
    lay = {"tp": 2, "cp": 1, "dp": 2, "pp": 1, "order": ["tp", "cp", "dp", "pp"]}
    path = folder / "plan.json"
    path.write_text(json.dumps({"layout": lay, "cluster": {"chips_per_host": 2}, **more}))
    return path


def test_groups_of_a_mesh_are_those_of_its_table() -> None:
    """Held against NumPy's own idea of rows and columns."""
    import numpy as np

    order = [5, 3, 11, 0, 7, 2, 9, 1, 4, 10, 8, 6]
    table = np.array(order).reshape(2, 3, 2)
    for axis in range(3):
        moved = np.moveaxis(table, axis, -1).reshape(-1, table.shape[axis]).tolist()
        assert sorted(groups_of((2, 3, 2), order, axis)) == sorted(moved)


def test_axes_come_from_the_plan(tmp_path: Path) -> None:
    assert axes_of(plan_file(tmp_path)) == (("dp", "tp"), (2, 2))
    with pytest.raises(InputError, match="no plan for training"):
        axes_of(tmp_path / "none.json")


@pytest.mark.slow
def test_four_processes_keep_the_order(tmp_path: Path) -> None:
    """Places 0..3 of a (dp, tp) mesh are taken by ranks 2, 0, 3, 1: groups gather in that order."""
    plan = plan_file(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "4",
           "OMP_NUM_THREADS": "1"}  # fmt: skip
    running = [
        subprocess.Popen([sys.executable, str(RANKS), str(plan), str(tmp_path)],
                         env={**env, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(4)
    ]  # fmt: skip
    for process in running:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    found = {r: json.loads((tmp_path / f"{r}.json").read_text()) for r in range(4)}
    assert {r: f["tp"] for r, f in found.items()} == {2: [2, 0], 0: [2, 0], 3: [3, 1], 1: [3, 1]}
    assert {r: f["dp"] for r, f in found.items()} == {2: [2, 3], 3: [2, 3], 0: [0, 1], 1: [0, 1]}
    assert {r: f["coordinate"] for r, f in found.items()} == {
        2: [0, 0], 0: [0, 1], 3: [1, 0], 1: [1, 1]}  # fmt: skip
    assert found[0]["tp_rank"] == 1  # sorted, it would be 0


@dataclass(frozen=True)
class Device:
    id: int
    coords: tuple[int, int, int]


def test_jax_devices_come_in_the_order_of_the_map(tmp_path: Path) -> None:
    """A 2 x 2 torus, chips row-major with the last axis fastest; JAX's x is that last axis."""
    plan = plan_file(tmp_path, rank_map={"shape": [2, 2], "runs": [[3, -1, 2], [0, 1, 2]]})
    devices = [Device(n, (n % 2, n // 2, 0)) for n in range(4)]
    found = jax_devices(plan, devices)
    assert [[d.id for d in row] for row in found] == [[3, 2], [0, 1]]
    with pytest.raises(InputError, match="3 devices for a mesh"):
        jax_devices(plan, devices[:3])
