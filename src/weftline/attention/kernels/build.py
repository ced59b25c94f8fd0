"""The C++ kernels, compiled for this machine when first asked for and kept in the user's cache.

There is no package of compiled code to match with a machine: the source is one file with a plain C
interface and no header but the language's own, and a compiler takes about two seconds for a head
size. What is kept is named by everything that decides it (source, options, compiler, processor), so
a new compiler or another machine with the same home compiles its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["compiler", "library"]

HERE = Path(__file__).parent
OPTIONS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-std=c++17", "-fPIC",
           "-shared", "-Wno-psabi")  # fmt: skip
TIMEOUT_S = 120


@cache
def compiler() -> str | None:
    """The C++ compiler of this machine: ``$CXX``, else g++ or clang++; None where there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((found for name in names if (found := shutil.which(name))), None)


@cache
def library(source: str, defines: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """The functions of a source file here, compiled with ``defines`` (``DIM=64``).

    None where nothing compiles: numba or torch takes over.
    """
    tool = compiler()
    if tool is None:
        return None
    flags = tuple(f"-D{define}" for define in defines)
    name = f"{source}-{_key(tool, source, flags)}.so"
    for folder in _folders():
        kept = folder / name
        if kept.exists() and kept.stat().st_uid == os.getuid():
            return ctypes.CDLL(str(kept))
    for folder in _folders():
        built = _build(tool, source, flags, folder / name)
        if built is not None:
            return ctypes.CDLL(str(built))
    return None


def _key(tool: str, source: str, flags: tuple[str, ...]) -> str:
    version = subprocess.run([tool, "--version"], capture_output=True, check=False).stdout  # noqa: S603
    read = [path.read_bytes() for path in (HERE / f"{source}.cpp", *sorted(HERE.glob("*.h")))]
    said = [*read, version, _processor().encode(), *(x.encode() for x in OPTIONS)]
    return hashlib.sha256(b"\0".join([*said, *(x.encode() for x in flags)])).hexdigest()[:16]


def _processor() -> str:
    """What ``-march=native`` looks at: the processor's name and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _folders() -> tuple[Path, ...]:
    """Where compiled code of this user's own may stand."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return (
        Path(home) / "weftline" / "kernels",
        Path(tempfile.gettempdir()) / f"weftline-{os.getuid()}" / "kernels",
    )


def _build(tool: str, source: str, flags: tuple[str, ...], to: Path) -> Path | None:
    """Compile beside the place and move it there, so that two processes never read half a file."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if to.parent.stat().st_uid != os.getuid() or to.parent.stat().st_mode & 0o022:
            return None
        handle, name = tempfile.mkstemp(suffix=".so", dir=to.parent)
    except OSError:
        return None
    os.close(handle)
    for threads in (("-fopenmp",), ()):  # Apple's clang has no OpenMP
        command = [tool, *OPTIONS, *threads, *flags, str(HERE / f"{source}.cpp"), "-o", name]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_S)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            break
        if done.returncode == 0:
            Path(name).replace(to)
            return to
    Path(name).unlink(missing_ok=True)
    return None
