"""Texts with facts hidden in them, and questions about the facts at their end.

The prose is Python's own reference (``pydoc_data.topics``), which every installation has: its words
depend on the version of Python, which a row's reader has to know to make the same text.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Text", "made_text"]

NAMES = ("Alpha", "Bravo", "Carol", "Delta", "Eagle", "Frank", "Grace", "Hotel")
_FACT = "\n\nRemember this: the secret code of {name} is {code}.\n\n"
_QUESTION = "\nAs said above, the secret code of {name} is "
Encode = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Token ids, and what each stretch of them is for."""

    ids: list[int]
    prose: list[bool]
    """Whether a token belongs to the prose: what perplexity is taken of."""
    answers: list[tuple[int, int]]
    """(first token, tokens) of each code that is asked for."""


def _prose(document: int, encode: Encode, tokens: int) -> list[int]:
    """``tokens`` tokens of prose from another place of the reference for each document."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    at = document * 17 % len(names)
    found: list[int] = []
    while len(found) < tokens:
        found += encode(topics[names[at % len(names)]])
        at += 1
    return found[:tokens]


def made_text(encode: Encode, tokens: int, *, document: int, seed: int) -> Text:
    """A text of ``tokens`` tokens: one fact at each of eight depths, then eight questions.

    ``document`` chooses the prose, ``seed`` the codes and who is asked after in which order.
    """
    draw = random.Random(f"{seed}-{document}")  # noqa: S311  (no secret)
    codes = {name: f"{draw.randrange(10_000, 100_000)}" for name in NAMES}
    facts = [encode(_FACT.format(name=name, code=codes[name])) for name in NAMES]
    order = draw.sample(NAMES, len(NAMES))
    asked = [(encode(_QUESTION.format(name=name)), encode(codes[name])) for name in order]
    room = tokens - sum(map(len, facts)) - sum(len(q) + len(a) for q, a in asked)
    if room < len(NAMES) + 1:
        raise ValueError(f"{tokens} tokens leave no room for prose")
    body = _prose(document, encode, room)
    ids: list[int] = []
    prose: list[bool] = []
    answers: list[tuple[int, int]] = []

    def put(part: list[int], *, counts: bool) -> None:
        ids.extend(part)
        prose.extend([counts] * len(part))

    each = room // (len(facts) + 1)
    for i, fact in enumerate(facts):
        put(body[i * each : (i + 1) * each], counts=True)
        put(fact, counts=False)
    put(body[len(facts) * each :], counts=True)
    for question, answer in asked:
        put(question, counts=False)
        answers.append((len(ids), len(answer)))
        put(answer, counts=False)
    return Text(ids=ids, prose=prose, answers=answers)
