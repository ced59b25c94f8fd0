"""Quantities at the edge: parse what a user types, format what a user reads.

Inside weftline everything is SI and plain floats: bytes, seconds, FLOP, USD, joules, with the unit
last in the name. Only here do ``46 GB/s``, ``2T tokens``, ``30 min`` and ``$1.34/h`` exist.
1 GB is 1e9 bytes, 1 GiB is 2**30.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from weftline.errors import InputError, nearest_names

__all__ = [
    "format_bytes",
    "format_count",
    "format_duration",
    "format_flops",
    "format_rate",
    "format_usd",
    "parse_bytes",
    "parse_count",
    "parse_duration_s",
    "parse_flops_per_s",
    "parse_fraction",
    "parse_rate_bytes_per_s",
    "parse_usd",
    "parse_watts",
]

_SI: Final = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18}
_COUNT: Final = {
    "": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15,
    "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12,
}  # fmt: skip
_BYTES: Final = {
    f"{p}{i}b": (2.0 ** (10 * n) if i else 1000.0**n)
    for n, p in enumerate(("", "k", "m", "g", "t", "p", "e"))
    for i in ("", "i")
    if p or not i
}
_TIME_S: Final = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0,
    "seconds": 1.0, "min": 60.0, "mins": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0,
    "hr": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0, "day": 86400.0,
    "days": 86400.0, "w": 604800.0, "week": 604800.0, "weeks": 604800.0,
    "month": 2629800.0, "months": 2629800.0, "y": 31557600.0, "year": 31557600.0,
    "years": 31557600.0,
}  # fmt: skip
_NUMBER: Final = re.compile(
    r"^\s*([+-]?(?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d[\d_]*)\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"\s*([^\d,].*?)?\s*$",
    re.ASCII,
)
"""Commas only between groups of three digits: ``1,5T`` is a mistake, not fifteen."""
_HOUR_S: Final = 3600.0


def _split(text: str, what: str, example: str, where: str | None) -> tuple[float, str]:
    match = _NUMBER.match(text)
    if not match:
        raise InputError(
            f"`{text}` is not {what}", where=where, hint=f"write a number and a unit: {example}"
        )
    value = float(match.group(1).replace("_", "").replace(",", ""))
    if not math.isfinite(value):
        raise InputError(f"`{text}` is not finite", where=where, hint=f"for example {example}")
    return value, match.group(2) or ""


def _unit(
    text: str, unit: str, table: Mapping[str, float], what: str, example: str, where: str | None
) -> float:
    scale = table.get(unit.lower())
    if scale is None:
        other = _kind_of(unit)
        clash = f": that is a unit of {other}" if other and other != what else ""
        near = nearest_names(unit, table)
        hint = f"did you mean `{near[0]}`? " if near and not clash else ""
        raise InputError(
            f"`{text}` is not {what}: unit `{unit}` does not fit{clash}",
            where=where,
            hint=f"{hint}for example {example}",
        )
    return scale


def _kind_of(unit: str) -> str | None:
    low = unit.lower()
    if low in _TIME_S:
        return "a time"
    if low.endswith("/s"):
        return "a rate"
    if low in _BYTES:
        return "a size"
    if low.startswith(("$", "usd")):
        return "money"
    return None


def parse_count(text: str, *, where: str | None = None, what: str = "a count") -> int:
    """``2T tokens``, ``15.6e12``, ``1_024`` -> a whole number. Raises InputError."""
    value, unit = _split(text, what, "2T, 300B or 1024", where)
    unit = re.sub(r"\s*(tokens?|toks?|chips?|sequences?|seqs?|params?)$", "", unit, flags=re.I)
    value *= _unit(text, unit, _COUNT, what, "2T, 300B or 1024", where)
    if value <= 0 or abs(value - round(value)) > 1e-6 * max(1.0, value):
        raise InputError(f"`{text}` is not {what}: a positive whole number is needed", where=where)
    return round(value)


def parse_bytes(text: str, *, where: str | None = None) -> float:
    """``1GB``, ``64 MiB`` -> bytes. Raises InputError."""
    value, unit = _split(text, "a size", "1GB or 64MiB", where)
    _refuse_bits(text, unit, "a size", where)
    value *= _unit(text, unit or "b", _BYTES, "a size", "1GB or 64MiB", where)
    return _positive(value, text, "a size", where)


def parse_rate_bytes_per_s(text: str, *, where: str | None = None) -> float:
    """``46 GB/s``, ``400Gbps``, ``400 Gbit/s`` -> bytes a second. Raises InputError."""
    value, unit = _split(text, "a rate", "46GB/s or 400Gbps", where)
    bits = re.fullmatch(r"([kmgtpe]?)(?:bps|bit/s|bits/s)", unit, flags=re.I)
    # `GB/s` and `GBps` are bytes, `Gb/s` and `Gbps` bits: the only place where case has a meaning.
    bits = bits or re.fullmatch(r"([KMGTPE])b/s", unit)
    whole = re.fullmatch(r"([kmgtpeKMGTPE]?i?B)ps", unit)
    if whole:
        unit = f"{whole.group(1)}/s"
    elif bits:
        return _positive(value * _SI[bits.group(1).lower()] / 8, text, "a rate", where)
    if re.fullmatch(r"[kmgtpe]?b/s", unit):
        raise InputError(
            f"`{text}` may be bits or bytes", where=where, hint="write 46GB/s or 400Gbit/s"
        )
    rates = {f"{size}/s": scale for size, scale in _BYTES.items()}
    value *= _unit(text, unit, rates, "a rate", "46GB/s or 400Gbps", where)
    return _positive(value, text, "a rate", where)


def parse_duration_s(text: str, *, where: str | None = None) -> float:
    """``30 min``, ``54 days``, ``250ms`` -> seconds; a bare number is refused."""
    value, unit = _split(text, "a time", "30min, 12h or 54days", where)
    if not unit:
        raise InputError(
            f"`{text}` has no unit", where=where, hint="write 30min, 12h, 54days: the unit decides"
        )
    value *= _unit(text, unit, _TIME_S, "a time", "30min, 12h or 54days", where)
    return _positive(value, text, "a time", where)


def parse_usd(text: str, *, where: str | None = None) -> float:
    """``$1.5M``, ``250000``, ``2.5M USD`` -> US dollars."""
    bare = re.sub(r"^\s*(\$|usd)\s*|\s*(\$|usd)\s*$", "", text, flags=re.I)
    value, unit = _split(bare, "an amount of money", "$1.5M or 250000", where)
    value *= _unit(text, unit, _COUNT, "an amount of money", "$1.5M or 250000", where)
    return _positive(value, text, "an amount of money", where)


def parse_flops_per_s(text: str, *, where: str | None = None) -> float:
    """``990 TFLOP/s``, ``2 PFLOPS``, ``624 TOP/s`` -> operations a second. Raises InputError."""
    value, unit = _split(text, "a rate of operations", "990TFLOP/s", where)
    match = re.fullmatch(r"([kmgtpe]?)(?:flops|ops|flop/s|op/s)", unit, flags=re.I)
    if match is None and unit:
        raise InputError(
            f"`{text}` is not a rate of operations", where=where, hint="write 990TFLOP/s"
        )
    scale = _SI[match.group(1).lower()] if match else 1.0
    return _positive(value * scale, text, "a rate of operations", where)


def parse_watts(text: str, *, where: str | None = None) -> float:
    """``700 W``, ``1.2kW`` -> watts. Raises InputError."""
    value, unit = _split(text, "a power", "700W", where)
    scale = {"": 1.0, "w": 1.0, "kw": 1e3, "mw": 1e6}.get(unit.lower())
    if scale is None:
        raise InputError(f"`{text}` is not a power", where=where, hint="write 700W or 1.2kW")
    return _positive(value * scale, text, "a power", where)


def parse_fraction(text: str, *, where: str | None = None) -> float:
    """``38%`` or ``0.38`` -> 0.38, between 0 and 1."""
    value, unit = _split(text, "a fraction", "38% or 0.38", where)
    if unit not in ("", "%"):
        raise InputError(f"`{text}` is not a fraction", where=where, hint="for example 38% or 0.38")
    value = value / 100 if unit == "%" else value
    if not 0 <= value <= 1:
        raise InputError(f"`{text}` is outside 0 to 1", where=where, hint="for example 38% or 0.38")
    return value


def _refuse_bits(text: str, unit: str, what: str, where: str | None) -> None:
    if re.fullmatch(r"[KMGTPE]i?b", unit):
        raise InputError(
            f"`{text}` is not {what}: `{unit}` counts bits", where=where,
            hint=f"write {unit[:-1]}B for bytes",
        )  # fmt: skip


def _positive(value: float, text: str, what: str, where: str | None) -> float:
    if value <= 0 or not math.isfinite(value):
        raise InputError(f"`{text}` is not {what}: it must be above zero", where=where)
    return value


def _scaled(value: float, steps: tuple[str, ...], base: float, unit: str, digits: int) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}".rstrip()
    power = 0
    size = abs(value)
    shown = _significant(size, digits)
    # Compare what is shown, so that 999.96 becomes 1.00 k and never 1000.
    while power < len(steps) - 1 and float(shown) >= base:
        size /= base
        power += 1
        shown = _significant(size, digits)
    sign = "-" if value < 0 else ""
    return f"{sign}{shown} {steps[power]}{unit}".rstrip()


def _significant(size: float, digits: int) -> str:
    """``digits`` digits in all, counted after rounding: 99.96 is 100, not 100.0."""
    whole = len(str(int(float(f"{size:.{digits}g}"))))
    return f"{size:.{max(0, digits - whole)}f}"


def format_bytes(value: float, *, binary: bool = False) -> str:
    """Bytes for a reader, three digits: ``79.9 GB`` (or ``74.4 GiB``)."""
    if binary:
        return _scaled(value, ("", "Ki", "Mi", "Gi", "Ti", "Pi"), 1024.0, "B", 3)
    return _scaled(value, ("", "k", "M", "G", "T", "P", "E"), 1000.0, "B", 3)


def format_rate(value: float) -> str:
    """Bytes a second for a reader: ``450 GB/s``."""
    return _scaled(value, ("", "k", "M", "G", "T", "P"), 1000.0, "B/s", 3)


def format_flops(value: float) -> str:
    """FLOP for a reader: ``3.79 YFLOP`` is 1e24."""
    return _scaled(value, ("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R"), 1000.0, "FLOP", 3)


def format_count(value: float) -> str:
    """A count for a reader: ``405B``, ``15.0T``, ``16,384``."""
    if abs(value) < 1e6:
        return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.3g}"
    return _scaled(value, ("", "k", "M", "B", "T", "P"), 1000.0, "", 3).replace(" ", "")


def format_duration(seconds: float) -> str:
    """A time for a reader: ``54.1 days``, ``3.09 h``, ``12.4 ms``."""
    for unit, size, limit in (
        ("days", 86400.0, 172800.0), ("h", _HOUR_S, 7200.0), ("min", 60.0, 120.0), ("s", 1.0, 1.0),
        ("ms", 1e-3, 1e-3),
    ):  # fmt: skip
        if abs(seconds) >= limit * 0.9995:  # 0.9999 s reads 1.00 s, not 1,000 ms
            return _trim(seconds / size) + f" {unit}"
    return _trim(seconds * 1e6) + " us"


def format_number(value: float, digits: int = 3) -> str:
    """So many significant digits, never an exponent: ``0.000342``, ``1.5``, ``12,345``."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{round(value, places):,.{places}f}"
    return text.rstrip("0").rstrip(".") if places else text


def format_mass(kg: float) -> str:
    """A mass for a reader: ``812 kg`` below a tonne, ``64.2 t`` from there on."""
    return f"{format_number(kg)} kg" if kg < 1000 else f"{format_number(kg / 1000)} t"


def format_usd(value: float) -> str:
    """Money for a reader: ``$12.3M``, ``$1.34``."""
    sign = "-" if value < 0 else ""
    size = abs(value)
    for scale, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= scale * 0.9995:
            return f"{sign}${_trim(size / scale)}{suffix}"
    return f"{sign}${size:,.2f}"


def _trim(value: float) -> str:
    """Three significant digits, never in exponent form."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = int(f"{abs(value):.2e}".partition("e")[2])
    digits = max(0, 2 - exponent)
    return f"{value:,.{digits}f}"
