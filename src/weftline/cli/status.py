"""One line on a terminal while something works, gone before the first word of the answer."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from weftline.cli.terminal import is_dumb

EVERY_S: Final = 1.0
_ERASE: Final = "\r\x1b[K"


class Status:
    """The line at the bottom: what runs, and for how long.

    ``say`` is the only way to change it. Whatever else is written to the terminal erases it first.
    """

    def __init__(self) -> None:
        self.on = False
        self.text = ""
        self._shown = False
        self._began = time.monotonic()
        self._lock = threading.RLock()
        self._write: Callable[[str], Any] = sys.stderr.write

    def say(self, text: str) -> None:
        """Show this instead; nothing where stderr is no terminal."""
        with self._lock:
            self.text = text
            self._draw()

    def _draw(self) -> None:
        if not self.on or not self.text:
            return
        spent = time.monotonic() - self._began
        after = f" {spent:.0f} s" if spent >= EVERY_S else ""
        from weftline.cli.terminal import columns

        line = _ERASE + (self.text + after)[: columns() - 1]
        self._shown = True  # before it is: an interrupt may come in between, and erases it
        self._write(line)
        sys.stderr.flush()

    def erase(self) -> None:
        """Take the line away; it comes back with what is said next."""
        with self._lock:
            if self._shown:
                self._write(_ERASE)
                sys.stderr.flush()
                self._shown = False

    def tick(self, ended: threading.Event) -> None:
        """Keep the time on the line, until ``ended``."""
        while not ended.wait(EVERY_S):
            with self._lock:
                if self._shown:
                    self._draw()


status: Final = Status()


@contextmanager
def working(argv: list[str]) -> Iterator[None]:
    """Show the command at once, and erase it before anything else is written."""
    if not (sys.stderr.isatty() and not is_dumb()):
        yield
        return
    ended = threading.Event()
    streams = (sys.stdout, sys.stderr)
    written = [stream.write for stream in streams]
    status.on, status._write, status._began = True, written[1], time.monotonic()
    for stream, write in zip(streams, written, strict=True):
        stream.write = _after_erasing(write)  # type: ignore[method-assign]
    shown = "".join(c if c.isprintable() else " " for c in " ".join(argv))
    try:
        threading.Thread(target=status.tick, args=(ended,), daemon=True).start()
        status.say(f"weftline {shown} ...")
        yield
    finally:
        ended.set()
        status.erase()
        status.on = False
        for stream in streams:
            del stream.write


def _after_erasing(write: Callable[[str], int]) -> Callable[[str], int]:
    def writing(text: str) -> int:
        status.erase()
        return write(text)

    return writing
