"""What was really measured, in the shape predictions are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from weftline.spec.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured training configuration.

    ``step_time_s`` is seconds an optimizer step. ``source`` says who measured it; ``framework``
    carries the version, because that alone is worth 30 to 70 %.
    """

    id: str
    model: str
    accelerator: str
    chips: int
    seq_len: int
    global_batch: int
    precision: str
    framework: str
    layout: Layout
    step_time_s: float
    source: str
    peak_memory_bytes: float | None = None
