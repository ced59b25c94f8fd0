"""Writes the site from docs/: every page as HTML, and the live pages of six answers made now.

A plain generator: the Markdown parser is one that weftline's own packages bring along, so that the
site is made offline, and what it makes asks for nothing from anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import io
import re
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from markdown_it import MarkdownIt

from weftline.cli.main import run

HERE = Path(__file__).parent
ROOT = HERE.parent
POLICY = ("default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; "
          "form-action 'none'")  # fmt: skip
FIRST = ("cookbook", "accuracy", "architecture", "plan", "serving", "fabric", "burst")
"""Pages that stand first in the menu; the others follow by name."""
EXAMPLES = {
    "training plan": "plan train llama-3.1-70b --tokens 2T --on all --max-chips 1024",
    "serving fleet": "plan serve llama-3.1-8b --rate 40/s --input 1000 --output 200 --ttft 300ms "
                     "--on h100,b200,mi300x",
    "whole life": "plan lifecycle examples/life/cluster-calculator.yaml",
    "collective": "simulate collective all-reduce 1GB --on torus:8x8x16 --link 100GB/s "
                  "--latency 1us",
    "portfolio": "plan portfolio examples/portfolio/lab.yaml",
    "audit": "audit",
}  # fmt: skip
STYLE = """
body { display: grid; grid-template-columns: minmax(11rem, 15rem) minmax(0, 1fr); }
body > nav { display: block; padding: 1rem; border-right: 1px solid var(--line); }
body > nav a { display: block; padding: .15rem 0; }
main { margin: 0; min-width: 0; }
pre { overflow-x: auto; padding: .8rem; background: var(--card); border: 1px solid var(--line); }
main img { max-width: 100%; }
table { display: block; overflow-x: auto; }
@media (max-width: 700px) { body { display: block; } }
"""


def main() -> int:
    """Write the site; 0 when every page and example is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "site")
    parser.add_argument("--without-examples", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    examples = {} if asked.without_examples else make_examples(asked.folder)
    write_pages(asked.folder, examples)
    sys.stderr.write(f"site written to {asked.folder}\n")
    return 0


def make_examples(folder: Path) -> dict[str, tuple[str, str]]:
    """Name -> (file, command) of the live pages."""
    found = {}
    with contextlib.chdir(ROOT):
        for name, command in EXAMPLES.items():
            file = folder / f"example-{name.replace(' ', '-')}"
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                if run([*command.split(), "--json"]) != 0:
                    raise SystemExit(f"error: weftline {command}")
            file.with_suffix(".json").write_text(out.getvalue(), encoding="utf-8")
            made = run(["report", str(file.with_suffix(".json")), "-o",
                        str(file.with_suffix(".html"))])  # fmt: skip
            if made != 0:
                raise SystemExit(f"error: no page of weftline {command}")
            found[name] = (file.with_suffix(".html").name, command)
    return found


def write_pages(folder: Path, examples: dict[str, tuple[str, str]]) -> None:
    """README as index, every page of docs/, and the list of examples."""
    names = [*FIRST, *sorted(p.stem for p in HERE.glob("*.md") if p.stem not in FIRST)]
    listed = "# Live pages\n\n" + "\n".join(
        f"- [{name}]({file}): `weftline {command}`" for name, (file, command) in examples.items()
    )
    texts = {name: (HERE / f"{name}.md").read_text(encoding="utf-8") for name in names}
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    for picture in HERE.glob("*.svg"):
        (folder / picture.name).write_bytes(picture.read_bytes())
    menu = [("index", "weftline"), *((n, n.replace("-", " ")) for n in names)]
    if examples:
        menu.insert(1, ("examples", "live pages"))
        texts["examples"] = listed
    linked = Links(folder)
    homes = {"index": ROOT, **dict.fromkeys(texts, HERE)}
    waiting = {"index": readme, **texts}
    while waiting:  # pages elsewhere in the tree come in as they are linked to
        name, text = waiting.popitem()
        made = page(name, text, menu, linked, homes[name])
        (folder / f"{name}.html").write_text(made, encoding="utf-8")
        for other, file in linked.found.items():
            if other not in homes:
                homes[other], waiting[other] = file.parent, file.read_text(encoding="utf-8")


class Links:
    """Where links of pages lead on the site: to other pages, to copies of files, or nowhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[str, Path] = {}
        """Name of a page -> the Markdown outside of docs/ that it is made of."""

    def there(self, target: str, home: Path) -> str | None:
        """What ``target`` in a page of the folder ``home`` becomes; None for a folder of the tree.

        Raises SystemExit for a link that leads to nothing.
        """
        path, _, anchor = target.partition("#")
        mark = f"#{anchor}" if anchor else ""
        if not path or re.match(r"[a-z]+:", target) or (self.folder / path).is_file():
            return target
        file = next((f for f in ((home / path).resolve(), (HERE / path).resolve())
                     if f.exists() and f.is_relative_to(ROOT)), None)  # fmt: skip
        if file is None:
            raise SystemExit(f"error: {home.name}: no {target}")
        if file.is_dir():
            return None
        if file.suffix != ".md":
            copy = self.folder / "files" / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
            return f"files/{file.relative_to(ROOT).as_posix()}"
        if file.parent == HERE:
            return f"{file.stem}.html{mark}"
        name = "-".join(file.relative_to(HERE if file.is_relative_to(HERE) else ROOT)
                        .with_suffix("").parts)  # fmt: skip
        self.found[name] = file
        return f"{name}.html{mark}"


def page(name: str, text: str, menu: list[tuple[str, str]], links: Links, home: Path) -> str:
    """One page of Markdown as HTML; raw HTML in it stays text."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    body = parser.render(text.replace("<br>", " "))
    body = re.sub(r"(<h([1-6])>)(.*?)(</h\2>)", _anchored, body)
    body = re.sub(r'<a href="([^"]*)">(.*?)</a>', _linked(links, home), body, flags=re.DOTALL)
    body = body.replace('<img src="docs/', '<img src="').replace("<table>", '<table tabindex="0">')
    body = body.replace("<pre>", '<pre tabindex="0">')
    style = (files("weftline.report.page") / "assets" / "page.css").read_text(encoding="utf-8")
    entries = "".join(
        f'<a href="{file}.html"{" aria-current=page" if file == name else ""}>'
        f"{html.escape(said)}</a>" for file, said in menu
    )  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>weftline: {html.escape(name)}</title><style>{style}{STYLE}</style></head>"
        f'<body><nav aria-label="Pages">{entries}</nav><main>{body}</main></body></html>\n'
    )  # fmt: skip


def _anchored(found: re.Match[str]) -> str:
    plain = html.unescape(re.sub(r"<[^>]+>", "", found[3]))
    anchor = re.sub(r"[^\w -]", "", plain.lower()).replace(" ", "-")
    return f'<h{found[2]} id="{anchor}">{found[3]}{found[4]}'


def _linked(links: Links, home: Path) -> Callable[[re.Match[str]], str]:
    def turned(found: re.Match[str]) -> str:
        target = links.there(html.unescape(found[1]), home)
        return found[2] if target is None else f'<a href="{html.escape(target)}">{found[2]}</a>'

    return turned


if __name__ == "__main__":
    sys.exit(main())
