"""What a host says of itself: chips, network devices, cores, and where the launcher put it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from weftline.launch.place import facts_of


def discover() -> dict[str, Any]:
    """Facts of this process and its host, as JSON. Nothing is asked outside the host but what its
    own tools answer; a tool that is not here leaves its fact out."""
    found: dict[str, Any] = {
        "host": facts_of(rendezvous="-:0").host,
        "interfaces": sorted(name for _, name in socket.if_nameindex() if name != "lo"),
        "cores": sorted(os.sched_getaffinity(0)),
        "rdma": sorted(p.name for p in _listed("/sys/class/infiniband")),
        "topology": os.environ.get("WEFTLINE_TOPOLOGY")
        or os.environ.get("SLURM_TOPOLOGY_ADDR", ""),
    }  # fmt: skip
    gpus = _tool("nvidia-smi", "--query-gpu=index,name,clocks.sm,temperature.gpu",
                 "--format=csv,noheader")  # fmt: skip
    if gpus:
        found["gpus"] = gpus
        found["nvlinks"] = [line for line in _tool("nvidia-smi", "nvlink", "-s") if "GB/s" in line]
    neuron = _tool("neuron-ls", "--json-output")
    if neuron:
        found["neuron"] = len(neuron)
    for name in ("NCCL_TOPO_FILE", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE", "AWS_BATCH_JOB_ID"):
        if name in os.environ:
            found[name.lower()] = os.environ[name]
    return found


def _listed(folder: str) -> list[Path]:
    path = Path(folder)
    return list(path.iterdir()) if path.is_dir() else []


def _tool(*command: str) -> list[str]:
    """Lines of a tool's answer; none where it is not here or does not answer in 5 s."""
    program = shutil.which(command[0])
    if program is None:
        return []
    try:
        done = subprocess.run(  # noqa: S603  (the host's own tool)
            [program, *command[1:]], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if (
        done.returncode == 0) else []  # fmt: skip


def counts_of(facts: dict[str, Any]) -> dict[str, int]:
    """What hosts of one kind have the same number of."""
    return {
        "network interface": len(facts["interfaces"]), "RDMA device": len(facts["rdma"]),
        "GPU": len(facts.get("gpus", ())), "active NVLink": len(facts.get("nvlinks", ())),
    }  # fmt: skip
