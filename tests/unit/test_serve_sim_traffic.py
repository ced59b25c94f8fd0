"""Traffic: what is drawn has the moments asked for, what is read is read or named wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.errors import InputError, InputErrors, UnknownNameError
from weftline.serve.simulate.prefix import prefix_use
from weftline.serve.simulate.trace_files import parse_trace, read_trace
from weftline.serve.simulate.traffic import (
    BUNDLED,
    Traffic,
    at_rate,
    bundled,
    diurnal,
    extended,
    gamma,
    poisson,
)

OURS = "arrived_at,num_prefill_tokens,num_decode_tokens\n"


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_drawn_gaps_have_the_rate_and_the_burstiness_asked_for(burstiness: float) -> None:
    found = gamma(5.0, 40_000, prefill_tokens=100, decode_tokens=10, burstiness=burstiness, seed=3)
    # Standard errors: about sqrt(b / n) of the mean and sqrt(10 b / n) of the variance at worst.
    assert found.rate_per_s == pytest.approx(5.0, rel=0.05)
    assert found.burstiness == pytest.approx(burstiness, rel=0.15)
    again = gamma(5.0, 40_000, prefill_tokens=100, decode_tokens=10, burstiness=burstiness, seed=3)
    assert np.array_equal(found.arrived_s, again.arrived_s)


def test_lengths_keep_their_mean_however_wide_they_spread() -> None:
    found = poisson(1.0, 50_000, prefill_tokens=2000, decode_tokens=400, spread=0.8, seed=1)
    assert found.prefill_tokens.mean() == pytest.approx(2000, rel=0.03)
    assert found.decode_tokens.std() > 200


def test_a_day_swings_between_its_trough_and_its_peak() -> None:
    found = diurnal(50.0, 86_400 * 50, prefill_tokens=1, decode_tokens=1, peak_ratio=1.8, seed=2)
    hours = np.bincount((found.arrived_s // 3600).astype(int), minlength=24)[:24] / 3600
    expected = 50 * (1 - 0.8 * np.cos(2 * np.pi * (np.arange(24) + 0.5) / 24))
    np.testing.assert_allclose(hours, expected, rtol=0.05)


@given(rate=st.floats(1e-3, 1e6))
def test_scaling_sets_the_rate_and_keeps_the_order(rate: float) -> None:
    found = at_rate(bundled("azure-2023-code"), rate)
    assert found.rate_per_s == pytest.approx(rate, rel=1e-9)
    assert (np.diff(found.arrived_s) >= 0).all()


def test_bundled_traces_are_whole() -> None:
    sums = {name: (bundled(name).requests, int(bundled(name).prefill_tokens.sum()))
            for name in BUNDLED}  # fmt: skip
    # Counted in the published files.
    assert {k: v[0] for k, v in sums.items()} == {
        "azure-2023-code": 8819, "azure-2023-conv": 19366, "mooncake-conversation": 12031
    }  # fmt: skip
    mooncake = bundled("mooncake-conversation")
    assert mooncake.hash_starts is not None
    blocks = np.diff(mooncake.hash_starts)
    assert np.array_equal(blocks, -(-mooncake.prefill_tokens // 512))


def test_a_repeated_trace_brings_new_text() -> None:
    once = bundled("mooncake-conversation")
    twice = extended(once, 2 * once.requests)
    assert prefix_use(twice).ideal_hit_rate == pytest.approx(prefix_use(once).ideal_hit_rate)
    assert twice.span_s == pytest.approx(2 * once.span_s, rel=1e-3)


# --- prefix cache --------------------------------------------------------------------------------


def test_mooncake_prefixes_reach_the_published_rate() -> None:
    """36.6 % of block uses are repeats: FAST'25 release notes of the conversation trace."""
    found = prefix_use(bundled("mooncake-conversation"))
    assert found.ideal_hit_rate == pytest.approx(0.366, abs=0.0005)
    rates = [found.hit_rate(blocks) for blocks in (10, 1000, 10_000, 100_000, 10**9)]
    assert rates == sorted(rates)
    assert rates[-1] == found.ideal_hit_rate


@given(
    chains=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=5, unique=True), min_size=1,
                    max_size=30), size=st.integers(1, 12),
)  # fmt: skip
def test_one_pass_agrees_with_a_cache_that_is_played(chains: list[list[int]], size: int) -> None:
    starts = np.cumsum([0, *(len(c) for c in chains)])
    traffic = Traffic(
        name="drawn", arrived_s=np.arange(len(chains), dtype=float),
        prefill_tokens=np.full(len(chains), 512), decode_tokens=np.ones(len(chains), int),
        hash_starts=starts, hash_ids=np.array([h for c in chains for h in c]),
    )  # fmt: skip
    cache: list[int] = []
    hits = 0
    for chain in chains:
        for block in reversed(chain):
            hits += block in cache
            cache = [b for b in cache if b != block] + [block]
            cache = cache[-size:]
    assert prefix_use(traffic).hit_rate(size) == pytest.approx(hits / starts[-1])


def test_a_trace_without_hashes_says_so() -> None:
    with pytest.raises(InputError, match="nothing of prefixes"):
        prefix_use(bundled("azure-2023-conv"))


# --- files ---------------------------------------------------------------------------------------


def test_all_published_formats_are_read() -> None:
    ours = parse_trace(OURS + "1.5,10,3\n0.5,20,4\n")
    assert ours.arrived_s.tolist() == [0.0, 1.0]
    assert ours.prefill_tokens.tolist() == [20, 10]
    azure = parse_trace(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,374,44\n"
        "2024-05-10 00:00:00.009930+00:00,396,109\n2023-11-16 18:17:04.0319600,1,2\n"
    )
    assert azure.arrived_s[1] == pytest.approx(0.052)
    assert azure.decode_tokens.tolist() == [44, 2, 109]
    burst = parse_trace("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
                        "5,ChatGPT,472,18,490,Conversation log\n")  # fmt: skip
    assert burst.prefill_tokens.tolist() == [472]
    mooncake = parse_trace(
        '{"timestamp": 0, "input_length": 700, "output_length": 5, "hash_ids": [7, 900]}\n'
        '{"timestamp": 250, "input_length": 600, "output_length": 6, "hash_ids": [7, 8]}\n'
    )
    assert mooncake.arrived_s.tolist() == [0.0, 0.25]
    assert mooncake.hash_ids is not None
    assert mooncake.hash_ids.tolist() == [0, 2, 0, 1]  # dense, equal where they were equal


def test_every_wrong_cell_is_named_by_line_and_column() -> None:
    text = OURS + "0,10,3\nx,10,3\n1,0,3\n2,10\n3,10,1.5\n-1,10,3\n"
    with pytest.raises(InputErrors) as caught:
        parse_trace(text, where="t.csv")
    said = [(e.where, e.what) for e in caught.value.errors]
    assert [w for w, _ in said] == ["t.csv:3", "t.csv:4", "t.csv:5", "t.csv:6", "t.csv:7"]
    assert said[0][1] == "column 1 (arrived_at): `x`, expected seconds of at least 0"
    assert "column 2 (num_prefill_tokens): `0`" in said[1][1]
    assert said[2][1] == "2 columns, expected 3 as in the header"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "header lacks"),
        ("arrived_at,prompt\n1,2\n", "lacks `num_prefill_tokens`, `num_decode_tokens`"),
        (OURS, "no requests"),
        ('{"timestamp": 1}\n', "`input_length`: missing, expected a whole number"),
        ('{"timestamp": 1,\n', "not JSON"),
        (OURS.replace("\n", ",hash_ids\n") + "0,1024,2,5 5\n", "differ"),
    ],
)
def test_what_is_no_trace_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_trace(text)
    assert says in caught.value.render()


def test_mistakes_stop_after_twenty() -> None:
    with pytest.raises(InputErrors) as caught:
        parse_trace(OURS + "x,1,1\n" * 1000)
    assert len(caught.value.errors) == 20


def test_missing_files_and_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(UnknownNameError, match="azure-2023-code"):
        bundled("azure-code")
