"""The Triton kernels, in Triton's interpreter or on a GPU, against plain loops over the same pages.

``make test-triton``: torch brings Triton along for GPUs alone, so that elsewhere it has an
environment of its own. The interpreter tests a kernel's logic, not that it compiles.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from paged_batches import Mix, PagedBatch, Shape, paged_batch

from weftline.attention.kernels.paged import Kernel, Kind

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="no Triton here: make test-triton"
    ),
]
GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"

MIX = ((1, 1), (5, 5), (70, 150), (1, 33), (30, 31))
"""(queries, keys) of requests: decoding, whole prompts, chunks of prompts."""
DECODE = ((1, 1), (1, 40), (1, 1100))
"""The last in two stretches."""
SHAPES = ((9, 3, 64, 64), (4, 4, 16, 16), (12, 1, 48, 48))
"""(heads, kv heads, dim, page): a group that no power of two is, dims and pages too."""
OFF = {"fp32": 1e-5, "bf16": 2 * 4.3 / 256, "int8": 2e-5}
"""Most that results may differ: with queries in bf16, weights and results are rounded by 1 in 256,
of values up to 4.3."""


def batch(kind: Kind, shape: Shape, mix: Mix) -> PagedBatch:
    """With queries as the kernels take them: in the format of the cache where that is bf16."""
    made = paged_batch(kind, shape, mix)
    if kind != "bf16":
        return made
    return replace(made, query=torch.tensor(made.query).bfloat16().float().numpy())


def there(array: Any) -> Any:
    """A tensor of it on the device; bf16 is kept in NumPy as its bits."""
    found = torch.from_numpy(np.ascontiguousarray(array))
    if found.dtype == torch.uint16:
        found = found.view(torch.bfloat16)
    return found.cuda() if GPU else found


def attended(cache: Any, query: Any, rest: tuple[Any, ...], **said: Any) -> Any:
    """What Triton's kernels give, in fp32."""
    from weftline.attention.kernels.triton_paged import attend

    asked = there(query)
    pages = (there(cache[0]), None if cache[1] is None else there(cache[1]))
    if pages[0].dtype == torch.bfloat16:
        asked = asked.bfloat16()
    if said.get("sinks") is not None:
        said["sinks"] = there(said["sinks"])
    return attend(asked, pages, *(there(x) for x in rest), **said).float().cpu().numpy()


@pytest.mark.parametrize("mix", [MIX, DECODE], ids=["prompts", "decoding"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_triton_gives_what_plain_loops_give(kind: Kind, shape: Shape, mix: Mix) -> None:
    b = batch(kind, shape, mix)
    rest = (b.starts, b.lens, b.tables)
    draw = np.random.default_rng(1)
    for said in ({}, {"window": 40, "sinks": draw.normal(size=shape[0]).astype(np.float32)},
                 {"softcap": 20.0}):  # fmt: skip
        wanted = b.plain.attend(b.query, b.cache, *rest, scale=shape[2] ** -0.5, **said)  # type: ignore[arg-type]
        found = attended(b.cache, b.query, rest, scale=shape[2] ** -0.5, **said)
        assert np.abs(found - wanted).max() < OFF[kind], said


@pytest.mark.parametrize("mix", [MIX, DECODE], ids=["prompts", "decoding"])
def test_a_table_that_leaves_pages_out_is_sparse_attention(
    mix: Mix,
) -> None:
    """Batches that a policy has rewritten, heads folded into requests among them."""
    from weftline.attention import virtual_requests
    from weftline.spec.attention_text import parse_policy

    shape = (8, 2, 32, 16)
    heads, kv, dim, page = shape
    b = batch("fp32", shape, mix)
    query, cache = b.query, b.cache
    draw = np.random.default_rng(2)
    for text, score in (
        ("window=32,sinks=4", None),
        ("topk=2,block=16,queries=16",
         lambda _rule, pieces: draw.normal(size=(len(pieces), kv, b.tables.shape[1]))),
    ):  # fmt: skip
        rule = parse_policy(text).prefill
        made = virtual_requests(rule, rule, starts=b.starts, lengths=b.lens, tables=b.tables,
                                page=page, score=score)  # fmt: skip
        folded = made.kv_heads
        rows = query.reshape(len(query), folded, heads // folded, dim).swapaxes(0, 1)
        rows = np.ascontiguousarray(rows).reshape(-1, heads // folded, dim)
        pages = cache[0].reshape(-1, kv // folded, 2, page, dim)
        rest = (made.starts, made.lengths, made.tables)
        loops = Kernel(heads=heads // folded, kv_heads=kv // folded, dim=dim, page=page,
                       compiled=False)  # fmt: skip
        wanted = loops.attend(rows, (pages, None), *rest, scale=dim**-0.5)
        found = attended((pages, None), rows, rest, scale=dim**-0.5)
        assert np.abs(found - wanted).max() < OFF["fp32"], text
        full = b.plain.attend(query, cache, b.starts, b.lens, b.tables, scale=dim**-0.5)
        full = full.reshape(len(query), folded, -1, dim).swapaxes(0, 1)
        assert np.abs(found - full.reshape(found.shape)).max() > 1e-2
