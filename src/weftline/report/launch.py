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
