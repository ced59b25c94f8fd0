"""Attention of any transformers model under a policy, by an exact mask.

Registered with transformers as an attention function, so that its own modules run. The first part
of a sequence is read as a prompt, in pieces as a server reads it; from ``prompt`` on each query
chooses for itself, as it does when decoding. Layers that the model limits itself keep their mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from weftline.attention.masks import mask
from weftline.attention.pages import chosen_blocks
from weftline.spec.attention import AttentionPolicy, Rule, TopK, Union

__all__ = ["NAME", "Under", "under"]

NAME = "weftline_policy"
Tensor = torch.Tensor


@dataclass(slots=True)
class Under:
    """The policy that attention follows now, and what its layers looked at."""

    policy: AttentionPolicy
    prompt: int
    """Tokens that are read as a prompt."""
    seen: list[float] = field(default_factory=list)
    """Share of the entries of full attention, a layer each."""


_NOW: list[Under] = []


@contextmanager
def under(model: Any, policy: AttentionPolicy, prompt: int) -> Iterator[Under]:
    """Within, ``model`` (of transformers) attends as ``policy`` says."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    before = model.config._attn_implementation
    _NOW.append(Under(policy, prompt))
    model.set_attn_implementation(NAME)
    try:
        yield _NOW[-1]
    finally:
        model.set_attn_implementation(before)
        _NOW.pop()


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """As transformers calls it: [batch, heads, tokens, dim]; one sequence, from its first token."""
    now, tokens = _NOW[-1], query.shape[2]
    own = more.get("sliding_window") or getattr(module, "sliding_window", None)
    allowed = attention_mask
    if not own:
        kept = _kept(now, module.layer_idx, query[0], key[0])
        group = query.shape[1] // kept.shape[0]
        allowed = kept.repeat_interleave(group, 0)[None] if kept.shape[0] > 1 else kept[None]
        allowed = allowed if attention_mask is None else allowed & attention_mask[..., :tokens]
    causal = tokens * (tokens + 1) / 2
    heads = 1 if allowed is None else allowed.shape[1]
    now.seen.append(1.0 if allowed is None else float(allowed.sum()) / heads / causal)
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=allowed, is_causal=allowed is None, scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out.transpose(1, 2).contiguous(), None


def _kept(now: Under, layer: int, query: Tensor, key: Tensor) -> Tensor:
    """[1 or kv heads, tokens, tokens] what each query sees."""
    tokens, prompt = query.shape[1], min(now.prompt, query.shape[1])
    parts = []
    for phase, rows in (("prefill", slice(0, prompt)), ("decode", slice(prompt, tokens))):
        rule = now.policy.rule(layer, phase)  # type: ignore[arg-type]
        rule = rule if phase == "prefill" else _one_by_one(rule)
        if rows.start < rows.stop:
            parts.append(_rows(rule, query[:, rows], key, rows.start))
    heads = max(part.shape[0] for part in parts)
    return torch.cat([part.expand(heads, -1, -1) for part in parts], dim=1).to(query.device)


def _one_by_one(rule: Rule) -> Rule:
    """The same rule where every query chooses for itself."""
    if isinstance(rule, TopK):
        return replace(rule, queries=1)
    if isinstance(rule, Union) and rule.selects is not None:
        return Union(rules=tuple(_one_by_one(each) for each in rule.rules))
    return rule


def _rows(rule: Rule, query: Tensor, key: Tensor, first: int) -> Tensor:
    """[1 or kv heads, queries, keys] for queries from ``first`` on."""
    tokens = key.shape[1]
    chooser = rule.selects
    if chooser is None:
        return torch.from_numpy(mask(rule, tokens)[:, first : first + query.shape[1]].copy())
    at = torch.arange(first, first + query.shape[1])
    begun = torch.unique(at // chooser.piece) * chooser.piece
    scores = _scores(chooser, query, key, first)
    kept = chosen_blocks(rule, begun.numpy(), scores)  # [pieces, heads, blocks]
    by_piece = torch.from_numpy(np.ascontiguousarray(kept.transpose(1, 0, 2)))
    piece = at // chooser.piece - int(begun[0]) // chooser.piece
    keys = torch.arange(tokens)
    seen = by_piece[:, piece][:, :, keys // chooser.block]
    return seen & (keys <= at[:, None])


def _scores(rule: TopK, query: Tensor, key: Tensor, first: int) -> Any:
    """[pieces, heads, blocks] as the vLLM plugin's summaries rate them."""
    kv_heads, tokens, dim = key.shape
    short = -tokens % rule.block
    padded = torch.nn.functional.pad(key.float(), (0, 0, 0, short))
    blocks = padded.view(kv_heads, -1, rule.block, dim)
    q = query.float().view(kv_heads, -1, query.shape[1], dim)
    piece = torch.arange(first, first + query.shape[1], device=query.device) // rule.piece
    piece = piece - piece[0]
    if rule.score == "mean":
        rated = torch.einsum("kmd,kbd->mkb", _by_piece(q, piece), blocks.mean(2))
    else:
        inside = torch.arange(padded.shape[1], device=key.device).view(-1, rule.block) < tokens
        far = torch.finfo(torch.float32).max
        high = blocks.masked_fill(~inside[None, :, :, None], -far).amax(2)
        low = blocks.masked_fill(~inside[None, :, :, None], far).amin(2)
        rated = torch.einsum("kmd,kbd->mkb", _by_piece(q.clamp(min=0), piece), high)
        rated += torch.einsum("kmd,kbd->mkb", _by_piece(q.clamp(max=0), piece), low)
    if rule.share == "layer":
        rated = rated.sum(1, keepdim=True)
    return rated.double().cpu().numpy()


def _by_piece(q: Tensor, piece: Tensor) -> Tensor:
    """[kv heads, group, queries, dim] -> [kv heads, pieces, dim], summed."""
    rows = q.sum(1)
    out = torch.zeros((rows.shape[0], int(piece[-1]) + 1, rows.shape[2]), device=q.device)
    return out.index_add_(1, piece, rows)
