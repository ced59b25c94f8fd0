"""Writes the generated pages of docs/ (or of a folder given); tests say when one is old."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from weftline.cli.app import app
from weftline.fabric.formats.files import FORMATS
from weftline.fabric.formats.programs.blocks import EXECUTORS
from weftline.launch.table import markdown as targets
from weftline.model.table import markdown

NOTE = "<!-- Written by `make docs` from the command line itself. -->\n\n"


def commands() -> str:
    """Every command and option with its help."""
    # A heading's anchor keeps the dashes of an option that is a command.
    text = app.generate_docs().replace("(#weftline-install-", "(#weftline---install-")
    lines = text.splitlines()
    return NOTE + "\n".join(line.rstrip() for line in lines).strip() + "\n"


def formats() -> str:
    """The page of file formats, its two tables from what is read and written."""
    page = (Path(__file__).parent / "fabric-formats.md").read_text(encoding="utf-8")
    rows = ["| format | read | written as | what it holds |", "|---|---|---|---|"]
    for form in FORMATS.values():
        written = f"`{form.writes}`" if form.writes else ""
        rows.append(f"| {form.title} | {form.reads} | {written} | {form.holds} |")
    limits = [
        "| `--executor` | steps a thread block | thread blocks | a channel and direction | "
        "channels | units a step | read from |",
        "|---|---|---|---|---|---|---|",
    ]
    limits += [
        f"| `{e.name}` | {e.steps} | {e.blocks:,} | {e.blocks_per_channel} | {e.channels} | "
        f"{e.count_below - 1} | {e.source} |"
        for e in EXECUTORS.values()
    ]
    for name, table in (("formats", rows), ("limits", limits)):
        head, _, rest = page.partition(f"<!-- {name}: written by `make docs` -->\n")
        _, _, tail = rest.partition(f"<!-- end of {name} -->")
        body = "\n".join(table)
        page = (
            f"{head}<!-- {name}: written by `make docs` -->\n{body}\n<!-- end of {name} -->{tail}"
        )
    return page


def main() -> None:
    """Write the pages, the same on every terminal."""
    os.environ.update(COLUMNS="100", TERM="dumb")
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    (folder / "commands.md").write_text(commands(), encoding="utf-8")
    (folder / "fabric-formats.md").write_text(formats(), encoding="utf-8")
    (folder / "models.md").write_text(markdown(), encoding="utf-8")
    (folder / "launch-targets.md").write_text(targets(), encoding="utf-8")


if __name__ == "__main__":
    main()
