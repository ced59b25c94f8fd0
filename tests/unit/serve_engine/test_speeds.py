"""The front of speed of a user against output of a chip."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from weftline.serve.search.speeds import front_of
from weftline.spec.drawn import SpeedPoint

POINTS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30)


@given(POINTS)
def test_nothing_beats_the_front_and_the_front_beats_the_rest(pairs: list[tuple[int, int]]) -> None:
    points = [SpeedPoint(per_user=float(a), per_chip=float(b), said="") for a, b in pairs]
    front = front_of(points)
    for a, b in pairwise(front):
        assert a.per_user < b.per_user
        assert a.per_chip > b.per_chip
    for p in points:
        assert any(f.per_user >= p.per_user and f.per_chip >= p.per_chip for f in front)
