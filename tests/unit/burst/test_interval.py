"""Checkpoint intervals against optimisers, limits, published examples and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import lambertw

from weftline.burst.advise.interval import (
    Level,
    availability,
    best_schedule,
    daly_interval_s,
    goodput_at,
    nvidia_interval_s,
    poisson_availability,
    poisson_interval_s,
    young_interval_s,
)
from weftline.errors import InputError

HOUR = 3600.0


def one_level(mtbf_s: float, persist_s: float = 0.0, recovery_s: float = 0.0) -> list[Level]:
    return [
        Level(name="disk", persist_s=persist_s, recovery_s=recovery_s, failures_per_s=1 / mtbf_s)
    ]


def simulate(
    stall_s: float, interval_s: float, levels: list[Level], failures: int, seed: int
) -> tuple[float, float]:
    """Goodput of a run that fails at random, event by event, and its standard error.

    Wall time runs on; work is what counts at the end. A checkpoint is named by the work it holds.
    Level 0 has it ``persist_s`` after the stall; each further level takes every k-th, its own
    ``persist_s`` later. A failure of level i goes back to the newest checkpoint that level i or a
    higher one holds. Recovery can be struck again and then starts over, at the struck level.
    """
    rng = np.random.default_rng(seed)
    rates = np.array([v.failures_per_s for v in levels])
    total_rate = rates.sum()
    every = [1]
    for v in levels[1:]:
        wanted = max(v.persist_s, v.interval_s or 0.0) / (every[-1] * interval_s)
        every.append(every[-1] * max(1, math.ceil(wanted - 1e-9)))
    # Checkpoints committed or on their way: (wall time durable, work), by level.
    held: list[list[tuple[float, float]]] = [[(0.0, 0.0)] for _ in levels]
    batches: list[float] = []
    now = work = start_now = start_work = 0.0
    saves = 0
    for failure in range(failures):
        life = rng.exponential(1 / total_rate)
        done = int(life // interval_s)
        for k in range(1, done + 1):
            saves += 1
            at, kept = now + k * interval_s, work + k * (interval_s - stall_s)
            for i, v in enumerate(levels):
                at += v.persist_s
                if saves % every[i]:
                    break
                held[i].append((at, kept))
        now += life
        failed_at = now
        struck = int(rng.choice(len(levels), p=rates / total_rate))
        while True:  # a recovery that is struck starts over, from the worse of the two levels
            needed_s, next_s = levels[struck].recovery_s, rng.exponential(1 / total_rate)
            now += min(needed_s, next_s)
            if next_s >= needed_s:
                break
            struck = max(struck, int(rng.choice(len(levels), p=rates / total_rate)))
        for i in range(len(levels)):
            # Gone: what a lost level held, and what it had not yet passed on.
            if i < struck:
                held[i] = []
            elif i == struck:
                held[i] = [h for h in held[i] if h[0] <= failed_at]
        work = max(kept for h in held[struck:] for _, kept in h)
        for i in range(len(levels)):
            held[i] = [h for h in held[i] if h[1] <= work][-2:] or [(now, work)]
        if (failure + 1) % (failures // 20) == 0:
            batches.append((work - start_work) / (now - start_now))
            start_now, start_work = now, work
    return float(np.mean(batches)), float(np.std(batches, ddof=1) / math.sqrt(len(batches)))


@given(
    stall=st.floats(1e-3, 2e3), mtbf=st.floats(600, 1e6), recovery=st.floats(0, 3600),
    persist=st.floats(0, 1800),
)  # fmt: skip
def test_the_poisson_interval_is_where_exact_availability_peaks(
    stall: float, mtbf: float, recovery: float, persist: float
) -> None:
    """Against a numerical optimiser and Lambert's function; recovery and persist do not move it."""
    interval = poisson_interval_s(stall, mtbf)
    found = minimize_scalar(
        lambda log_t: -poisson_availability(stall, math.exp(log_t), mtbf, recovery, persist),
        bounds=(math.log(stall), math.log(40 * mtbf + stall)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert interval == pytest.approx(math.exp(found.x), rel=2e-3)
    peak = poisson_availability(stall, interval, mtbf, recovery, persist)
    assert peak >= -found.fun * (1 - 1e-12)
    s = stall / mtbf
    closed_form = mtbf * (1 + s + lambertw(-math.exp(-1 - s)).real)
    assert interval == pytest.approx(closed_form, rel=1e-5)


def test_the_known_forms_are_limits_of_the_exact_one() -> None:
    """Young's error falls as e = sqrt(s/2M), Daly's as e^3: what "higher order" claims."""
    mtbf = 1e5
    errors = []
    for stall in (2000.0, 20.0):
        exact = poisson_interval_s(stall, mtbf)
        errors.append((
            abs(young_interval_s(stall, mtbf) / exact - 1),
            abs(daly_interval_s(stall, mtbf) / exact - 1),
        ))  # fmt: skip
    ratio = 10.0  # of e, for stalls 100 apart
    assert errors[0][0] / errors[1][0] == pytest.approx(ratio, rel=0.1)
    assert errors[0][1] / errors[1][1] > 0.5 * ratio**3
    assert daly_interval_s(3 * mtbf, mtbf) == 4 * mtbf
    # NVIDIA's recovery term vanishes where recovery << mtbf.
    assert nvidia_interval_s(1e-3, 1e8, 100) == pytest.approx(young_interval_s(1e-3, 1e8), rel=1e-4)


def test_first_order_is_the_limit_of_exact() -> None:
    for interval in (100.0, 1000.0):
        rough = availability(1.0, interval, 1e6, 600.0, 50.0)
        exact = poisson_availability(1.0, interval, 1e6, 600.0, 50.0)
        assert rough == pytest.approx(exact, abs=1e-6)


def test_the_two_published_figures() -> None:
    """16,384 H100, 3.09 h between failures: 5 minutes blocking wastes 23 %, a 1 s stall 1.3 %.

    The published waste is first order and without recovery, s/T + T/2M; the exact one is within
    its second order, (T/M)^2 / 2.
    """
    mtbf = 3.09 * HOUR
    for stall, waste in ((300.0, 0.232), (1.0, 0.013)):
        interval = young_interval_s(stall, mtbf)
        assert stall / interval + interval / 2 / mtbf == pytest.approx(waste, abs=1e-3)
        exact = best_schedule(stall, one_level(mtbf))
        assert 1 - exact.goodput == pytest.approx(waste, abs=5e-4 + (interval / mtbf) ** 2 / 2)


@pytest.mark.parametrize(
    ("stall", "persist", "recovery"), [(60.0, 60.0, 300.0), (1.0, 200.0, 900.0), (300, 0.0, 0.0)]
)
def test_one_level_against_a_simulation(stall: float, persist: float, recovery: float) -> None:
    """Exact, so the simulation must agree within its own standard error."""
    levels = one_level(3 * HOUR, persist, recovery)
    plan = best_schedule(stall, levels)
    found, error = simulate(stall, plan.interval_s, levels, 20_000, seed=1)
    assert plan.goodput == pytest.approx(found, abs=4 * error)
    assert error < 2e-3
    for factor in (0.4, 2.5):
        if plan.interval_s * factor > max(stall, persist):
            assert goodput_at(plan.interval_s * factor, stall, levels) < plan.goodput


def test_two_levels_against_a_simulation() -> None:
    """Nine of ten failures are answered locally; the store gets a checkpoint every 20 minutes."""
    mtbf = 3 * HOUR
    levels = [
        Level(name="nvme", persist_s=20.0, recovery_s=240.0, failures_per_s=0.9 / mtbf),
        Level(name="store", persist_s=1200.0, recovery_s=900.0, failures_per_s=0.1 / mtbf),
    ]
    plan = best_schedule(2.0, levels)
    found, error = simulate(2.0, plan.interval_s, levels, 40_000, seed=2)
    assert error < 1e-3
    # First order between the levels: right to the square of what one level loses.
    assert plan.goodput == pytest.approx(found, abs=4 * error + 2e-3)
    only_store = best_schedule(
        2.0, [Level(name="store", persist_s=1220.0, recovery_s=900.0, failures_per_s=1 / mtbf)]
    )
    assert only_store.goodput < plan.goodput - 0.05
    assert plan.lost_per_failure_s[0] == pytest.approx(plan.interval_s / 2 + 20)
    assert plan.level_intervals_s[1] >= 1200 * (1 - 1e-6)
    assert plan.level_intervals_s[1] / plan.interval_s == pytest.approx(
        round(plan.level_intervals_s[1] / plan.interval_s)
    )


def test_the_loss_of_an_asynchronous_save_counts_from_the_committed_checkpoint() -> None:
    """Same stall, ten minutes to durable instead of none: T/2 + p is lost, T stays."""
    at_once = best_schedule(1.0, one_level(3 * HOUR))
    later = best_schedule(1.0, one_level(3 * HOUR, persist_s=100.0))
    assert later.interval_s == pytest.approx(at_once.interval_s, rel=1e-6)
    assert later.lost_per_failure_s[0] - at_once.lost_per_failure_s[0] == pytest.approx(
        100, rel=1e-6
    )
    slow = best_schedule(1.0, one_level(3 * HOUR, persist_s=600.0))
    assert slow.persist_bound
    assert slow.interval_s == pytest.approx(600)
    assert best_schedule(1.0, one_level(3 * HOUR, persist_s=600.0), in_flight=2).interval_s < 400


@given(
    stall=st.floats(0, 600), persist=st.floats(0, 900), mtbf=st.floats(1000, 1e7),
    recovery=st.floats(0, 3600), share=st.floats(0, 1), drain=st.floats(1, 5000),
)  # fmt: skip
def test_shares_add_up_and_no_other_interval_is_better(
    stall: float, persist: float, mtbf: float, recovery: float, share: float, drain: float
) -> None:
    levels = [
        Level(name="nvme", persist_s=persist, recovery_s=recovery,
              failures_per_s=(1 - share) / mtbf),
        Level(name="store", persist_s=drain, recovery_s=2 * recovery, failures_per_s=share / mtbf),
    ]  # fmt: skip
    plan = best_schedule(stall, levels)
    shares = (plan.goodput, plan.stall_share, plan.rework_share, plan.recovery_share)
    assert all(-1e-12 <= s <= 1 for s in shares)
    assert sum(shares) == pytest.approx(1)
    floor = max(stall, persist, 1e-9)
    tried = np.geomspace(floor, max(floor * 2, 20 * mtbf), 997)
    best = max(goodput_at(float(t), stall, levels) for t in tried)
    assert plan.goodput >= best - 2e-4


def test_what_cannot_be_is_refused() -> None:
    good = one_level(1e4)
    for stall, levels, given_s in (
        (1.0, [], None), (-1.0, good, None), (math.inf, good, None),
        (1.0, one_level(math.inf), None),
        (1.0, one_level(1e4, persist_s=-1.0), None), (10.0, good, 5.0),
    ):  # fmt: skip
        with pytest.raises(InputError):
            best_schedule(stall, levels, interval_s=given_s)
    with pytest.raises(InputError):
        best_schedule(1.0, good, in_flight=0)
