"""This machine on a grid of shapes: products and attention, copies, exchanges; all ranks at once.

Products are timed forward and back through autograd, as training runs them; a table holds the mean
of the three. Tables are those of the operators room: log2 microseconds on a grid of sizes.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from weftline.operators.surface import Surface, log2_axis, running_max
from weftline.operators.tables import packed
from weftline.runtime.measure.operators import now, timed
from weftline.runtime.measure.work import FOUND_FILE, together
from weftline.runtime.train import models
from weftline.runtime.train.recipe import Recipe
from weftline.runtime.train.worker import join, reference_s
from weftline.spec.serialize import write_text

__all__ = [
    "COLLECTIVES", "DECODE", "DIMS", "FEATURES", "PREFILL", "SIZES", "TOKENS", "on_grid",
    "tables_of",
]  # fmt: skip

TOKENS: Final = (32, 128, 512, 2048)
FEATURES: Final = (128, 512, 2048)
DIMS: Final = (64, 128)
PREFILL: Final = ((64, 256, 1024), (1, 4, 16), (1, 4))
"""Tokens, sequences times key heads, query heads of a key head."""
DECODE: Final = ((64, 512, 4096), (1, 8, 64), (1, 4))
_REPEATS: Final = 3
COLLECTIVES: Final = ("all-reduce", "all-gather", "reduce-scatter", "send")
SIZES: Final = (1 << 10, 1 << 16, 1 << 20, 1 << 24)
"""Bytes of the whole buffer."""
_COPIED: Final = 64 << 20
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}


def on_grid(seconds: float) -> Callable[..., bool]:
    """The work of a rank: everything once, then again while there is time, medians of it."""

    def work(
        run: Path, recipe: Recipe, report: Any, *, rank: int, world: int, store: Any,
        generation: int,
    ) -> bool:  # fmt: skip
        del report, generation
        join(recipe, rank, world, store)
        torch.set_num_threads(recipe.threads)
        with models.quietly():
            found = _measured(recipe, seconds)
        if rank == 0:
            write_text(json.dumps(found) + "\n", run / FOUND_FILE)
        together()
        return True

    return work


def _measured(recipe: Recipe, seconds: float) -> dict[str, Any]:
    device = recipe.device
    calls = {**_products(device), **_attention(device), "copy": _copy(device)}
    exchanges = _exchanges(device)
    times: dict[str, list[float]] = {name: [] for name in (*calls, *exchanges)}
    references: list[float] = []
    begin = time.perf_counter()
    rounds = 0
    for call in calls.values():
        call()
    while rounds < 2 or (rounds < 8 and _more(begin, seconds)):
        for turn, (name, call) in enumerate(calls.items()):
            if turn % 16 == 0:
                references.append(reference_s(device))
            times[name].append(call())
        for name, call in exchanges.items():
            together()
            call()  # ranks leave the barrier one after another: the next begins together
            times[name].append(sum(call() for _ in range(_REPEATS)) / _REPEATS)
        rounds += 1
    return {"times": {n: float(np.median(v)) for n, v in times.items()}, "reference": references,
            "rounds": rounds, "copied_bytes": 3.0 * _COPIED}  # fmt: skip


def _more(begin: float, seconds: float) -> bool:
    told = torch.tensor([time.perf_counter() - begin < seconds], dtype=torch.int64)
    if dist.is_initialized():
        dist.broadcast(told, 0)
    return bool(told[0])


def _products(device: str) -> dict[str, Callable[[], float]]:
    found: dict[str, Callable[[], float]] = {}
    for fmt, (m, n, k) in itertools.product(_DTYPES, itertools.product(TOKENS, FEATURES, FEATURES)):
        found[f"gemm/{fmt}/{m}/{n}/{k}"] = _product(m, n, k, _DTYPES[fmt], device)
    return found


def _product(m: int, n: int, k: int, dtype: torch.dtype, device: str) -> Callable[[], float]:
    def run() -> float:
        x = torch.randn(m, k, device=device, dtype=dtype, requires_grad=True)
        w = torch.randn(n, k, device=device, dtype=dtype, requires_grad=True)
        return sum(timed(lambda: nn.functional.linear(x, w), device)) / 3

    return run


def _attention(device: str) -> dict[str, Callable[[], float]]:
    found: dict[str, Callable[[], float]] = {}
    for dim in DIMS:
        for tokens, streams, group in itertools.product(*PREFILL):
            found[f"prefill/{dim}/{tokens}/{streams}/{group}"] = _attend(
                tokens, tokens, streams, group, dim, device
            )
        for context, streams, group in itertools.product(*DECODE):
            found[f"decode/{dim}/{context}/{streams}/{group}"] = _attend(
                1, context, streams, group, dim, device
            )
    return found


def _attend(
    tokens: int, context: int, streams: int, group: int, dim: int, device: str
) -> Callable[[], float]:
    def run() -> float:
        q = torch.randn(1, streams * group, tokens, dim, device=device)
        k, v = (torch.randn(1, streams, context, dim, device=device) for _ in range(2))
        begin = now(device)
        nn.functional.scaled_dot_product_attention(q, k, v, is_causal=tokens == context,
                                                   enable_gqa=group > 1)  # fmt: skip
        return now(device) - begin

    return run


def _copy(device: str) -> Callable[[], float]:
    a, b = (torch.ones(_COPIED // 4, device=device) for _ in range(2))

    def run() -> float:
        begin = now(device)
        a.add_(b)
        return now(device) - begin

    return run


def _exchanges(device: str) -> dict[str, Callable[[], float]]:
    """What libraries do between all ranks; nothing in a world of one."""
    if not dist.is_initialized():
        return {}
    return {
        f"exchange/{name}/{size}": _exchange(name, size, device)
        for name in COLLECTIVES for size in SIZES
    }  # fmt: skip


def _exchange(name: str, size: int, device: str) -> Callable[[], float]:
    world, rank = dist.get_world_size(), dist.get_rank()
    whole = torch.ones(size // 4 // world * world, device=device)
    share = torch.ones(len(whole) // world, device=device)
    wire: Any = dist

    def call() -> None:
        if name == "all-reduce":
            dist.all_reduce(whole)
        elif name == "all-gather":
            wire.all_gather_into_tensor(whole, share)
        elif name == "reduce-scatter":
            wire.reduce_scatter_tensor(share, whole)
        elif rank % 2 == 0 and rank + 1 < world:
            dist.send(whole, rank + 1)
        elif rank % 2:
            dist.recv(whole, rank - 1)

    def run() -> float:
        begin = now(device)
        call()
        return now(device) - begin

    return run


def tables_of(times: dict[str, float], machine: str) -> dict[str, Any]:
    """Families of tables in the form of the operators room, of one machine."""
    gemm = {
        fmt: _table(times, f"gemm/{fmt}", (TOKENS, FEATURES, FEATURES)) for fmt in _DTYPES
    }  # fmt: skip
    attention = {
        name: {f"{dim}/bf16": _table(times, f"{name}/{dim}", axes) for dim in DIMS}
        for name, axes in (("prefill", PREFILL), ("decode", DECODE))
    }
    return {
        "gemm": {"operators": {"gemm": _section((TOKENS, FEATURES, FEATURES), gemm, machine)}},
        "attention": {"operators": {
            name: _section(axes, attention[name], machine)
            for name, axes in (("prefill", PREFILL), ("decode", DECODE))
        }},
    }  # fmt: skip


def _section(
    axes: Sequence[Sequence[int]], tables: dict[str, list[int]], machine: str
) -> dict[str, Any]:
    return {
        "axes": [list(a) for a in axes],
        "tables": {machine: {key: {"log2_us_x100": values} for key, values in tables.items()}},
    }


def _table(times: dict[str, float], prefix: str, axes: Sequence[Sequence[int]]) -> list[int]:
    shape = [len(a) for a in axes]
    values = [times["/".join([prefix, *map(str, at)])] for at in itertools.product(*axes)]
    grid = running_max(np.log2(np.asarray(values)).reshape(shape))
    return packed(Surface(tuple(log2_axis(a) for a in axes), grid))
