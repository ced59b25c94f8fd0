"""Compiled copy and sums: LLVM's vectors for this machine, each element summed in the order given.

Up to four inputs are added in one pass over memory, a vector of 64 bytes at a time that is read
whole before it is written: a sum in place costs no more than one to elsewhere. bf16 and fp16 are
added in fp32 and rounded to even after each addition, as torch does.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types

from weftline._compiled import compiled
from weftline.runtime.group.machine import carray, intrinsic, pointer

__all__ = ["AT_ONCE", "KINDS", "copy", "fold"]

KINDS: Final = {
    "float32": 0, "float64": 1, "bfloat16": 2, "float16": 3, "int8": 4, "uint8": 4, "int16": 5,
    "int32": 6, "int64": 7,
}  # fmt: skip
"""torch's names of what is added here; integers wrap."""
AT_ONCE: Final = 4
"""Inputs of one pass."""
_VECTOR: Final = 64
_WORD, _REAL = ir.IntType(32), ir.FloatType()


def _splat(kind: Any, value: int, lanes: int) -> Any:
    return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes)


def _plain(builder: Any, a: Any, b: Any, lanes: int) -> Any:
    del lanes
    add = builder.fadd if isinstance(a.type.element, ir.FloatType | ir.DoubleType) else builder.add
    return add(a, b)


def _half(builder: Any, a: Any, b: Any, lanes: int) -> Any:
    """fp16, added in fp32."""
    wide = [builder.fpext(x, ir.VectorType(_REAL, lanes)) for x in (a, b)]
    return builder.fptrunc(builder.fadd(*wide), ir.VectorType(ir.HalfType(), lanes))


def _brain(builder: Any, a: Any, b: Any, lanes: int) -> Any:
    """bf16 as 16 bits, added in fp32 and rounded to even; what is no number stays so."""
    words, reals = ir.VectorType(_WORD, lanes), ir.VectorType(_REAL, lanes)

    def number(value: int) -> Any:
        return _splat(_WORD, value, lanes)

    wide = [builder.bitcast(builder.shl(builder.zext(x, words), number(16)), reals) for x in (a, b)]
    total = builder.fadd(*wide)
    bits = builder.bitcast(total, words)
    odd = builder.and_(builder.lshr(bits, number(16)), number(1))
    even = builder.add(builder.add(bits, number(0x7FFF)), odd)
    quiet = builder.or_(bits, number(0x400000))
    kept = builder.select(builder.fcmp_unordered("uno", total, total), quiet, even)
    return builder.trunc(builder.lshr(kept, number(16)), ir.VectorType(ir.IntType(16), lanes))


def _step(element: Any, lanes: int, many: int, plus: Any) -> Any:
    """An intrinsic: ``many`` vectors of ``lanes`` elements are read, added in order, written."""

    @intrinsic
    def step(_context: Any, to: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        def make(context: Any, builder: Any, _s: Any, arguments: Any) -> Any:
            vector = ir.VectorType(element, lanes)
            places = [builder.inttoptr(x, vector.as_pointer()) for x in arguments]
            values = [builder.load(p, align=1) for p in places[1 : 1 + many]]
            total = values[0]
            for value in values[1:]:
                total = plus(builder, total, value, lanes)
            builder.store(total, places[0], align=1)
            return context.get_dummy_value()

        return types.void(to, a, b, c, d), make

    return step


def _folder(element: Any, size: int, plus: Any = _plain) -> Any:
    """Sums of two to four inputs of one type."""
    wide2, wide3, wide4 = (_step(element, _VECTOR // size, n, plus) for n in (2, 3, 4))
    one2, one3, one4 = (_step(element, 1, n, plus) for n in (2, 3, 4))

    @compiled
    def run(many: int, to: int, a: int, b: int, c: int, d: int, count: int) -> None:
        total = count * size
        whole = total // _VECTOR * _VECTOR
        if many == 2:
            for i in range(0, whole, _VECTOR):
                wide2(to + i, a + i, b + i, c, d)
            for i in range(whole, total, size):
                one2(to + i, a + i, b + i, c, d)
        elif many == 3:
            for i in range(0, whole, _VECTOR):
                wide3(to + i, a + i, b + i, c + i, d)
            for i in range(whole, total, size):
                one3(to + i, a + i, b + i, c + i, d)
        else:
            for i in range(0, whole, _VECTOR):
                wide4(to + i, a + i, b + i, c + i, d + i)
            for i in range(whole, total, size):
                one4(to + i, a + i, b + i, c + i, d + i)

    return run


_fold_f32, _fold_f64 = _folder(ir.FloatType(), 4), _folder(ir.DoubleType(), 8)
_fold_bf16 = _folder(ir.IntType(16), 2, _brain)
_fold_f16 = _folder(ir.HalfType(), 2, _half)
_fold_i8, _fold_i16, _fold_i32, _fold_i64 = (_folder(ir.IntType(8 * n), n) for n in (1, 2, 4, 8))


@compiled
def fold(kind: int, many: int, to: int, a: int, b: int, c: int, d: int, count: int) -> None:
    """``to = a + b``, ``(a + b) + c`` or ``((a + b) + c) + d``, element by element.

    ``many`` inputs of 2 to 4; ``to`` may be one of them. Others must not overlap it in part.
    """
    if kind == 0:
        _fold_f32(many, to, a, b, c, d, count)
    elif kind == 1:
        _fold_f64(many, to, a, b, c, d, count)
    elif kind == 2:
        _fold_bf16(many, to, a, b, c, d, count)
    elif kind == 3:
        _fold_f16(many, to, a, b, c, d, count)
    elif kind == 4:
        _fold_i8(many, to, a, b, c, d, count)
    elif kind == 5:
        _fold_i16(many, to, a, b, c, d, count)
    elif kind == 6:
        _fold_i32(many, to, a, b, c, d, count)
    else:
        _fold_i64(many, to, a, b, c, d, count)


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
