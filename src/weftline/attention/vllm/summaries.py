"""What is kept of the keys of each page, by kv head, for rules that choose by scores.

A summary belongs to the page of the cache, so that pages which the prefix cache finds keep theirs.
A page that is written from its first slot on is a new page.
"""

from __future__ import annotations

from typing import Any

import torch

from weftline.attention.pages import Pieces
from weftline.spec.attention import TopK

__all__ = ["Summaries"]

_FAR = 1e30
Tensor = torch.Tensor


class Summaries:
    """Minima and maxima, or sums and counts, of one layer's pages: [pages, kv_heads, dim]."""

    def __init__(
        self, pages: int, kv_heads: int, dim: int, *, mean: bool, device: Any = None
    ) -> None:
        shape = (pages, kv_heads, dim)
        self.mean = mean
        self.high = torch.zeros(shape, device=device)
        self.low = torch.zeros(pages if mean else shape, device=device)  # counts, where means

    def write(self, keys: Tensor, slots: Tensor, page: int) -> None:
        """Take in ``keys`` [tokens, kv_heads, dim] written to ``slots`` (below 0: none)."""
        if bool((slots < 0).any()):
            keys, slots = keys[: len(slots)][slots >= 0], slots[slots >= 0]
        at = torch.div(slots, page, rounding_mode="floor")
        new = at[slots % page == 0]
        values = keys[: len(slots)].float()
        if self.mean:
            self.high[new], self.low[new] = 0.0, 0.0
            self.high.index_add_(0, at, values)
            self.low.index_add_(0, at, torch.ones_like(at, dtype=torch.float32))
            return
        self.high[new], self.low[new] = -_FAR, _FAR
        wide = at.long()[:, None, None].expand_as(values)
        self.high.scatter_reduce_(0, wide, values, "amax")
        self.low.scatter_reduce_(0, wide, values, "amin")

    def score(self, rule: TopK, pieces: Pieces, query: Tensor, tables: Tensor) -> Any:
        """[pieces, heads, blocks] for ``query`` [rows, heads, dim], ``tables`` [requests, width].

        The bound of a block (the product with its mean), summed over the queries of a piece and the
        query heads of each kv head: a choice for all of them.
        """
        up, down = self._summed(pieces, query)
        per = rule.block // pieces.page
        widest = int(pieces.own.max(initial=0)) + 1
        count = -(-widest // per)
        found = torch.full((len(pieces), up.shape[1], count), -_FAR, device=query.device)
        for request in dict.fromkeys(pieces.request.tolist()):
            mine = torch.as_tensor(pieces.request == request, device=query.device)
            pages = tables[request, : int(pieces.own[pieces.request == request].max()) + 1].long()
            high, low = self._blocks(pages, per)
            rated = torch.einsum("mkd,pkd->mkp", up[mine], high)
            if low is not None:
                rated += torch.einsum("mkd,pkd->mkp", down[mine], low)
            found[mine, :, : rated.shape[2]] = rated
        if rule.share == "layer":
            found = found.sum(dim=1, keepdim=True)
        return found.cpu().numpy()

    def _summed(self, pieces: Pieces, query: Tensor) -> tuple[Tensor, Tensor]:
        """Queries of each piece by kv head: (positive, negative) parts, or (sum, sum) for means."""
        kv_heads = self.high.shape[1]
        q = query.float().view(len(query), kv_heads, -1, query.shape[-1])
        parts = (q, q) if self.mean else (q.clamp(min=0), q.clamp(max=0))
        rows = torch.as_tensor(pieces.queries, device=query.device)
        owner = torch.repeat_interleave(torch.arange(len(pieces), device=query.device), rows)
        first = torch.as_tensor(pieces.row, device=query.device)
        begun = torch.repeat_interleave(torch.cumsum(rows, 0) - rows, rows)
        row = first[owner] + torch.arange(len(owner), device=query.device) - begun
        shape = (len(pieces), kv_heads, query.shape[-1])
        made = []
        for part in parts[:1] if self.mean else parts:
            total = torch.zeros(shape, device=query.device)
            made.append(total.index_add_(0, owner, part.sum(dim=2)[row]))
        return made[0], made[-1]

    def _blocks(self, pages: Tensor, per: int) -> tuple[Tensor, Tensor | None]:
        """Summaries of the blocks that ``pages`` of one request make up, ``per`` each."""
        high, low = self.high[pages], self.low[pages]
        if self.mean:
            high, low = _grouped(high, per).sum(1), _grouped(low, per).sum(1)
            return high / low.clamp(min=1.0)[:, None, None], None
        if per > 1:
            high, low = _grouped(high, per, -_FAR).amax(1), _grouped(low, per, _FAR).amin(1)
        return high, low


def _grouped(values: Tensor, per: int, fill: float = 0.0) -> Tensor:
    """[pages, ...] -> [blocks, per, ...], the last block filled up."""
    short = -len(values) % per
    if short:
        rest = torch.full((short, *values.shape[1:]), fill, device=values.device)
        values = torch.cat([values, rest])
    return values.view(-1, per, *values.shape[1:])
