"""What can go wrong, in three families that the exit code tells apart.

WeftlineError
├── InputError              (exit 2)  the user wrote something that cannot be: what, where, hint
│   ├── UnknownNameError              a model, chip, fabric or field that does not exist
│   └── InputErrors                   all mistakes of one file, reported together
├── NoFeasiblePlanError     (exit 3)  the question is fine and has no answer: the nearest miss
├── ThresholdCrossedError   (exit 4)  the answer crosses a limit the user set
├── OfflineError            (exit 1)  something outside was needed and could not be reached
└── InternalError           (exit 1)  weftline contradicts itself: a bug to report
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "InputError",
    "InputErrors",
    "InternalError",
    "NoFeasiblePlanError",
    "OfflineError",
    "ThresholdCrossedError",
    "UnknownNameError",
    "WeftlineError",
    "nearest_names",
]


class WeftlineError(Exception):
    """Base of all errors weftline raises on purpose.

    ``where`` is a place the user can go to (``job.yaml:6``, ``--budget``), ``hint`` what to do.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def render(self) -> str:
        """The message as a user sees it, without colour: ``error: where: what`` and the hint."""
        place = f"{self.where}: " if self.where else ""
        text = f"error: {place}{self.what}"
        return f"{text}\n\nhint: {self.hint}" if self.hint else text

    def __str__(self) -> str:
        return self.render().removeprefix("error: ")


class InputError(WeftlineError):
    """The user wrote something that cannot be."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name that does not exist, with the nearest ones that do."""

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        near = nearest_names(name, known)
        said = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else None
        parts = [p for p in (said, hint) if p]
        super().__init__(
            f"unknown {kind} `{name}`", where=where, hint=" ".join(parts) if parts else None
        )
        self.name = name
        self.nearest = near


class InputErrors(InputError):  # noqa: N818  (several of them)
    """Several mistakes at once."""

    def __init__(self, errors: Sequence[InputError]) -> None:
        super().__init__(f"{len(errors)} mistakes")
        self.errors = tuple(errors)

    def render(self) -> str:
        return "\n".join(e.render() for e in self.errors)


class NoFeasiblePlanError(WeftlineError):
    """Nothing fits: ``nearest`` says what came closest and what limits it."""

    exit_code = 3

    def __init__(
        self,
        what: str,
        *,
        nearest: str | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.nearest = nearest

    def render(self) -> str:
        text = f"no feasible plan: {self.what}"
        if self.nearest:
            text += f"\nnearest miss: {self.nearest}"
        return f"{text}\n\nhint: {self.hint}" if self.hint else text


class ThresholdCrossedError(WeftlineError):
    """The answer crosses a limit that the user set."""

    exit_code = 4


class OfflineError(WeftlineError):
    """Something outside this machine was needed and could not be reached."""


class InternalError(WeftlineError):
    """weftline contradicts itself."""


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """The known names most like ``name``, best first; none if nothing is close."""
    by_lower = {k.lower(): k for k in known}
    wanted = name.lower()
    near = difflib.get_close_matches(wanted, by_lower, n=count, cutoff=0.6)
    inside = [k for k in by_lower if len(wanted) >= 3 and (wanted in k) and k not in near]
    return tuple(by_lower[k] for k in [*near, *sorted(inside, key=len)][:count])
