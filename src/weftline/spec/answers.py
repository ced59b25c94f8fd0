"""Kinds of answers: what ``--json`` prints says which it is and in which format, and is told by it.

Every answer begins with ``kind`` and ``format``. A format's number goes up when a field changes its
meaning or goes; fields that are added leave it as it is. What versions before printed had neither:
:func:`kind_of` tells those by the fields they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

__all__ = ["KINDS", "AnswerKind", "kind_of", "stamped"]

AnswerKind = Literal[
    "train", "serve", "lifecycle", "codesign", "portfolio", "spot", "policy",
    "policy-verified", "rules", "audit",
    "quality", "memory", "model-count", "fits", "what-if", "serve-what-if", "difference",
    "collective", "synthesis", "placement", "packing", "fabric", "schedule", "schedule-check",
    "schedule-time", "schedule-export", "serving-simulation",
    "run", "dry-run", "comparison", "served", "served-comparison", "prepared", "preflight",
    "export", "export-check", "measurement", "machine", "engine-steps", "calibration",
    "calibration-forgotten", "training-score", "memory-score", "collective-score", "serving-score",
    "burst-save", "burst-import", "burst-list", "burst-checkpoint", "burst-verify",
    "burst-restore", "burst-gc", "burst-hold", "burst-export", "burst-drain", "burst-serve",
    "burst-bench", "burst-advice", "file-system",
    "catalog-list", "catalog-entry", "catalog-comparison", "catalog-findings", "catalog-refresh",
    "doctor",
]  # fmt: skip
KINDS: Final[tuple[AnswerKind, ...]] = get_args(AnswerKind)
_FORMAT: Final = 1
"""Of all answers but those that keep a number of their own: plans, lifecycles, machines."""

_BEFORE: Final[tuple[tuple[frozenset[str], AnswerKind], ...]] = (
    (frozenset({"collective", "network", "algorithm", "time_s"}), "collective"),
    (frozenset({"burst", "blocking", "forms_s", "job"}), "burst-advice"),
    (frozenset({"model", "layout", "rows", "explains"}), "comparison"),
    (frozenset({"audited", "hypothetical"}), "audit"),
    (frozenset({"rulings", "plan_sha256"}), "policy"),
    (frozenset({"policies", "bought", "expected_usd"}), "portfolio"),
    (frozenset({"where", "checkpoints", "damaged"}), "burst-list"),
)
"""Fields that only the answers of one kind had, before answers said their kind."""


def stamped(kind: AnswerKind, plain: Any) -> dict[str, Any]:
    """The fields of an answer after its ``kind`` and ``format``; a list stands in ``rows``.

    Raises ValueError where the answer has a field of that name which says something else.
    """
    fields: Mapping[str, Any] = plain if isinstance(plain, Mapping) else {"rows": plain}
    number = fields.get("format", _FORMAT)
    if fields.get("kind", kind) != kind or not isinstance(number, int):
        raise ValueError(f"an answer of kind {kind} has another `kind` or `format`")
    rest = {name: value for name, value in fields.items() if name not in ("kind", "format")}
    return {"kind": kind, "format": number, **rest}


def kind_of(answer: Mapping[str, Any] | Sequence[Any]) -> AnswerKind | None:
    """What an answer is of; None where no version wrote such a one."""
    if not isinstance(answer, Mapping):
        first = answer[0] if answer and isinstance(answer[0], Mapping) else {}
        return "quality" if {"policy", "perplexity", "needles"} <= first.keys() else None
    said = answer.get("kind")
    if said == "policy decision":  # the record of a decision, signed or not
        return "policy"
    if said is not None:
        return next((kind for kind in KINDS if kind == said), None)
    if "format" in answer and "layout" in answer:
        return "train"
    return next((kind for names, kind in _BEFORE if names <= answer.keys()), None)
