"""Writes docs/plan.svg and the answer shown in README.md: both are one real run of `make plan`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from weftline.catalog.date import CATALOG_DATE
from weftline.cli.main import run

HERE = Path(__file__).parent
COMMAND = "plan train llama-3.1-70b --tokens 2T --on all --max-chips 1024"
HEADINGS = ("Why", "What would flip it")
THEME = TerminalTheme(
    (252, 252, 252), (40, 44, 52),
    [(40, 44, 52), (190, 50, 50), (30, 120, 70), (150, 110, 0), (40, 90, 170), (130, 60, 140),
     (20, 120, 130), (120, 120, 120)],
)  # fmt: skip
# Rich's own frame asks a web server for its font; this one takes what the reader has.
FRAME = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>weftline plan train</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-family: system-ui, sans-serif; font-size: 18px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def answer() -> str:
    """What the command prints, without colour, with no user's own data."""
    os.environ["WEFTLINE_DATA_DIR"] = os.devnull
    os.environ["WEFTLINE_TODAY"] = CATALOG_DATE
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run(COMMAND.split())
    if code:
        sys.exit(code)
    return out.getvalue().rstrip() + "\n"


def picture(text: str) -> str:
    """The answer as an SVG without anything from elsewhere."""
    console = Console(
        record=True, width=80, file=io.StringIO(), color_system="truecolor", force_terminal=True,
        legacy_windows=False,
    )  # fmt: skip
    words, short = COMMAND.split(" --", 1)
    console.print(Text(f"$ weftline {words} --{short}", style="magenta"), highlight=False)
    for line in text.splitlines():
        first = line.startswith(("Best:", " 1  "))
        style = "bold green" if first else "bold" if line in HEADINGS else ""
        words = line.lstrip(" ")
        # An indent of a style of its own becomes a place, not spaces that a viewer may drop.
        indent = " " * (len(line) - len(words))
        console.print(Text.assemble((indent, "dim"), (words, style)), highlight=False)
    return console.export_svg(
        title="weftline", theme=THEME, code_format=FRAME, unique_id="weftline"
    )


def between(text: str, name: str, new: str) -> str:
    """``text`` with what stands between two markers replaced."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n{new}{end}{tail}"


def main() -> None:
    """Write both."""
    text = answer()
    (HERE / "plan.svg").write_text(picture(text), encoding="utf-8")
    page = HERE.parent / "README.md"
    shown = f"```console\n$ weftline {COMMAND}\n{text}```\n"
    readme = between(page.read_text(encoding="utf-8"), "plan", shown)
    page.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()
