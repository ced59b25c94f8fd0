"""How long a prompt takes under a policy, from what an engine took without one.

Kernels timed alone come out 8 to 24 % below what they take inside an engine, so the rates are taken
inside: attention of dense prompts by pairs of query and key, everything else by token, and scoring
by its own prompt. What a policy then changes is counted: pages kept, blocks scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from weftline.attention.costs import index_flops, paged_density
from weftline.spec.attention import DENSE, AttentionPolicy, Rule
from weftline.spec.attention_counts import total

__all__ = ["EngineRates", "PromptTime", "prompt_s", "rates_of", "slowness"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTime:
    """One prompt as an engine took it, seconds."""

    tokens: int
    total_s: float
    attention_s: float
    """Of it, inside attention."""
    policy: AttentionPolicy = field(default_factory=AttentionPolicy)


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
    rates = EngineRates(layers=layers, page=page, pair_s=pair_s, token_s=token_s)
    chosen = [t for t in times if _scored(t.policy, t.tokens, layers) > 0]
    if not chosen:
        return rates
    more = sum(t.attention_s - pair_s * _pairs(t.policy, t.tokens, layers, page) for t in chosen)
    units = sum(_scored(t.policy, t.tokens, layers) for t in chosen)
    return EngineRates(layers=layers, page=page, pair_s=pair_s, token_s=token_s,
                       index_s=max(more, 0.0) / units)  # fmt: skip


def slowness(rates: EngineRates, row: PromptTime) -> float:
    """How slow the machine was during ``row``, by what no policy touches: 1 as for the rates."""
    return (row.total_s - row.attention_s) / (rates.token_s * row.tokens)


def prompt_s(rates: EngineRates, policy: AttentionPolicy, tokens: int) -> float:
    """Seconds of a prompt of ``tokens`` under ``policy``."""
    attention = rates.pair_s * _pairs(policy, tokens, rates.layers, rates.page)
    index = rates.index_s * _scored(policy, tokens, rates.layers)
    return attention + index + rates.token_s * tokens
