"""How long a prompt takes under a policy, from what an engine took without one.

Kernels timed alone come out 8 to 24 % below what they take inside an engine, so the rates are taken
inside: attention of dense prompts by pairs of query and key, everything else by token, and scoring
by its own prompt. What a policy then changes is counted: pages kept, blocks scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from weftline.attention.costs import index_flops, paged_density
from weftline.spec.attention import DENSE, AttentionPolicy, Rule
from weftline.spec.attention_counts import total

__all__ = ["EngineRates", "PromptTime", "prompt_s", "rates_of", "slowness", "step_s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTime:
    """One prompt as an engine took it, seconds."""

    tokens: int
    total_s: float
    attention_s: float
    """Of it, inside attention."""
    policy: AttentionPolicy = field(default_factory=AttentionPolicy)
    step_s: float = 0.0
    """A token after it; 0 where that was not timed."""
    step_attention_s: float = 0.0
    """Of that, inside attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRates:
    """Of one model on one engine and machine."""

    layers: int
    page: int
    pair_s: float
    """Attention of one query and key, one layer, all heads."""
    token_s: float
    """Everything else, a token of a prompt."""
    index_s: float = 0.0
    """Scoring, a block and piece of queries, one layer."""
    step_s: float = 0.0
    """A token after a prompt but for attention; 0 where steps were not timed."""
    step_layer_s: float = 0.0
    """Its attention in one layer, but for keys."""
    key_s: float = 0.0
    """A key that it reads, one layer."""
    choose_s: float = 0.0
    """Choosing for it, one layer that selects."""


def _index_units(rule: Rule, tokens: int) -> float:
    """Pairs of a piece and a block that are scored."""
    if rule.selects is None:
        return 0.0
    return float(index_flops(rule, tokens, kv_heads=1, dim=1))


def _pairs(policy: AttentionPolicy, tokens: int, layers: int, page: int) -> float:
    whole = float(total(DENSE, tokens))
    rules = (policy.rule(layer, "prefill") for layer in range(layers))
    return whole * sum(paged_density(rule, tokens, page=page) for rule in rules)


def _scored(policy: AttentionPolicy, tokens: int, layers: int) -> float:
    return sum(_index_units(policy.rule(layer, "prefill"), tokens) for layer in range(layers))


def rates_of(times: Sequence[PromptTime], *, layers: int, page: int) -> EngineRates:
    """The rates that dense prompts, and one under a policy that selects, were taken at."""
    dense = [t for t in times if t.policy.is_dense]
    pair_s = sum(t.attention_s for t in dense) / sum(
        _pairs(t.policy, t.tokens, layers, page) for t in dense
    )
    token_s = sum(t.total_s - t.attention_s for t in dense) / sum(t.tokens for t in dense)
    rates = EngineRates(layers=layers, page=page, pair_s=pair_s, token_s=token_s,
                        **_step_rates(dense, layers))  # fmt: skip
    chosen = [t for t in times if _scored(t.policy, t.tokens, layers) > 0]
    if not chosen:
        return rates
    more = sum(t.attention_s - pair_s * _pairs(t.policy, t.tokens, layers, page) for t in chosen)
    units = sum(_scored(t.policy, t.tokens, layers) for t in chosen)
    late = [t for t in chosen if t.step_s and _choosing(t.policy, layers)]
    steps = sum(t.step_attention_s - _step_attention_s(rates, t.policy, t.tokens) for t in late)
    each = sum(_choosing(t.policy, layers) for t in late)
    return replace(rates, index_s=max(more, 0.0) / units,
                   choose_s=max(steps, 0.0) / each if each else 0.0)  # fmt: skip


def _step_rates(dense: Sequence[PromptTime], layers: int) -> dict[str, float]:
    """What a token after a dense prompt takes: a line over the keys it reads."""
    timed = [t for t in dense if t.step_s]
    if not timed:
        return {}
    keys = np.asarray([t.tokens + 1 for t in timed], np.float64)
    took = np.asarray([t.step_attention_s for t in timed]) / layers
    slope = 0.0
    if len(timed) > 1:
        slope = max(0.0, float(np.polyfit(keys, took, 1)[0]))
    rest = float(np.median([t.step_s - t.step_attention_s for t in timed]))
    return {"step_s": rest, "key_s": slope,
            "step_layer_s": max(0.0, float((took - slope * keys).mean()))}  # fmt: skip


def _choosing(policy: AttentionPolicy, layers: int) -> int:
    return sum(policy.rule(layer, "decode").selects is not None for layer in range(layers))


def _step_attention_s(rates: EngineRates, policy: AttentionPolicy, context: int) -> float:
    rules = (policy.rule(layer, "decode") for layer in range(rates.layers))
    keys = (context + 1) * sum(paged_density(r, 1, context, page=rates.page) for r in rules)
    fixed = rates.layers * rates.step_layer_s + rates.choose_s * _choosing(policy, rates.layers)
    return fixed + rates.key_s * keys


def step_s(rates: EngineRates, policy: AttentionPolicy, context: int) -> float:
    """Seconds of a token after ``context`` others under ``policy``."""
    return rates.step_s + _step_attention_s(rates, policy, context)


def slowness(rates: EngineRates, row: PromptTime) -> float:
    """How slow the machine was during ``row``, by what no policy touches: 1 as for the rates."""
    return (row.total_s - row.attention_s) / (rates.token_s * row.tokens)


def prompt_s(rates: EngineRates, policy: AttentionPolicy, tokens: int) -> float:
    """Seconds of a prompt of ``tokens`` under ``policy``."""
    attention = rates.pair_s * _pairs(policy, tokens, rates.layers, rates.page)
    index = rates.index_s * _scored(policy, tokens, rates.layers)
    return attention + index + rates.token_s * tokens
