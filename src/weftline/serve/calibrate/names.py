"""Names in measured rows: models, chips, engines and number formats as benchmarks write them.

They go through the same doors as what a user types (``model.names``, the catalogue); what is
written around a chip's name there (its maker, its memory) is taken off here. A name nobody knows is
an error, never the nearest one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from weftline.catalog import accelerator
from weftline.errors import InputError, UnknownNameError
from weftline.model.load import bundled_name, load_model
from weftline.operators.dtypes import canonical

__all__ = [
    "checkpoint_formats", "chip_named", "engine_named", "family_of", "format_named", "mode_named",
    "model_name",
]  # fmt: skip

_MODELS: Final[Mapping[str, str]] = {
    "llama2-70b-99": "llama-2-70b", "llama2-70b-99.9": "llama-2-70b",
    "llama3.1-405b": "llama-3.1-405b", "llama3.1-8b": "llama-3.1-8b",
    "qwen3-235b": "qwen3-235b-a22b", "gpt-oss": "gpt-oss-120b", "bloom-176b": "bloom",
    "codellama-13b": "llama-2-13b", "codellama-13b-hf": "llama-2-13b",
    "mistral-7b-instruct-v0.2": "mistral-7b-v0.3", "mistral-7b-v0.2": "mistral-7b-v0.3",
}  # fmt: skip
"""Names of benchmarks (MLPerf's), and models whose shape is bundled under a sibling's name."""
_SAME_SHAPE: Final[Mapping[str, str]] = {
    "llama-3-70b": "llama-3.1-70b", "llama-3.3-70b": "llama-3.1-70b", "llama-3-8b": "llama-3.1-8b",
    "deepseek-r1-distill-llama-70b": "llama-3.1-70b",
    "deepseek-r1-distill-llama-8b": "llama-3.1-8b", "deepseek-v3.1": "deepseek-v3",
}  # fmt: skip
_STEMS: Final = ("kimi-k2", "glm-5", "minimax-m2", "llama-3.1-70b", "qwen3.5-397b")
_ORGANISATION: Final = re.compile(r"^[\w.-]+/")
_BESIDE: Final = re.compile(
    r"\b(nvidia|amd|instinct|intel|google|aws|cloud|virtualized|server|edition|blackwell|geforce"
    r"|hbm\w*|gddr\w*|accelerator)\b|\(.*?\)"
)
_MEMORY: Final = re.compile(r"[\s-]?\b\d+\s?gi?b\b")
_CHIPS: Final[Mapping[str, str]] = {"gb200-nvl72": "gb200-nvl72"}
_ENGINES: Final[Mapping[str, str]] = {
    "vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm", "trt-llm": "trtllm",
    "tensorrt-llm": "trtllm", "tensorrtllm": "trtllm", "tensorrt_llm": "trtllm",
    "jetstream": "jetstream", "neuron": "neuron",
}  # fmt: skip
_MODES: Final[Mapping[str, str]] = {
    "agg": "agg", "aggregated": "agg", "disagg": "disagg", "disaggregated": "disagg",
}  # fmt: skip
_BLOCK_MAKERS: Final = (
    "qwen", "deepseek-ai", "zai-org", "zhipuai", "minimaxai", "moonshotai", "xiaomimimo",
)  # fmt: skip
"""Organisations whose own fp8 releases scale weights by 128 x 128 blocks (``weight_block_size`` in
their config.json); NVIDIA's and Red Hat's fp8 releases of the same models scale by tensor."""


@lru_cache(maxsize=4096)
def model_name(text: str) -> str:
    """The bundled name of a model as rows write it; lower case without organisation if unknown."""
    plain = _ORGANISATION.sub("", text.strip()).lower()
    if plain in _MODELS:
        return _MODELS[plain]
    found = bundled_name(text.strip()) or bundled_name(plain)
    return _SAME_SHAPE.get(found, found) if found else plain.replace("_", "-").replace(" ", "-")


def family_of(model: str) -> str:
    """The family a model's siblings share: DeepSeek-V3, R1 and V3.1 have one architecture."""
    if model in ("deepseek-v3.2", "deepseek-v3.2-exp"):
        return "deepseek-v3.2"
    if model.startswith(("deepseek-r1", "deepseek-v3")):
        return "deepseek-v3"
    for stem in _STEMS:
        if model.startswith(stem):
            return stem
    return _SAME_SHAPE.get(model, model.removesuffix("-2507"))


@lru_cache(maxsize=1024)
def chip_named(text: str) -> str:
    """The catalogue's id of a chip as benchmarks write it. Raises UnknownNameError."""
    low = re.sub(r"[\s_]+", " ", text.strip().lower())
    bare = " ".join(_BESIDE.sub(" ", low).split())
    for name in (low, bare, _MEMORY.sub("", bare)):
        words = "-".join(name.replace("-", " ").split())
        for tried in (words, words.removesuffix("-sxm"), words.removesuffix("-nvl72")):
            if tried in _CHIPS:
                return _CHIPS[tried]
            try:
                return accelerator(tried).id
            except UnknownNameError:
                continue
    return accelerator(text).id  # raises, with the nearest names


def engine_named(text: str) -> str | None:
    """The engine, whatever its spelling; None if nobody here knows it."""
    return _ENGINES.get(text.strip().lower())


def mode_named(text: str) -> str | None:
    """``agg`` or ``disagg``; None for any other way to split the work."""
    return _MODES.get(text.strip().lower())


def format_named(text: str) -> str | None:
    """The number format, whatever its spelling; None if nobody here knows it."""
    try:
        return canonical(text.strip().lower())
    except UnknownNameError:
        return None


def checkpoint_formats(path: str, model: str, gemm: str, experts: str) -> tuple[str, str]:
    """(products, experts) as the checkpoint that ran has them.

    A checkpoint has one scheme: where a row says blocks of either, both are. Where it says only
    fp8, the published config decides, or who released it.
    """
    if "fp8" not in (gemm, experts):
        return gemm, experts
    stated = "fp8_block" in (gemm, experts)
    if not stated:
        maker = path.strip().lower().partition("/")[0] if "/" in path else ""
        stated = _published_in_blocks(model) or (
            maker in _BLOCK_MAKERS and path.lower().endswith("fp8")
        )
    blocks = {"fp8": "fp8_block"} if stated else {}
    return blocks.get(gemm, gemm), blocks.get(experts, experts)


@lru_cache(maxsize=256)
def _published_in_blocks(model: str) -> bool:
    try:
        return load_model(model).weights_format == "fp8_block"
    except InputError:
        return False
