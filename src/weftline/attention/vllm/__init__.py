"""vLLM under an attention policy: a plugin that rewrites its batches and runs its own kernels."""

from weftline.attention.vllm.plugin import register

__all__ = ["register"]
