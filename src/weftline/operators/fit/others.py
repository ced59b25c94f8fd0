"""Fit what is left: gated delta net, convolutions, collectives, elementwise, sampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weftline.operators.fit.base import CHIPS, Family, fit_both, table_path
from weftline.operators.fit.rows import fastest, read_columns, where

SCAN_DECODE_AXES: list[list[float]] = [[1, 4, 16, 64, 256, 1024], [2, 8, 16, 32, 64]]
SCAN_PREFILL_AXES: list[list[float]] = [
    [1, 64, 128, 256, 512, 1024, 4096, 32768], [1, 4, 16, 64], [2, 8, 16, 32, 64],
]  # fmt: skip
CONV_AXES: list[list[float]] = [
    [1, 8, 32, 128, 512, 2048, 8192, 65536, 524288], [512, 1024, 2048, 4096, 8192, 16384],
]  # fmt: skip
SIZE_AXIS = [float(2**i) for i in range(8, 31, 2)]
GROUP_AXIS: list[float] = [2, 4, 8]
STATE = 128 * 128
"""Values of one head's state in the measured kernels."""


def others(kernels: Path) -> Family:
    """Tables of scans, convolutions and collectives, and the constants of the rest."""
    family = Family("other")
    for chip in CHIPS:
        _scans(family, kernels, chip)
        _collectives(family, kernels, chip)
        _exchanges(family, kernels, chip)
    return family


def _scans(family: Family, kernels: Path, chip: str) -> None:
    path = table_path(kernels, chip, "gdn_perf")
    if path is None:
        return
    rows = read_columns(path)
    rows["channels"] = 128 * (2 * rows["num_k_heads"] + rows["num_v_heads"])
    rows["tokens"] = rows["batch_size"] * rows["seq_len"]
    kernel = np.asarray(rows["kernel_source"], dtype=str)
    for operator, source, axes, keys in (
        ("scan_decode", "fused_recurrent", SCAN_DECODE_AXES, ["batch_size", "num_v_heads"]),
        ("scan_prefill", "chunk_gated", SCAN_PREFILL_AXES,
         ["seq_len", "batch_size", "num_v_heads"]),
        ("conv_decode", "causal_conv1d_update", CONV_AXES, ["batch_size", "channels"]),
        ("conv_prefill", "causal_conv1d_fn", CONV_AXES, ["tokens", "channels"]),
    ):  # fmt: skip
        mine = where(rows, np.char.startswith(kernel, source))
        if operator == "conv_prefill":
            mine = where(mine, mine["batch_size"] == 1)
        mine = fastest(mine, keys)
        sizes = [mine[k] for k in keys]
        surface, held = fit_both(axes, sizes, mine["latency"] * 1e-3, [*sizes])
        family.add(operator, chip, "bf16", axes, surface, len(sizes[0]), held)


def _collectives(family: Family, kernels: Path, chip: str) -> None:
    axes = [SIZE_AXIS, GROUP_AXIS]
    path = table_path(kernels, chip, "nccl_perf")
    if path is not None:
        rows = read_columns(path)
        width = np.where(np.asarray(rows["nccl_dtype"], dtype=str) == "half", 2, 1)
        rows["bytes"] = rows["message_size"] * width
        name = np.asarray(rows["op_name"], dtype=str)
        for raw, operator in (
            ("all_gather", "all_gather"), ("all_reduce", "all_reduce_nccl"),
            ("alltoall", "all_to_all"), ("reduce_scatter", "reduce_scatter"),
        ):  # fmt: skip
            mine = fastest(where(rows, name == raw), ["bytes", "num_gpus"])
            sizes = [mine["bytes"], mine["num_gpus"]]
            surface, held = fit_both(axes, sizes, mine["latency"] * 1e-3, sizes)
            family.add(operator, chip, "bytes", axes, surface, len(sizes[0]), held)
    path = table_path(kernels, chip, "custom_allreduce_perf")
    if path is not None:
        rows = read_columns(path)
        rows["bytes"] = rows["message_size"] * 2
        backend = np.asarray(rows["kernel_source"], dtype=str)
        for suffix, operator in (("graph", "all_reduce"), ("eager", "all_reduce_eager")):
            mine = fastest(where(rows, np.char.endswith(backend, suffix)), ["bytes", "num_gpus"])
            sizes = [mine["bytes"], mine["num_gpus"]]
            surface, held = fit_both(axes, sizes, mine["latency"] * 1e-3, sizes)
            family.add(operator, chip, "bytes", axes, surface, len(sizes[0]), held)


EXCHANGE_AXES: list[list[float]] = [
    [1, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384, 65536], [3072, 4096, 6144, 7168]
]  # fmt: skip


def _exchanges(family: Family, kernels: Path, chip: str) -> None:
    """DeepEP dispatch and combine on 8 chips: low-latency and high-throughput kernels."""
    path = table_path(kernels, chip, "moe_a2a_perf")
    if path is None:
        return
    rows = read_columns(path)
    backend = np.asarray(rows["comm_backend"], dtype=str)
    phase = np.asarray(rows["phase"], dtype=str)
    for kind, name in (("deepep_ll", "low_latency"), ("deepep_ht", "high_throughput")):
        for step in ("dispatch", "combine"):
            mine = fastest(where(rows, (backend == kind) & (phase == step)),
                           ["num_tokens", "hidden_size"])  # fmt: skip
            sizes = [mine["num_tokens"], mine["hidden_size"]]
            if not len(sizes[0]):
                continue
            surface, held = fit_both(EXCHANGE_AXES, sizes, mine["latency"] * 1e-6, sizes)
            family.add(f"{step}_{name}", chip, "tokens", EXCHANGE_AXES, surface,
                       len(sizes[0]), held)  # fmt: skip
