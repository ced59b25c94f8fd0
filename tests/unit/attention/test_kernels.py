"""The compiled kernels against numba's plain loops, which know no vectors, tiles or matrix unit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from paged_batches import Shape, paged_batch

from weftline.attention.kernels import build
from weftline.attention.kernels.paged import Kernel, Kind

MIX = ((1, 1), (1, 130), (5, 5), (70, 200), (1, 33), (130, 131))
"""(queries, keys) of requests: decoding, whole prompts, chunks of prompts."""
KINDS: tuple[Kind, ...] = ("fp32", "bf16", "int8")
QUICK: list[tuple[Kind, Shape]] = [*((kind, (4, 4, 16, 16)) for kind in KINDS),
                                   ("bf16", (12, 1, 48, 48))]  # fmt: skip
SHAPES: tuple[Shape, ...] = ((9, 3, 64, 64), (8, 1, 128, 32), (12, 1, 48, 48), (4, 2, 80, 16))
"""Groups of 1 to 12, dims of half a tile, pages of half a step; each compiles for itself."""
OFF = {"fp32": (1e-5, 1e-5), "bf16": (2e-5, 8e-3), "int8": (5e-5, 2e-2)}
"""Most that decoding and prompts may differ: a unit of bf16 rounds the weights of prompts."""


@pytest.mark.skipif(build.compiler() is None, reason="no compiler")
@pytest.mark.parametrize(("kind", "shape"), [
    *QUICK, *(pytest.param(kind, shape, marks=pytest.mark.slow) for kind in KINDS
              for shape in SHAPES if (kind, shape) not in QUICK),
])  # fmt: skip
def test_kernels_give_what_plain_loops_give(kind: Kind, shape: Shape) -> None:
    heads, kv, dim, page = shape
    draw = np.random.default_rng(1)
    native = Kernel(heads=heads, kv_heads=kv, dim=dim, page=page, kind=kind)
    b = paged_batch(kind, shape, MIX)
    alone = np.repeat([queries == 1 for queries, _ in MIX], np.diff(b.starts))
    for said in ({}, {"window": 40, "sinks": draw.normal(size=heads).astype(np.float32)},
                 {"softcap": 20.0}):  # fmt: skip
        found, wanted = (
            k.attend(b.query, b.cache, b.starts, b.lens, b.tables, scale=dim**-0.5, **said)  # type: ignore[arg-type]
            for k in (native, b.plain)
        )
        off = np.abs(found - wanted)
        assert off[alone].max() < OFF[kind][0], said
        assert off[~alone].max() < OFF[kind][1], said


@pytest.mark.skipif(build.compiler() is None, reason="no compiler")
@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_peaks_may_grow_by_any_step(kind: Kind) -> None:
    """Weights are kept to a peak that is raised only now and then: by a little, by far, and never
    where the first keys weigh most. The last keys stand in a second span of values."""
    heads, dim, page, keys = 4, 16, 16, 1100
    draw = np.random.default_rng(3)
    plain, native = (
        Kernel(heads=heads, kv_heads=heads, dim=dim, page=page, kind=kind, compiled=compiled)
        for compiled in (False, True)
    )
    table = draw.permutation(np.arange(1, 70)).astype(np.int32)[None]
    place = np.arange(keys)
    slots = table[0, place // page].astype(np.int64) * page + place % page
    k, v, query = (draw.normal(size=(n, heads, dim)).astype(np.float32) for n in (keys, keys, 41))
    query = (query.view(np.uint32) & 0xFFFF0000).view(np.float32)  # as bf16 holds them
    for steep in (place / 60, 2.0 ** (place // 220), 20 / (1 + place)):
        cache = plain.cache(70)
        plain.write(k * steep[:, None, None].astype(np.float32), v, cache, slots)
        for rows in (1, 41):
            starts, lens = np.asarray([0, rows], np.int32), np.asarray([keys], np.int32)
            found, wanted = (
                x.attend(query[:rows].copy(), cache, starts, lens, table, scale=dim**-0.5)
                for x in (native, plain)
            )
            assert np.abs(found - wanted).max() < OFF[kind][rows > 1]


@pytest.mark.parametrize("tool", ["g++", "clang++"])
def test_every_source_compiles_where_a_compiler_is(
    tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not compile falls back to something slow, and says nothing."""
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool}")
    monkeypatch.setenv("CXX", tool)
    build.compiler.cache_clear()
    build.library.cache_clear()
    try:
        for source in Path(build.__file__).parent.glob("*.cpp"):
            defines = ("DIM=16", "KV=1") if source.stem == "paged" else ()
            assert build.library(source.stem, defines) is not None, source.name
    finally:
        build.compiler.cache_clear()
        build.library.cache_clear()
