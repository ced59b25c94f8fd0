"""Paged attention's kernels beside what this machine reads from memory and multiplies, in one run.

    python bench/attention_kernels.py [--keys 16384 65536] [--prompt 4096] [--heads 9 3 64 ...]

Decoding: bytes of keys and values over the bytes that a plain sum of floats reads in the same time.
Prompts: FLOP over those of torch's product of 2,048 cubed in the format that the kernel multiplies
in (fp32, or bf16 where the machine has a unit for it), and torch's own attention beside it. With a
unit two bounds are timed: its products alone, nothing loaded or stored, and the weights of all
scores alone. `bound_gflop_per_s` is what the slower of them allows, `bound_in_turn` both after each
other. One thread, processor seconds, the best of rounds that take turns, so that all meet the same
machine.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from weftline.attention.kernels.build import library
from weftline.attention.kernels.paged import KINDS, Kernel

PAGE = 64


def best(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Processor seconds of each, at its best of ``rounds`` that take turns."""
    took = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            begun = time.process_time()
            work()
            took[name] = min(took[name], time.process_time() - begun)
    return took


def filled(kernel: Kernel, keys: int) -> tuple[Any, np.ndarray]:
    """A cache of random keys and values, its pages in random order, and its table."""
    draw = np.random.default_rng(0)
    pages = -(-keys // PAGE)
    cache = kernel.cache(pages + 1)
    table = draw.permutation(np.arange(1, pages + 1)).astype(np.int32)
    for slot in range(pages):
        shape = (PAGE, kernel.kv_heads, kernel.dim)
        k, v = (draw.normal(size=shape).astype(np.float32) for _ in range(2))
        kernel.write(k, v, cache, table[slot] * PAGE + np.arange(PAGE, dtype=np.int64))
    return cache, table[None]


def attends(kernel: Kernel, keys: int, rows: int) -> tuple[Callable[[], Any], int]:
    """The call of ``rows`` queries at the end of ``keys`` keys, and the bytes of its cache."""
    cache, table = filled(kernel, keys)
    query = np.random.default_rng(1).normal(size=(rows, kernel.heads, kernel.dim))
    query = torch.tensor(query).bfloat16().float().numpy()
    starts, lens = np.asarray([0, rows], np.int32), np.asarray([keys], np.int32)
    size = sum(0 if x is None else x.nbytes for x in cache)
    scale = kernel.dim**-0.5
    return lambda: kernel.attend(query, cache, starts, lens, table, scale=scale), size


def decoding(args: argparse.Namespace, shape: tuple[int, int, int]) -> None:
    """A row a number of keys and kind of cache."""
    heads, kv, dim = shape
    plain = np.ones(1 << 25, np.float32)
    native = library("paged", (f"DIM={dim}", "KV=0"))
    native.weftline_read.restype = ctypes.c_float
    at, count = ctypes.c_void_p(plain.ctypes.data), ctypes.c_size_t(plain.size)
    for keys in args.keys:
        works: dict[str, Any] = {"read": lambda: native.weftline_read(at, count)}
        sizes = {}
        for kind in KINDS:
            kernel = Kernel(heads=heads, kv_heads=kv, dim=dim, page=PAGE, kind=kind)
            works[kind], sizes[kind] = attends(kernel, keys, 1)
        took = best(works, args.rounds)
        rate = plain.nbytes / took["read"]
        for kind, size in sizes.items():
            say(decode=kind, dim=dim, keys=keys, ms=round(took[kind] * 1e3, 3),
                gb_per_s=round(size / took[kind] / 1e9, 2), dram_gb_per_s=round(rate / 1e9, 2),
                of_dram_read=round(size / took[kind] / rate, 3))  # fmt: skip


def prompts(args: argparse.Namespace, shape: tuple[int, int, int]) -> None:
    """A row a kind of cache, and torch's attention in both formats."""
    heads, kv, dim = shape
    n = args.prompt
    flop = 2 * 2 * heads * dim * n * (n + 1) / 2
    works: dict[str, Any] = {}
    for kind in KINDS:
        works[kind], _ = attends(
            Kernel(heads=heads, kv_heads=kv, dim=dim, page=PAGE, kind=kind), n, n
        )
    unit = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(2048, 2048, dtype=dtype)
        q = torch.randn(1, heads, n, dim, dtype=dtype)
        k = torch.randn(1, heads, n, dim, dtype=dtype)
        works[f"gemm {name}"] = lambda a=a: a @ a
        works[f"torch {name}"] = lambda q=q, k=k: torch.nn.functional.scaled_dot_product_attention(
            q, k, k, is_causal=True
        )
    for kind in ("bf16", "int8"):
        native = library("paged", (f"DIM={dim}", f"KV={KINDS[kind][0]}"))
        steps = ctypes.c_long(heads * n * (n + 1) // 2 // 1024)
        if unit and hasattr(native, "weftline_bound"):
            for i, part in enumerate(("products", "weights")):
                works[f"{part} {kind}"] = lambda f=native.weftline_bound, i=i, s=steps: f(i, s)
    took = best(works, args.rounds)
    for name in ("fp32", "bf16"):
        say(gemm=name, gflop_per_s=round(2 * 2048**3 / took[f"gemm {name}"] / 1e9, 1))
    for name in (*KINDS, "torch fp32", "torch bf16"):
        rate = flop / took[name] / 1e9
        bounds = [took[x] for x in (f"products {name}", f"weights {name}") if x in took]
        bound = {} if not bounds else {
            "bound_gflop_per_s": round(flop / max(bounds) / 1e9, 1),
            "bound_in_turn": round(flop / sum(bounds) / 1e9, 1),
        }  # fmt: skip
        product = "gemm fp32" if name.endswith("fp32") or not unit else "gemm bf16"
        say(prefill=name, dim=dim, tokens=n, ms=round(took[name] * 1e3, 1),
            gflop_per_s=round(rate, 1), gemm=product,
            of_gemm=round(rate * 1e9 / (2 * 2048**3 / took[product]), 3),
            of_gemm_fp32=round(rate * 1e9 / (2 * 2048**3 / took["gemm fp32"]), 3),
            **bound)  # fmt: skip


def say(**row: object) -> None:
    """A row, with the load of the machine."""
    print(json.dumps({**row, "load": round(os.getloadavg()[0], 1)}), flush=True)


def main(words: list[str]) -> int:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="*", default=[16384, 65536])
    parser.add_argument("--prompt", type=int, default=4096)
    parser.add_argument("--heads", type=int, nargs=3, action="append",
                        metavar=("HEADS", "KV", "DIM"), help="9 3 64 and 8 2 128")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    for shape in args.heads or [(9, 3, 64), (8, 2, 128)]:
        decoding(args, shape)
        if args.prompt:
            prompts(args, shape)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
