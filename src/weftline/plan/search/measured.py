"""What the user's own machine was measured to take, in the place of what is predicted.

A layout that was measured takes what it took. Others of that machine take what is predicted times
the median of measured over predicted there. Nothing of it touches shipped chips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from weftline.catalog.machines import HERE, machine, machines
from weftline.model import Model
from weftline.model.key import model_key
from weftline.plan.step.constants import FloatArray
from weftline.spec import MEASURED_HERE, Cluster, Job, Layout, Measurement
from weftline.spec.measurement import newest

__all__ = ["KNOWN_ERROR", "MEASURED_BAND", "Measured", "measured_on"]

KNOWN_ERROR: Final = 0.06
"""Standard deviation of ln(step / measured) of a layout that was measured: 90 % within 10 %."""
MEASURED_BAND: Final = 0.10
"""Half width of the band around the memory of a layout that was measured, as a share of it: nine
layouts were off by 3.3 % in the mean and 4.6 % at worst, which is few to narrow it further
(docs/benchmarks/train_xeon_2core_202611.md)."""
_LEARNT_ERROR: Final = 0.20
"""The same of other layouts on the machine, whose predictions are scaled; assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of layouts on one machine for one job."""

    name: str
    by_layout: Mapping[Layout, Measurement]
    """Of this model at this length."""

    def of(self, layout: Layout) -> Measurement | None:
        """That of a layout, however its ranks are ordered."""
        return self.by_layout.get(layout)

    def ratio(self, predicted: Callable[[Layout], float | None]) -> tuple[float, int]:
        """(median of measured over predicted, of how many layouts); 1 of none."""
        found = [
            m.step_s / seconds for layout, m in self.by_layout.items()
            if (seconds := predicted(layout)) is not None
        ]  # fmt: skip
        return (float(np.median(found)), len(found)) if found else (1.0, 0)

    def corrected(self, seconds: FloatArray, layouts: list[Layout]) -> tuple[FloatArray, int]:
        """Seconds of layouts as measured or scaled, and of how many the scale is the median."""
        at = {layout: i for i, layout in enumerate(layouts)}

        def predicted(layout: Layout) -> float | None:
            return float(seconds[at[layout]]) if layout in at else None

        ratio, count = self.ratio(predicted)
        out = seconds * ratio
        for layout, found in self.by_layout.items():
            if layout in at:
                out[at[layout]] = found.step_s
        return out, count

    @property
    def error(self) -> float:
        """Standard deviation of ln of what is scaled."""
        return _LEARNT_ERROR

    def basis(self, count: int) -> str:
        """What scaled predictions rest on."""
        scaled = f"scaled by {count} measured layouts" if count else "the rest assumed"
        where = MEASURED_HERE if self.name == HERE else f"measured on {self.name}"
        return f"{where}: products and attention; {scaled}"


def measured_on(model: Model, job: Job, cluster: Cluster) -> Measured | None:
    """What the user's machine was measured to take for this job; None for any other chip."""
    if cluster.accelerator not in machines():
        return None
    key = model_key(model)
    groups: dict[Layout, list[Measurement]] = {}
    for found in machine(cluster.accelerator).measurements:
        if found.about(key, found.layout, job.seq_len) and found.layout.chips == cluster.chips:
            groups.setdefault(found.layout, []).append(found)
    best = {layout: m for layout, several in groups.items() if (m := newest(several)) is not None}
    return Measured(name=cluster.accelerator, by_layout=best)
