"""The number format of published weights, from ``quantization_config``.

The names of the result are those of the serving engines: ``fp8``, ``fp8_block``, ``nvfp4``,
``mxfp4``, ``int4``, ``int8``.
"""

from __future__ import annotations

from typing import Any, Final

from weftline.model.config import HFConfig

__all__ = ["weights_format"]

_BY_BITS: Final = {4: "int4", 8: "int8"}
_ALGORITHMS: Final = {
    "fp8": "fp8", "fp8_pb_wo": "fp8_block", "nvfp4": "nvfp4", "nvfp4_awq": "nvfp4",
    "w4a16_awq": "int4", "w4a8_awq": "int4", "int4_awq": "int4", "w8a8_sq_per_channel": "int8",
    "mxfp4": "mxfp4", "mixed_precision": "nvfp4",
}  # fmt: skip
"""``quant_algo`` of NVIDIA's ModelOpt -> format; mixed precision is mostly 4 bit."""


def weights_format(config: HFConfig) -> tuple[str | None, str | None]:
    """(format of the weights, ``None`` for 16 bit; a note where a file's method is not known)."""
    fields = config.get("quantization_config", "compression_config")
    if not isinstance(fields, dict) or not fields:
        return None, None
    method = str(fields.get("quant_method") or "").lower().replace("_", "-")
    found = _of_method(method, fields)
    if found is None:
        named = method or "without a method"
        return None, f"quantization `{named}` is not known: weights taken as 16 bit"
    return found, None


def _of_method(method: str, fields: dict[str, Any]) -> str | None:
    bits = fields.get("bits", fields.get("w_bit"))
    match method:
        case "fp8" | "fbgemm-fp8" | "finegrained-fp8":
            return "fp8_block" if fields.get("weight_block_size") else "fp8"
        case "mxfp4" | "nvfp4":
            return method
        case "awq" | "gptq" | "gptq-marlin" | "auto-round" | "autoround" | "hqq" | "quanto":
            return _BY_BITS.get(bits) if isinstance(bits, int) else None
        case "bitsandbytes" | "bnb":
            if fields.get("load_in_4bit") or fields.get("_load_in_4bit"):
                return "int4"
            eight = fields.get("load_in_8bit") or fields.get("_load_in_8bit")
            return "int8" if eight else None
        case "modelopt":
            quantization = fields.get("quantization")
            inner = quantization if isinstance(quantization, dict) else fields
            return _ALGORITHMS.get(str(inner.get("quant_algo") or "").lower())
        case "" if "quant_algo" in fields:
            return _ALGORITHMS.get(str(fields["quant_algo"]).lower())
        case "compressed-tensors" | "":
            return _compressed(fields)
    return None


def _compressed(fields: dict[str, Any]) -> str | None:
    """The weights of the first group of vLLM's compressed-tensors."""
    groups = fields.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, dict) and groups else None
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict) or not isinstance(group, dict):
        return None
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    packed = str(group.get("format") or fields.get("format") or "")
    if kind == "float" and bits == 8:
        return "fp8_block" if weights.get("block_structure") else "fp8"
    if kind == "float" and bits == 4:
        return "mxfp4" if packed.startswith("mxfp4") else "nvfp4"
    return _BY_BITS.get(bits) if isinstance(bits, int) else None
