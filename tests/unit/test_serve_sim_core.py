"""The compiled simulation against the plain one, on small random worlds that hit every rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.serve.engine.scheduler import SCHEDULERS, Scheduler
from weftline.serve.simulate.fleet import Outcome, simulate_requests
from weftline.serve.simulate.reference import Request, Setting, simulate_reference
from weftline.serve.simulate.traffic import Traffic


class Surface:
    """A step-time surface with round numbers, kept as the engine room keeps its own."""

    def __init__(self, **values: Any) -> None:
        self.values = {
            "token_grid": np.array([1.0, 64.0, 512.0, 4096.0]),
            "token_s": np.array([0.004, 0.005, 0.011, 0.07]),
            "decode_batch_grid": np.array([1.0, 4.0, 16.0, 64.0]),
            "decode_context_grid": np.array([1.0, 32.0, 256.0, 2048.0]),
            "decode_attention_s": np.outer([1.0, 3.0, 9.0, 30.0], [1e-4, 2e-4, 9e-4, 6e-3]),
            "prefill_tokens_grid": np.array([1.0, 64.0, 2048.0]),
            "prefill_context_grid": np.array([0.0, 128.0, 4096.0]),
            "prefill_attention_s": np.outer([1.0, 20.0, 900.0], [1e-5, 3e-5, 8e-4]),
            "decode_attention_mixed_s":
                np.outer([1.5, 4.0, 14.0, 50.0], [1e-4, 2e-4, 9e-4, 6e-3]),
            "prefill_host_s": 0.0007, "host_s": 0.001, "host_per_sequence_s": 2e-5,
            "front_end_s": 0.0,
            "tokens_per_step": 1.0, "spec_tokens": 0, "kv_capacity_tokens": 600,
            "kv_capped_share": 0.0, "kv_cap_tokens": 0,
        } | values  # fmt: skip

    def as_arrays(self) -> dict[str, Any]:
        return self.values

    def step_s(self, chunks: Any, batch: int, mean: float) -> float:
        """The same times from np.interp, which does not extrapolate: tests stay in the grid."""
        v = self.values

        def two(rows: Any, columns: Any, table: Any, x: float, y: float) -> float:
            return float(np.interp(x, rows, [np.interp(y, columns, row) for row in table]))

        total = batch * (1 + v["spec_tokens"]) + sum(size for size, _ in chunks)
        found = v["host_s"] + v["host_per_sequence_s"] * batch
        found += v["prefill_host_s"] if chunks else 0.0
        mixed = "decode_attention_mixed_s" if chunks else "decode_attention_s"
        found += float(np.interp(total, v["token_grid"], v["token_s"]))
        if batch:
            found += two(v["decode_batch_grid"], v["decode_context_grid"], v[mixed],
                         batch, mean)  # fmt: skip
        for size, behind in chunks:
            found += two(v["prefill_tokens_grid"], v["prefill_context_grid"],
                         v["prefill_attention_s"], size, behind)  # fmt: skip
        return found


def _both(
    traffic: Traffic, how: Scheduler, *, surface: Surface, max_seqs: int, budget: int,
    caching: bool, ready: bool = False, replicas: int = 1, least: bool = False, hit: float = 0.0,
) -> tuple[Outcome, list[Request]]:  # fmt: skip
    found = simulate_requests(
        surface, traffic.arrived_s, traffic.prefill_tokens, traffic.decode_tokens,
        max_seqs=max_seqs, token_budget=budget, rules=how, caching=caching, traffic=traffic,
        ready=ready, replicas=replicas, routing="least-loaded" if least else "round-robin",
        hit=hit,
    )  # fmt: skip
    starts, ids = traffic.hash_starts, traffic.hash_ids
    requests = [
        Request(
            number=i, arrived_s=float(traffic.arrived_s[i]),
            prefill=int(traffic.prefill_tokens[i]), decode=int(traffic.decode_tokens[i]),
            hashes=() if starts is None or ids is None
            else tuple(int(h) for h in ids[starts[i] : starts[i + 1]]),
        )
        for i in range(traffic.requests)
    ]  # fmt: skip
    capacity = surface.values["kv_capacity_tokens"] // how.block_tokens
    setting = Setting(
        scheduler=how, step_s=surface.step_s, max_seqs=max_seqs, budget=budget, blocks=capacity,
        caching=caching, hash_blocks=traffic.hash_block_tokens // how.block_tokens,
        spec=surface.values["spec_tokens"], tokens_per_step=surface.values["tokens_per_step"],
        ready=ready, window=surface.values["kv_cap_tokens"], hit=0.0 if ready else hit,
    )  # fmt: skip
    simulate_reference(
        setting, [r for r in requests if found.fits[r.number]], replicas=replicas,
        least_loaded=least,
    )  # fmt: skip
    return found, requests


@st.composite
def _traffics(draw: st.DrawFn) -> Traffic:
    n = draw(st.integers(1, 24))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    gap = draw(st.sampled_from([0.0, 0.003, 0.02, 0.2]))
    prefill = rng.integers(1, draw(st.sampled_from([20, 200, 300])), n)
    decode = rng.integers(1, draw(st.sampled_from([2, 30, 120])), n)
    # A prefix tree: each request follows an earlier one for some blocks, then goes its own way.
    chains: list[list[int]] = []
    fresh = 0
    for i in range(n):
        old = chains[int(rng.integers(0, i))] if i and rng.random() < 0.6 else []
        blocks = -(-int(prefill[i]) // 32)
        keep = min(len(old), int(rng.integers(0, blocks + 1)))
        chains.append(old[:keep] + list(range(fresh, fresh + blocks - keep)))
        fresh += blocks - keep
    return Traffic(
        name="drawn", arrived_s=np.cumsum(rng.exponential(gap, n)) if gap else np.zeros(n),
        prefill_tokens=prefill, decode_tokens=decode,
        hash_starts=np.cumsum([0, *(len(c) for c in chains)]),
        hash_ids=np.array([h for c in chains for h in c]), hash_block_tokens=32, seed=seed,
    )  # fmt: skip


def _agree(
    traffic: Traffic, engine: str, lag: Any, capacity: int, max_seqs: int, budget: int,
    caching: bool, ready: bool, replicas: int, least: bool, spec: tuple[int, float], window: int,
    hit: float,
) -> None:  # fmt: skip
    how = replace(SCHEDULERS[engine], lag=lag)
    if ready:
        how = replace(how, reserve="prompt")
        traffic = replace(traffic, decode_tokens=traffic.decode_tokens + 1)
    surface = Surface(
        kv_capacity_tokens=capacity, spec_tokens=spec[0], tokens_per_step=spec[1],
        kv_capped_share=1.0 if window else 0.0, kv_cap_tokens=window,
    )  # fmt: skip
    # What slides out of a window cannot be found again: such an engine caches no prefixes.
    caching = caching and not window
    found, requests = _both(
        traffic, how, surface=surface, max_seqs=max_seqs, budget=budget, caching=caching,
        ready=ready, replicas=replicas, least=least, hit=hit,
    )  # fmt: skip
    fits = found.fits
    assert [r.replica for r in requests] == found.replica.tolist()
    assert [r.thrown_out for r in requests] == found.thrown_out.tolist()
    assert [r.cached for r in requests] == found.cached_tokens.tolist()
    for name, times in (("scheduled_s", found.scheduled_s), ("finished_s", found.finished_s),
                        ("first_s", found.first_token_s)):  # fmt: skip
        expected = np.array([getattr(r, name) for r in requests])
        np.testing.assert_allclose(times, expected, rtol=1e-9, atol=1e-9, err_msg=name)
    assert not np.isnan(found.finished_s[fits]).any()
    assert np.isnan(found.finished_s[~fits]).all()


WORLDS: dict[str, Any] = {
    "traffic": _traffics(), "engine": st.sampled_from(sorted(SCHEDULERS)),
    "lag": st.sampled_from([1, 2]), "capacity": st.sampled_from([448, 640, 1600, 9600]),
    "max_seqs": st.sampled_from([2, 5, 40]), "budget": st.sampled_from([48, 128, 1024]),
    "caching": st.booleans(), "ready": st.booleans(), "replicas": st.sampled_from([1, 3]),
    "least": st.booleans(), "window": st.sampled_from([0, 0, 100]),
    "hit": st.sampled_from([0.0, 0.0, 0.5, 0.95]),
    "spec": st.sampled_from([(0, 1.0), (3, 2.5), (1, 1.625)]),
}  # fmt: skip


@settings(max_examples=150)
@given(**WORLDS)
def test_jumps_agree_with_steps(**world: Any) -> None:
    _agree(**world)


@pytest.mark.slow
@settings(max_examples=5000)
@given(**WORLDS)
def test_jumps_agree_with_steps_at_length(**world: Any) -> None:
    _agree(**world)


def test_the_drawn_worlds_throw_out_and_find_prefixes() -> None:
    """The property above says nothing if these never happen."""
    rng = np.random.default_rng(1)
    n = 40
    traffic = Traffic(
        name="tight", arrived_s=np.sort(rng.random(n)), prefill_tokens=rng.integers(64, 100, n),
        decode_tokens=rng.integers(40, 120, n), hash_starts=np.arange(n + 1) * 2,
        hash_ids=np.array([h for i in range(n) for h in (i % 3, 10 + i)]), hash_block_tokens=32,
    )  # fmt: skip
    found, requests = _both(
        traffic, SCHEDULERS["vllm"], surface=Surface(kv_capacity_tokens=800), max_seqs=16,
        budget=256, caching=True,
    )  # fmt: skip
    assert found.thrown_out.sum() > 5
    assert found.cached_tokens.sum() > 1000
    assert [r.thrown_out for r in requests] == found.thrown_out.tolist()
    assert [r.cached for r in requests] == found.cached_tokens.tolist()


def test_a_budget_of_nothing_is_refused() -> None:
    from weftline.errors import InputError

    with pytest.raises(InputError, match="at least 1"):
        simulate_requests(Surface(), np.zeros(1), np.ones(1, int), np.ones(1, int), max_seqs=0,
                          token_budget=8)  # fmt: skip
