"""What a host says of itself: chips, network devices, cores, and where it stands in the network.

Files and tools of the host are read by the fabric's own importers: NCCL's topology XML
(NCCL_TOPO_FILE, NCCL_TOPO_DUMP_FILE), ``nvidia-smi topo -m``, sysfs, Slurm's variables.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weftline.errors import InputError, InputErrors
from weftline.launch.place import facts_of


def discover(
    root: Path = Path("/"), environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Facts of this process and its host, as JSON. Nothing is asked outside the host but what its
    own tools answer; a tool or file that is not here leaves its fact out. ``root`` is where sysfs
    is looked for."""
    env = os.environ if environment is None else environment
    asset = root / "sys/devices/virtual/dmi/id/board_asset_tag"
    found: dict[str, Any] = {
        "host": facts_of(env, rendezvous="-:0").host,
        # EC2 writes the instance's id there, by which DescribeInstanceTopology names hosts.
        "names": [name for name in (socket.gethostname(), env.get("SLURMD_NODENAME", ""),
                                    _text(asset)) if name],
        "interfaces": sorted(name for _, name in socket.if_nameindex() if name != "lo"),
        "cores": sorted(os.sched_getaffinity(0)),
        "rdma": _rdma(root),
        "topology": env.get("WEFTLINE_TOPOLOGY") or env.get("SLURM_TOPOLOGY_ADDR", ""),
    }  # fmt: skip
    gpus = _tool("nvidia-smi", "--query-gpu=index,name,clocks.sm,temperature.gpu",
                 "--format=csv,noheader")  # fmt: skip
    if gpus:
        found["gpus"] = gpus
        found["nvlinks"] = [line for line in _tool("nvidia-smi", "nvlink", "-s") if "GB/s" in line]
    neuron = _tool("neuron-ls", "--json-output")
    if neuron:
        found["neuron"] = len(neuron)
    inside = _inside(env, gpus)
    if inside:
        found["inside"] = inside
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _rdma(root: Path) -> dict[str, float]:
    """RDMA device -> bytes/s one way of its active ports: sysfs says ``400 Gb/sec (4X NDR)``."""
    folder = root / "sys/class/infiniband"
    found = {}
    for device in sorted(folder.iterdir()) if folder.is_dir() else ():
        rate = 0.0
        for port in sorted((device / "ports").glob("*")):
            said = re.match(r"([\d.]+) Gb/sec", _text(port / "rate"))
            if said and "ACTIVE" in _text(port / "state"):
                rate += float(said[1]) * 1e9 / 8
        found[device.name] = rate
    return found


def _inside(env: Mapping[str, str], gpus: list[str]) -> dict[str, Any]:
    """The host's chips and what each sends to the others: by NCCL's XML, else by nvidia-smi."""
    for name in ("NCCL_TOPO_FILE", "NCCL_TOPO_DUMP_FILE"):
        if env.get(name) and Path(env[name]).is_file():
            return _read(Path(env[name]), name, "")
    matrix = _tool("nvidia-smi", "topo", "-m") if gpus else []
    if not matrix:
        return {}
    from weftline.fabric.formats.clusters.instances import product_chip

    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(matrix))
        file.flush()
        chip = product_chip(gpus[0].split(",")[1].strip()) or ""
        return _read(Path(file.name), "nvidia-smi topo -m", chip)


def _read(path: Path, source: str, chip: str) -> dict[str, Any]:
    from weftline.fabric.formats.files import import_fabric

    try:
        topology = import_fabric(path, chip=chip or None).topology
    except (InputError, InputErrors) as error:
        return {"source": source, "unread": str(error).splitlines()[0]}
    if topology is None:
        return {"source": source, "unread": "no network of one host"}
    between = [0.0] * topology.ranks
    for a, b, rate in zip(topology.source, topology.destination, topology.bandwidth_bytes_per_s,
                          strict=True):  # fmt: skip
        if a < topology.ranks and (b < topology.ranks or topology.label(int(b)) == "NVSwitch"):
            between[int(a)] += float(rate)
    return {"source": source, "chips": topology.ranks, "between_bytes_per_s": between}


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
    return [line.rstrip() for line in done.stdout.splitlines() if line.strip()] if (
        done.returncode == 0) else []  # fmt: skip


def counts_of(facts: dict[str, Any]) -> dict[str, int]:
    """What hosts of one kind have the same number of."""
    return {
        "network interface": len(facts["interfaces"]), "RDMA device": len(facts["rdma"]),
        "GPU": len(facts.get("gpus", ())), "active NVLink": len(facts.get("nvlinks", ())),
    }  # fmt: skip
