"""Rows of quality with speeds beside them, from prompts that an engine was timed with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from weftline.attention.forecast import EngineRates, PromptTime, prompt_s, rates_of
from weftline.errors import InputError
from weftline.spec.attention import AttentionPolicy
from weftline.spec.attention_text import parse_policy, policy_text
from weftline.spec.quality import QualityRow

__all__ = ["Timed", "fitted_rows", "read_times", "with_speeds"]


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


def read_times(path: Path) -> Timed:
    """Rows of bench/vllm_policies.py, one JSON object a line. Raises InputError."""
    try:
        raw = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        rows = [
            PromptTime(tokens=int(r["tokens"]), total_s=float(r["ttft_cpu_s"]),
                       attention_s=float(r["ttft_attention_cpu_s"]),
                       policy=parse_policy(r["policy"]))
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


def with_speeds(rows: Sequence[QualityRow], path: Path) -> tuple[QualityRow, ...]:
    """``rows`` with the speed of the longest timed prompt under their policies."""
    timed = read_times(path)
    dense = AttentionPolicy()
    whole, known = timed.predicted_s(dense, timed.longest), timed.seconds(dense, timed.longest)
    found = []
    for row in rows:
        policy = parse_policy(row.policy)
        own = timed.seconds(policy, timed.longest)
        # Of rules that differ by layer, few layers that were timed say nothing of all of them.
        said = None if policy.layers else whole / timed.predicted_s(policy, timed.longest)
        found.append(replace(
            row, predicted_speed=said,
            measured_speed=None if own is None or known is None else known / own,
            measured_with=f"{timed.longest:,} tokens, {timed.about}",
            policy=policy_text(policy),
        ))  # fmt: skip
    return tuple(found)
