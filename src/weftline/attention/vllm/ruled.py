"""One layer's attention under a policy, whichever of vLLM's backends computes it.

All of them take the cache as [blocks, kv_heads, page, 2 * dim]. Where that is how it lies in
memory, heads that choose their own pages are folded into requests, over blocks * kv_heads pages of
one head.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.models.utils import extract_layer_index

from weftline.attention.rewrite import VirtualRequests
from weftline.attention.vllm.batch import Layer, folded, unfolded
from weftline.attention.vllm.plugin import asked_policy, layer_rules
from weftline.errors import InputError
from weftline.spec.attention import DENSE

__all__ = ["Ruled"]

Tensor = torch.Tensor


class Ruled:
    """Put before a backend's own class; that class computes, on the pages that are kept."""

    num_heads: int
    num_kv_heads: int
    attn_type: str
    sinks: Tensor | None
    alibi_slopes: Tensor | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.policy = asked_policy(get_current_vllm_config())
        self.ruled: Layer | None = None
        self.one_head: Any = None

    def own_window(self) -> bool:
        """Whether the model itself limits this layer."""
        raise NotImplementedError

    def changed(self, layer: Any, metadata: Any, virtual: VirtualRequests, query: Tensor) -> Any:
        """The backend's metadata with the rewritten batch in the place of its own."""
        raise NotImplementedError

    def _rules(self, layer: Any) -> Layer | None:
        """The layer's rules, found when it first runs; None where it stays as it is."""
        if self.ruled is None:
            own = self.own_window() or self.attn_type != "decoder"
            index = extract_layer_index(layer.layer_name)
            self.ruled = Layer(*layer_rules(None if own else self.policy, index))
        return None if self.ruled.prefill == self.ruled.decode == DENSE else self.ruled

    def forward(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, kv_cache: Tensor,
        attn_metadata: Any, output: Tensor, *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """As the backend's, on the pages that each piece of queries keeps."""
        attend: Any = super().forward  # type: ignore[misc]
        ruled = None if attn_metadata is None else self._rules(layer)
        if ruled is None or attn_metadata.causal is not True:
            attend(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
            return output
        rows = attn_metadata.num_actual_tokens
        virtual = ruled.batch(attn_metadata, query[:rows], kv_cache.shape[2])
        metadata = self.changed(layer, attn_metadata, virtual, query)
        ways = virtual.kv_heads
        if ways == 1:
            attend(layer, query, key, value, kv_cache, metadata, output, *args, **kwargs)
            return output
        one = self._folded_cache(kv_cache)
        q = folded(query[:rows], ways)
        out = torch.empty_like(q)
        attend_one: Any = super(Ruled, self.one_head).forward  # type: ignore[misc]
        attend_one(layer, q, key, value, one, metadata, out)
        output[:rows] = unfolded(out, ways).view(output[:rows].shape)
        return output

    def _folded_cache(self, kv_cache: Tensor) -> Tensor:
        """The cache as pages of one head; made sure of once that it can be."""
        if self.one_head is None:
            if not kv_cache.is_contiguous():
                raise InputError(
                    "pages hold the heads of a token side by side: they share a choice",
                    where="attention policy", hint="share=layer, or VLLM_KV_CACHE_LAYOUT=HND",
                )  # fmt: skip
            if self.sinks is not None or self.alibi_slopes is not None:
                raise InputError("heads with logits of their own share one choice of pages",
                                 where="attention policy", hint="share=layer")  # fmt: skip
            self.one_head = copy.copy(self)
            self.one_head.num_heads = self.num_heads // self.num_kv_heads
            self.one_head.num_kv_heads = 1
        blocks, heads, page, width = kv_cache.shape
        return kv_cache.view(blocks * heads, 1, page, width)

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """As the backend's; then what rules that select keep of the pages."""
        run: Any = super()
        run.do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)
        ruled = self._rules(layer)
        if ruled is not None and ruled.choosers:
            ruled.written(key, slot_mapping, kv_cache.shape[0], kv_cache.shape[2])
