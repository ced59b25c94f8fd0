"""Paged attention in Triton, for GPUs: decoding and prompts over the CPU kernels' batches.

A program computes some queries of one request for one key-value head, so that keys and values are
read once for all heads of its group. Pages are looked up key by key in the request's table: a table
that leaves pages out is sparse attention, and cost follows what it keeps. A batch that only decodes
is cut into stretches of keys too, which are joined by their peaks.

Where vLLM serves, its own kernels run (``weftline.attention.vllm``), and the own engine computes on
CPUs alone: these are for code that holds pages in this layout on a GPU. They have been run in
Triton's interpreter, and on no GPU yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["attend"]

NONE = tl.constexpr(-1e30)
"""Less than any score, and finite."""


@triton.jit
def _product(a, b, WIDEN: tl.constexpr):  # fmt: skip
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _fold(
    q, at, acc, peak, total, key, length, cache, scales, table, head, scale, softcap, window,
    KV_HEADS: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    KEYS: tl.constexpr, SCALED: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """Softmax and values of keys [key, key + KEYS) joined to what rows [ROWS] at ``at`` have."""
    t = key + tl.arange(0, KEYS)
    d = tl.arange(0, BLOCK_D)
    inside = t < length
    page = tl.load(table + t // PAGE, mask=inside, other=0).to(tl.int64)
    row = (page * KV_HEADS + head) * (2 * PAGE) + t % PAGE
    places = cache + row[:, None] * DIM + d[None, :]
    there = inside[:, None] & (d < DIM)[None, :]
    k = tl.load(places, mask=there, other=0).to(q.dtype)
    s = _product(q, tl.trans(k), WIDEN) * scale
    if SCALED:
        s *= tl.load(scales + row, mask=inside, other=0)[None, :]
    if CAPPED:
        s = softcap * (2 * tl.sigmoid(2 * s / softcap) - 1)
    seen = inside[None, :] & (t[None, :] <= at[:, None])
    if WINDOWED:
        seen &= t[None, :] > at[:, None] - window
    s = tl.where(seen, s, NONE)
    higher = tl.maximum(peak, tl.max(s, 1))
    weights = tl.where(seen, tl.exp(s - higher[:, None]), 0.0)
    factor = tl.exp(peak - higher)
    total = total * factor + tl.sum(weights, 1)
    if SCALED:
        weights *= tl.load(scales + row + PAGE, mask=inside, other=0)[None, :]
    v = tl.load(places + PAGE * DIM, mask=there, other=0).to(q.dtype)
    found = _product(weights.to(q.dtype), v, WIDEN)
    return acc * factor[:, None] + found, higher, total


@triton.jit
def _prompts(
    query, out, cache, scales, starts, lens, tables, sinks, requests, width, scale, softcap,
    window, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, SCALED: tl.constexpr,
    CAPPED: tl.constexpr, WINDOWED: tl.constexpr, SINKS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Some queries of one request: request r has the tiles from starts[r] // QUERIES + r on."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    QUERIES: tl.constexpr = ROWS // GROUP
    tile, head = tl.program_id(0), tl.program_id(1)
    r, beyond = 0, requests
    while beyond - r > 1:
        middle = (r + beyond) // 2
        if tl.load(starts + middle) // QUERIES + middle <= tile:
            r = middle
        else:
            beyond = middle
    begin = tl.load(starts + r)
    count = tl.load(starts + r + 1) - begin
    first = (tile - begin // QUERIES - r) * QUERIES
    if first >= count:
        return
    length = tl.load(lens + r)
    i = tl.arange(0, ROWS)
    query_of, head_of = first + i // GROUP, head * GROUP + i % GROUP
    mine = (i < QUERIES * GROUP) & (query_of < count)
    at = length - count + query_of
    d = tl.arange(0, BLOCK_D)
    places = ((begin + query_of).to(tl.int64) * HEADS + head_of)[:, None] * DIM + d[None, :]
    there = mine[:, None] & (d < DIM)[None, :]
    q = tl.load(query + places, mask=there, other=0.0)
    acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
    peak = tl.full([ROWS], NONE, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    if SINKS:
        peak = tl.load(sinks + head_of, mask=mine, other=0.0)
        total = tl.full([ROWS], 1.0, tl.float32)
    last = tl.minimum(length, length - count + first + QUERIES)
    low = 0
    if WINDOWED:
        low = tl.maximum(0, length - count + first - window + 1) // KEYS * KEYS
    for key in range(low, last, KEYS):
        acc, peak, total = _fold(
            q, at, acc, peak, total, key, last, cache, scales, tables + r * width, head, scale,
            softcap, window, KV_HEADS, PAGE, DIM, BLOCK_D, KEYS, SCALED, CAPPED, WINDOWED,
            WIDEN,
        )  # fmt: skip
    tl.store(out + places, (acc / total[:, None]).to(out.dtype.element_ty), mask=there)


@triton.jit
def _stretches(
    query, cache, scales, starts, lens, tables, accs, peaks, totals, width, scale, softcap,
    window, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STRETCH: tl.constexpr,
    SCALED: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """One query over a stretch of its keys: values by weights, peaks and sums, not yet joined."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    r, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lens + r)
    i = tl.arange(0, ROWS)
    head_of, mine = head * GROUP + i, i < GROUP
    d = tl.arange(0, BLOCK_D)
    row = tl.load(starts + r).to(tl.int64) * HEADS + head_of
    there = mine[:, None] & (d < DIM)[None, :]
    q = tl.load(query + row[:, None] * DIM + d[None, :], mask=there, other=0.0)
    acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
    peak = tl.full([ROWS], NONE, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    low = part * STRETCH
    last = tl.minimum(length, low + STRETCH)
    if WINDOWED:
        low = tl.maximum(low, (length - window) // KEYS * KEYS)
    at = tl.full([ROWS], 0, tl.int32) + length - 1
    for key in range(low, last, KEYS):
        acc, peak, total = _fold(
            q, at, acc, peak, total, key, last, cache, scales, tables + r * width, head, scale,
            softcap, window, KV_HEADS, PAGE, DIM, BLOCK_D, KEYS, SCALED, CAPPED, WINDOWED,
            WIDEN,
        )  # fmt: skip
    to = (r * HEADS + head_of).to(tl.int64) * tl.num_programs(2) + part
    tl.store(accs + to[:, None] * DIM + d[None, :], acc, mask=there)
    tl.store(peaks + to, peak, mask=mine)
    tl.store(totals + to, total, mask=mine)


@triton.jit
def _join(
    out, accs, peaks, totals, starts, sinks, parts, HEADS: tl.constexpr, DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, PARTS: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    """The stretches of one query in one head as one."""
    r, head = tl.program_id(0), tl.program_id(1)
    i, d = tl.arange(0, PARTS), tl.arange(0, BLOCK_D)
    row = (r * HEADS + head).to(tl.int64) * parts + i
    inside = i < parts
    peak = tl.load(peaks + row, mask=inside, other=NONE)
    highest = tl.max(peak, 0)
    if SINKS:
        highest = tl.maximum(highest, tl.load(sinks + head))
    factor = tl.exp(peak - highest)
    total = tl.sum(factor * tl.load(totals + row, mask=inside, other=0.0), 0)
    if SINKS:
        total += tl.exp(tl.load(sinks + head) - highest)
    there = inside[:, None] & (d < DIM)[None, :]
    acc = tl.load(accs + row[:, None] * DIM + d[None, :], mask=there, other=0.0)
    to = (tl.load(starts + r).to(tl.int64) * HEADS + head) * DIM + d
    found = tl.sum(acc * factor[:, None], 0) / total
    tl.store(out + to, found.to(out.dtype.element_ty), mask=d < DIM)


def attend(
    query: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor | None],
    starts: torch.Tensor,
    lens: torch.Tensor,
    tables: torch.Tensor,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of ``query`` ``[tokens, heads, dim]`` over paged keys, as ``Kernel.attend`` has it.

    ``cache`` is ``[pages, kv heads, 2, page, dim]`` in the query's type, or in int8 with scales
    ``[pages, kv heads, 2, page]`` in fp32. Products are of the query's type with sums in fp32.
    Every request has a query; a batch of as many queries as requests is taken to decode.
    ``starts`` ``[requests + 1]``, ``lens`` ``[requests]`` and ``tables`` ``[requests, width]`` are
    int32 and on the query's device; nothing is read back from it. All tensors are contiguous.
    """
    stored, scales = cache
    tokens, heads, dim = query.shape
    _, kv, _, page, _ = stored.shape
    requests, width = tables.shape
    out = torch.empty_like(query)
    wide = max(16, triton.next_power_of_2(dim))
    said = {"DIM": dim, "BLOCK_D": wide}
    keys = 64 if wide <= 128 else 32
    rule = {
        "KV_HEADS": kv, "PAGE": page, "KEYS": keys, "SCALED": scales is not None,
        "CAPPED": softcap > 0, "WINDOWED": window > 0,
        "WIDEN": triton.knobs.runtime.interpret,  # its products take the bits of bf16 for numbers
    }  # fmt: skip
    limits = (float(scale), float(softcap), int(window))
    if tokens > requests:
        rows = max(64, triton.next_power_of_2(heads // kv))
        tiles = tokens // (rows // (heads // kv)) + requests
        _prompts[(tiles, kv)](
            query, out, stored, scales, starts, lens, tables, sinks, requests, width, *limits,
            HEADS=heads, ROWS=rows, SINKS=sinks is not None, **rule, **said,
        )  # fmt: skip
        return out
    stretch = 1024
    parts = max(1, -(-width * page // stretch))
    accs = query.new_empty((requests, heads, parts, dim), dtype=torch.float32)
    peaks, totals = (query.new_empty((requests, heads, parts), dtype=torch.float32) for _ in "pt")
    _stretches[(requests, kv, parts)](
        query, stored, scales, starts, lens, tables, accs, peaks, totals, width, *limits,
        HEADS=heads, ROWS=max(16, triton.next_power_of_2(heads // kv)), STRETCH=stretch,
        **rule, **said,
    )  # fmt: skip
    _join[(requests, heads)](
        out, accs, peaks, totals, starts, sinks, parts, HEADS=heads,
        PARTS=triton.next_power_of_2(parts), SINKS=sinks is not None, **said,
    )  # fmt: skip
    return out
