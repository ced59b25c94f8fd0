"""``weftline report``: an answer as a page, a plan's step as a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def report(
    answer: Path,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    trace: Path | None = None,
) -> int:
    """An answer as one page with charts that opens from a file, without a server or a request.

    Parameters
    ----------
    answer
        A plan or lifecycle (`-o plan.json`), or what any command printed with --json.
    output
        The HTML file to write.
    trace
        Of a training plan: write one step as a trace for Perfetto or chrome://tracing to this file.
    """
    import sys

    from weftline.errors import InputError
    from weftline.report.page import document, page_of
    from weftline.report.trace import trace_of
    from weftline.spec import Plan
    from weftline.spec.serialize import read_answer, write_text
    from weftline.units import format_bytes

    if output is None and trace is None:
        raise InputError("nothing to write", where="report",
                         hint="-o page.html, or --trace trace.json")  # fmt: skip
    found = read_answer(answer)
    written: list[tuple[str, Path, str]] = []
    if trace is not None:
        if not isinstance(found, Plan):
            raise InputError("only plans for training have a step to trace", where=str(answer),
                             hint="`weftline plan train ... -o plan.json`")  # fmt: skip
        written.append(("trace", trace, trace_of(found, where=str(answer))))
    if output is not None:
        written.append(("page", output, document(page_of(found, where=str(answer)))))
    for what, file, text in written:
        write_text(text, file)
        print(f"{what} written to {file}, {format_bytes(len(text.encode()))}", file=sys.stderr)
    return 0
