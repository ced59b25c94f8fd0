"""Multimodal model types: which section is the language model, and what is left out."""

from __future__ import annotations

from typing import Any, Final

from weftline.model.config import HFConfig
from weftline.model.ir import LeftOut

__all__ = ["MULTIMODAL", "TOWERS", "left_out"]

MULTIMODAL: Final = frozenset(
    {
        "aria", "audioflamingo3", "aya_vision", "cohere2_vision", "deepseek_vl",
        "deepseek_vl_hybrid", "ernie4_5_vl_moe", "exaone4_5", "fast_vlm", "fuyu", "gemma3", "gemma3n",
        "gemma4", "glm46v", "glm4v", "glm4v_moe", "glm_ocr", "got_ocr2", "granite_speech",
        "idefics2", "idefics3", "internvl", "janus", "kimi_k25", "kimi_k3", "lfm2_vl", "lighton_ocr",
        "llama4", "llava", "llava_next", "llava_next_video", "llava_onevision", "minimax_m3_vl",
        "mistral3", "mllama", "ovis2", "paddleocr_vl", "paligemma", "perception_lm",
        "qwen2_5_omni", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_audio", "qwen2_vl", "qwen3_5",
        "qwen3_5_moe", "qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe",
        "shieldgemma2", "smolvlm", "step3p7", "video_llama_3", "video_llava", "vipllava", "voxtral",
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
    outermost = (config.section or "").partition(".")[0]
    for key, value in config.top.items():
        if key in TOWERS and isinstance(value, dict):
            found.append(LeftOut(what=TOWERS[key], parameters=_counted(config, key, value)))
        elif key == outermost and config.section != outermost and isinstance(value, dict):
            found += [
                LeftOut(what=TOWERS[inner], parameters=_counted(config, inner, fields))
                for inner, fields in value.items()
                if inner in TOWERS and isinstance(fields, dict)
            ]
    return tuple(found)


def _counted(config: HFConfig, key: str, fields: dict[str, Any]) -> int | None:
    return None
