"""What is shown can be read back, to the three digits that are shown; clashes never pass."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.units import (
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    format_usd,
    parse_bytes,
    parse_count,
    parse_duration_s,
    parse_fraction,
    parse_rate_bytes_per_s,
    parse_usd,
)

ROUNDING: Final = 0.00501
"""Half a unit in the third digit, at worst that of 1.00."""


def between(low: float, high: float) -> st.SearchStrategy[float]:
    """Values spread evenly over orders of magnitude."""
    return st.floats(math.log(low), math.log(high)).map(math.exp)


@given(between(1.0, 1e20))
def test_bytes_round_trip(value: float) -> None:
    assert parse_bytes(format_bytes(value)) == pytest.approx(value, rel=ROUNDING)
    assert parse_bytes(format_bytes(value, binary=True)) == pytest.approx(value, rel=ROUNDING)


@given(between(1.0, 1e17))
def test_rate_round_trip(value: float) -> None:
    assert parse_rate_bytes_per_s(format_rate(value)) == pytest.approx(value, rel=ROUNDING)


@given(between(1e-8, 1e11))
def test_duration_round_trip(value: float) -> None:
    assert parse_duration_s(format_duration(value)) == pytest.approx(value, rel=ROUNDING)


@given(between(1.0, 1e13))
def test_money_round_trip(value: float) -> None:
    assert parse_usd(format_usd(value)) == pytest.approx(value, rel=ROUNDING)


@given(st.integers(1, 10**17))
def test_count_round_trip(value: int) -> None:
    read = parse_count(format_count(value))
    assert read == value if value < 10**6 else read == pytest.approx(value, rel=ROUNDING)


@given(st.integers(1, 10**15))
def test_count_is_read_exactly(value: int) -> None:
    assert (
        parse_count(str(value)) == parse_count(f"{value:,}") == parse_count(f"{value:_}") == value
    )


@given(st.floats(0, 1))
def test_fraction_round_trip(value: float) -> None:
    assert parse_fraction(f"{value:.9f}") == pytest.approx(value, abs=1e-9)


@given(between(1e-6, 1e19))
def test_no_number_is_shown_with_four_digits_or_none(value: float) -> None:
    """Three digits, and never 1000 of a unit that has a next one."""
    for text in (format_bytes(value), format_rate(min(value, 9e17))):
        digits = re.sub(r"\D", "", text.split()[0])
        assert len(digits) == 3, text


KINDS: Final[dict[Callable[..., float], tuple[str, ...]]] = {
    parse_bytes: ("B", "kB", "GB", "GiB", "TB"),
    parse_rate_bytes_per_s: ("GB/s", "Gbps", "MiB/s", "Gbit/s"),
    parse_duration_s: ("ms", "s", "min", "h", "days"),
    parse_usd: ("$",),
    parse_fraction: ("%",),
}


@given(
    number=between(1e-3, 1e6),
    parse=st.sampled_from([*KINDS, parse_count]),
    other=st.sampled_from([*KINDS]),
    index=st.integers(0, 4),
)
def test_a_unit_of_another_kind_is_refused(
    number: float, parse: Callable[..., float], other: Callable[..., float], index: int
) -> None:
    units = KINDS[other]
    unit = units[index % len(units)]
    if parse is other or (parse, unit) == (parse_usd, "B"):  # `5 B` is five billion dollars
        return
    if parse is parse_count and unit == "B":
        return
    with pytest.raises(InputError):
        parse(f"{number:.6f} {unit}")


@given(st.text(max_size=20))
def test_any_text_is_a_quantity_or_an_input_error(text: str) -> None:
    for parse in (*KINDS, parse_count):
        try:
            value = parse(text)
        except InputError:
            continue
        assert math.isfinite(value)
        assert value >= 0
