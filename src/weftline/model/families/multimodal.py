"""Multimodal model types: which section is the language model, and what is left out."""

from __future__ import annotations

import json
from typing import Any, Final

from weftline.errors import InputError
from weftline.model.config import HFConfig
from weftline.model.families import BUILDERS, FILES
from weftline.model.ir import LeftOut
from weftline.model.known import config_class

__all__ = ["MULTIMODAL", "TOWERS", "left_out"]

MULTIMODAL: Final = frozenset(
    {
        "aria", "audioflamingo3", "aya_vision", "cohere2_vision", "deepseek_vl",
        "deepseek_vl_hybrid", "ernie4_5_vl_moe", "exaone4_5", "fast_vlm", "fuyu", "gemma3",
        "gemma3n", "gemma4", "glm46v", "glm4v", "glm4v_moe", "glm_ocr", "got_ocr2",
        "granite_speech", "idefics2", "idefics3", "internvl", "janus", "kimi_k25", "kimi_k3",
        "lfm2_vl", "lighton_ocr", "llama4", "llava", "llava_next", "llava_next_video",
        "llava_onevision", "minimax_m3_vl", "mistral3", "mllama", "ovis2", "paddleocr_vl",
        "paligemma", "perception_lm", "qwen2_5_omni", "qwen2_5_omni_thinker", "qwen2_5_vl",
        "qwen2_audio", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_omni_moe",
        "qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe", "shieldgemma2", "smolvlm", "step3p7",
        "video_llama_3", "video_llava", "vipllava", "voxtral",
    }
)  # fmt: skip
"""Outer model types whose language model is a section of the file."""

TOWERS: Final = {
    "vision_config": "vision tower", "audio_config": "audio tower", "visual": "vision tower",
    "audio_encoder": "audio tower", "speech_config": "audio tower", "encoder_config": "encoder",
    "high_res_vision_config": "high-resolution vision tower", "talker_config": "speech decoder",
    "token2wav_config": "speech synthesiser", "code2wav_config": "speech synthesiser",
    "vq_config": "image tokenizer", "qformer_config": "query transformer",
    "projector_config": "projector", "perceiver_config": "perceiver",
}  # fmt: skip
"""Other sections, and what they configure."""


def left_out(config: HFConfig) -> tuple[LeftOut, ...]:
    """What a multimodal file configures beside its language model, counted where we can."""
    found: list[LeftOut] = []
    if config.model_type not in MULTIMODAL:
        return ()
    *way, last = (config.section or "").split(".")
    fields: dict[str, Any] = config.top
    class_ = config.outer_class
    for name in (*way, last):
        for key in dict.fromkeys((*fields, *class_.sections)):
            inner = fields.get(key)
            if key in TOWERS and (isinstance(inner, dict) or key not in fields):
                kind = class_.sections.get(key, "")
                found.append(LeftOut(what=TOWERS[key], parameters=_counted(kind, inner)))
        below = fields.get(name)
        fields = below if isinstance(below, dict) else {}
        class_ = config_class(class_.sections.get(name, ""))
    return tuple(found)


def _counted(kind: str, fields: dict[str, Any] | None) -> int | None:
    """Parameters of a tower whose section says enough; ``None`` where it does not."""
    if not fields:
        return None
    kind = str(fields.get("model_type") or kind)
    kind = kind if kind in FILES["tables.vision"] else _BY_OUTER.get(kind, kind)
    if kind not in FILES["tables.vision"]:
        return None
    tower = HFConfig(json.dumps(fields | {"model_type": kind}), "tower")
    try:
        return BUILDERS[kind](tower).parameters
    except (InputError, ArithmeticError, LookupError, TypeError, ValueError):
        return None  # a guess would be worse than no number


_BY_OUTER: Final = {
    "qwen2_vl": "qwen2_vl_vision", "qwen2_5_vl": "qwen2_5_vl_vision",
    "qwen3_vl": "qwen3_vl_vision", "qwen3_vl_moe": "qwen3_vl_moe_vision",
    "qwen3_5": "qwen3_5_vision", "qwen3_5_moe": "qwen3_5_moe_vision",
}  # fmt: skip
"""Published files name the tower's section after the whole model."""
