"""``weftline export-schedule``: a collective for an executor or a simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    output
        File to write; Chakra writes one a rank, NAME.0.et, NAME.1.et, ...
    """
    import sys

    from weftline.fabric.checker import check
    from weftline.fabric.export import export_of

    found = export_of(collective, size, on=on, to=to, algorithm=algorithm, link=link,
                      latency=latency)  # fmt: skip
    proof = check(found.schedule, found.topology)
    files: list[str] = []
    asked = form_of(form, json=json)
    if output is None and asked == "table" and len(found.contents) == 1:
        sys.stdout.write(next(iter(found.contents.values())).decode())
        return 0
    if output is not None:
        from weftline.fabric.formats import write_files

        files = [str(p) for p in write_files(found.contents, output)]
    said = {
        "collective": found.schedule.collective, "algorithm": found.schedule.algorithm,
        "ranks": found.schedule.ranks, "rows": found.schedule.rows,
        "steps": found.schedule.steps, "to": to, "size_bytes": found.size_bytes,
        "proved_by_symmetry": proof.by_symmetry, "files": files,
    }  # fmt: skip
    if asked != "table":
        show(said, str, json=json, form=form)
    else:
        print(f"{said['collective']} by {said['algorithm']} on {said['ranks']} ranks: "
              f"{said['rows']} rows in {said['steps']} steps, proved")  # fmt: skip
        for name in files:
            print(f"written to {name}")
        if not files:
            print(f"{len(found.contents)} files; -o NAME writes them", file=sys.stderr)
    return 0
