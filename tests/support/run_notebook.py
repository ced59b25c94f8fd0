"""Run a notebook to its end and write it as HTML: ``python run_notebook.py NOTEBOOK PAGE``.

Runs under the interpreter that has nbclient and nbconvert. What nbconvert's own page would load
from elsewhere (MathJax, RequireJS, Mermaid) is left out: what the page asks for then is the cells'.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter


def main() -> None:
    """Raises CellExecutionError where a cell fails."""
    notebook, page = Path(sys.argv[1]), Path(sys.argv[2])
    book = nbformat.read(notebook, as_version=4)
    NotebookClient(book, timeout=300, kernel_name="python3").execute()
    exporter = HTMLExporter(require_js_url="", mathjax_url="", jquery_url="", mermaid_js_url="")
    page.write_text(exporter.from_notebook_node(book)[0], encoding="utf-8")
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            sys.stdout.write(" ".join(sorted(output.get("data", {}))) + "\n")


if __name__ == "__main__":
    main()
