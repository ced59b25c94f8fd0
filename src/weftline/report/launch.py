"""What `weftline export` and `weftline preflight` say on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any


def render_export(said: Mapping[str, Any]) -> str:
    """The folder, how to start it, and what the target has no words for."""
    where = said["folder"] or "not written"
    lines = [f"{said['target']} ({said['written_for']}): {where}",
             f"  start   {'' if said['folder'] is None else 'cd ' + said['folder'] + ' && '}"
             f"{said['start']}",
             *textwrap.wrap("files   " + ", ".join(said["files"]), 78, initial_indent="  ",
                            subsequent_indent="          ")]  # fmt: skip
    if said["checked"]:
        lines.append(f"  checked {said['checked']}: nothing wrong found")
    if said["notes"]:
        lines += ["", "Not expressed, or yours to add"]
        for note in said["notes"]:
            lines += textwrap.wrap(note, 78, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)


def render_check(said: Mapping[str, Any]) -> str:
    """What was held against what."""
    lines = [f"{said['target']}: {said['documents']} documents, nothing wrong found"]
    lines += [f"  {name}" for name in said["checks"]]
    lines += [f"  not run: {name}" for name in said["skipped"]]
    return "\n".join(lines)


def render_preflight(said: Mapping[str, Any]) -> str:
    """The verdict first, then each finding, then what was measured."""
    findings = said["findings"]
    first = ("the fabric is as planned" if not findings
             else f"{len(findings)} finding{'s' if len(findings) > 1 else ''}, step "
             f"{said['slowdown']:.2f} times the planned one")  # fmt: skip
    lines = [f"Preflight: {first}"]
    for finding in findings:
        lines += textwrap.wrap(f"{finding['kind']}: {finding['what']}", 78, initial_indent="  - ",
                               subsequent_indent="    ")  # fmt: skip
    lines += ["", f"Measured on {said['ranks']} ranks, {said['pairs']} pairs "
              f"({sum(said['took_s'].values()):.1f} s)"]  # fmt: skip
    for name, (rate, trip) in said["levels"].items():
        lines.append(f"  {name}: {rate / 1e9:,.3f} GB/s one way, round trip {trip * 1e6:,.0f} us")
    for axis, seconds in said["groups"].items():
        lines.append(f"  all-reduce over {axis}: {seconds * 1e3:,.2f} ms")
    lines.append(f"slow-down: {said['basis']}")
    return "\n".join(lines)
