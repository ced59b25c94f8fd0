"""How to start the engine of a planned replica: what was simulated, in the engine's words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

from weftline.serve.engine.config import ServingConfig
from weftline.spec.attention import Window
from weftline.spec.attention_text import POLICY_FIELD, parse_policy

__all__ = ["launch_settings"]

_Settings = Callable[[ServingConfig], dict[str, str]]


def _vllm(c: ServingConfig) -> dict[str, str]:
    return {
        "--max-num-seqs": f"{c.max_batch // c.dp}",
        "--max-num-batched-tokens": f"{c.chunk_tokens}",
        "--gpu-memory-utilization": f"{c.memory_fraction:g}",
        **({"--enable-prefix-caching": ""} if c.prefix_cache
           else {"--no-enable-prefix-caching": ""}),
        **({"--kv-offloading-size": f"{c.offload_bytes / 2**30:.0f}"} if c.offload_bytes else {}),
        **({"--additional-config": json.dumps({POLICY_FIELD: c.policy}),
            "--attention-backend": "CUSTOM"} if c.policy else {}),
        **_lora(c, "--enable-lora", "--max-loras", "--max-lora-rank", "--max-cpu-loras"),
    }  # fmt: skip


def _sglang(c: ServingConfig) -> dict[str, str]:
    return {
        "--max-running-requests": f"{c.max_batch}",
        "--chunked-prefill-size": f"{c.chunk_tokens}",
        "--mem-fraction-static": f"{c.memory_fraction:g}",
        **({} if c.prefix_cache else {"--disable-radix-cache": ""}),
        **({"--enable-hierarchical-cache": "",
            "--hicache-size": f"{c.offload_bytes / c.tp / 1e9:.0f}"} if c.offload_bytes else {}),
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
        **_lora(c, "", "lora_config.max_loras", "lora_config.max_lora_rank",
                "lora_config.max_cpu_loras"),
    }  # fmt: skip


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
