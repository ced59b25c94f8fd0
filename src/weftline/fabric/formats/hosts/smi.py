"""Tables of one host: ``nvidia-smi topo -m`` and ``rocm-smi --showtopo``; speeds from the chip.

nvidia-smi says how many NVLinks join two GPUs (``NV18``), or what else lies between (PIX, PXB, PHB,
NODE, SYS). Behind an NVSwitch every pair shows all of a GPU's links; without one the links of a row
add up to them. rocm-smi says XGMI or PCIE for each pair.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import numpy as np

from weftline.catalog import accelerator
from weftline.errors import InputError
from weftline.fabric.formats.clusters.joined import NVLS_CHIPS
from weftline.fabric.graph import Topology

NVIDIA = "nvidia-smi topo -m"
ROCM = "rocm-smi --showtopo"
PATHS: Final = {"PIX": "one PCIe bridge", "PXB": "several PCIe bridges", "PHB": "the CPU's bridge",
                "NODE": "bridges of one NUMA node", "SYS": "another NUMA node"}  # fmt: skip
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
HOP_S: Final = 3.4e-6
"""NVLink's and xGMI's, Simple protocol, in NCCL's tuner."""


def detect_nvidia(text: str) -> bool:
    """Whether a row of the matrix begins with GPU0 and its X."""
    return bool(re.search(r"^\s*GPU0\s+X\s", _ANSI.sub("", text), re.M))


def detect_rocm(text: str) -> bool:
    """Whether rocm-smi's heading of link types is there."""
    return bool(re.search(r"Link Type between two GPUs", text, re.IGNORECASE))


def read_nvidia(
    text: str, where: str, *, chip: str | None = None, link_bytes_per_s: float | None = None
) -> Topology:
    """The host's GPUs; raises InputError where no chip says their speed, or a row is broken."""
    lines = _ANSI.sub("", text).splitlines()
    head = next((i for i, line in enumerate(lines) if re.match(r"\s*GPU0(\s+GPU1|\s+|$)", line)
                 and not re.match(r"\s*GPU0\s+X\s", line)), 0)  # fmt: skip
    columns = re.findall(r"\b(?:GPU|NIC|mlx\d+_)\d+\b", lines[head]) if lines else []
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines[head + 1 :], start=head + 2):
        words = line.split()
        if not words or words[0] not in columns:
            continue
        if len(words) - 1 < len(columns):
            raise InputError(f"row {words[0]} has {len(words) - 1} entries for {len(columns)}",
                             where=f"{where}:{number}", hint="paste the whole table")  # fmt: skip
        rows[words[0]] = dict(zip(columns, words[1:], strict=False))
    gpus = [c for c in columns if c.startswith("GPU") and c in rows]

    def links(a: str, b: str) -> int:
        match = re.fullmatch(r"NV(\d+)", rows[a].get(b, ""))
        return int(match[1]) if match else 0

    basis = {}
    beside = [f"{n} at {g}" for n in columns if not n.startswith("GPU")
              for g in gpus if rows[g].get(n) in ("PIX", "PXB")]  # fmt: skip
    nics = sum(not c.startswith("GPU") for c in columns)
    if nics:
        basis["NICs"] = f"{nics}" + (f": {', '.join(beside)}" if beside else "")
    return _host(gpus, links, chip, link_bytes_per_s, where, "nvidia-smi host", basis)


def read_rocm(
    text: str, where: str, *, chip: str | None = None, link_bytes_per_s: float | None = None
) -> Topology:
    """The host's GPUs; raises InputError where no chip says their speed, or the table is broken."""
    lines = text.splitlines()
    at = next((i for i, line in enumerate(lines) if "link type between two" in line.lower()), None)
    if at is None:
        raise InputError("no `Link Type between two GPUs`", where=f"{where}:1")
    table: dict[str, list[str]] = {}
    for line in lines[at + 1 :]:
        words = line.split()
        if table and (not words or not words[0].startswith("GPU")):
            break
        if len(words) > 1 and re.fullmatch(r"GPU\d+", words[0]) and not words[1].startswith("GPU"):
            table[words[0]] = words[1:]
    gpus = list(table)
    short = next((g for g in gpus if len(table[g]) != len(gpus)), None)
    if not gpus or short:
        raise InputError(f"the link types of {short or 'no GPU'} are not {len(gpus)}",
                         where=f"{where}:{at + 1}", hint="paste the whole table")  # fmt: skip

    def links(a: str, b: str) -> int:
        return int(table[a][gpus.index(b)].upper() == "XGMI")

    return _host(gpus, links, chip, link_bytes_per_s, where, "rocm-smi host", {})


LINK_BYTES_PER_S: Final = (20e9, 25e9, 50e9)
"""One NVLink one way, of every generation (NVIDIA's datasheets)."""


def _is_link(whole: float | None, count: int) -> bool:
    """Whether a GPU's rate over so many links is that of one link: then these are all it has."""
    if whole is None or not count:
        return True
    return any(abs(whole / count / one - 1) < 0.1 for one in LINK_BYTES_PER_S)


def _host(
    gpus: list[str], links: Callable[[str, str], int], chip: str | None, link: float | None,
    where: str, name: str, basis: dict[str, str],
) -> Topology:  # fmt: skip
    """One switch where every pair shows all links of a GPU, else the links between the pairs."""
    counts = np.asarray([[links(a, b) if a != b else 0 for b in gpus] for a in gpus])
    if not gpus or not counts.any():
        raise InputError("no two GPUs are joined by NVLink or xGMI", where=f"{where}:1",
                         hint="NCCL's topology file says PCIe's speeds")  # fmt: skip
    if (counts != counts.T).any():
        raise InputError("a pair shows other links one way than the other", where=f"{where}:1")
    if chip is None:
        raise InputError("the table says how GPUs are joined, not how fast", where=f"{where}:1",
                         hint="name the GPU: --chip h100")  # fmt: skip
    acc = accelerator(chip)
    whole = acc.scale_up_bytes_per_s
    pairs = counts[~np.eye(len(gpus), dtype=np.bool_)]
    alike = len(gpus) > 1 and len(set(pairs.tolist())) == 1
    mesh = acc.topology_kind in ("fully_connected", "mesh")
    switched = alike and not mesh and len(gpus) > 2 and _is_link(whole, int(pairs.max()))
    if whole is None and link is None:
        raise InputError(f"no scale-up rate of `{acc.id}` is known", where="--chip",
                         hint="give one link's: --link 25GB/s")  # fmt: skip
    each = int(pairs.max()) if switched else int(counts.sum(axis=1).max())
    one = link or (whole or 0.0) / each
    basis |= {"links": f"{acc.id}: scale-up rate over {each} links of a GPU" if link is None
              else "given"}  # fmt: skip
    rows: list[tuple[int, int, float, float]] = []
    if switched:
        for i in range(len(gpus)):
            for a, b in ((i, len(gpus)), (len(gpus), i)):
                rows.append((a, b, one * each, HOP_S / 2))
        basis["switch"] = f"every pair shows all {each} links: behind one switch"
    else:
        rows = [(a, b, one * float(counts[a, b]), HOP_S) for a in range(len(gpus))
                for b in range(len(gpus)) if counts[a, b]]  # fmt: skip
    table = np.asarray(rows, dtype=np.float64)
    adds = switched and acc.id in NVLS_CHIPS
    return Topology(
        name=name, ranks=len(gpus), switches=int(switched), kind="switch" if switched else "graph",
        source=table[:, 0].astype(np.int64), destination=table[:, 1].astype(np.int64),
        bandwidth_bytes_per_s=table[:, 2], latency_s=table[:, 3], chips_forward=not switched,
        labels=(*gpus, *(["NVSwitch"] if switched else [])), levels=(len(gpus),),
        interchangeable=switched, reducing=np.asarray([True]) if adds else None, basis=basis,
        chip=acc.id,
    )  # fmt: skip
