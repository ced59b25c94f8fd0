"""Rows of quality with speeds beside them, from prompts that an engine was timed with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from weftline.attention.forecast import EngineRates, PromptTime, prompt_s, rates_of, step_s
from weftline.errors import InputError
from weftline.spec.attention import AttentionPolicy
from weftline.spec.attention_text import parse_policy, policy_text
from weftline.spec.quality import QualityRow

__all__ = ["Timed", "fitted_rows", "read_times", "timed_of", "with_speeds"]


class Timed:
    """Prompts of one engine: rates from dense ones and one that selects, and all as measured."""

    def __init__(
        self, rows: Sequence[PromptTime], fitted: Sequence[PromptTime], rates: EngineRates,
        about: str,
    ) -> None:  # fmt: skip
        self.rows, self.fitted, self.rates, self.about = rows, fitted, rates, about
        self.longest = max(row.tokens for row in rows)

    def seconds(self, policy: AttentionPolicy, tokens: int) -> float | None:
        """As measured; None where it was not."""
        found = [r.total_s for r in self.rows if r.policy == policy and r.tokens == tokens]
        return min(found) if found else None

    def predicted_s(self, policy: AttentionPolicy, tokens: int) -> float:
        """As the rates say."""
        return prompt_s(self.rates, policy, tokens)

    def step(self, policy: AttentionPolicy, tokens: int) -> float | None:
        """Of a token after them, as measured; None where it was not."""
        found = [r.step_s for r in self.rows if r.policy == policy and r.tokens == tokens]
        return min(found, default=0.0) or None

    def predicted_step_s(self, policy: AttentionPolicy, tokens: int) -> float | None:
        """The same as the rates say."""
        return step_s(self.rates, policy, tokens) if self.rates.step_s else None


def read_times(path: Path) -> Timed:
    """Rows of bench/vllm_policies.py, one JSON object a line. Raises InputError."""
    try:
        raw = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        rows = [
            PromptTime(tokens=int(r["tokens"]), total_s=float(r["ttft_cpu_s"]),
                       attention_s=float(r["ttft_attention_cpu_s"]),
                       policy=parse_policy(r["policy"]),
                       step_s=float(r.get("step_cpu_s", 0.0)),
                       step_attention_s=float(r.get("step_attention_cpu_s", 0.0)))
            for r in raw
        ]  # fmt: skip
        layers, page = int(raw[0]["layers"]), int(raw[0]["page"])
        about = str(raw[0].get("about", ""))
    except OSError as error:
        raise InputError(error.strerror or "cannot be read", where=str(path)) from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"not rows of prompts that were timed: {error!r}", where=str(path),
                         hint="python bench/vllm_policies.py writes them") from None  # fmt: skip
    fitted = fitted_rows(rows)
    if not fitted:
        raise InputError("no prompt under full attention among them", where=str(path))
    return timed_of(rows, fitted, layers=layers, page=page, about=about)


def timed_of(
    rows: Sequence[PromptTime], fitted: Sequence[PromptTime], *, layers: int, page: int, about: str
) -> Timed:
    """All ``rows``, with the rates of those that are ``fitted``."""
    return Timed(rows, fitted, rates_of(fitted, layers=layers, page=page), about)


def fitted_rows(rows: Sequence[PromptTime]) -> list[PromptTime]:
    """Prompts that rates are taken from: dense ones but the longest (the only one too), and the
    first that is scored among the longest of those."""
    dense = [row for row in rows if row.policy.is_dense]
    most = max((row.tokens for row in rows), default=0)
    known = [row for row in dense if row.tokens < most] or dense[:1]
    if not known:
        return []
    at = max(row.tokens for row in known)
    return [*known, *[r for r in rows if r.policy.prefill.selects and r.tokens == at][:1]]


def with_speeds(rows: Sequence[QualityRow], timed: Timed) -> tuple[QualityRow, ...]:
    """``rows`` with the speed of the longest timed prompt under their policies, and after it."""
    at, dense = timed.longest, AttentionPolicy()

    def over(whole: float | None, own: float | None) -> float | None:
        return None if whole is None or own is None else whole / own

    found = []
    for row in rows:
        policy = parse_policy(row.policy)
        # Of rules that differ by layer, a model of few layers says nothing of all of them.
        told = not policy.layers or timed.seconds(policy, at) is not None
        prompt = timed.predicted_s(policy, at) if told else None
        step = timed.predicted_step_s(policy, at) if told else None
        found.append(replace(
            row, predicted_speed=over(timed.predicted_s(dense, at), prompt),
            measured_speed=over(timed.seconds(dense, at), timed.seconds(policy, at)),
            predicted_decode_speed=over(timed.predicted_step_s(dense, at), step),
            measured_decode_speed=over(timed.step(dense, at), timed.step(policy, at)),
            measured_with=f"{at:,} tokens, {timed.about}", policy=policy_text(policy),
        ))  # fmt: skip
    return tuple(found)
