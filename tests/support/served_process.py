"""`weftline serve` as a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Served:
    """A server that runs."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self, how: signal.Signals) -> tuple[int, str]:
        """Send a signal; the exit status and what it said last."""
        self.process.send_signal(how)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


def start(folder: Path, *options: str, port: int = 0) -> Served:
    """Wait until it listens, which it says on its error output."""
    command = [sys.executable, "-m", "weftline", "serve", str(folder), "--engine", "own",
               "--dtype", "fp32", "--threads", "1", "--port", str(port), *options]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"serving on http://127\.0\.0\.1:(\d+)/v1", line):
            return Served(process, int(found[1]))
    process.stderr.close()
    process.wait(30)
    raise AssertionError("".join(said))


@contextmanager
def served(folder: Path, *options: str, port: int = 0) -> Iterator[Served]:
    """A server while the block runs; killed if it still runs then."""
    there = start(folder, *options, port=port)
    try:
        yield there
    finally:
        if there.process.poll() is None:
            there.process.kill()
        there.process.wait(30)
        assert there.process.stderr is not None
        there.process.stderr.close()
