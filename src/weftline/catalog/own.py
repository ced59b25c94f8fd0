"""Chips of the user's own, and figures the user changes, laid over the catalogue for a while.

A record is plain values, so that a job can hold it and a plan be asked again anywhere::

    {"id": "my-chip", "like": "h100-sxm", "vendor": "nvidia", "memory": 9.6e10, "peak.bf16": 9e14}
    {"id": "h100-sxm+memory=96GB", "of": "h100-sxm", "memory": 9.6e10}

Figures are in SI (bytes, bytes/s one way, FLOP/s, W, chips). What a record does not give is as in
the chip it is ``like``; a changed chip (``of``) takes the place of the shipped one, and says in its
name what was changed. ``measured`` is the day on which ``weftline calibrate`` took the figures of a
machine (:mod:`weftline.catalog.machines`). ``host``
says how its hosts drive their NICs (bypass, virtual, tcp).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from weftline.catalog._lookup import accelerator
from weftline.catalog._read import laid_over, shipped_accelerators
from weftline.catalog.accelerators import DTYPES, FIELDS, Accelerator
from weftline.catalog.facts import Fact
from weftline.errors import InputError, UnknownNameError
from weftline.spec.cluster import HostPath
from weftline.spec.located import Located, read_located
from weftline.spec.parse import Collector, own_price
from weftline.units import (
    parse_bytes,
    parse_count,
    parse_flops_per_s,
    parse_rate_bytes_per_s,
    parse_usd,
    parse_watts,
)

__all__ = ["changed_figures", "chip_texts", "own_chips", "read_own_chips"]

Parse = Callable[..., float]
Record = dict[str, Any]

PRICE: Final = "price"
HOST: Final = "host"
HOSTS: Final[tuple[HostPath, ...]] = ("bypass", "virtual", "tcp")
"""How hosts may drive their NICs."""
_WORDS: Final = ("id", "like", "vendor", "topology", "purpose", HOST, "measured")
_UNITS: Final[Mapping[str, tuple[Parse, str, float]]] = {
    "memory": (parse_bytes, "GB", 1e9), "memory_usable": (parse_bytes, "GB", 1e9),
    "memory_bandwidth": (parse_rate_bytes_per_s, "GB/s", 1e9),
    "scale_up": (parse_rate_bytes_per_s, "GB/s", 1e9),
    "scale_out": (parse_rate_bytes_per_s, "GB/s", 1e9),
    "scale_up_domain": (parse_count, "chips", 1.0), "chips_per_host": (parse_count, "chips", 1.0),
    "tdp": (parse_watts, "W", 1.0),
    **{f"peak.{d}": (parse_flops_per_s, "TFLOP/s", 1e12) for d in DTYPES},
}  # fmt: skip
"""How a figure is read, the catalogue's unit for it, and that unit in SI."""
_NEEDED: Final = ("memory", "memory_bandwidth", "peak.bf16")
_TOPOLOGIES: Final = ("switch", "fully_connected", "torus2d", "torus3d", "ring", "none")
_seen: dict[str, Record] = {}


@contextmanager
def own_chips(records: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Lay the chips of ``records`` over the catalogue while inside.

    Raises InputError(s) for a record that cannot be: an unknown field, a name that is taken.
    """
    get = Collector()
    built = get.each(records, _one_chip)
    get.raise_all()
    with laid_over({chip.id: chip for chip, _ in built},
                   {of: chip.id for chip, of in built if of}):  # fmt: skip
        yield


def _one_chip(record: Mapping[str, Any]) -> tuple[Accelerator, str]:
    """The chip of a record, and the shipped one it stands in for, if any.

    What is computed of a chip is kept by its name, so a name means one chip in a process.
    """
    chip = _built(record)
    if _seen.setdefault(chip.id, dict(record)) != dict(record):
        raise InputError(f"`{chip.id}` was another chip before in this process",
                         hint="give it another id")  # fmt: skip
    return chip, str(record.get("of") or "")


def _built(record: Mapping[str, Any]) -> Accelerator:
    """One record as an accelerator."""
    shipped = shipped_accelerators()
    base = shipped.get(str(record.get("of") or record.get("like") or ""))
    name = str(record.get("id", ""))
    if name in shipped:
        raise InputError(f"`{name}` is in the catalogue already", where=name,
                         hint="change its figures with --chip-set")  # fmt: skip
    figures = {k: float(v) for k, v in record.items() if k in _UNITS}
    # What a driver reports of the chip it stands in for says nothing of another size of memory.
    changed = {*figures, "memory_usable"} if "memory" in figures else set(figures)
    facts = [f for f in (base.all_facts if base else ()) if f.field not in changed]
    facts += [_fact(field, value, record) for field, value in figures.items()]
    if base is None:
        lacking = [field for field in _NEEDED if field not in figures]
        if lacking or not record.get("vendor"):
            said = ", ".join([*lacking, *(() if record.get("vendor") else ("vendor",))])
            raise InputError(f"`{name}` has no {said}", where=name,
                             hint="or say which chip it is `like`")  # fmt: skip
        kind = "switch" if "scale_up" in figures else "none"
        base = Accelerator(
            id=name, vendor=str(record["vendor"]), availability="shipping", launch="", process="",
            topology="as the user says", topology_kind=kind,  # type: ignore[arg-type]
        )  # fmt: skip
    changes: dict[str, Any] = {}
    if record.get("vendor"):
        changes["vendor"] = record["vendor"]
    if record.get("topology"):
        changes["topology_kind"] = record["topology"]
        changes["topology_shape"] = ()
    changes |= {key: record[key] for key in ("purpose", HOST) if record.get(key)}
    if not record.get("of"):
        changes["availability"] = "shipping"
    like = str(record.get("of") or record.get("like") or "")
    return replace(base, id=name, all_facts=tuple(facts), like=like, **changes)


def _fact(field: str, value: float, record: Mapping[str, Any]) -> Fact:
    _, unit, scale = _UNITS[field]
    directed = field in ("scale_up", "scale_out")
    day = str(record.get("measured") or "")
    return Fact(
        field=field, value=value / scale, unit=unit, status="measured" if day else "given",
        source=str(record["id"]) if day else "the user", date=day,
        kind="dense" if field.startswith("peak.") else None,
        direction="uni" if directed else None,
    )  # fmt: skip


def read_own_chips(
    files: str | None, *, where: str = "--chip"
) -> tuple[list[Record], dict[str, float]]:
    """(records, US dollars a chip-hour where a file has a price) of files, separated by commas.

    A file is YAML or JSON: one chip, or a list of them under ``chips``. Raises all mistakes at
    once, each with its file and line.
    """
    get = Collector(where)
    records: list[Record] = []
    prices: dict[str, float] = {}
    text = (files or "").strip()
    # A job file holds chips as they are: what begins as YAML or JSON does is no file's name.
    inline = text.startswith(("{", "["))
    for name in [where] if inline else [p.strip() for p in text.split(",") if p.strip()]:
        document = get(partial(_document, name, where, text if inline else None))
        if document is None:
            continue
        chips = document.value if isinstance(document.value, list) else (
            document.items("chips") or [document]
        )  # fmt: skip
        for chip in chips:
            record, price = _read_one(chip, name, get)
            if record is not None:
                records.append(record)
                if price is not None:
                    prices[record["id"]] = price
    get.raise_all()
    return records, prices


def _document(name: str, where: str, inline: str | None) -> Located:
    try:
        text = inline or Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"`{name}`: {getattr(error, 'strerror', None) or 'not a text file'}", where=where
        ) from None
    found = read_located(text, name)
    if not isinstance(found.value, dict | list) or not found.value:
        raise InputError("a chip is a mapping", where=f"{name}:1",
                         hint="with id, vendor or like, memory, peak.bf16...")  # fmt: skip
    return found


def _read_one(chip: Located, name: str, get: Collector) -> tuple[Record | None, float | None]:
    """One chip of a file and its price; what is wrong goes to ``get``."""
    place = f"{name}:{chip.line}"
    if not isinstance(chip.value, dict):
        get.errors.append(InputError("a chip is a mapping", where=place))
        return None, None
    record: Record = {}
    before = len(get.errors)
    price: float | None = None
    for key, held in _flat(chip):
        at = f"{name}:{held.line}"
        if key == PRICE:
            price = get(partial(_price, str(held.value), at))
        elif key in _UNITS:
            record[key] = get(partial(_UNITS[key][0], str(held.value), where=at))
        elif key in _WORDS:
            record[key] = get(partial(_word, key, str(held.value), at))
        else:
            known = (*_WORDS, PRICE, *_UNITS)
            get.errors.append(UnknownNameError("field", key, known, where=at,
                                               hint=f"one of {', '.join(known)}"))  # fmt: skip
    if "id" not in record:
        get.errors.append(InputError("a chip needs an `id`", where=place))
    if len(get.errors) > before:
        return None, None
    made = get(partial(_placed, record, place))
    return (None, None) if made is None else (record, price)


def _flat(chip: Located) -> Iterator[tuple[str, Located]]:
    """The fields of a chip; ``peak: {bf16: ...}`` as ``peak.bf16``."""
    for key, held in chip.value.items():
        if key == "peak" and isinstance(held.value, dict):
            yield from ((f"peak.{k}", v) for k, v in held.value.items())
        else:
            yield key, held


def _placed(record: Record, place: str) -> Accelerator:
    try:
        return _built(record)
    except InputError as error:
        error.where = place
        raise


def _word(key: str, text: str, where: str) -> str:
    word = text.strip().lower()
    if key == "like":
        try:
            return accelerator(word).id
        except UnknownNameError as error:
            error.where = where
            raise
    allowed = {"topology": _TOPOLOGIES, "purpose": ("training", "inference"), HOST: HOSTS}.get(key)
    if allowed is not None and word not in allowed:
        raise UnknownNameError(key, word, allowed, where=where,
                               hint=f"one of {', '.join(allowed)}")  # fmt: skip
    if not word or (key == "id" and set(word) & set(" ,+=*")):
        raise InputError(f"`{text}` is no name", where=where)
    return word


def _price(text: str, where: str) -> float:
    mine = own_price(text, where=where) if "/" in text else parse_usd(text, where=where)
    if mine is None:
        raise InputError(f"`{text}` is not a price", where=where, hint="$2.10/h")
    return mine


def changed_figures(
    text: str | None, *, where: str = "--chip-set"
) -> tuple[list[Record], dict[str, float]]:
    """``h100-sxm.memory=96GB,h100-sxm.price=2.1`` -> (records, US dollars a chip-hour by chip).

    Raises all mistakes at once: an unknown chip, a figure it cannot have, a unit of another kind.
    """
    get = Collector(where)
    records: dict[str, Record] = {}
    prices: dict[str, float] = {}

    def one(part: str) -> None:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        chip_name, dot, field = name.partition(".")
        if not equals or not value or not dot:
            raise InputError(f"`{part}` is not chip.figure=value", where=where,
                             hint="h100-sxm.memory=96GB")  # fmt: skip
        chip, field = accelerator(chip_name).id, field.lower().replace("-", "_")
        if field == PRICE:
            prices[chip] = _price(value, where)
            return
        if field == HOST:
            records.setdefault(chip, {"of": chip})[HOST] = _word(HOST, value, where)
            return
        if field not in _UNITS:
            known = (PRICE, HOST, *FIELDS, *(f"peak.{d}" for d in DTYPES))
            raise UnknownNameError("figure", field, known, where=where,
                                   hint=f"one of {', '.join(known)}")  # fmt: skip
        record = records.setdefault(chip, {"of": chip})
        record[field] = _UNITS[field][0](value, where=where)

    for part in [p.strip() for p in (text or "").split(",") if p.strip()]:
        get(partial(one, part))
    get.raise_all()
    for chip, record in records.items():
        said = ";".join(
            f"host={record[field]}" if field == HOST
            else f"{field}={record[field] / _UNITS[field][2]:.10g}{_UNITS[field][1]}"
            for field in sorted(record) if field in (HOST, *_UNITS)
        )  # fmt: skip
        record["id"] = f"{chip}+{said}"
    return [{"id": r.pop("id"), **r} for r in records.values()], prices


_WRITTEN: Final = {"GB": "B", "GB/s": "B/s", "TFLOP/s": "FLOP/s", "W": "W", "chips": ""}


def chip_texts(records: Sequence[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """What --chip and --chip-set read as these records; None for none."""
    import json

    own, changed = [], []
    for record in records:
        if record.get("of"):
            changed += [
                f"{record['of']}.{field}={_written(field, value) if field in _UNITS else value}"
                for field, value in record.items() if field in (HOST, *_UNITS)
            ]  # fmt: skip
        else:
            own.append({k: _written(k, v) if k in _UNITS else v for k, v in record.items()})
    return json.dumps(own) if own else None, ",".join(changed) or None


def _written(field: str, value: float) -> str:
    unit = _WRITTEN[_UNITS[field][1]]
    return f"{value!r}{unit}" if unit else f"{round(value)}"
