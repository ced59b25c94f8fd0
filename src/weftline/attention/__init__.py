"""What an attention policy keeps: pages for a server, masks for a trainer, costs for a planner."""

from weftline.attention.costs import (
    density,
    index_bytes,
    index_flops,
    paged_density,
    paged_seen,
)
from weftline.attention.masks import block_mask, mask, mask_mod
from weftline.attention.pages import Kept, Pieces, chosen_blocks, cut, kept_pages
from weftline.attention.rewrite import VirtualRequests, rewrite, virtual_requests

__all__ = [
    "Kept",
    "Pieces",
    "VirtualRequests",
    "block_mask",
    "chosen_blocks",
    "cut",
    "density",
    "index_bytes",
    "index_flops",
    "kept_pages",
    "mask",
    "mask_mod",
    "paged_density",
    "paged_seen",
    "rewrite",
    "virtual_requests",
]
