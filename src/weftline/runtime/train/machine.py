"""What is here to train on: chips, cores, free memory, and which number format is fast."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from weftline.errors import InputError

__all__ = ["Machine", "fast_dtype", "this_machine"]

_OWN: Final = ("cpu", "here", "this")
"""How a chip of one's own that is this machine may begin its name."""
_SIDE: Final = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """This machine, as far as a run needs it."""

    kind: Literal["cpu", "cuda"]
    name: str
    """Of its accelerators, as their driver calls them."""
    chips: int
    """Accelerators; cores where there are none."""
    cores: int
    memory_bytes: float
    """Free now: of one accelerator, or of the host."""

    @property
    def about(self) -> str:
        """``2 CPU cores``, ``8 x NVIDIA H100``."""
        return f"{self.cores} CPU cores" if self.kind == "cpu" else f"{self.chips} x {self.name}"

    def is_like(self, chip: str) -> bool:
        """Whether the catalogue's or the user's chip of that name is what is here."""
        word = chip.lower().replace("_", "-").split("-")[0].split("+")[0]
        if self.kind == "cpu":
            return word in _OWN
        return word in self.name.lower().replace("-", " ").split()


def this_machine() -> Machine:
    """Look around. Raises InputError where torch is not installed."""
    try:
        import torch
    except ImportError:
        raise InputError(
            "torch and transformers are needed to train", hint="pip install 'weftline[run]'"
        ) from None
    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Machine(
            kind="cuda", name=torch.cuda.get_device_name(0), chips=torch.cuda.device_count(),
            cores=cores, memory_bytes=float(free),
        )  # fmt: skip
    return Machine(kind="cpu", name="CPU", chips=cores, cores=cores, memory_bytes=_free_bytes())


def _free_bytes() -> float:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return float("inf")


def fast_dtype(precision: str, machine: Machine) -> tuple[Literal["fp32", "bf16"], str]:
    """The format of the products, and a word on it where it is not the plan's.

    CPUs without bf16 units take several times as long in it: a product in each says which.
    """
    if precision == "fp32":
        return "fp32", ""
    if machine.kind == "cuda":
        return "bf16", "" if precision == "bf16" else f"{precision} is not run here: bf16"
    import torch

    took = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(_SIDE, _SIDE, dtype=dtype)
        times = []
        for _ in range(4):
            begin = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - begin)
        took[name] = min(times)
    if took["bf16"] < took["fp32"]:
        return "bf16", ""
    return "fp32", (
        f"products run in fp32: bf16 takes {took['bf16'] / took['fp32']:.1f} times as long here"
    )
