"""Machines that the user has measured: their own catalogue, apart from the shipped one.

``weftline calibrate`` writes ``<config>/machines/here.json``; ``weftline catalog import FILE`` lays
another's file beside it. ``--on here`` takes the chip from there into the job, as ``--chip`` does,
so nothing of it is taken unasked. The folder is $WEFTLINE_CONFIG_DIR, else ``weftline`` in the XDG
configuration directory (~/.config).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from weftline.catalog._read import shipped_accelerators
from weftline.errors import InputError, InputErrors, UnknownNameError
from weftline.spec.measurement import Measurement
from weftline.spec.serialize import write_text

__all__ = [
    "CONFIG_DIR_VARIABLE",
    "HERE",
    "Machine",
    "import_machine",
    "machine",
    "machines",
    "read_machine",
    "user_config_dir",
    "write_machine",
]

CONFIG_DIR_VARIABLE: Final = "WEFTLINE_CONFIG_DIR"
HERE: Final = "here"
"""The machine that weftline runs on."""
MACHINE_FORMAT: Final = 1
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")
_MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine as it was measured. Times in seconds, sizes in bytes, rates a second."""

    format: int = MACHINE_FORMAT
    id: str
    date: str
    """Day of the measurement, ISO 8601."""
    about: Mapping[str, Any]
    """Processor or device, cores, versions of Python and torch."""
    loudness: Mapping[str, Any]
    """What went on beside it (weftline.runtime.measure.loud)."""
    chip: Mapping[str, Any]
    """A record as ``--chip`` reads it, figures in SI: one rank's share of the machine."""
    dtype: str
    """The format whose products are fast here."""
    rates: Mapping[str, float]
    """FLOP/s of a large product by format; bytes/s of copies; tokens/s of tokenising."""
    collectives: tuple[Mapping[str, Any], ...]
    """``{backend, ranks, operation, bytes, seconds}``, medians, all ranks at once."""
    storage: Mapping[str, float]
    """bytes/s of the disk under the temporary folder and of a store on it."""
    power: Mapping[str, Any]
    """``{watts, from}`` while all cores multiply; ``{why}`` where nothing can be read."""
    tables: Mapping[str, Any]
    """Tables of operators in the form of the operators room: family -> operator -> axes, values."""
    measurements: tuple[Measurement, ...] = field(default=())
    """Of plans, newest last."""


def user_config_dir() -> Path:
    """Where the user's own catalogue stands."""
    given = os.environ.get(CONFIG_DIR_VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "weftline"


def _folder() -> Path:
    return user_config_dir() / "machines"


def machines() -> tuple[str, ...]:
    """Names of the user's machines."""
    return tuple(sorted(path.stem for path in _folder().glob("*.json")))


def machine(name: str) -> Machine:
    """The machine of that name. Raises InputError(s) where there is none, or its file is wrong."""
    path = _folder() / f"{name}.json"
    if not path.is_file():
        if name == HERE:
            raise InputError("this machine has not been measured", where=name,
                             hint="`weftline calibrate` measures it in a minute")  # fmt: skip
        raise UnknownNameError("machine", name, machines())
    return read_machine(path)


def read_machine(path: Path) -> Machine:
    """A machine's file. Raises InputError(s) that name each wrong field."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError("too large for a machine", where=str(path))
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(error.strerror or "cannot read", where=str(path)) from None
    except (ValueError, RecursionError):
        raise InputError("not JSON", where=str(path)) from None
    if not isinstance(raw, dict) or raw.get("format") != MACHINE_FORMAT:
        raise InputError("not a machine as `weftline calibrate` writes it", where=str(path))
    adapter = TypeAdapter(with_config(ConfigDict(extra="forbid"))(Machine))
    try:
        found: Machine = adapter.validate_python(raw)
    except ValidationError as error:
        raise InputErrors([
            InputError(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}", where=str(path))
            for e in error.errors()[:20]
        ]) from None  # fmt: skip
    _check_name(found.id, where=str(path))
    return found


def write_machine(found: Machine) -> Path:
    """Put a machine into the user's catalogue, whole or not at all; its file."""
    path = _folder() / f"{found.id}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write there: {error.strerror}", where=str(path.parent)) from None
    write_text(json.dumps(asdict(found), indent=1, allow_nan=False) + "\n", path)
    return path


def import_machine(path: Path, *, name: str | None = None) -> tuple[Machine, Path]:
    """Another's machine into the user's catalogue, under ``name`` or its own.

    Raises InputError(s): a file that is no machine, a name that is taken or is this machine's.
    """
    found = read_machine(path)
    known = name or found.id
    if known == HERE:
        raise InputError("`here` is the machine that weftline runs on", where=str(path),
                         hint="--name lab-box imports it under a name of its own")  # fmt: skip
    _check_name(known, where="--name" if name else str(path))
    if known in machines():
        raise InputError(f"there is a machine `{known}` already", where=str(_folder()),
                         hint="--name gives this one another name")  # fmt: skip
    renamed = replace(
        found, id=known, chip={**found.chip, "id": known},
        measurements=tuple(replace(m, machine=known) for m in found.measurements),
    )  # fmt: skip
    return renamed, write_machine(renamed)


def _check_name(name: str, *, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"`{name}` is no name for a machine", where=where,
                         hint="small letters, digits, points and dashes")  # fmt: skip
    if name in shipped_accelerators():
        raise InputError(f"`{name}` is a chip of the shipped catalogue", where=where,
                         hint="--name gives it another name")  # fmt: skip
