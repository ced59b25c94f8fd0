"""How to start the engine of a planned replica: what was simulated, in the engine's words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

from weftline.catalog import accelerator
from weftline.serve.engine.config import ServingConfig
from weftline.serve.engine.memory import memory
from weftline.spec.attention import Window
from weftline.spec.attention_text import POLICY_FIELD, parse_policy

__all__ = ["launch_settings"]

_Settings = Callable[[ServingConfig], dict[str, str]]


def _vllm(c: ServingConfig) -> dict[str, str]:
    return {
        "--max-num-seqs": f"{c.max_batch // c.dp}",
        "--max-num-batched-tokens": f"{c.chunk_tokens}",
        **_vllm_memory(c),
        **({"--enable-prefix-caching": ""} if c.prefix_cache
           else {"--no-enable-prefix-caching": ""}),
        **({"--kv-offloading-size": f"{c.offload_bytes / 2**30:.0f}"} if c.offload_bytes else {}),
        **({"--additional-config": json.dumps({POLICY_FIELD: c.policy}),
            "--attention-backend": "CUSTOM"} if c.policy else {}),
        **({"--speculative-config": json.dumps(_drafting(c, "method", "num_speculative_tokens"))}
           if c.spec_tokens else {}),
        **_lora(c, "--enable-lora", "--max-loras", "--max-lora-rank", "--max-cpu-loras"),
    }  # fmt: skip


def _vllm_memory(c: ServingConfig) -> dict[str, str]:
    """The share of a chip's memory; of a CPU, what its backend keeps for the cache."""
    if accelerator(c.chip).use != "cpu":
        return {"--gpu-memory-utilization": f"{c.memory_fraction:g}"}
    return {"VLLM_CPU_KVCACHE_SPACE": f"{memory(c).cache_bytes / 2**30:.0f}"}


def _drafting(c: ServingConfig, method: str, tokens: str) -> dict[str, str | int]:
    """Method and drafted tokens under an engine's names; which draft model is not planned."""
    return {method: {"mtp": "mtp", "draft": "draft_model"}[c.spec_method], tokens: c.spec_tokens}


def _sglang(c: ServingConfig) -> dict[str, str]:
    return {
        "--max-running-requests": f"{c.max_batch}",
        "--chunked-prefill-size": f"{c.chunk_tokens}",
        "--mem-fraction-static": f"{c.memory_fraction:g}",
        **({} if c.prefix_cache else {"--disable-radix-cache": ""}),
        **({"--enable-hierarchical-cache": "",
            "--hicache-size": f"{c.offload_bytes / c.tp / 1e9:.0f}"} if c.offload_bytes else {}),
        **({"--speculative-algorithm": "NEXTN" if c.spec_method == "mtp" else "STANDALONE",
            "--speculative-num-steps": f"{c.spec_tokens}", "--speculative-eagle-topk": "1",
            "--speculative-num-draft-tokens": f"{c.spec_tokens + 1}"} if c.spec_tokens else {}),
        **_lora(c, "--enable-lora", "--max-loras-per-batch", "--max-lora-rank",
                "--max-loaded-loras"),
    }  # fmt: skip


def _tensorrt_llm(c: ServingConfig) -> dict[str, str]:
    return {
        "max_batch_size": f"{c.max_batch // c.dp}", "max_num_tokens": f"{c.chunk_tokens}",
        "kv_cache_config.free_gpu_memory_fraction": f"{c.memory_fraction:g}",
        "kv_cache_config.enable_block_reuse": str(c.prefix_cache).lower(),
        "enable_chunked_prefill": "true",
        **_window(c),
        **({"kv_cache_config.host_cache_size": f"{c.offload_bytes:.0f}"} if c.offload_bytes
           else {}),
        **({"speculative_config.decoding_type": "MTP" if c.spec_method == "mtp" else "DraftTarget",
            _DRAFTED[c.spec_method]: f"{c.spec_tokens}"} if c.spec_tokens else {}),
        **_lora(c, "", "lora_config.max_loras", "lora_config.max_lora_rank",
                "lora_config.max_cpu_loras"),
    }  # fmt: skip


_DRAFTED: Final = {"mtp": "speculative_config.num_nextn_predict_layers",
                   "draft": "speculative_config.max_draft_len"}  # fmt: skip


def _window(c: ServingConfig) -> dict[str, str]:
    """TensorRT-LLM's own window, which frees what slides out of it."""
    rule = parse_policy(c.policy).decode if c.policy else None
    if not isinstance(rule, Window):
        return {}
    found = {"kv_cache_config.max_attention_window": f"[{rule.tokens}]"}
    return found | ({"kv_cache_config.sink_token_length": f"{rule.sinks}"} if rule.sinks else {})


def _lora(c: ServingConfig, on: str, slots: str, rank: str, held: str) -> dict[str, str]:
    """What adapters ask for, under an engine's own names; nothing where there are none."""
    if c.adapters is None:
        return {}
    found = {slots: f"{min(c.adapters.slots, c.adapters.count)}", rank: f"{c.adapters.rank}",
             held: f"{c.adapters.count}"}  # fmt: skip
    return {on: "", **found} if on else found


_BY_ENGINE: Final[Mapping[str, _Settings]] = {
    "vllm": _vllm, "sglang": _sglang, "trtllm": _tensorrt_llm,
}  # fmt: skip


def launch_settings(config: ServingConfig) -> dict[str, str]:
    """Setting -> value ("" for a bare flag) of one engine process, each attention rank's own where
    it has several; empty for engines without settings of that kind (JetStream, NeuronX).

    Names are those of vLLM 0.19, SGLang 0.5 and TensorRT-LLM 1.2.
    """
    make = _BY_ENGINE.get(config.engine)
    return {} if make is None else make(config)
