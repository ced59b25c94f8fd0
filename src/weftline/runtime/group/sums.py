"""Compiled copy and add: LLVM's vectors for this machine, each element summed in the order given.

bf16 and fp16 are added in fp32 and rounded to even after each addition, as torch does.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types

from weftline._compiled import compiled
from weftline.runtime.group.machine import carray, intrinsic, pointer

__all__ = ["KINDS", "add", "copy"]

KINDS: Final = {
    "float32": 0, "float64": 1, "bfloat16": 2, "float16": 3, "int8": 4, "uint8": 4, "int16": 5,
    "int32": 6, "int64": 7,
}  # fmt: skip
"""torch's names of what is added here; integers wrap."""


@intrinsic
def _half_sum(_context: Any, a: Any, b: Any) -> Any:
    """The sum of two fp16, given and returned as 16 bits."""

    def make(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        wide = [builder.fpext(builder.bitcast(x, ir.HalfType()), ir.FloatType()) for x in arguments]
        total = builder.fptrunc(builder.fadd(*wide), ir.HalfType())
        return builder.bitcast(total, ir.IntType(16))

    return types.uint16(a, b), make


@intrinsic
def _brain_sum(_context: Any, a: Any, b: Any) -> Any:
    """The sum of two bf16, given and returned as 16 bits; what is no number stays so."""

    def make(_c: Any, builder: Any, _s: Any, arguments: Any) -> Any:
        word, real = ir.IntType(32), ir.FloatType()

        def number(value: int) -> Any:
            return ir.Constant(word, value)

        wide = [
            builder.bitcast(builder.shl(builder.zext(x, word), number(16)), real) for x in arguments
        ]
        total = builder.fadd(*wide)
        bits = builder.bitcast(total, word)
        odd = builder.and_(builder.lshr(bits, number(16)), number(1))
        even = builder.add(builder.add(bits, number(0x7FFF)), odd)
        quiet = builder.or_(bits, number(0x400000))
        kept = builder.select(builder.fcmp_unordered("uno", total, total), quiet, even)
        return builder.trunc(builder.lshr(kept, number(16)), ir.IntType(16))

    return types.uint16(a, b), make


def _adder(kind: Any) -> Any:
    @compiled
    def run(to: int, a: int, b: int, count: int) -> None:
        out = carray(pointer(to), (count,), kind)
        x = carray(pointer(a), (count,), kind)
        y = carray(pointer(b), (count,), kind)
        for i in range(count):
            out[i] = x[i] + y[i]

    return run


_add_f32, _add_f64 = _adder(np.float32), _adder(np.float64)
_add_i8, _add_i16, _add_i32, _add_i64 = (
    _adder(np.uint8), _adder(np.uint16), _adder(np.uint32), _adder(np.uint64)
)  # fmt: skip


@compiled
def _add_bf16(to: int, a: int, b: int, count: int) -> None:
    out = carray(pointer(to), (count,), np.uint16)
    x = carray(pointer(a), (count,), np.uint16)
    y = carray(pointer(b), (count,), np.uint16)
    for i in range(count):
        out[i] = _brain_sum(x[i], y[i])


@compiled
def _add_f16(to: int, a: int, b: int, count: int) -> None:
    out = carray(pointer(to), (count,), np.uint16)
    x = carray(pointer(a), (count,), np.uint16)
    y = carray(pointer(b), (count,), np.uint16)
    for i in range(count):
        out[i] = _half_sum(x[i], y[i])


@compiled
def add(kind: int, to: int, a: int, b: int, count: int) -> None:
    """``to = a + b``, element by element; ``to`` may be one of the two."""
    if kind == 0:
        _add_f32(to, a, b, count)
    elif kind == 1:
        _add_f64(to, a, b, count)
    elif kind == 2:
        _add_bf16(to, a, b, count)
    elif kind == 3:
        _add_f16(to, a, b, count)
    elif kind == 4:
        _add_i8(to, a, b, count)
    elif kind == 5:
        _add_i16(to, a, b, count)
    elif kind == 6:
        _add_i32(to, a, b, count)
    else:
        _add_i64(to, a, b, count)


@compiled
def copy(to: int, source: int, count: int) -> None:
    """Copy bytes: eight at a time by vectors, then the rest."""
    if to == source:
        return
    words = count >> 3
    out = carray(pointer(to), (words,), np.uint64)
    given = carray(pointer(source), (words,), np.uint64)
    for i in range(words):
        out[i] = given[i]
    done = words << 3
    rest = count - done
    out8 = carray(pointer(to + done), (rest,), np.uint8)
    given8 = carray(pointer(source + done), (rest,), np.uint8)
    for i in range(rest):
        out8[i] = given8[i]
