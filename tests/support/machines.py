"""A machine as `weftline calibrate` writes it, made of laws that are known: for tests."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from weftline.catalog.machines import CONFIG_DIR_VARIABLE, Machine, write_machine
from weftline.runtime.measure import grid

FLOPS = 5e10
"""Of every product, whatever its shape."""
RATE = 8e9
"""Bytes a second of memory."""


def times() -> dict[str, float]:
    """Seconds of everything on the grid."""
    found: dict[str, float] = {}
    for fmt in ("fp32", "bf16"):
        for m, n, k in itertools.product(grid.TOKENS, grid.FEATURES, grid.FEATURES):
            found[f"gemm/{fmt}/{m}/{n}/{k}"] = 2.0 * m * n * k / FLOPS
    for dim in grid.DIMS:
        for tokens, streams, group in itertools.product(*grid.PREFILL):
            work = 2.0 * tokens * tokens * streams * group * dim
            found[f"prefill/{dim}/{tokens}/{streams}/{group}"] = work / FLOPS
        for context, streams, group in itertools.product(*grid.DECODE):
            work = 4.0 * context * streams * group * dim
            found[f"decode/{dim}/{context}/{streams}/{group}"] = work / FLOPS
    return found


def written(folder: Path, patch: pytest.MonkeyPatch, name: str = "here", ranks: int = 2) -> Machine:
    """Put the machine into a catalogue of its own and make that the user's."""
    patch.setenv(CONFIG_DIR_VARIABLE, str(folder))
    made = Machine(
        id=name, date="2026-11-30", about={"name": "test", "cores": ranks, "torch": "2.13.0"},
        loudness={"reasons": []}, dtype="fp32",
        chip={"id": name, "vendor": "cpu", "measured": "2026-11-30", "memory": 8e9,
              "memory_bandwidth": RATE, "peak.fp32": FLOPS, "peak.bf16": FLOPS,
              "chips_per_host": float(ranks), "scale_up": 1e9, "scale_up_domain": float(ranks),
              "topology": "switch"},
        rates={"peak.fp32": FLOPS, "peak.bf16": FLOPS, "memory_bandwidth": RATE},
        collectives=(), storage={"staged_bytes_per_s": 2e9}, power={"why": "a test"},
        tables=grid.tables_of(times(), name),
    )  # fmt: skip
    write_machine(made)
    return made
