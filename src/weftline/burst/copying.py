"""Copies of staging, past the cache where that pays.

A staged state is far larger than a cache and read next by the disk. Plain stores first fetch the
line they overwrite and push out what training works on; streaming stores do neither. The C
library's own copy switches to them only beyond hundreds of megabytes on large servers, so the loop
is compiled here, by LLVM, when it is first wanted: a few hundredths of a second.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["copy_array", "make_ready"]

_LEAST_BYTES: Final = 1 << 20
"""Below this a copy may still be in the cache when it is read."""
_BLOCK_BYTES: Final = 64
"""One cache line: what a streaming store fills at once."""

# Streaming stores are weakly ordered: the fences let every other core see them before what follows.
# On x86 the general one is a locked instruction; the documented one for these stores is its own.
_LOOP: Final = """
define void @stream(ptr noalias %to, ptr noalias %from, i64 %blocks) {
entry:
  %none = icmp eq i64 %blocks, 0
  br i1 %none, label %done, label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %at = shl i64 %i, 6
  %target = getelementptr i8, ptr %to, i64 %at
  %source = getelementptr i8, ptr %from, i64 %at
  %block = load <8 x i64>, ptr %source, align 1
  store <8 x i64> %block, ptr %target, align 64, !nontemporal !0
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %blocks
  br i1 %more, label %loop, label %done
done:
  SETTLE
  fence seq_cst
  ret void
}
declare void @llvm.x86.sse.sfence()
!0 = !{i32 1}
"""

Stream = Callable[[int, int, int], None]
"""Target (a multiple of 64), source, blocks of 64 bytes; holds no GIL."""

_lock = threading.Lock()
_stream: Stream | None = None
_kept: list[Any] = []
"""What must live as long as the compiled loop; empty until it was tried."""


def make_ready() -> bool:
    """Compile the streaming copy, once a process; False when it cannot be had here."""
    global _stream  # noqa: PLW0603  (one per process, as the code that it holds)
    with _lock:
        if not _kept:
            _kept.append(None)
            _stream = _compiled()
    return _stream is not None


def _compiled() -> Stream | None:
    known = "llvmlite.binding" in sys.modules
    try:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        text = _LOOP.replace("SETTLE", "call void @llvm.x86.sse.sfence()" if x86 else "")
        if not x86:
            text = text.replace("declare void @llvm.x86.sse.sfence()", "")
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
        )
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
        engine.finalize_object()
        address = engine.get_function_address("stream")
    except (ImportError, OSError, RuntimeError):  # no LLVM for this platform: copies stay plain
        return None
    _kept.append(engine)
    if not known:
        _give_code_back()
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    stream: Stream = kind(address)
    return stream


def _give_code_back() -> None:
    """LLVM was needed for a moment: its code need not stay in this process's memory.

    Pages of code are never written, so the kernel finds them in the file again when they are run.
    """
    maps, advice = Path("/proc/self/maps"), getattr(mmap, "MADV_DONTNEED", None)
    if advice is None or not maps.exists():
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        place, access, *rest = line.split(maxsplit=5)
        if access == "r-xp" and "llvmlite" in rest[-1]:
            first, end = (int(x, 16) for x in place.split("-"))
            madvise(first, end - first, advice)


def copy_array(out: npt.NDArray[Any], data: npt.NDArray[Any]) -> None:
    """Copy ``data`` into ``out`` of the same shape and dtype; no GIL is held.

    Large contiguous copies into aligned memory stream once :func:`make_ready` was called.
    """
    stream = _stream
    start = out.ctypes.data
    if (
        stream is None
        or out.nbytes < _LEAST_BYTES
        or start % _BLOCK_BYTES
        or not (out.flags.c_contiguous and data.flags.c_contiguous)
    ):
        np.copyto(out, data)
        return
    whole = out.nbytes // _BLOCK_BYTES
    stream(start, data.ctypes.data, whole)
    done = whole * _BLOCK_BYTES
    if done < out.nbytes:
        np.copyto(out.reshape(-1).view(np.uint8)[done:], data.reshape(-1).view(np.uint8)[done:])
