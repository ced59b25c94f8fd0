"""vLLM's FlashAttention on rewritten batches: ``--attention-backend CUSTOM``.

A rewritten batch is of another size each step: attention runs outside captured graphs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from vllm.config import get_current_vllm_config
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadataBuilder,
)

from weftline.attention.rewrite import VirtualRequests
from weftline.attention.vllm.batch import once, rewritten
from weftline.attention.vllm.plugin import asked_policy
from weftline.attention.vllm.ruled import Ruled

__all__ = ["CudaBackend", "CudaImpl"]


class CudaBuilder(FlashAttentionMetadataBuilder):
    """FlashAttention's, without captured graphs of attention."""

    _cudagraph_support: ClassVar[AttentionCGSupport] = AttentionCGSupport.NEVER


class CudaImpl(Ruled, FlashAttentionImpl):
    """One layer."""

    def own_window(self) -> bool:
        """A pair of -1 is none here."""
        return bool(tuple(self.sliding_window) != (-1, -1))

    def changed(
        self, layer: Any, metadata: Any, virtual: VirtualRequests, query: torch.Tensor
    ) -> Any:
        """Without the schedule that was made for the batch as it came; layers of one share it."""
        del layer
        return once(metadata, virtual, lambda: replace(
            metadata, num_actual_tokens=metadata.num_actual_tokens * virtual.kv_heads,
            scheduler_metadata=None, **rewritten(virtual, query.device),
        ))  # fmt: skip


class CudaBackend(FlashAttentionBackend):
    """FlashAttention with layers under the engine's policy."""

    @staticmethod
    def get_name() -> str:
        """As the registry calls it."""
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[FlashAttentionImpl]:
        """vLLM's own where there is no policy."""
        under = asked_policy(get_current_vllm_config()) is not None
        return CudaImpl if under else FlashAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[FlashAttentionMetadataBuilder]:
        """Without captured graphs of attention."""
        return CudaBuilder
