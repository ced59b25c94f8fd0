"""Number formats of weights, activations and caches: bytes a value, and the peak they run at.

Formats are named as serving engines name them. A weight-only format (``int4``, ``mxfp4``) keeps
activations in bf16 and multiplies at bf16 speed; where a chip lacks a format's peak, the weights
stay small and the product falls back to the nearest peak the chip has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from weftline.errors import UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberFormat:
    """How one quantisation stores a product's operands and which peak it can use."""

    weight_bytes: float
    """Bytes of one weight, its share of scales included."""
    activation_bytes: float
    """Bytes of one activation as the product reads it."""
    peaks: tuple[str, ...]
    """Catalogue peaks it can run at, best first; the first one the chip has is taken."""
    table: tuple[str, ...]
    """Measured tables that stand in for it, nearest first."""


# Scales: blockwise fp8 one fp32 for 128 x 128; int4 one bf16 for 128; nvfp4 one fp8 for 16;
# mxfp4 one e8m0 byte for 32.
FORMATS: Final[Mapping[str, NumberFormat]] = {
    "bf16": NumberFormat(
        weight_bytes=2, activation_bytes=2, peaks=("bf16", "fp16"), table=("bf16",)
    ),
    "fp8": NumberFormat(
        weight_bytes=1, activation_bytes=1, peaks=("fp8", "bf16", "fp16"), table=("fp8", "bf16")
    ),
    "fp8_block": NumberFormat(
        weight_bytes=1 + 4 / 128**2,
        activation_bytes=1 + 4 / 128,
        peaks=("fp8", "bf16", "fp16"),
        table=("fp8_block", "fp8", "bf16"),
    ),
    "int8": NumberFormat(
        weight_bytes=1,
        activation_bytes=1,
        peaks=("int8", "fp8", "bf16", "fp16"),
        table=("int8", "fp8", "bf16"),
    ),
    "int8_weight": NumberFormat(
        weight_bytes=1, activation_bytes=2, peaks=("bf16", "fp16"), table=("bf16",)
    ),
    "int4": NumberFormat(
        weight_bytes=0.5 + 2 / 128,
        activation_bytes=2,
        peaks=("bf16", "fp16"),
        table=("int4", "mxfp4", "bf16"),
    ),
    "w4afp8": NumberFormat(
        weight_bytes=0.5 + 2 / 128,
        activation_bytes=1,
        peaks=("fp8", "bf16", "fp16"),
        table=("w4afp8", "mxfp4_fp8", "fp8", "bf16"),
    ),
    "nvfp4": NumberFormat(
        weight_bytes=0.5 + 1 / 16,
        activation_bytes=0.5 + 1 / 16,
        peaks=("fp4", "bf16", "fp16"),
        table=("nvfp4", "mxfp4", "fp8", "bf16"),
    ),
    "mxfp4": NumberFormat(
        weight_bytes=0.5 + 1 / 32,
        activation_bytes=2,
        peaks=("bf16", "fp16"),
        table=("mxfp4", "int4", "bf16"),
    ),
    "mxfp4_fp8": NumberFormat(
        weight_bytes=0.5 + 1 / 32,
        activation_bytes=1 + 1 / 32,
        peaks=("fp8", "bf16", "fp16"),
        table=("mxfp4_fp8", "mxfp4", "fp8", "bf16"),
    ),
}

CACHE_BYTES: Final[Mapping[str, float]] = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0}
"""Bytes of one cached key or value."""

_ALIASES: Final[Mapping[str, str]] = {
    "bfloat16": "bf16", "fp16": "bf16", "float16": "bf16", "half": "bf16", "float8": "fp8",
    "fp8_tensor": "fp8", "int4_wo": "int4", "w4a16": "int4", "awq": "int4", "gptq": "int4",
    "w4a16_mxfp4": "mxfp4", "w4a8_mxfp4_mxfp8": "mxfp4_fp8", "fp4": "nvfp4", "w8a8": "int8",
    "w8a16": "int8_weight", "int8_wo": "int8_weight", "uint4": "int4", "w4a8": "w4afp8",
    "w4a8_awq": "w4afp8", "fp8_static": "fp8", "fp8_per_tensor": "fp8", "float4": "nvfp4",
}  # fmt: skip


def number_format(name: str) -> NumberFormat:
    """The format of that name; raises UnknownNameError (with the known names) for any other."""
    return FORMATS[canonical(name)]


def canonical(name: str) -> str:
    """The name this room uses for a format that engines spell differently."""
    found = _ALIASES.get(name.lower(), name.lower())
    if found not in FORMATS:
        raise UnknownNameError("quantisation", name, FORMATS)
    return found
