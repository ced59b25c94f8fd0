"""Quantities at the edge: what is read, what is refused and with which words, what is shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.units import (
    format_bytes,
    format_count,
    format_duration,
    format_flops,
    format_mass,
    format_number,
    format_rate,
    format_usd,
    parse_bytes,
    parse_count,
    parse_duration_s,
    parse_fraction,
    parse_rate_bytes_per_s,
    parse_usd,
)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_count, "2T", 2_000_000_000_000),
        (parse_count, "2T tokens", 2_000_000_000_000),
        (parse_count, "15.6e12", 15_600_000_000_000),
        (parse_count, "15.6 trillion tokens", 15_600_000_000_000),
        (parse_count, "1_024", 1024),
        (parse_count, "16,384 chips", 16_384),
        (parse_count, ".5k", 500),
        (parse_count, "8b params", 8_000_000_000),
        (parse_bytes, "1GB", 1e9),
        (parse_bytes, "64 MiB", 64 * 2**20),
        (parse_bytes, "512", 512.0),
        (parse_bytes, "1.5 tib", 1.5 * 2**40),
        (parse_rate_bytes_per_s, "46 GB/s", 46e9),
        (parse_rate_bytes_per_s, "46GBps", 46e9),
        (parse_rate_bytes_per_s, "2 GiB/s", 2.0**31),
        (parse_rate_bytes_per_s, "400Gbps", 50e9),
        (parse_rate_bytes_per_s, "400 Gb/s", 50e9),
        (parse_rate_bytes_per_s, "400 Gbit/s", 50e9),
        (parse_rate_bytes_per_s, "1.6 Tbps", 200e9),
        (parse_duration_s, "30 min", 1800.0),
        (parse_duration_s, "54days", 54 * 86400.0),
        (parse_duration_s, "250ms", 0.25),
        (parse_duration_s, "3.09 h", 3.09 * 3600),
        (parse_usd, "$1.5M", 1.5e6),
        (parse_usd, "2.5M USD", 2.5e6),
        (parse_usd, "250,000", 250_000.0),
        (parse_usd, "usd 12", 12.0),
        (parse_fraction, "38%", 0.38),
        (parse_fraction, "0.38", 0.38),
        (parse_fraction, "0", 0.0),
        (parse_fraction, "100 %", 1.0),
    ],
)
def test_parse(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (parse_count, "", "is not a count"),
        (parse_count, "lots", "is not a count"),
        (parse_count, "0", "positive whole number"),
        (parse_count, "-3", "positive whole number"),
        (parse_count, "0.5", "positive whole number"),
        (parse_count, "1e999", "not finite"),
        (parse_count, "5 GB", "a unit of a size"),
        (parse_count, "5 min", "a unit of a time"),
        (parse_count, "1,5T", "is not a count"),
        (parse_count, "1,50,000", "is not a count"),
        (parse_bytes, "5 min", "a unit of a time"),
        (parse_bytes, "46 GB/s", "a unit of a rate"),
        (parse_bytes, "8 Gb", "counts bits"),
        (parse_bytes, "-1 GB", "above zero"),
        (parse_rate_bytes_per_s, "46 GB", "a unit of a size"),
        (parse_rate_bytes_per_s, "46", "does not fit"),
        (parse_rate_bytes_per_s, "46 gb/s", "may be bits or bytes"),
        (parse_rate_bytes_per_s, "0 GB/s", "above zero"),
        (parse_duration_s, "30", "has no unit"),
        (parse_duration_s, "30 parsecs", "does not fit"),
        (parse_duration_s, "1 GB", "a unit of a size"),
        (parse_usd, "$", "is not an amount of money"),
        (parse_usd, "-$5", "is not an amount of money"),
        (parse_usd, "$0", "above zero"),
        (parse_usd, "5 min", "a unit of a time"),
        (parse_fraction, "38", "outside 0 to 1"),
        (parse_fraction, "120%", "outside 0 to 1"),
        (parse_fraction, "0.4 h", "is not a fraction"),
    ],
)
def test_parse_refuses(parse: Callable[..., float], text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        parse(text, where="--option")
    assert caught.value.where == "--option"
    assert caught.value.exit_code == 2


def test_a_near_miss_is_named() -> None:
    with pytest.raises(InputError) as caught:
        parse_duration_s("3 dayz")
    assert caught.value.hint == "did you mean `day`? for example 30min, 12h or 54days"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (format_bytes(79.9e9), "79.9 GB"),
        (format_bytes(79.9e9, binary=True), "74.4 GiB"),
        (format_bytes(0), "0 B"),
        (format_bytes(999.96), "1.00 kB"),
        (format_bytes(99.96e9), "100 GB"),
        (format_bytes(9.996e9), "10.0 GB"),
        (format_bytes(1023.9, binary=True), "1.00 KiB"),
        (format_bytes(1015, binary=True), "1015 B"),
        (format_bytes(-2e9), "-2.00 GB"),
        (format_rate(450e9), "450 GB/s"),
        (format_rate(6.25e9), "6.25 GB/s"),
        (format_flops(3.79e24), "3.79 YFLOP"),
        (format_count(405e9), "405B"),
        (format_count(15e12), "15.0T"),
        (format_count(16_384), "16,384"),
        (format_count(123_456.7), "123,457"),
        (format_count(2.5), "2.5"),
        (format_count(999_999_999), "1.00B"),
        (format_duration(54.1 * 86400), "54.1 days"),
        (format_duration(3.09 * 3600), "3.09 h"),
        (format_duration(90), "90.0 s"),
        (format_duration(1800), "30.0 min"),
        (format_duration(0.0124), "12.4 ms"),
        (format_duration(3.4e-6), "3.40 us"),
        (format_duration(0.9999999), "1.00 s"),
        (format_duration(7199.9), "2.00 h"),
        (format_duration(1000 * 86400), "1,000 days"),
        (format_duration(0), "0 us"),
        (format_usd(12.3e6), "$12.3M"),
        (format_usd(1.34), "$1.34"),
        (format_usd(9.996e6), "$10.0M"),
        (format_usd(999_960), "$1.00M"),
        (format_usd(999.7), "$1.00k"),
        (format_usd(-1500), "-$1.50k"),
        (format_usd(0), "$0.00"),
    ],
)
def test_format(shown: str, text: str) -> None:
    assert shown == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 3, "0"), (1.5, 3, "1.5"), (12345.0, 3, "12,345"), (1.234567e8, 3, "123,456,700"),
        (0.000342, 3, "0.000342"), (999.96, 4, "1,000"), (3.4, 3, "3.4"), (-0.25, 2, "-0.25"),
        (float("inf"), 3, "inf"),
    ],
)  # fmt: skip
def test_a_number_for_a_reader_has_no_exponent(value: float, digits: int, text: str) -> None:
    assert format_number(value, digits) == text


@given(st.floats(1e-9, 1e12), st.integers(1, 6))
def test_a_number_for_a_reader_keeps_its_digits(value: float, digits: int) -> None:
    text = format_number(value, digits)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


@pytest.mark.parametrize(
    ("kg", "text"), [(0.4, "0.4 kg"), (812.4, "812 kg"), (64200.0, "64.2 t"), (2.19e8, "219,000 t")]
)
def test_a_mass_is_in_kilograms_below_a_tonne(kg: float, text: str) -> None:
    assert format_mass(kg) == text
