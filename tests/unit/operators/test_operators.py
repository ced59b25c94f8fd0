"""Operators: monotone in every size, true to the roofline, near the rows measured."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.errors import InputError, UnknownNameError
from weftline.operators import Chip, Operators, SparseUnit, chip_of, mean_span, operators
from weftline.operators.fit.rows import read_columns
from weftline.operators.fit.score_windows import predicted_pairs, score_windows
from weftline.spec.attention import TopK, Window
from weftline.spec.attention_counts import seen

HERE = Path(__file__).parent
CHIPS = ("a100", "h100", "h200", "b200", "gb300", "l40s", "rtx-pro-6000", "mi300x", "tpu-v6e",
         "trainium2", "inferentia2", "gaudi3")  # fmt: skip

# name -> (call on sizes, ranges in log2): every size may only lengthen the time
Sized = Callable[..., object]
CALLS: dict[str, tuple[Callable[[Operators], Sized], list[tuple[float, float]]]] = {
    "gemm bf16": (lambda o: lambda m, n, k: o.gemm_s("bf16", m, n, k), [(0, 17), (5, 17), (5, 17)]),
    "gemm fp8 block": (
        lambda o: lambda m, n, k: o.gemm_s("fp8_block", m, n, k), [(0, 17), (5, 17), (5, 17)],
    ),
    "gemm int4": (lambda o: lambda m, n, k: o.gemm_s("int4", m, n, k), [(0, 15), (6, 15), (6, 15)]),
    "gemm nvfp4": (
        lambda o: lambda m, n, k: o.gemm_s("nvfp4", m, n, k), [(0, 15), (6, 15), (6, 15)]
    ),
    "decode": (
        lambda o: lambda b, c, g: o.decode_attention_s("bf16", b, c, 8 * g, 8, 128),
        [(0, 10), (0, 18), (0, 4)],
    ),
    "decode fp8, 64 wide": (
        lambda o: lambda b, c, kv: o.decode_attention_s("fp8", b, c, 8 * kv, kv, 64),
        [(0, 8), (0, 15), (0, 3)],
    ),
    "decode window": (
        lambda o: lambda b, c: o.decode_attention_s("bf16", b, c, 32, 8, 64, Window(tokens=128)),
        [(0, 10), (0, 18)],
    ),
    "prefill": (
        lambda o: lambda b, t, c: o.prefill_attention_s("bf16", b, t, c, 32, 8, 128),
        [(0, 6), (0, 15), (0, 17)],
    ),
    "prefill window": (
        lambda o: lambda b, t: o.prefill_attention_s(
            "bf16", b, t, 0, 32, 8, 128, Window(tokens=128)
        ),
        [(0, 6), (0, 15)],
    ),
    "mla decode": (
        lambda o: lambda b, c, h: o.mla_decode_s("fp8", b, c, h), [(0, 10), (0, 18), (0, 7)]
    ),
    "mla prefill": (
        lambda o: lambda b, t, c: o.mla_prefill_s(b, t, c, 16), [(0, 5), (0, 15), (0, 16)]
    ),
    "experts": (
        lambda o: lambda t, h, i, e: o.moe_s("fp8_block", t, h, i, 8 * e, 8),
        [(0, 15), (11, 13), (7, 12), (0, 6)],
    ),
    "experts skewed": (
        lambda o: lambda t, i: o.moe_s("bf16", t, 4096, i, 128, 8, ep=4, skew=0.7, gathered=True),
        [(0, 15), (7, 12)],
    ),
    "scan decode": (
        lambda o: lambda b, s: o.scan_s(b, 1, 16384 * s, decode=True), [(0, 11), (0, 7)]
    ),
    "scan prefill": (
        lambda o: lambda b, t, s: o.scan_s(b, t, 16384 * s, decode=False), [(0, 5), (0, 16), (1, 7)]
    ),
    "convolution": (
        lambda o: lambda t, c: o.convolution_s(1, t, c, decode=False), [(0, 17), (9, 14)]
    ),
    "elementwise": (lambda o: o.elementwise_s, [(0, 34)]),
    "sampling": (lambda o: lambda b: o.sampling_s(b, 128256), [(0, 11)]),
    "all-reduce": (lambda o: lambda b, n: o.collective_s("all_reduce", b, n), [(8, 32), (0, 3)]),
    "all-gather": (lambda o: lambda b: o.collective_s("all_gather", b, 4), [(8, 32)]),
    "exchange": (
        lambda o: lambda t: o.network.exchange_s("dispatch", t, 7168, 8, low_latency=True),
        [(0, 12)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", CALLS)
def test_more_of_anything_never_takes_less_time(name: str, chip: str) -> None:
    make, ranges = CALLS[name]
    call = make(operators(chip))
    rng = np.random.default_rng(len(name) * 100 + len(chip))
    count = 300
    low = [2 ** rng.uniform(a, b, count) for a, b in ranges]
    if name == "all-reduce":
        low[1] = 2.0 ** rng.integers(1, 4, count)
    before = np.asarray(call(*low))
    assert before.shape == (count,)
    assert np.all(np.isfinite(before))
    assert np.all(before >= 0)
    for axis in range(len(low)):
        high = list(low)
        high[axis] = low[axis] * 2 ** rng.uniform(0, 3, count)
        if name == "all-reduce" and axis == 1:
            continue  # measured: four chips may beat two on small messages
        after = np.asarray(call(*high))
        worst = np.argmin(after / before)
        assert after[worst] >= before[worst] * (1 - 1e-9), (axis, [v[worst] for v in low])


@pytest.mark.parametrize("chip", CHIPS)
@given(size=st.integers(17, 22))
@settings(max_examples=6, deadline=None)
def test_far_beyond_the_tables_the_roofline_decides(chip: str, size: int) -> None:
    ops = operators(chip)
    n = 2.0**size
    peak = ops.chip.peak_flops("bf16")
    ideal = 2 * n**3 / peak
    assert ideal <= ops.gemm_s("bf16", n, n, n) <= 2.5 * ideal
    twice = ops.gemm_s("bf16", 2 * n, n, n) / ops.gemm_s("bf16", n, n, n)
    assert twice == pytest.approx(2, rel=1e-3)
    reach = 2.0 * size * 1e6
    nbytes = 2 * 128 * 2 * 8 * 64 * reach
    least = nbytes / ops.chip.bandwidth_bytes_per_s
    # The TPU v6e, measured, reads its paged cache at 29 % of its bandwidth; the others at more.
    assert least <= ops.decode_attention_s("bf16", 64, reach, 32, 8, 128) <= 3.5 * least


def _rows(kind: str) -> list[list[str]]:
    with (HERE / "kernel_rows.csv").open(encoding="utf-8") as file:
        return [row for row in csv.reader(file) if row[0] == kind]


@pytest.mark.parametrize("chip", ["a100-80-sxm", "h100-sxm", "h200-sxm", "b200"])
def test_products_are_near_those_measured(chip: str) -> None:
    ops = operators(chip)
    off = [
        float(ops.gemm_s(q, float(m), float(n), float(k))) / float(seconds) - 1
        for _, where, q, m, n, k, _, _, seconds in _rows("gemm")
        if where == chip
    ]
    assert np.median(np.abs(off)) < 0.06
    assert abs(np.median(off)) < 0.03


@pytest.mark.parametrize("chip", ["h100-sxm", "h200-sxm"])
def test_expert_parallel_ranks_are_predicted_from_whole_layers(chip: str) -> None:
    """The fit has seen no row with expert parallelism."""
    ops = operators(chip)
    off = []
    for _, where, q, tokens, hidden, inter, experts, routed, seconds in _rows("moe"):
        if where == chip:
            top_k, ranks = (float(v) for v in routed.split("/"))
            time = ops.moe_s(
                q, float(tokens), float(hidden), float(inter), float(experts), top_k, ep=ranks
            )
            off.append(float(time) / float(seconds) - 1)
    assert np.median(np.abs(off)) < 0.15


def test_windows_speed_attention_up_as_measured() -> None:
    rows = read_columns(HERE / "window_pairs.csv")
    scores = score_windows(rows)
    assert scores["all"]["median_pct"] < 3
    for system in ("h100_sxm", "h200_sxm", "b200_sxm"):
        for phase in ("context", "generation"):
            assert scores[f"{system} {phase}"]["median_pct"] < 4
            assert scores[f"{system} {phase}"]["within_10_pct"] > 85


@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "dim", "step", "measured"),
    [(1, 1, 1, 128, 8191, 1.15), (1, 12, 2, 128, 8191, 1.148), (128, 1, 1, 64, 131071, 61.1),
     (128, 2, 1, 64, 131071, 61.0)],
)  # fmt: skip
def test_window_of_128_on_h200_at_both_ends(
    batch: int, heads: int, kv_heads: int, dim: int, step: int, measured: float
) -> None:
    rows = {
        "batch_size": np.array([batch]), "num_heads": np.array([heads]),
        "num_key_value_heads": np.array([kv_heads]), "head_dim": np.array([dim]),
        "step": np.array([step]), "isl": np.array([1]), "window": np.array([128]),
        "system": np.array(["h200_sxm"]), "phase": np.array(["generation"]),
    }  # fmt: skip
    full, cut = predicted_pairs(rows)
    assert full[0] / cut[0] == pytest.approx(measured, rel=0.1)


@given(
    tokens=st.integers(1, 60),
    context=st.integers(0, 60),
    window=st.one_of(st.none(), st.integers(1, 80)),
)
def test_mean_span_counts_what_a_mask_shows(tokens: int, context: int, window: int | None) -> None:
    seen = [min(context + i + 1, window or 10**9) for i in range(tokens)]
    # A triangle's diagonal counts half: one key of half weight a query.
    assert mean_span(tokens, context, window) == pytest.approx(np.mean(seen), abs=0.5 + 1e-9)


def test_verifying_drafts_reads_the_cache_once() -> None:
    ops = operators("h200")
    one = ops.decode_attention_s("bf16", 32, 8192, 32, 8, 128)
    four = ops.decode_attention_s("bf16", 32, 8192, 32, 8, 128, queries=4)
    assert one <= four < 1.5 * one


def test_a_mixed_launch_costs_more_where_that_was_profiled() -> None:
    card, server = operators("rtx-4090"), operators("h200")
    sizes = ("bf16", 64, 1024, 32, 8, 128)
    assert (card.basis, server.basis) == ("profiled", "measured")
    assert card.decode_attention_s(*sizes, mixed=True) > 1.5 * card.decode_attention_s(*sizes)
    assert server.decode_attention_s(*sizes, mixed=True) == server.decode_attention_s(*sizes)


def test_four_bit_weights_save_reading_not_multiplying() -> None:
    ops = operators("h200")
    assert ops.gemm_s("int4", 1, 16384, 16384) < 0.5 * ops.gemm_s("bf16", 1, 16384, 16384)
    large = ops.gemm_s("int4", 16384, 8192, 8192) / ops.gemm_s("bf16", 16384, 8192, 8192)
    assert large == pytest.approx(1, abs=0.05)


def test_a_faster_chip_of_the_same_kind_is_faster() -> None:
    base = chip_of("h100-sxm")
    better = replace(
        base, name="h100-next", bandwidth_bytes_per_s=2 * base.bandwidth_bytes_per_s,
        peaks={k: 2 * v for k, v in base.peaks.items()},
    )  # fmt: skip
    slow, fast = operators(base), operators(better)
    assert fast.basis == "carried from h100-sxm"
    for args in (("bf16", 8192, 8192, 8192), ("bf16", 1, 16384, 16384)):
        assert 0.5 <= fast.gemm_s(*args) / slow.gemm_s(*args) < 0.6


def test_a_one_shot_all_reduce_sends_everything_to_everyone() -> None:
    """Small ones cost what any small one does; large ones their bytes over a rank's links."""
    network = operators("h200-sxm").network
    small = network.seconds("all_reduce", 1.0, np.array([2, 8]))
    assert network.one_shot_s(1.0, np.array([1, 2, 8])) == pytest.approx([0, *small], abs=1e-9)
    sent = network.one_shot_s(2.0**26, np.array([2, 4, 8])) - network.one_shot_s(
        2.0**25, np.array([2, 4, 8])
    )
    assert sent / sent[0] == pytest.approx([1, 3, 7])
    assert sent[0] > 2.0**25 / 450e9


def test_beyond_one_domain_a_collective_pays_for_the_network() -> None:
    ops = operators("h200")
    inside = ops.collective_s("all_reduce", 2**24, 8)
    outside = ops.collective_s("all_reduce", 2**24, 16)
    assert outside > 1.5 * inside
    assert ops.collective_s("all_reduce", 2**24, 1) == 0
    assert ops.collective_s("all_to_all", 2**24, np.array([1, 8, 16])).shape == (3,)


def test_chips_without_links_meet_over_the_bus() -> None:
    """Public NCCL runs between cards on root complexes: 0.25 to 0.45 of the link, 14 us with 4."""
    pair = operators("l40s").collective_s("all_reduce", 2**24, np.array([2, 8, 16]))
    ideal = 2 * (1 - 1 / np.array([2, 8])) * 2**24 / 32e9
    assert np.all(pair[:2] >= 2 * ideal)
    assert np.all(pair[:2] < 4 * ideal)
    assert pair[2] > pair[1]
    small = operators("rtx-pro-6000").collective_s("all_reduce", 1024, np.array([4, 8]))
    assert np.all((small > 13e-6) & (small < 26e-6))


def test_a_sparse_unit_skips_what_it_knows_and_no_more() -> None:
    plain = chip_of("trainium3")
    unit = SparseUnit(
        patterns={"window": 8.0, "structured_weights": 4.0},
        falls_back={"scan": 3.0, "routing": 2.0},
    )
    with_unit, without = (
        operators(replace(plain, sparse=(unit,))),
        operators(replace(plain, sparse=())),
    )
    sizes = ("bf16", 16, 65536, 32, 8, 128)
    dense = without.decode_attention_s(*sizes)
    assert with_unit.decode_attention_s(*sizes) == dense
    assert dense > 0
    # Pages are left out without any unit; a unit scores blocks on the way, and no others' work.
    blocks, keys = TopK(block=64, fraction=0.25), TopK(block=1, count=2048, score="mean")
    for rule, pattern in ((blocks, "block"), (keys, "selected")):
        scored = without.index_s(rule, *sizes[1:2], 1.0, sizes[2], 8, 128)
        alone = without.decode_attention_s(*sizes, rule)
        assert scored > 0
        assert with_unit.decode_attention_s(*sizes, rule) == alone
        knows = SparseUnit(patterns={pattern: 100.0})
        made = operators(replace(plain, sparse=(knows,))).decode_attention_s(*sizes, rule)
        density = float(seen(rule, 65535)) / 65536
        assert made == pytest.approx(dense * max(density, 0.01))
        assert made <= alone
    assert with_unit.scan_s(8, 1, 2**20, decode=True) == 3 * without.scan_s(
        8, 1, 2**20, decode=True
    )
    routed = ("bf16", 4096, 4096, 1536, 128, 8)
    assert with_unit.moe_s(*routed) > without.moe_s(*routed)
    product = ("bf16", 8192, 8192, 8192)
    assert without.gemm_s(*product, weight_density=0.25) == without.gemm_s(*product)
    assert with_unit.gemm_s(*product, weight_density=0.25) == pytest.approx(
        with_unit.gemm_s(*product) / 4
    )
    with pytest.raises(InputError, match="unknown sparse pattern `diagonal`"):
        SparseUnit(patterns={"diagonal": 2.0})
    with pytest.raises(InputError, match="below 1"):
        SparseUnit(patterns={"window": 0.5})


def test_what_nobody_knows_is_named() -> None:
    with pytest.raises(UnknownNameError, match="h2oo"):
        operators("h2oo")
    with pytest.raises(UnknownNameError, match="nvpf4"):
        operators("h200").gemm_s("nvpf4", 1, 1, 1)
    with pytest.raises(InputError, match="cache format"):
        operators("h200").decode_attention_s("int3", 1, 1, 1, 1, 128)
    with pytest.raises(InputError, match="unknown scalar"):
        operators(replace(chip_of("gaudi3"), prior={"warp": 2.0}))
    with pytest.raises(InputError, match="not published"):
        operators("wse3")


def test_a_chip_of_ones_own() -> None:
    mine = Chip(
        name="mine", vendor="me", peaks={"bf16": 1e14, "fp8": 2e14}, bandwidth_bytes_per_s=1e12
    )
    ops = operators(mine)
    assert ops.basis == "prior"
    assert ops.gemm_s("fp8", 4096, 4096, 4096) < ops.gemm_s("bf16", 4096, 4096, 4096)
    assert ops.collective_s("all_reduce", 1e6, 4) > 0
