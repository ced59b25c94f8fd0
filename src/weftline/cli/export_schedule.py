"""``weftline export-schedule``: a collective for an executor or a simulator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from weftline.cli.answer import form_of, show
from weftline.cli.options import Format, Json


def export_schedule(
    collective: str,
    size: str,
    *,
    on: str,
    to: str,
    algorithm: str = "auto",
    link: str | None = None,
    latency: str | None = None,
    executor: str = "any",
    out_of_place: Annotated[bool, Parameter(negative="")] = False,
    instances: int | None = None,
    min_size: str | None = None,
    max_size: str | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """A collective as an MSCCL, MSCCL++ or Chakra file, proved before it is written.

    Parameters
    ----------
    collective
        all-reduce, reduce-scatter, all-gather, all-to-all, broadcast or send.
    size
        Bytes of the buffer, as nccl-tests counts them: 1GB.
    on
        The network: torus:4x4, switch:8, tpu-v5p:4x4x4, or a file of `weftline import`.
    to
        msccl, mscclpp or chakra.
    algorithm
        Which one; auto takes the fastest of those the format can express.
    link
        Speed one way of one link: 100GB/s.
    latency
        Of one link: 1us.
    executor
        Who loads an MSCCL file, with its names and limits: msccl-executor-nccl, rccl,
        msccl (the first), or any: the first two.
    out_of_place
        For calls with two buffers; else for those that work in one.
    instances
        Channels (MSCCL++: chains of thread blocks) that share the work; 8 in all where
        that fits.
    min_size
        Least bytes the program is taken for: 64KiB.
    max_size
        Most bytes the program is taken for: 1GiB.
    output
        File to write; Chakra writes one a rank, NAME.0.et, NAME.1.et, ...
    """
    from weftline.fabric.checker import check
    from weftline.fabric.export import export_of
    from weftline.fabric.formats import Program, write_files

    how = Program(executor=executor, in_place=not out_of_place, instances=instances,
                  sizes=_sizes(min_size, max_size))  # fmt: skip
    found = export_of(collective, size, on=on, to=to, algorithm=algorithm, link=link,
                      latency=latency, how=how)  # fmt: skip
    proof = check(found.schedule, found.topology)
    asked = form_of(form, json=json)
    if output is None and asked == "table" and len(found.contents) == 1:
        sys.stdout.write(next(iter(found.contents.values())).decode())
        return 0
    files: list[str] = []
    if output is not None:
        files = [str(p) for p in write_files(found.contents, output)]
    said = {
        "collective": found.schedule.collective, "algorithm": found.schedule.algorithm,
        "ranks": found.schedule.ranks, "rows": found.schedule.rows,
        "steps": found.schedule.steps, "to": to, "size_bytes": found.size_bytes,
        "proved_by_symmetry": proof.by_symmetry, "files": files,
    }  # fmt: skip
    if asked != "table":
        show("schedule-export", said, str, json=json, form=form)
    else:
        _tell(said, len(found.contents))
    return 0


def _tell(said: dict[str, Any], contents: int) -> None:
    """What was made and where it is, in lines."""
    print(f"{said['collective']} by {said['algorithm']} on {said['ranks']} ranks: "
          f"{said['rows']} rows in {said['steps']} steps, proved")  # fmt: skip
    for name in said["files"]:
        print(f"written to {name}")
    if not said["files"]:
        print(f"{contents} files; -o NAME writes them", file=sys.stderr)


def _sizes(least: str | None, most: str | None) -> tuple[int, int] | None:
    """The range of bytes, or None where none was asked for."""
    from weftline.errors import InputError
    from weftline.units import parse_bytes

    if least is None and most is None:
        return None
    low = 0 if least is None else round(parse_bytes(least, where="--min-size"))
    high = 2**40 if most is None else round(parse_bytes(most, where="--max-size"))
    if low > high:
        raise InputError(f"from {low:,} to {high:,} bytes is no range", where="--min-size")
    return low, high
