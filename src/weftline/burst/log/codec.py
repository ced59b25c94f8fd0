"""Lossless ways to store a chunk in fewer bytes; each is taken only where it pays.

``planes`` puts bytes of equal significance side by side before zstd: the exponents of float
weights repeat, their low bits do not. Older stores hold differences to the same chunk of an earlier
step, too; they are read, and written no more. Inputs are never changed.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np

from weftline.burst.errors import CorruptionError
from weftline.burst.log.record import CODEC_PLANES, CODEC_RAW, CODEC_XOR, CODEC_ZSTD
from weftline.burst.stage.state import Bytes1d

__all__ = ["decode", "encode"]

_LEVEL: Final = 1
_WORTH: Final = 0.95
"""A form that saves less than 5 % is not worth the time to read it."""
_local = threading.local()


def encode(raw: Bytes1d, width: int, *, method: str | None) -> tuple[int, bytes | None]:
    """The codec and the encoded bytes of a chunk; ``(CODEC_RAW, None)`` where nothing pays.

    ``width`` is bytes an element, ``method`` None, ``zstd`` or ``planes``.
    """
    if method is None or not len(raw):
        return CODEC_RAW, None
    if method == "planes" and width > 1:
        codec, packed = CODEC_PLANES, _squeeze(_planes(raw, width))
    else:
        codec, packed = CODEC_ZSTD, _squeeze(raw)
    return (codec, packed) if len(packed) < _WORTH * len(raw) else (CODEC_RAW, None)


def decode(
    codec: int, stored: Bytes1d, raw_bytes: int, width: int, base: Bytes1d | None, *, file: str
) -> Bytes1d:
    """The raw bytes of a chunk. Raises CorruptionError when they cannot be had."""
    if codec == CODEC_RAW:
        return stored
    kind = codec & ~CODEC_XOR
    if kind not in (CODEC_ZSTD, CODEC_PLANES):
        raise CorruptionError(f"unknown codec {codec}", file=file)
    raw = _expand(stored, raw_bytes, file)
    if kind == CODEC_PLANES:
        raw = np.ascontiguousarray(raw.reshape(width, -1).T).reshape(-1)
    if codec & CODEC_XOR:
        if base is None or len(base) != len(raw):
            raise CorruptionError("a difference without its base", file=file)
        raw = np.bitwise_xor(raw, base)
    return raw


def _planes(raw: Bytes1d, width: int) -> Bytes1d:
    return np.ascontiguousarray(raw.reshape(-1, width).T).reshape(-1) if width > 1 else raw


def _tools() -> tuple[Any, Any]:
    """A compressor and a decompressor of this thread: they may not be shared."""
    if not hasattr(_local, "tools"):
        import zstandard

        _local.tools = (zstandard.ZstdCompressor(level=_LEVEL), zstandard.ZstdDecompressor())
    tools: tuple[Any, Any] = _local.tools
    return tools


def _squeeze(data: Bytes1d) -> bytes:
    packed: bytes = _tools()[0].compress(memoryview(data))
    return packed


def _expand(stored: Bytes1d, raw_bytes: int, file: str) -> Bytes1d:
    import zstandard

    whole: Bytes1d = np.ascontiguousarray(stored)
    view = memoryview(whole)
    try:
        # The length is checked first: a damaged frame may claim any.
        if zstandard.frame_content_size(view) != raw_bytes:
            raise CorruptionError("compressed chunk has a wrong length", file=file)
        return np.frombuffer(_tools()[1].decompress(view), np.uint8)
    except zstandard.ZstdError as e:
        raise CorruptionError(f"compressed chunk cannot be read: {e}", file=file) from e
