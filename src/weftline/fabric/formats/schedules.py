"""One door for schedules: written for MSCCL, MSCCL++ and Chakra, read back from their files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats.files import read_text
from weftline.fabric.formats.programs import blocks, chakra, msccl, mscclpp, plans
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.schedule import Schedule

SCHEDULE_FORMATS = ("msccl", "mscclpp", "chakra")
EXECUTORS = ("any", *blocks.EXECUTORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How a schedule becomes an executor's program. Chakra's traces need none of it."""

    executor: str = "any"
    """Who loads an MSCCL file: one of ``EXECUTORS``, or any of those in use."""
    in_place: bool = True
    """For calls whose output is their input's buffer; else for those with two."""
    instances: int | None = None
    """Channels, or chains of thread blocks, that share the work of one; None: 8 in all where that
    fits."""
    sizes: tuple[int, int] | None = None
    """Least and most bytes the program is to be taken for; None: any."""


def write_schedule(
    schedule: Schedule | OrbitSchedule, to: str, size_bytes: float, how: Program | None = None
) -> dict[str, bytes]:
    """File endings -> contents: ``.xml``, ``.json``, or ``.0.et``, ``.1.et``, ... for Chakra.

    Raises UnknownNameError for another format, InputError for what a format cannot express.
    """
    how = how or Program()
    if to == "msccl":
        sizes = how.sizes or (0, msccl.SIZE_MOST)
        text = _msccl(schedule, how, sizes)
        return {".xml": text.encode()}
    if to == "mscclpp":
        sizes = how.sizes or (0, plans.MOST_BYTES)
        text = plans.write(schedule, in_place=how.in_place, instances=how.instances, sizes=sizes)
        return {".json": text.encode()}
    if to == "chakra":
        files = chakra.write(schedule, size_bytes)
        return {f".{rank}.et": data for rank, data in enumerate(files)}
    raise UnknownNameError("schedule format", to, SCHEDULE_FORMATS, where="--to",
                           hint=f"one of {', '.join(SCHEDULE_FORMATS)}")  # fmt: skip


def _msccl(schedule: Schedule | OrbitSchedule, how: Program, sizes: tuple[int, int]) -> str:
    """In as many instances as asked for, else in the most up to 8 channels that the limits hold."""
    flat = expand(schedule) if isinstance(schedule, OrbitSchedule) else schedule
    tried = how.instances or max(1, plans.CHAINS // max(1, len(np.unique(flat.colour))))
    while True:
        try:
            return msccl.write(flat, executor=how.executor, in_place=how.in_place, sizes=sizes,
                               instances=tried)  # fmt: skip
        except InputError:
            if how.instances is not None or tried == 1:
                raise
            tried //= 2


def export_schedule(
    schedule: Schedule | OrbitSchedule, to: str, size_bytes: float, path: str | Path
) -> list[Path]:
    """Write a schedule to files that begin with ``path``; returns them. Raises InputError."""
    return write_files(write_schedule(schedule, to, size_bytes), path)


def write_files(contents: Mapping[str, bytes], path: str | Path) -> list[Path]:
    """Write what ``write_schedule`` made; raises InputError for a folder that does not exist."""
    base = Path(path)
    found: list[Path] = []
    for ending, data in contents.items():
        name = base if len(contents) == 1 and base.suffix else base.with_name(base.name + ending)
        if not name.parent.is_dir():
            raise InputError(f"no folder `{name.parent}`", where="-o")
        name.write_bytes(data)
        found.append(name)
    return found


def read_schedule(path: str | Path) -> Schedule:
    """The schedule in an MSCCL, MSCCL++ or (ours) Chakra file; of ``NAME.0.et`` all ranks' files.

    Raises InputError for anything else, with the line or message that is wrong.
    """
    path = Path(path)
    if path.suffix == ".et":
        match = re.fullmatch(r"(.*)\.\d+\.et", path.name)
        names = [path]
        if match:
            pattern = re.compile(re.escape(match[1]) + r"\.(\d+)\.et")
            found = [(int(m[1]), p) for p in path.parent.iterdir()
                     if (m := pattern.fullmatch(p.name))]  # fmt: skip
            names = [p for _, p in sorted(found)] or names
        traces = []
        for name in names:
            try:
                traces.append(chakra.decode(name.read_bytes(), str(name)))
            except OSError as error:
                raise InputError(f"cannot read `{name}`: {error}") from error
        return chakra.read_schedule_traces(traces, str(path))
    text = read_text(path)
    if text.lstrip().startswith("<"):
        return msccl.read(text, str(path))
    if '"gpus"' in text:
        return mscclpp.read(text, str(path))
    raise InputError("this is no schedule of a known format", where=str(path),
                     hint=f"known are {', '.join(SCHEDULE_FORMATS)}")  # fmt: skip
