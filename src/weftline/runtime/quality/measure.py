"""Policies measured on one model: perplexity, facts found, and how far its answers move."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weftline.errors import InputError
from weftline.runtime.quality.attend import under
from weftline.runtime.quality.texts import Text, made_text
from weftline.spec.attention import AttentionPolicy
from weftline.spec.attention_text import parse_policy, policy_text
from weftline.spec.quality import QualityRow

__all__ = ["Question", "loaded", "measured"]

_SAMPLED = 256
"""Positions whose whole distributions are compared."""
_ROWS = 512
"""Positions whose logits are held at once."""
Tensor = torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is measured."""

    model: Path
    """A folder of transformers' form."""
    policies: tuple[str, ...]
    """Beside full attention, which is always measured."""
    tokens: int = 2048
    """Of one text; its first half is read as a prompt, the rest as decoded."""
    documents: int = 2
    seeds: int = 1
    seed: int = 0


@dataclass(slots=True)
class _Read:
    """One text as one policy reads it."""

    nll: Tensor
    best: Tensor
    sampled: Tensor
    """[positions, vocabulary] log probabilities."""
    density: float


def measured(
    question: Question, progress: Callable[[str], None] | None = None,
    model_and_encoder: tuple[Any, Callable[[str], list[int]]] | None = None,
) -> tuple[QualityRow, ...]:  # fmt: skip
    """A row for full attention and one for each policy; the model is read if it is not given.

    Raises InputError(s) for policies that are none, and for a folder that holds no model.
    """
    policies = {"dense": AttentionPolicy()}
    for asked in question.policies:
        policy = parse_policy(asked)
        policies.setdefault(policy_text(policy), policy)
    model, encode = model_and_encoder or loaded(question.model)
    found: dict[str, list[tuple[Text, _Read]]] = {name: [] for name in policies}
    for document, seed in _texts(question):
        text = made_text(encode, question.tokens, document=document, seed=seed)
        for name, policy in policies.items():
            if progress is not None:
                progress(f"{name}: document {document}, seed {seed}")
            found[name].append((text, _read(model, text, policy)))
    dense = [read for _, read in found["dense"]]
    return tuple(_row(question, name, reads, dense) for name, reads in found.items())


def _texts(question: Question) -> Iterator[tuple[int, int]]:
    for document in range(question.documents):
        for seed in range(question.seeds):
            yield document, question.seed + seed


def loaded(folder: Path) -> tuple[Any, Callable[[str], list[int]]]:
    """The model in a folder, and its tokenizer's way from text to tokens. Raises InputError."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise InputError("no model: a folder with config.json, weights and a tokenizer is needed",
                         where=str(folder))  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = model.eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return model, lambda text: list(tokenizer.encode(text, add_special_tokens=False))


@torch.no_grad()
def _read(model: Any, text: Text, policy: AttentionPolicy) -> _Read:
    ids = torch.tensor(text.ids, device=model.device)
    with under(model, policy, prompt=len(text.ids) // 2) as now:
        hidden = model.base_model(ids[None], use_cache=False).last_hidden_state[0]
    head = model.get_output_embeddings()
    nll, best, sampled = [], [], []
    chosen = set(range(1, len(text.ids) - 1, max(1, len(text.ids) // _SAMPLED)))
    for first in range(0, len(text.ids) - 1, _ROWS):
        last = min(first + _ROWS, len(text.ids) - 1)
        logs = torch.log_softmax(head(hidden[first:last]).float(), dim=-1)
        nll.append(-logs.gather(1, ids[first + 1 : last + 1, None])[:, 0])
        best.append(logs.argmax(-1))
        rows = [i - first for i in range(first, last) if i in chosen]
        sampled.append(logs[rows])
    density = sum(now.seen) / max(len(now.seen), 1)
    return _Read(torch.cat(nll), torch.cat(best), torch.cat(sampled), density)


def _row(
    question: Question, name: str, reads: Sequence[tuple[Text, _Read]], dense: Sequence[_Read]
) -> QualityRow:
    nll, right, digits, needles, kl, moved, same = [], 0, 0, 0, [], [], []
    found = 0.0
    for (text, read), full in zip(reads, dense, strict=True):
        prose = torch.tensor(text.prose[1:], device=read.nll.device)
        nll.append(read.nll[prose])
        ids = torch.tensor(text.ids, device=read.best.device)
        for first, count in text.answers:
            hits = read.best[first - 1 : first - 1 + count] == ids[first : first + count]
            right += bool(hits.all())
            found += float(hits.sum())
            digits += count
            needles += 1
        kl.append((full.sampled.exp() * (full.sampled - read.sampled)).sum(-1))
        moved.append((full.nll - read.nll).abs())
        same.append((full.best == read.best).float())
    return QualityRow(
        model=question.model.name, policy=name,
        density=sum(read.density for _, read in reads) / len(reads), tokens=question.tokens,
        texts=len(reads), perplexity=float(torch.cat(nll).mean().exp()), needles_found=right,
        needles=needles, digits_found=found / digits, kl_nats=float(torch.cat(kl).mean()),
        logprob_difference=float(torch.cat(moved).mean()),
        same_choice=float(torch.cat(same).mean()),
        seed=question.seed, date=datetime.date.today().isoformat(),
    )  # fmt: skip
