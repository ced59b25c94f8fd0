"""The advice on paper: by hand where it can be, and moving the right way where it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weftline.burst.advise.advice import Job, advise, measured_figures
from weftline.burst.advise.interval import poisson_availability
from weftline.errors import InputError

TRILLION = Job(state_bytes=14e12, nodes=2048)
"""A trillion parameters, 14 bytes each: bf16 weights, fp32 master weights and two moments."""


def test_a_trillion_parameters_on_2048_nodes() -> None:
    found = advise(TRILLION)
    own = 14e12 / 2048
    assert found.mtbf_s == pytest.approx(86_400 / (3.79e-3 * 2048))
    assert found.burst.copy_s == pytest.approx(own / 80e9)
    committed_s = own / 4e9 + own / 10e9  # on the disk, then in another node's memory
    assert found.burst.persist_s == pytest.approx(committed_s)
    assert found.burst.drained_s == pytest.approx(committed_s + 140)
    assert found.blocking.copy_s == pytest.approx(140)
    plan = found.blocking.schedule
    assert plan.goodput == pytest.approx(
        poisson_availability(140, plan.interval_s, found.mtbf_s, 300 + 140)
    )
    assert found.burst.schedule.goodput > 0.95
    assert plan.goodput < 0.85
    assert found.gained_nodes == pytest.approx(2048 * (found.burst.schedule.goodput - plan.goodput))
    # Even against 2 TB/s, the fastest file system published for such a job.
    assert found.burst.schedule.goodput > max(c.schedule.goodput for c in found.others)


def test_five_minutes_blocking_wastes_23_percent() -> None:
    """The published figure, with no time to restart: what remains beyond it is reading back."""
    job = replace(TRILLION, mtbf_s=3.09 * 3600, shared_bytes_per_s=14e12 / 300, restart_s=0.0)
    plan = advise(job).blocking.schedule
    assert plan.stall_share + plan.rework_share == pytest.approx(0.232, abs=0.02)


@pytest.mark.parametrize(
    ("field", "better", "worse"),
    [
        ("mtbf_s", 1e5, 1e4), ("nvme_write_bytes_per_s", 8e9, 1e9), ("restart_s", 60.0, 900.0),
        ("store_bytes_per_s", 1e12, 1e10), ("local_share", 1.0, 0.2), ("slowdown_share", 0.0, 0.5),
        ("nvme_read_bytes_per_s", 6e9, 1e8), ("copies", 1, 2),
        ("stall_s", 0.01, 5.0), ("persist_s", 1.0, 60.0), ("restore_s", 1.0, 60.0),
    ],
)  # fmt: skip
def test_better_is_better(field: str, better: float, worse: float) -> None:
    good, bad = (advise(replace(TRILLION, **{field: v})).burst for v in (better, worse))
    assert good.schedule.goodput > bad.schedule.goodput


def test_a_lost_node_reads_from_memory_and_the_others_from_their_disks() -> None:
    slow_link = replace(TRILLION, peer_bytes_per_s=1e8, persist_s=2.0, local_share=1.0)
    own = 14e12 / 2048
    for share in (0.0, 0.25, 1.0):
        found = advise(replace(slow_link, node_share=share)).burst.recovery_s
        assert found == pytest.approx(300 + (1 - share) * own / 6e9 + share * own / 1e8)


def test_figures_say_what_they_rest_on() -> None:
    bench = {"state_bytes": 1e9, "stall_s": 0.1, "durable_bytes_per_s": 2e9,
             "load_bytes_per_s": 3e9, "folder": "/nvme"}  # fmt: skip
    figures, what = measured_figures(bench, where="bench.json")
    assert figures == {"staging_bytes_per_s": 1e10, "nvme_write_bytes_per_s": 2e9,
                       "nvme_read_bytes_per_s": 3e9}  # fmt: skip
    assert what == "measured here in /nvme"
    with pytest.raises(InputError, match="no answer of"):
        measured_figures({"rounds": 3}, where="bench.json")


def test_a_given_interval_is_judged_not_chosen() -> None:
    best = advise(TRILLION).burst.schedule
    longer = advise(replace(TRILLION, interval_s=10 * best.interval_s)).burst.schedule
    assert longer.interval_s == 10 * best.interval_s
    assert longer.goodput < best.goodput


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes": 0}, {"local_share": 1.5}, {"slowdown_share": -0.1}, {"state_bytes": 0.0},
        {"store_bytes_per_s": 0.0}, {"interval_s": 0.01},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        advise(replace(TRILLION, **wrong))
