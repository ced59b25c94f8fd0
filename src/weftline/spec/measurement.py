"""What was measured of one layout of one model on one machine: what plans learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from weftline.spec.layout import Layout

__all__ = ["MEASURED_HERE", "Measurement", "newest"]

MEASURED_HERE: Final = "measured here"
"""How a basis begins that rests on the user's own machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Seconds and bytes of a step, and under what they were taken."""

    machine: str
    """Name of the machine in the user's catalogue."""
    model: str
    """What its config is called; ``model_key`` tells it from others."""
    model_key: str
    """Of its operators (:mod:`weftline.model.key`): a model by any name."""
    layout: Layout
    seq_len: int
    dtype: Literal["fp32", "bf16"]
    """Of the products."""
    source: Literal["operators", "run"]
    """``operators``: the plan's operators and its layout with few layers, timed one by one.
    ``run``: the steps of a run."""
    parts_s: Mapping[str, float]
    """Seconds of a step by part; they add up to it."""
    memory_bytes: float
    """Most that the fullest rank holds."""
    samples: int
    """Steps of the run, or rounds in which everything was timed."""
    spread: float
    """90th over 10th percentile of what was timed again and again."""
    date: str
    """Day, ISO 8601."""
    reference_s: float | None = None
    """Seconds of a reference product beside it: how fast the machine was then."""
    loud: tuple[str, ...] = field(default=())
    """Why the machine counted as loud; empty where it was quiet."""

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return sum(self.parts_s.values())

    @property
    def basis(self) -> str:
        """What a number that rests on it says of itself."""
        what = "run of {} steps" if self.source == "run" else "its operators, {} rounds"
        loud = ", machine loud" if self.loud else ""
        where = MEASURED_HERE if self.machine == "here" else f"measured on {self.machine}"
        return f"{where} {self.date}: {what.format(self.samples)}{loud}"

    def about(self, model_key: str, layout: Layout, seq_len: int) -> bool:
        """Whether it is about this very model and layout."""
        return (self.model_key, self.layout, self.seq_len) == (model_key, layout, seq_len)


def newest(found: Sequence[Measurement]) -> Measurement | None:
    """The one to believe of several of one layout: of a run before of operators, then the last."""
    return max(found, key=lambda m: (m.source == "run", m.date), default=None)
