"""One pass over memory that copies past the cache and computes XXH3-64 of what it copied.

Copying and hashing are both bound by memory: in one pass the hash costs next to nothing. It is made
of the very bytes that are stored, so it holds for the copy even if the source changes meanwhile.

Compiled by LLVM for this machine's vectors when first wanted: a few hundredths of a second. The
hash is the long form of XXH3 (inputs of more than 240 bytes) with the default secret, seed 0:
the xxHash fast digest algorithm's specification, https://github.com/Cyan4973/xxHash, 2026-11.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

__all__ = ["BLOCK_BYTES", "LEAST_BYTES", "Kernel", "compile_kernel"]

BLOCK_BYTES: Final = 1024
"""Pieces of an input that comes in several are multiples of this, but the last."""


class Kernel:
    """The compiled function. Holds no GIL."""

    def __init__(self, function: Callable[..., int]) -> None:
        self._function = function

    def __call__(self, to: int, source: int, length: int) -> int:
        """Copy from address to address, the target a multiple of 64; XXH3-64 of it."""
        return self._function(to, source, 0, length, length, None, _SECRET)

    def piece(self, to: int, source: int, begin: int, stop: int, length: int, state: int) -> int:
        """Copy the bytes from ``begin`` to ``stop`` of ``length``, which stand at ``source``.

        ``to`` is the address of the whole. Pieces come in order; ``state`` is the address of 64
        bytes that go from one to the next. XXH3-64 of the whole after the last, else 0.
        """
        return self._function(to, source, begin, stop, length, state, _SECRET)


LEAST_BYTES: Final = 241
"""Shorter inputs are hashed in other ways."""

_SECRET: Final = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_PRIME32: Final = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_PRIME64: Final = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)  # fmt: skip
_START: Final = (_PRIME32[2], *_PRIME64[:4], _PRIME32[1], _PRIME64[4], _PRIME32[0])
_AVALANCHE: Final = 0x165667919E3779F9
_STRIPES: Final = 16
"""Stripes of 64 bytes in a block: (length of the secret - 64) / 8."""
_V: Final = "<8 x i64>"


def _vector(values: tuple[int, ...]) -> str:
    """A constant, its words as signed numbers."""
    return f"<{', '.join(f'i64 {v - (v >> 63 << 64)}' for v in values)}>"


def _every(value: int) -> str:
    return _vector((value,) * 8)


def _stripe(name: str, acc: str, source: str, key: str, target: str | None = None) -> str:
    """One stripe: accumulators ``acc`` become ``%{name}acc``; stored on the way to ``target``."""
    store = f"store {_V} %{name}d, ptr {target}, align 64, !nontemporal !0" if target else ""
    return f"""
  %{name}d = load {_V}, ptr {source}, align 1
  {store}
  %{name}k = load {_V}, ptr {key}, align 1
  %{name}x = xor {_V} %{name}d, %{name}k
  %{name}l = and {_V} %{name}x, {_every(0xFFFFFFFF)}
  %{name}h = lshr {_V} %{name}x, {_every(32)}
  %{name}p = mul {_V} %{name}l, %{name}h
  %{name}s = shufflevector {_V} %{name}d, {_V} poison,
    <8 x i32> <i32 1, i32 0, i32 3, i32 2, i32 5, i32 4, i32 7, i32 6>
  %{name}q = add {_V} {acc}, %{name}s
  %{name}acc = add {_V} %{name}q, %{name}p"""


def _place(name: str, base: str, offset: int | str) -> str:
    return f"\n  %{name} = getelementptr i8, ptr {base}, i64 {offset}"


def _blocks() -> str:
    """All whole blocks but the last: copied and hashed, then scrambled."""
    text, acc = "", "%acc"
    for n in range(_STRIPES):
        text += _place(f"s{n}", "%source", 64 * n) + _place(f"t{n}", "%target", 64 * n)
        text += _place(f"k{n}", "%secret", 8 * n)
        text += _stripe(f"b{n}", acc, f"%s{n}", f"%k{n}", f"%t{n}")
        acc = f"%b{n}acc"
    return (
        text
        + f"""
  %scramble = getelementptr i8, ptr %secret, i64 {len(_SECRET) - 64}
  %ck = load {_V}, ptr %scramble, align 1
  %c1 = lshr {_V} {acc}, {_every(47)}
  %c2 = xor {_V} {acc}, %c1
  %c3 = xor {_V} %c2, %ck
  %scrambled = mul {_V} %c3, {_every(_PRIME32[0])}"""
    )


def _merged() -> str:
    """Eight accumulators and the length to 64 bits."""
    text = ""
    for i in range(4):
        text += f"""
  %a{i} = extractelement {_V} %m, i32 {2 * i}
  %b{i} = extractelement {_V} %m, i32 {2 * i + 1}
  %wa{i} = zext i64 %a{i} to i128
  %wb{i} = zext i64 %b{i} to i128
  %w{i} = mul i128 %wa{i}, %wb{i}
  %wl{i} = trunc i128 %w{i} to i64
  %ws{i} = lshr i128 %w{i}, 64
  %wh{i} = trunc i128 %ws{i} to i64
  %f{i} = xor i64 %wl{i}, %wh{i}
  %r{i + 1} = add i64 %r{i}, %f{i}"""
    return text


def kernel_text(*, x86: bool) -> str:
    """LLVM's text of the kernel.

    Streaming stores are weakly ordered: the fences let every other core see them before what
    follows. On x86 the general one is a locked instruction, and these stores have one of their own.
    The end of the input, up to one block, is copied by itself and hashed from the copy, since its
    last stripe overlaps what came before.
    """
    settle = "call void @llvm.x86.sse.sfence()" if x86 else ""
    declare = "declare void @llvm.x86.sse.sfence()" if x86 else ""
    return f"""
define i64 @copy_hash(ptr noalias %to, ptr noalias %from, i64 %begin, i64 %stop, i64 %length,
    ptr noalias %state, ptr noalias %secret) {{
entry:
  %fresh = icmp eq i64 %begin, 0
  br i1 %fresh, label %ready, label %resume
resume:
  %kept = load {_V}, ptr %state, align 8
  br label %ready
ready:
  %acc0 = phi {_V} [{_vector(_START)}, %entry], [%kept, %resume]
  %ends = icmp eq i64 %stop, %length
  %one = zext i1 %ends to i64
  %less = sub i64 %stop, %one
  %first = lshr i64 %begin, 10
  %blocks = lshr i64 %less, 10
  %done = shl i64 %blocks, 10
  %short = icmp uge i64 %first, %blocks
  br i1 %short, label %after, label %block
block:
  %i = phi i64 [%first, %ready], [%next, %block]
  %acc = phi {_V} [%acc0, %ready], [%scrambled, %block]
  %at = shl i64 %i, 10
  %here = sub i64 %at, %begin
  %source = getelementptr i8, ptr %from, i64 %here
  %target = getelementptr i8, ptr %to, i64 %at{_blocks()}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %blocks
  br i1 %more, label %block, label %after
after:
  %tailacc = phi {_V} [%acc0, %ready], [%scrambled, %block]
  br i1 %ends, label %byte, label %keep
keep:
  store {_V} %tailacc, ptr %state, align 8
  {settle}
  fence seq_cst
  ret i64 0
byte:
  %j = phi i64 [%done, %after], [%nextj, %byte]
  %jhere = sub i64 %j, %begin
  %bytefrom = getelementptr i8, ptr %from, i64 %jhere
  %byteto = getelementptr i8, ptr %to, i64 %j
  %value = load i8, ptr %bytefrom
  store i8 %value, ptr %byteto
  %nextj = add i64 %j, 1
  %morebytes = icmp ult i64 %nextj, %length
  br i1 %morebytes, label %byte, label %rest
rest:
  %left = sub i64 %less, %done
  %stripes = lshr i64 %left, 6
  %none = icmp eq i64 %stripes, 0
  br i1 %none, label %last, label %stripe
stripe:
  %n = phi i64 [0, %rest], [%nextn, %stripe]
  %stripeacc = phi {_V} [%tailacc, %rest], [%tacc, %stripe]
  %n64 = shl i64 %n, 6
  %offset = add i64 %n64, %done
  %n8 = shl i64 %n, 3{_place("tsource", "%to", "%offset")}{_place("tkey", "%secret", "%n8")}
  {_stripe("t", "%stripeacc", "%tsource", "%tkey")}
  %nextn = add i64 %n, 1
  %morestripes = icmp ult i64 %nextn, %stripes
  br i1 %morestripes, label %stripe, label %last
last:
  %lastacc = phi {_V} [%tailacc, %rest], [%tacc, %stripe]
  %end = sub i64 %length, 64{_place("lsource", "%to", "%end")}{_place("lkey", "%secret", 121)}
  {_stripe("l", "%lastacc", "%lsource", "%lkey")}
  {_place("mkey", "%secret", 11)}
  %mk = load {_V}, ptr %mkey, align 1
  %m = xor {_V} %lacc, %mk
  %r0 = mul i64 %length, {_PRIME64[0] - (1 << 64)}{_merged()}
  %v1 = lshr i64 %r4, 37
  %v2 = xor i64 %r4, %v1
  %v3 = mul i64 %v2, {_AVALANCHE}
  %v4 = lshr i64 %v3, 32
  %v5 = xor i64 %v3, %v4
  {settle}
  fence seq_cst
  ret i64 %v5
}}
{declare}
!0 = !{{i32 1}}
"""


_kept: list[Any] = []
"""What must live as long as the compiled code."""


def compile_kernel(cpu: str | None = None) -> Kernel | None:
    """The kernel for this machine, or for a lesser ``cpu`` of its kind; None without LLVM."""
    known = "llvmlite.binding" in sys.modules
    try:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        features = llvm.get_host_cpu_features().flatten() if cpu is None else ""
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=cpu or llvm.get_host_cpu_name(), features=features, opt=3
        )
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(kernel_text(x86=x86)), machine)
        engine.finalize_object()
        address = engine.get_function_address("copy_hash")
    except (ImportError, OSError, RuntimeError):  # no LLVM for this platform: copies stay plain
        return None
    if not known:
        _give_code_back()
    address_, count = ctypes.c_void_p, ctypes.c_int64
    kind = ctypes.CFUNCTYPE(
        ctypes.c_uint64, address_, address_, count, count, count, address_, ctypes.c_char_p
    )
    _kept.append(engine)
    return Kernel(kind(address))


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
