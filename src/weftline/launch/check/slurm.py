"""The #SBATCH lines of a script, by the options of sbatch; by sbatch itself where it is."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from weftline.errors import nearest_names
from weftline.launch.check.flags import known
from weftline.launch.check.found import Finding

_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")
_SIGNAL = re.compile(r"([BR]{1,2}:)?(SIG)?[A-Z0-9]+(@\d+)?")


def option_findings(file: str, text: str) -> Iterator[Finding]:
    """Options that sbatch does not know, values that it refuses, and lines it never reads."""
    flags = known("slurm")["flags"]
    commands = False
    seen: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{file}:{number}"
        if number == 1 and not line.startswith("#!"):
            yield Finding(what="sbatch wants a script: the first line is no #!", where=where)
        if not line.startswith("#SBATCH"):
            commands = commands or bool(line.strip() and not line.startswith("#"))
            continue
        if commands:
            yield Finding(what="sbatch does not read #SBATCH after the first command", where=where)
        name, equals, value = line.removeprefix("#SBATCH").strip().partition("=")
        flag = flags.get(name)
        if flag is None:
            near = nearest_names(name, flags, 1)
            yield Finding(what=f"sbatch knows no {name}", where=where,
                          hint=f"did you mean {near[0]}?" if near else "")  # fmt: skip
            continue
        if name in seen:
            yield Finding(what=f"{name} stands twice", where=where)
        seen[name] = value
        if flag["kind"] == "int" and not value.isdigit():
            yield Finding(what=f"{name} wants a whole number, not `{value}`", where=where)
        if equals and "choices" in flag and value not in flag["choices"]:
            yield Finding(what=f"{name} is one of {flag['choices']}", where=where)
        if name == "--time" and not _TIME.fullmatch(value):
            yield Finding(what=f"`{value}` is no time of sbatch", where=where, hint="1-12:30:00")
        if name == "--signal" and not _SIGNAL.fullmatch(value):
            yield Finding(what=f"`{value}` is no signal of sbatch", where=where, hint="B:USR1@300")
    yield from _together(file, seen)


def _together(file: str, seen: dict[str, str]) -> Iterator[Finding]:
    nodes, segment = seen.get("--nodes", ""), seen.get("--segment", "")
    if nodes.isdigit() and segment.isdigit() and int(segment) and int(nodes) % int(segment):
        yield Finding(what=f"{nodes} nodes are no whole number of segments of {segment}",
                      where=file)  # fmt: skip


def sbatch_findings(file: str, text: str) -> tuple[list[Finding], str]:
    """(what sbatch --test-only refuses, why it was not run; one of both is empty)."""
    program = shutil.which("sbatch")
    if program is None:
        return [], "sbatch --test-only: Slurm is not installed here"
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "job.sbatch")
        script.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run(  # noqa: S603  (the user's own Slurm)
                [program, "--test-only", str(script)], capture_output=True, text=True, timeout=30,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return [], "sbatch --test-only: no answer"
    said = done.stderr.strip().splitlines()
    first = said[0].removeprefix("sbatch: error: ") if said else ""
    if done.returncode == 0:
        return [], ""
    if re.search(r"[Uu]nable to contact|resolve|configuration|SLURM_CONF|control", first):
        return [], "sbatch --test-only: no Slurm controller answers here"
    return [Finding(what=f"sbatch refuses it: {first}", where=file)], ""
