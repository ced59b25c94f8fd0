"""The model families, by the ``model_type`` of their ``config.json``.

A family file exposes ``FAMILY: dict[str, Builder]``. A builder reads the fields it needs from the
:class:`~weftline.model.config.HFConfig`, calls ``config.check()`` once (all mistakes are reported
together), and returns a :class:`~weftline.model.ir.Model` from the blocks of
``weftline.model.blocks``. To add a family, write a row of ``tables``, or a file in the wing that
says what its layers hold, and name it in ``FILES`` below.

Files are imported when a model of theirs is asked for: loading one model stays fast.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from weftline.model.config import HFConfig
from weftline.model.ir import Model

__all__ = ["BUILDERS", "FILES", "REFUSED", "TWO_TOWERS", "Builder"]

Builder = Callable[[HFConfig], Model]

FILES: Final[dict[str, tuple[str, ...]]] = {
    "dense.llama": ("llama",),
    "encoders.bert": ("bert",),
    "dense.gemma": ("gemma2", "gemma3", "gemma3_text"),
    "dense.gpt2": ("gpt2", "gpt_neox", "opt", "bloom"),
    "recurrent.jamba": ("jamba",),
    "recurrent.mamba": ("falcon_mamba", "mamba", "mamba2"),
    "dense.mistral": ("mistral",),
    "dense.phi": ("phi", "phi3"),
    "encoders.t5": ("mt5", "t5", "umt5"),
    "dense.qwen3": ("qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_text", "qwen3_vl_moe",
                    "qwen3_vl_moe_text", "qwen3_omni_moe_text"),
    "recurrent.qwen3_5": ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
    "experts.mixtral": ("mixtral",),
    "experts.gpt_oss": ("gpt_oss",),
    "experts.llama4": ("llama4", "llama4_text"),
    "experts.deepseek": ("deepseek_v3", "kimi_k2", "kimi_k25", "deepseek_v32", "glm_moe_dsa"),
    "experts.deepseek_v4": ("deepseek_v4",),
    "experts.kimi": ("kimi_linear", "kimi_k3"),
    "experts.minimax": ("minimax_m2", "minimax_m3", "minimax_m3_vl", "minimax_m3_vl_text"),
    "experts.mimo": ("mimo", "mimo_v2_flash"),
    "experts.step": ("step3p7", "step3p5"),
    "recurrent.zamba": ("zamba2",),
    "dense.gemma3n": ("gemma3n", "gemma3n_text"),
    "dense.gemma4": ("gemma4", "gemma4_text"),
    "recurrent.nemotron": ("nemotron_h", "nemotron-nas"),
    "encoders.diffusion": ("flux", "sd3"),
    "experts.dbrx": ("dbrx",),
    "experts.arctic": ("arctic",),
    "experts.doge": ("doge",),
    "experts.jetmoe": ("jetmoe",),
    "tables.towers": ("clip", "metaclip_2"),
    "tables.encoders": (
        "albert", "bert-generation", "camembert", "clip_text_model", "data2vec-text", "deberta",
        "deberta-v2", "distilbert", "electra", "ernie", "esm", "eurobert", "layoutlm",
        "megatron-bert", "modernbert", "mpnet", "nomic_bert", "rembert", "roberta",
        "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
    ),
    "tables.seq2seq": (
        "bart", "blenderbot", "blenderbot-small", "m2m_100", "marian", "mbart", "mvp", "pegasus",
        "plbart", "whisper",
    ),
    "tables.hybrids": (
        "bailing_hybrid", "bamba", "falcon_h1", "granitemoehybrid", "lfm2", "lfm2_moe", "minimax",
        "olmo_hybrid", "qwen3_next", "recurrent_gemma",
    ),
    "tables.vision": (
        "chinese_clip_vision_model", "clip_vision_model", "deit", "dinov2", "dinov2_with_registers",
        "dinov3_vit", "ernie4_5_vl_moe_vision", "idefics3_vision", "ijepa",
        "metaclip_2_vision_model", "pixtral",
        "qwen2_5_vl_vision", "qwen2_vl_vision", "qwen3_5_moe_vision", "qwen3_5_vision",
        "qwen3_vl_moe_vision", "qwen3_vl_vision", "siglip2_vision_model", "siglip_vision_model",
        "smolvlm_vision", "vit", "vit_msn",
    ),
    "tables.decoders": (
        "beam", "ctrl", "falcon", "flint", "glm_ocr_text", "gpt_neo", "kolibri1", "mpt",
        "bailing_moe", "bailing_moe_v2", "internlm2", "minicpm", "mllama_text_model",
        "phi4_multimodal", "muse_glimmer_text", "openai-gpt", "paddleocr_vl_text",
        "afmoe", "apertus", "arcee", "aria_text", "biogpt", "bitnet", "codegen", "cohere",
        "cohere2", "cohere2_moe", "cwm", "deepseek_v2", "diffllama", "dots1", "ernie4_5",
        "ernie4_5_moe", "ernie4_5_vl_moe_text", "exaone4", "exaone_moe", "flex_olmo", "gemma",
        "glm", "glm4", "glm4_moe",
        "glm4_moe_lite", "glm4v_moe_text", "glm4v_text", "gpt_bigcode", "gptj", "granite",
        "granite_swa", "granitemoe", "granitemoe_swa", "granitemoeshared", "helium",
        "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "hyperclovax", "internlm3", "iquestcoder",
        "jais2", "laguna", "mellum", "minicpm3", "ministral", "ministral3", "mistral4", "nanochat",
        "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "persimmon", "phimoe", "qwen2",
        "qwen2_5_omni_text", "qwen2_5_vl_text", "qwen2_moe", "qwen2_vl_text", "seed_oss",
        "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma", "xglm", "youtu",
    ),
}  # fmt: skip
"""Wing and file of ``weftline.model.families`` -> the model types it builds."""

TWO_TOWERS: Final = FILES["tables.towers"]
"""Model types whose builder reads two sections of the file."""

REFUSED: Final[dict[str, str]] = {}
"""Model types that are known but cannot be counted honestly, and what is unknown about them."""


class _Builders(Mapping[str, Builder]):
    """``model_type`` -> builder; the family's file is imported at the first look-up."""

    def __init__(self, files: Mapping[str, tuple[str, ...]]) -> None:
        self._file_of = {kind: file for file, kinds in files.items() for kind in kinds}

    def __getitem__(self, model_type: str) -> Builder:
        module = importlib.import_module(f"{__name__}.{self._file_of[model_type]}")
        builder: Builder = module.FAMILY[model_type]
        return builder

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


BUILDERS: Final[Mapping[str, Builder]] = _Builders(FILES)
"""Model type -> builder."""
