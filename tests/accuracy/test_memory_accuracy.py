"""Counted memory against logged peaks, and what ran against what the planner takes.

Nothing of the count is fitted to runs, so every source is one that was left out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import weftline.plan
from weftline.plan.calibrate.rows import read_rows
from weftline.plan.search.memory_score import ScoredMemory, score_memory

DATA = Path(weftline.plan.__file__).parent / "data"


@pytest.fixture(scope="module")
def published() -> tuple[ScoredMemory, ...]:
    return score_memory(read_rows(DATA / "published_runs.csv")[0])


def errors(scored: tuple[ScoredMemory, ...], source: str = "") -> list[float]:
    return [abs(e) for s in scored if source in s.source and (e := s.error_pct) is not None]


def test_logged_peaks_are_counted_within_what_is_promised(
    published: tuple[ScoredMemory, ...],
) -> None:
    found = errors(published)
    assert len(found) >= 24
    assert sum(found) / len(found) <= 12
    held = [s.in_band for s in published if s.in_band is not None]
    assert sum(held) / len(held) >= 0.85


def test_dense_bf16_rows_of_b200_are_within_three_per_cent(
    published: tuple[ScoredMemory, ...],
) -> None:
    """SimuMax v1.2 itself, with measured tables of kernels, is 0.36 % off on its rows."""
    found = errors(published, "SimuMax")
    assert len(found) >= 15
    assert max(found) <= 3


def test_no_layout_that_ran_is_refused(published: tuple[ScoredMemory, ...]) -> None:
    stated = [s for s in published if s.accepted is not None]
    assert len(stated) > 450
    assert [s.id for s in stated if not s.accepted] == []
    over = [s for s in stated if s.held_bytes is not None and s.held_bytes > s.capacity_bytes]
    assert len(over) <= 0.05 * len(stated)


@pytest.mark.parametrize(
    "file",
    [pytest.param("vtrain_single.csv", marks=pytest.mark.slow), "vtrain_multi.csv"],
)
def test_no_layout_of_vtrain_is_refused(file: str) -> None:
    scored = score_memory(read_rows(DATA / file)[0])
    assert [s.id for s in scored if not s.accepted] == []
    over = [s for s in scored if s.held_bytes is not None and s.held_bytes > s.capacity_bytes]
    assert len(over) <= 0.05 * len(scored)
