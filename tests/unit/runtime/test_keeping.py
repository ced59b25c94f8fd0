"""The ledger adds up; what hangs, what is slow, and what is only busy are told apart."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.runtime.keep.ledger import Ledger
from weftline.runtime.keep.watch import Sleep, Watch


def test_a_run_with_a_failure_by_hand() -> None:
    ledger = Ledger(100.0)
    ledger.goes_on(0, 103.0)
    ledger.step(0, 103.0, 105.0, 0.0)  # 3 s of start
    ledger.step(1, 105.5, 107.5, 1.0)  # half a second between; one of two seconds a save
    ledger.whole(1.25)
    ledger.step(2, 107.75, 109.75, 0.0)
    ledger.failed(112.0, since=111.5)  # 1.75 s into step 3, noticed half a second later
    ledger.failed(113.0)  # the restart is struck, too
    ledger.goes_on(2, 114.0)  # step 2 is undone, and what lay before it
    ledger.step(2, 114.0, 116.0, 0.0)
    shares = ledger.close(117.0, every=2)
    assert shares.seconds == pytest.approx({
        "start": 3.0, "productive": 5.0, "stall": 1.0, "between": 0.5, "lost": 4.0, "restart": 2.5,
        "end": 1.0,
    })  # fmt: skip
    assert shares.wall_s == 17.0
    assert shares.failures == 2
    assert shares.goodput == pytest.approx(5 / 17)
    # 10.5 s of steps that met one failure; an interval of two steps is (5 + 1 + 0.5) 2/3 s, of
    # which 5 2/3 s are progress; a save is whole 1.25 s less 2/3 s after its stall.
    rate, interval, late = 1 / 10.5, 6.5 * 2 / 3, 1.25 - 2 / 3
    kept = math.exp(-rate * late) / math.expm1(rate * interval)  # intervals of a life
    assert shares.forecast == pytest.approx(kept * 5 * 2 / 3 * rate * 10.5 / 17)


@pytest.mark.parametrize("mean_s", [2.5, 6.0, 60.0])
def test_the_forecast_is_what_random_failures_leave(mean_s: float) -> None:
    """A run played out by the second: failures come at any moment, in restarts and saves too."""
    rng = random.Random(4)
    ledger, now, done, newest = Ledger(0.0), 0.0, 0, 0
    saving: tuple[float, int] | None = None
    strike = rng.expovariate(1 / mean_s)

    def struck(takes: float) -> bool:
        nonlocal now, strike, saving, newest
        until = min(now + takes, strike)
        if saving is not None and saving[0] <= until:
            newest, saving = saving[1], None
            ledger.whole(0.21)
        if until < strike:
            now = until
            return False
        now, saving = strike + 0.03, None  # noticed
        ledger.failed(now, strike)
        strike = now + rng.expovariate(1 / mean_s)
        return True

    while done < 3000:
        if struck(1.1 * rng.random()):
            continue  # in the restart
        done = newest
        ledger.goes_on(done, now)
        while done < 3000:
            begin, stall = now, 0.06 * (done % 2)
            if struck(0.35 + 0.1 * rng.random() + stall):
                break
            ledger.step(done, begin, now, stall)
            done += 1
            if stall:
                saving = (now + 0.15, done)
            if struck(0.02):
                break
    shares = ledger.close(now, every=2)
    assert shares.failures > 15
    assert shares.forecast == pytest.approx(shares.goodput, abs=0.01)


@given(st.lists(st.tuples(st.sampled_from("sffg"), st.floats(0, 10), st.floats(0, 10),
                          st.floats(0, 20)), max_size=40))  # fmt: skip
def test_the_shares_are_a_partition_whatever_happens(events: list[tuple[str, float, float, float]],
                                                     ) -> None:  # fmt: skip
    ledger, now, step = Ledger(0.0), 0.0, 0
    for kind, gap, takes, stall in events:
        now += gap
        if kind == "s":
            ledger.step(step, now, now + takes, stall)
            now, step = now + takes, step + 1
        elif kind == "f":
            ledger.failed(now, now - takes)
        else:
            step = max(0, step - 2)
            ledger.goes_on(step, now)
    shares = ledger.close(now + 1.0)
    assert sum(shares.seconds.values()) == pytest.approx(now + 1.0)
    assert min(shares.seconds.values()) >= 0


def test_a_hang_is_two_steps_and_a_second_without_work() -> None:
    watch = Watch(60.0)
    watch.start(0.0)
    assert not watch.hung(59.0, busy=False)
    assert watch.hung(61.0, busy=False)
    watch.start(100.0)
    watch.step(110.0, 10.0)  # the first step is no measure
    assert watch.limit_s() == 60.0
    watch.step(112.0, 2.0)
    assert watch.limit_s() == 5.0
    assert not watch.hung(116.9, busy=False)
    assert watch.hung(117.1, busy=False)
    assert not watch.hung(117.1, busy=True)  # a loud machine is no hang
    assert watch.hung(163.0, busy=True)


def test_the_rank_that_others_wait_for_is_named_once() -> None:
    sleep = Sleep()
    said = []
    for tick in range(1200):
        # Ranks 0 and 2 sleep nine times of ten, rank 1 never.
        sleep.sample({0: "S" if tick % 10 else "R", 1: "R", 2: "S" if tick % 10 else "R"})
        said.append(sleep.slow())
    assert [s for s in said if s] == [(1, 0.0, pytest.approx(0.9))]


def test_ranks_that_take_turns_are_not_slow() -> None:
    sleep = Sleep()
    for tick in range(1200):
        late = tick // 150 % 2
        sleep.sample({0: "R" if late else "S", 1: "S" if late else "R"})
        assert sleep.slow() is None
