"""Serving engines: what is calibrated of each, and how it schedules and charges the host."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from weftline.catalog import Accelerator
from weftline.errors import InputError, UnknownNameError
from weftline.serve.engine.config import DTYPES
from weftline.spec.attention import Compress, Window
from weftline.spec.attention_text import parse_policy

__all__ = [
    "PROFILES",
    "EngineProfile",
    "check_version",
    "is_old",
    "profile",
    "require_formats",
    "require_units",
    "runs_format",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """What is known of one engine beside its fitted constants."""

    name: str
    title: str
    calibrated: bool
    """Whether its constants were fitted on measured rows; others take the mean of those."""
    chunk_tokens: int
    """Tokens of one iteration, by default."""
    max_batch: int
    front_end_s: float
    """Used where ``calibrated`` is false."""
    vendors: tuple[str, ...]
    """Makers of chips it runs on."""
    formats: tuple[str, ...]
    """Number formats of weights it serves."""
    basis: str


_NVIDIA_FORMATS: Final = ("bf16", "fp16", "fp8", "fp8_block", "int8", "int4", "nvfp4", "mxfp4")

PROFILES: Final[Mapping[str, EngineProfile]] = {
    p.name: p
    for p in (
        EngineProfile(
            name="vllm", title="vLLM", calibrated=True, chunk_tokens=8192, max_batch=256,
            front_end_s=0.02, formats=_NVIDIA_FORMATS,
            vendors=("nvidia", "amd", "google", "intel", "amd-cpu", "intel-cpu", "aws-cpu"),
            basis="fitted on measured rows",
        ),
        EngineProfile(
            name="sglang", title="SGLang", calibrated=True, chunk_tokens=8192, max_batch=512,
            front_end_s=0.1, vendors=("nvidia", "amd"), formats=_NVIDIA_FORMATS,
            basis="fitted on measured rows",
        ),
        EngineProfile(
            name="trtllm", title="TensorRT-LLM", calibrated=True, chunk_tokens=8192, max_batch=512,
            front_end_s=0.03, vendors=("nvidia",), formats=_NVIDIA_FORMATS,
            basis="fitted on measured rows",
        ),
        EngineProfile(
            name="jetstream", title="JetStream", calibrated=False, chunk_tokens=8192,
            max_batch=256, front_end_s=0.02, vendors=("google",), formats=("bf16", "int8", "fp8"),
            basis="assumed as vLLM's; throughput checked on published TPU rows",
        ),
        EngineProfile(
            name="neuron", title="Transformers NeuronX", calibrated=False, chunk_tokens=8192,
            max_batch=64, front_end_s=0.01, vendors=("aws",), formats=("bf16", "fp16", "int8"),
            basis="assumed; checked on published Inferentia2 and Trainium1 rows",
        ),
    )
}  # fmt: skip


def profile(name: str) -> EngineProfile:
    """An engine by name; raises UnknownNameError with the nearest names."""
    if name not in PROFILES:
        raise UnknownNameError("engine", name, PROFILES)
    return PROFILES[name]


_FIRST_NEW: Final[Mapping[str, tuple[int, ...]]] = {
    "vllm": (0, 12), "sglang": (0, 5, 6), "trtllm": (1, 2),
}  # fmt: skip
"""First releases of December 2025 and later: faster host paths and kernels."""


def is_old(engine: str, version: str) -> bool:
    """Whether an engine's version is of before December 2025; not where it does not say."""
    found = re.match(r"v?(\d+(?:\.\d+)+)", version.strip())
    if found is None or engine not in _FIRST_NEW:
        return False
    numbers = tuple(int(n) for n in found[1].split("."))
    # Dated builds (2025-10) and packages that only carry an engine (Dynamo 0.8) say nothing here.
    if engine == "trtllm" and numbers[0] < 1:
        return False
    return numbers < _FIRST_NEW[engine]


def check_version(version: str, engines: Sequence[str], *, where: str) -> None:
    """Raise InputError for a release that is none, or that is of no one engine."""
    if re.fullmatch(r"v?\d+(\.\d+)+[.\w-]*", version.strip()) is None:
        raise InputError(f"`{version}` is not a release", where=where, hint="0.19.0")
    if len(engines) != 1:
        raise InputError("a release of which engine?", where=where, hint="--engine vllm")


def require_formats(engine: str, chip_vendor: str, chip: str, formats: tuple[str, ...]) -> None:
    """Raise InputError where the engine does not run on the chip or serve one of the formats."""
    own = profile(engine)
    if chip_vendor not in own.vendors:
        fitting = ", ".join(p.name for p in PROFILES.values() if chip_vendor in p.vendors)
        raise InputError(
            f"{own.title} does not run on {chip}", where="engine",
            hint=f"engines for this chip: {fitting}" if fitting else None,
        )  # fmt: skip
    for name in formats:
        if name not in own.formats:
            raise InputError(
                f"{own.title} does not serve {name} weights", where="gemm_dtype",
                hint="it serves " + ", ".join(own.formats),
            )  # fmt: skip


def serves_policy(engine: str, policy: str) -> bool:
    """Whether an engine can serve a model under a policy ("" for none).

    vLLM through :mod:`weftline.attention.vllm`, which keeps every page; TensorRT-LLM by its own
    ``max_attention_window`` and ``sink_token_length``, which free what slides out of one window.
    """
    if not policy:
        return True
    asked = parse_policy(policy)
    if engine == "vllm":
        return asked.kv == "keep" and not any(isinstance(r, Compress) for r in asked.rules)
    one = len(asked.rules) == 1 and isinstance(asked.prefill, Window)
    return engine == "trtllm" and asked.kv == "free" and one


def runs_format(chip: Accelerator, weights: str) -> bool:
    """Whether the chip multiplies (or, for weight-only formats, at least holds) a format."""
    if weights in ("int4", "mxfp4"):
        # On CPUs kernels for 4-bit integers exist, for microscaled formats none do.
        return weights == "int4" or chip.use != "cpu"
    wanted = {"fp8_block": "fp8", "nvfp4": "fp4", "fp16": "bf16"}.get(weights, weights)
    return chip.peak_flops(wanted) is not None or (
        wanted == "bf16" and chip.peak_flops("fp16") is not None
    )


def require_units(chip: Accelerator, formats: Sequence[str]) -> None:
    """Raise InputError where a chip has no unit for any of ``formats``."""
    if any(runs_format(chip, name) for name in formats):
        return
    known = [name for name in DTYPES if runs_format(chip, name)]
    raise InputError(
        f"{chip.id} has no unit for {' or '.join(formats)}", where="--precision",
        hint=f"on this chip: {', '.join(known)}" if known else None,
    )  # fmt: skip
