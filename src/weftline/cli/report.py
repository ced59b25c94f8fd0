"""``weftline report``: an answer as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def report(answer: Path, *, output: Annotated[Path, Parameter(name=("--output", "-o"))]) -> int:
    """An answer as one page with charts that opens from a file, without a server or a request.

    Parameters
    ----------
    answer
        A plan or lifecycle (`-o plan.json`), or what any command printed with --json.
    output
        The HTML file to write.
    """
    import sys

    from weftline.report.page import document, page_of
    from weftline.spec.serialize import read_answer, write_text
    from weftline.units import format_bytes

    text = document(page_of(read_answer(answer), where=str(answer)))
    write_text(text, output)
    print(f"page written to {output}, {format_bytes(len(text.encode()))}", file=sys.stderr)
    return 0
