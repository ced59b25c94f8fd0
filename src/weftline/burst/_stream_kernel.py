"""The compiled loop of a streaming copy. Imported only when one is to be made ready."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, Final

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["BLOCK_BYTES", "stream_blocks"]

BLOCK_BYTES: Final = 64
"""One cache line: what a streaming store fills at once."""
_X86: Final = platform.machine().lower() in ("x86_64", "amd64")


@intrinsic
def _stream(_: Any, __: Any, ___: Any) -> tuple[Any, Callable[..., Any]]:
    """Load a block from an address, any, and store it past the cache at another, aligned."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        block = ir.VectorType(ir.IntType(64), BLOCK_BYTES // 8).as_pointer()
        target, source = (builder.inttoptr(a, block) for a in arguments)
        store = builder.store(builder.load(source, align=1), target, align=BLOCK_BYTES)
        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        store.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def _settle(_: Any) -> tuple[Any, Callable[..., Any]]:
    """Streaming stores are weakly ordered: let every other core see them before what follows."""

    def generate(context: Any, builder: Any, _: Any, __: Any) -> Any:
        if _X86:  # the plain fence is a locked instruction there; this is the documented one
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse.sfence", (), kind), [])
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _stream_blocks(target: int, source: int, blocks: int) -> None:
    """Copy ``blocks`` of 64 bytes between addresses; ``target`` is a multiple of 64."""
    for i in range(blocks):
        _stream(target + i * BLOCK_BYTES, source + i * BLOCK_BYTES)  # type: ignore[call-arg]
    _settle()  # type: ignore[call-arg]


def _compiled(*, cache: bool) -> Callable[[int, int, int], None]:
    made: Callable[[int, int, int], None] = numba.njit(
        "void(intp, intp, intp)", nogil=True, cache=cache
    )(_stream_blocks)
    return made


try:
    stream_blocks = _compiled(cache=True)
except RuntimeError:  # no folder for compiled code can be written
    stream_blocks = _compiled(cache=False)
