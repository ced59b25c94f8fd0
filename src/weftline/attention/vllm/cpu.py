"""vLLM's CPU attention on rewritten batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from vllm import _custom_ops as ops
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl

from weftline.attention.rewrite import VirtualRequests
from weftline.attention.vllm.batch import once, rewritten
from weftline.attention.vllm.plugin import asked_policy
from weftline.attention.vllm.ruled import Ruled

__all__ = ["CpuBackend", "CpuImpl"]


class CpuImpl(Ruled, CPUAttentionBackendImpl):
    """One layer."""

    def own_window(self) -> bool:
        """-1 is none here."""
        return bool(self.sliding_window != -1)

    def changed(
        self, layer: Any, metadata: Any, virtual: VirtualRequests, query: torch.Tensor
    ) -> Any:
        """With the kernel's schedule made anew; layers of one batch share it."""
        return once(metadata, virtual, lambda: self._made(layer, metadata, virtual, query))

    def _made(
        self, layer: Any, metadata: Any, virtual: VirtualRequests, query: torch.Tensor
    ) -> Any:
        fields, ways = rewritten(virtual, query.device), virtual.kv_heads
        schedule = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(virtual), num_heads=self.num_heads // ways,
            num_kv_heads=self.num_kv_heads // ways, head_dim=self.head_size,
            seq_lens=fields["seq_lens"], dtype=query.dtype,
            query_start_loc=fields["query_start_loc"], causal=True, sliding_window_size=-1,
            isa=layer.isa, enable_kv_split=True, kv_cache_dtype=self.kv_cache_dtype,
        )  # fmt: skip
        return replace(
            metadata, num_actual_tokens=metadata.num_actual_tokens * ways,
            scheduler_metadata=schedule, **fields,
        )  # fmt: skip


class CpuBackend(CPUAttentionBackend):
    """The CPU backend, with layers under the engine's policy if it has one."""

    @staticmethod
    def get_impl_cls() -> type[CPUAttentionBackendImpl]:
        """vLLM's own where there is no policy."""
        under = asked_policy(get_current_vllm_config()) is not None
        return CpuImpl if under else CPUAttentionBackendImpl
