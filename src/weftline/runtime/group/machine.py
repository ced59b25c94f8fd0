"""What compiled loops need of the machine: words that other processes see, clocks, sockets.

Flags are 64-bit words in shared memory, stored with release and loaded with acquire order: what a
rank wrote before it told is there for who has seen it told, on any architecture LLVM knows.
"""

from __future__ import annotations

import platform
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

from weftline._compiled import compiled

__all__ = ["carray", "fence", "intrinsic", "load", "nap", "now_ns", "pointer", "receive_some",
           "send_some", "sleep_on", "store", "swap", "wake", "yield_core"]  # fmt: skip

intrinsic: Any = _intrinsic
carray: Any = numba.carray  # type: ignore[attr-defined]
_foreign: Any = types.ExternalFunction
_CLOCK_MONOTONIC = 1
_NO_WAIT = 0x40
_NO_SIGNAL = 0x4000
_WORD = ir.IntType(64)
_FUTEX = {"x86_64": 202}.get(platform.machine(), 98)  # 98 on all that came after (asm-generic)
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1

syscall = _foreign("syscall", types.int64(*[types.int64] * 7))
sched_yield = _foreign("sched_yield", types.int32())
nanosleep = _foreign("nanosleep", types.int32(types.uintp, types.uintp))
clock_gettime = _foreign("clock_gettime", types.int32(types.int32, types.uintp))
c_send = _foreign("send", types.int64(types.int32, types.uintp, types.uintp, types.int32))
c_recv = _foreign("recv", types.int64(types.int32, types.uintp, types.uintp, types.int32))


@intrinsic
def pointer(_context: Any, address: Any) -> Any:
    """An address as a pointer, for ``carray``."""

    def make(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.return_type)
        return builder.inttoptr(arguments[0], kind)

    return types.voidptr(address), make


@intrinsic
def load(_context: Any, address: Any) -> Any:
    """The word at an address, before anything that is read after it."""

    def make(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.load_atomic(place, ordering="acquire", align=8)

    return types.int64(address), make


@intrinsic
def store(_context: Any, address: Any, value: Any) -> Any:
    """Write a word after all that was written before it."""

    def make(context: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        builder.store_atomic(arguments[1], place, ordering="release", align=8)
        return context.get_dummy_value()

    return types.void(address, types.int64), make


@intrinsic
def swap(_context: Any, address: Any, old: Any, new: Any) -> Any:
    """Put ``new`` where ``old`` is; False where another came first."""

    def make(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _WORD.as_pointer())
        pair = builder.cmpxchg(place, arguments[1], arguments[2], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(address, types.int64, types.int64), make


@intrinsic
def fence(_context: Any) -> Any:
    """What was written before is there for all, before anything that is read after it."""

    def make(context: Any, builder: Any, _s: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), make


@compiled
def sleep_on(address: int, seen: int, limit_ns: int) -> None:
    """Sleep until :func:`wake` is called on the word, for less than a second at most.

    Returns at once where its lower half is no longer that of ``seen``.
    """
    wanted = np.empty(2, np.int64)
    wanted[0], wanted[1] = 0, limit_ns
    syscall(_FUTEX, address, _FUTEX_WAIT, seen & 0xFFFFFFFF, wanted.ctypes.data, 0, 0)


@compiled
def wake(address: int) -> None:
    """Change the word, and wake whoever sleeps on it, in any process."""
    while True:
        seen = load(address)
        if swap(address, seen, seen + 1):
            break
    syscall(_FUTEX, address, _FUTEX_WAKE, 1, 0, 0, 0)


@compiled
def yield_core() -> None:
    """Let another thread run."""
    sched_yield()


@compiled
def nap(duration_ns: int) -> None:
    """Sleep for less than a second."""
    wanted = np.empty(2, np.int64)
    wanted[0], wanted[1] = 0, duration_ns
    nanosleep(wanted.ctypes.data, 0)


@compiled
def now_ns() -> int:
    """Nanoseconds of the clock that all processes of a host share."""
    found = np.empty(2, np.int64)
    clock_gettime(_CLOCK_MONOTONIC, found.ctypes.data)
    return found[0] * 1_000_000_000 + found[1]


@compiled
def send_some(socket: int, address: int, count: int) -> int:
    """Bytes that a socket took now; -1 where none, as where it has failed."""
    return c_send(socket, address, count, _NO_WAIT | _NO_SIGNAL)


@compiled
def receive_some(socket: int, address: int, count: int) -> int:
    """Bytes that a socket had; 0 at its end, -1 where none."""
    return c_recv(socket, address, count, _NO_WAIT)
