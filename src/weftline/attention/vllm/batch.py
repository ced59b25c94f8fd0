"""One step's batch under the rules of one layer, as tensors that vLLM's kernels take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from weftline.attention.pages import Pieces
from weftline.attention.rewrite import VirtualRequests, virtual_requests
from weftline.attention.vllm.summaries import Summaries
from weftline.spec.attention import Rule

__all__ = ["Layer", "folded", "once", "rewritten", "unfolded"]

Tensor = torch.Tensor


class Layer:
    """The rules of one layer of an engine, and its pages' summaries where one of them selects."""

    def __init__(self, prefill: Rule, decode: Rule) -> None:
        self.prefill, self.decode = prefill, decode
        self.choosers = tuple(r.selects for r in (prefill, decode) if r.selects)
        self._summaries: dict[bool, Summaries] = {}

    def written(self, key: Tensor, slots: Tensor, pages: int, page: int) -> None:
        """Keys [tokens, kv_heads, dim] went into the cache at ``slots``."""
        for mean in {chooser.score == "mean" for chooser in self.choosers}:
            if mean not in self._summaries:
                self._summaries[mean] = Summaries(
                    pages, key.shape[1], key.shape[2], mean=mean, device=key.device
                )
            self._summaries[mean].write(key, slots, page)

    def batch(self, metadata: Any, query: Tensor, page: int) -> VirtualRequests:
        """The step's requests rewritten; without selection the same for all layers of a rule."""
        kept = metadata.__dict__.setdefault("_weftline", {})
        key = (self.prefill, self.decode)
        if key in kept and not self.choosers:
            found: VirtualRequests = kept[key]
            return found
        if "batch" not in kept:  # one copy to the host a step
            kept["batch"] = (
                metadata.query_start_loc.cpu().numpy(), metadata.seq_lens.cpu().numpy(),
                metadata.block_table.cpu().numpy(),
            )  # fmt: skip
        starts, lengths, tables = kept["batch"]

        def score(rule: Rule, pieces: Pieces) -> Any:
            chooser = rule.selects
            assert chooser is not None  # noqa: S101  (only such rules ask)
            summaries = self._summaries[chooser.score == "mean"]
            return summaries.score(chooser, pieces, query, metadata.block_table)

        made = virtual_requests(
            self.prefill, self.decode, starts=starts, lengths=lengths, tables=tables, page=page,
            score=score,
        )  # fmt: skip
        kept[key] = made
        return made


def once(metadata: Any, virtual: VirtualRequests, make: Callable[[], Any]) -> Any:
    """What ``make`` says of a rewritten batch, once for all layers that share it."""
    made = metadata._weftline.setdefault("made", {})
    if id(virtual) not in made:
        made[id(virtual)] = (virtual, make())  # held, so that its id stays its own
    return made[id(virtual)][1]


def rewritten(virtual: VirtualRequests, device: Any) -> dict[str, Any]:
    """The fields of an engine's metadata that a rewritten batch replaces."""
    return {
        "query_start_loc": torch.from_numpy(virtual.starts).to(device),
        "seq_lens": torch.from_numpy(virtual.lengths).to(device),
        "block_table": torch.from_numpy(virtual.tables).contiguous().to(device),
        "max_query_len": int((virtual.starts[1:] - virtual.starts[:-1]).max()),
        "max_seq_len": int(virtual.lengths.max()),
    }


def folded(query: Tensor, kv_heads: int) -> Tensor:
    """[rows, heads, dim] -> [kv_heads * rows, heads / kv_heads, dim]."""
    rows, heads, dim = query.shape
    split = query.view(rows, kv_heads, heads // kv_heads, dim).transpose(0, 1)
    return split.reshape(kv_heads * rows, heads // kv_heads, dim)


def unfolded(output: Tensor, kv_heads: int) -> Tensor:
    """Back from :func:`folded`."""
    rows = output.shape[0] // kv_heads
    split = output.view(kv_heads, rows, output.shape[1], output.shape[2]).transpose(0, 1)
    return split.reshape(rows, kv_heads * output.shape[1], output.shape[2])
