"""Surfaces: interpolation against SciPy's, the isotonic fit against its definition, the file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from weftline.operators.fit.base import Family
from weftline.operators.fit.monotone import fit_surface, held_out, isotonic
from weftline.operators.surface import Surface, log2_axis
from weftline.operators.tables import FAMILIES, family, packed, unpacked

AXES = ([1, 3, 8, 64], [2, 5, 40], [1, 16])


def _surface(seed: int) -> Surface:
    rng = np.random.default_rng(seed)
    table = rng.uniform(-20, -5, [len(a) for a in AXES])
    return Surface(tuple(log2_axis(a) for a in AXES), table)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_reads_as_scipy_does(seed: int) -> None:
    surface = _surface(seed)
    rng = np.random.default_rng(seed)
    sizes = [2 ** rng.uniform(a[0], a[-1], 50) for a in surface.axes]
    oracle = RegularGridInterpolator(surface.axes, surface.log2_s)
    expected = 2 ** oracle(np.stack([np.log2(s) for s in sizes], axis=1))
    assert surface.seconds(*sizes) == pytest.approx(expected, rel=1e-9)


def test_is_held_at_its_edges_and_broadcasts() -> None:
    surface = _surface(1)
    assert surface.seconds(1e9, 1e9, 1e9) == surface.seconds(64, 40, 16)
    assert surface.seconds(np.ones((3, 1)), np.full(4, 5.0), 2.0).shape == (3, 4)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_isotonic_rises_and_leaves_rising_tables_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(5, 4, 3))
    weights = rng.uniform(0.1, 2.0, table.shape)
    found = isotonic(table, weights, [True, True, False])
    assert np.all(np.diff(found, axis=0) >= 0)
    assert np.all(np.diff(found, axis=1) >= 0)
    rising = np.sort(np.sort(table, axis=0), axis=1)
    assert isotonic(rising, weights, [True, True, False]) == pytest.approx(rising, abs=1e-9)
    # Nearer than the plainest rising table, the running maximum.
    plain = np.maximum.accumulate(np.maximum.accumulate(table, 0), 1)
    assert np.sum(weights * (found - table) ** 2) <= np.sum(weights * (plain - table) ** 2) + 1e-9


def test_a_fit_recovers_the_surface_it_was_drawn_from() -> None:
    rng = np.random.default_rng(5)
    axes = [log2_axis([1, 4, 16, 64]), log2_axis([8, 64, 512])]
    truth = Surface(tuple(axes), np.add.outer(np.arange(4.0), 2 * np.arange(3.0)) - 20)
    sizes = [2 ** rng.uniform(a[0], a[-1], 400) for a in axes]
    noisy = truth.seconds(*sizes) * rng.lognormal(0, 0.02, 400)
    noisy[::50] *= 8  # host hiccups: rows far off count little
    found = fit_surface(axes, sizes, noisy, smooth=0.01)
    assert found.log2_s == pytest.approx(truth.log2_s, abs=0.08)


def test_the_same_shapes_are_held_out_of_every_table() -> None:
    keys = np.arange(6000).reshape(2000, 3).astype(float)
    chosen = held_out(keys)
    assert 0.15 < chosen.mean() < 0.25
    assert np.array_equal(held_out(keys[500:900]), chosen[500:900])


def test_tables_keep_their_values_to_a_step() -> None:
    surface = _surface(3)
    back = unpacked([list(a) for a in AXES], packed(surface))
    assert back.log2_s == pytest.approx(surface.log2_s, abs=0.005 + 1e-9)


def test_a_family_refuses_tables_on_other_axes() -> None:
    made = Family("x")
    surface = Surface((log2_axis([1, 2]),), np.zeros(2))
    made.add("op", "chip", "bf16", [[1, 2]], surface, 2, {})
    with pytest.raises(ValueError, match="share their axes"):
        made.add("op", "chip", "fp8", [[1, 4]], surface, 2, {})


@pytest.mark.parametrize("name", FAMILIES)
def test_every_bundled_table_states_its_rows_script_and_unseen_error(name: str) -> None:
    content = family(name)
    assert content["script"]
    assert "2026-11-21" in content["source"]
    for section in content["operators"].values():
        size = int(np.prod([len(a) for a in section["axes"]]))
        for tables in section["tables"].values():
            for entry in tables.values():
                assert entry["rows"] > 0
                assert len(entry["log2_us_x100"]) == size
                assert "held_out" in entry
