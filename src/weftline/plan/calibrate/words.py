"""The words of sources: what chips, models, frameworks and number formats are called in them."""

from __future__ import annotations

from typing import Final

__all__ = ["CHIPS", "MODELS", "family_of_run", "precision_of", "recipe_of"]

CHIPS: Final = {
    "A100-80GB": "a100-80-sxm", "A100-40GB": "a100-40-sxm", "H100": "h100-sxm",
    "H100-96GB-500W": "h100-sxm", "H200": "h200-sxm", "H800-80GB": "h800-sxm", "B200": "b200",
    "B300": "b300", "GB200": "gb200-nvl72", "GB300": "gb300-nvl72", "MI300X": "mi300x",
    "MI325X": "mi325x", "MI355X": "mi355x", "TPU v4": "tpu-v4", "TPU v5e": "tpu-v5e",
    "TPU v5p": "tpu-v5p", "TPU v6e": "tpu-v6e", "Trainium1": "trainium1", "Trainium2": "trainium2",
}  # fmt: skip
MODELS: Final = {
    "LLAMA3_8B": "llama-3.1-8b", "Llama-3.1-8B": "llama-3.1-8b", "LLAMA3_70B": "llama-3.1-70b",
    "Llama-3.1-70B": "llama-3.1-70b", "LLAMA3.1_405B": "llama-3.1-405b",
    "DeepSeekV3": "deepseek-v3", "DeepSeek-V3": "deepseek-v3",
    "DeepSeekV4 Flash": "deepseek-v4-flash", "GPT OSS 120B": "gpt-oss-120b",
    "Qwen3_30B_a3B": "qwen3-30b-a3b", "Qwen3_235B_a22B": "qwen3-235b-a22b",
    "Nemotron_3_Nano": "nemotron-3-nano-30b-a3b",
    "Nemotron_3_Super": "nemotron-3-super-120b-a12b",
    "Nemotron_3_Ultra": "nemotron-3-ultra-550b-a55b", "BERT-Large-Ph1": "bert-large",
    "BLOOM-176B": "bloom-176b", "OPT-175B": "opt-175b", "GPT3-175B": "gpt3-175b",
    "GPT3-23B": "gpt:layers=28,hidden=8192,heads=64,seq=2048",
    "GPT3-46B": "gpt:layers=56,hidden=8192,heads=64,seq=2048",
}  # fmt: skip

_FAMILIES: Final = (
    ("dualpipe", "dualpipe"), ("maxtext", "maxtext"), ("t5x", "maxtext"),
    ("torchtitan", "torchtitan"), ("metaseq", "fsdp"), ("xformers", "fsdp"),
    ("automodel", "automodel"), ("pytorch fsdp", "fsdp"), ("llm-foundry", "fsdp"),
    ("neuronx", "neuronx"),
    ("megatron-lm 2021", "megatron-lm-2021"), ("megatron-lm 2022", "megatron-lm-2022"),
    ("megatron-deepspeed", "megatron-lm-2021"), ("megatron", "megatron-core"),
    ("nemo", "megatron-core"), ("primus", "megatron-core"), ("megascale", "megatron-core"),
    ("meta internal", "megatron-core"), ("hai-llm", "dualpipe"), ("vtrain", "megatron-lm-2022"),
)  # fmt: skip


def family_of_run(framework: str) -> str | None:
    """The family whose memory a run has, by its framework's words; None where no words are known
    ones."""
    low = framework.lower()
    return next((name for key, name in _FAMILIES if key in low), None)


def precision_of(text: str, framework: str) -> str:
    """The number format of products."""
    low = text.lower()
    if not low and framework.startswith(("Megatron-Bridge", "NeMo/Megatron-Core (MLPerf")):
        # Megatron-Bridge's 25.09 table leaves the column empty; dense rows exceed what bf16 could
        # reach. Every MLPerf run of NeMo that states its format trains in fp8 or less.
        return "fp8"
    if "fp8 or nvfp4" in low:
        # MLPerf 5.1 ships both recipes; its 405B runs reach 52 and 68 % of the fp8 peak, which no
        # fp8 run beside them does: they are fp4.
        return "fp4"
    for key, value in (("nvfp4", "fp4"), ("fp4", "fp4"), ("fp8", "fp8"), ("int8", "int8"),
                       ("fp32", "bf16" if "bf16" in low else "fp32")):  # fmt: skip
        if key in low:
            return value
    return "bf16"


def recipe_of(text: str, precision: str) -> str:
    """The format as the source details it: what runs share."""
    low = text.lower()
    for key, name in (("rowwise", "fp8 rowwise"), ("tensorwise", "fp8 tensorwise"),
                      ("mxfp8", "mxfp8"), ("fp8-mx", "fp8")):  # fmt: skip
        if key in low:
            return name if not low.startswith("fp8-mx") else "mxfp8"
    return precision
