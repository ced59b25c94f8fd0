"""Writes the generated pages of docs/ (or of a folder given); tests say when one is old."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from weftline.cli.app import app
from weftline.launch.table import markdown as targets
from weftline.model.table import markdown

NOTE = "<!-- Written by `make docs` from the command line itself. -->\n\n"


def commands() -> str:
    """Every command and option with its help."""
    lines = app.generate_docs().splitlines()
    return NOTE + "\n".join(line.rstrip() for line in lines).strip() + "\n"


def main() -> None:
    """Write the pages, the same on every terminal."""
    os.environ.update(COLUMNS="100", TERM="dumb")
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    (folder / "commands.md").write_text(commands(), encoding="utf-8")
    (folder / "models.md").write_text(markdown(), encoding="utf-8")
    (folder / "launch-targets.md").write_text(targets(), encoding="utf-8")


if __name__ == "__main__":
    main()
