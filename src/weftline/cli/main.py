"""The command line: parses, calls one room, prints. Data on stdout, notes on stderr.

Nothing is imported here that the first line on the screen does not need: the parser comes when a
command is run, and an interrupt is answered in one line from the first import on.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

__all__ = ["main", "run"]


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 2 bad input, 3 no answer, 4 threshold crossed."""
    code = run(sys.argv[1:] if argv is None else argv)
    if code == INTERRUPTED:
        # Threads that still work would hold the exit up, or print over the prompt.
        sys.stderr.flush()
        os._exit(code)
    # The interpreter looks for garbage once more as it ends: a second over torch's objects, which
    # go with the process anyway.
    gc.freeze()
    sys.exit(code)


INTERRUPTED = 130


def run(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our pipe has gone (`| head`): stop quietly, without a second error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(argv: list[str]) -> int:
    from weftline.cli.terminal import any_encoding, colours, columns, page, version

    any_encoding()
    if argv in ([], ["--help"], ["-h"]):
        print(page(columns()))
        return 0
    if argv == ["--version"]:
        print(version())
        return 0
    from weftline.cli.status import working

    with working(argv):
        from weftline.cli.app import run_command
        from weftline.errors import WeftlineError
        from weftline.report.text import set_colour, set_width

        set_width(columns())
        set_colour(colours())
        try:
            code = run_command(argv)
            # Here and not at exit, where a pipe that closed could no longer be told from a fault.
            sys.stdout.flush()
        except WeftlineError as error:
            print(error.render(), file=sys.stderr)
            return error.exit_code
    return code
