"""Small random models of several families, whose rows of logits are far apart."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

from weftline.runtime.server.engine.loop import Engine
from weftline.runtime.server.engine.model import PagedModel
from weftline.spec.attention_text import parse_policy

BASE: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GEMMA = {"head_dim": 16, "sliding_window": 20, "query_pre_attn_scalar": 16}
EXPERTS = {"num_experts_per_tok": 2, "head_dim": 16}
MLA = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 32, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 24}),
    "mistral": ("MistralConfig", {"sliding_window": 24}),
    "gemma2": ("Gemma2Config", GEMMA),
    "gemma3": ("Gemma3TextConfig", {
        **GEMMA, "layer_types": ["sliding_attention", "full_attention"]}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3MoeConfig", {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 32}),
    "gpt_oss": ("GptOssConfig", {
        **EXPERTS, "num_local_experts": 4, "sliding_window": 20,
        "layer_types": ["sliding_attention", "full_attention"]}),
    "deepseek_v3": ("DeepseekV3Config", MLA),
}  # fmt: skip


def tiny(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A model with weights large enough that no two tokens are nearly equal in likelihood."""
    name, own = FAMILIES[family]
    config = getattr(hf, name)(**{**BASE, **own, **changes})
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model = model.float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
    return model


def tiny_folder(folder: Any) -> Any:
    """A llama with a word tokenizer and a chat template, as a Hugging Face folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(124))]
    special = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    numbers = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(numbers, unk_token=special["unk_token"]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=made, **special)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}w1"
    )
    tiny("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def engine_over(
    model: Any, *, pages: int = 40, page: int = 16, kind: Any = "fp32", policy: str = "",
    compiled: bool = True, **said: Any,
) -> Engine:  # fmt: skip
    """An engine over a model, with a small cache."""
    chosen = parse_policy(policy) if policy else None
    paged = PagedModel(model, page=page, kind=kind, policy=chosen, compiled=compiled)
    return Engine.over(paged, pages=pages, **said)
