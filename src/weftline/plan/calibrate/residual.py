"""What the physics leaves over: measured runs near a job correct its time and size its error bar.

The logarithm of measured over predicted time is a Gaussian process over runs
(:mod:`weftline.learn`): runs share what their chip, framework, framework version, model and
precision share, and near layouts are alike. Far from every measurement the correction goes to
nothing and the error bar widens to what the physics alone is worth; how far the mean is believed on
the way there, sources that were left out have decided (:mod:`weftline.plan.calibrate.trust`). The
rows behind it stand beside the constants in ``data/``; nothing is corrected that no measured row
speaks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from weftline.catalog import accelerators
from weftline.learn import Features, Kernel, Process, Shape, code_of, conformal_quantile
from weftline.model import Model
from weftline.plan.calibrate.trust import Trust, nearness
from weftline.plan.step.columns import Layouts
from weftline.plan.step.constants import FloatArray
from weftline.spec import Cluster

__all__ = [
    "LABELS",
    "NUMBERS",
    "SHAPE",
    "Z90",
    "Residual",
    "features_of",
    "kernel_from_json",
    "kernel_to_json",
    "labels_of",
    "start_kernel",
]

LABELS: Final = (
    "chip", "group", "version", "model", "chip+model", "chip+model+precision", "precision",
    "version+precision", "version+model",
)  # fmt: skip
"""What runs can share; each has a variance of its own."""
NUMBERS: Final = (
    "tp", "cp", "pp", "vp", "ep", "dp", "micro_batch", "num_micro_batches", "seq_len", "chips",
    "parameters", "layers", "hidden",
)  # fmt: skip
"""Base-2 logarithms; each has a length scale of its own."""
SHAPE: Final = Shape(labels=LABELS, numbers=NUMBERS, within=("group",))
Z90: Final = 1.6449
"""Half width of a central 90 % interval of a normal error, in standard deviations."""
MIN_ROWS_TO_WIDEN: Final = 20


def labels_of(
    model: Model, cluster: Cluster, *, group: str, version: str, precision: str
) -> tuple[str, ...]:
    """What runs of one job on one cluster share with others, in the order of ``LABELS``."""
    chip = f"{cluster.accelerator.partition('+')[0]} {_sold_bytes(cluster) / 1e9:.0f}GB"
    return (
        chip, group, version, model.name, f"{chip}|{model.name}",
        f"{chip}|{model.name}|{precision}", precision, f"{version}|{precision}",
        f"{version}|{model.name}",
    )  # fmt: skip


def _sold_bytes(cluster: Cluster) -> float:
    """Memory of a chip as its variants are named: nominal, unless a run states another size."""
    known = accelerators().get(cluster.accelerator)
    if known is None or known.usable_memory_bytes != cluster.memory_bytes:
        return cluster.memory_bytes
    return known.memory_bytes or cluster.memory_bytes


def features_of(
    model: Model, cluster: Cluster, layouts: Layouts, *, group: str, version: str, precision: str,
    seq_len: int,
) -> Features:  # fmt: skip
    """Features of layouts of one job on one cluster, one row a layout."""
    labels = labels_of(model, cluster, group=group, version=version, precision=precision)
    n = len(layouts)
    fixed = (seq_len, cluster.chips, model.parameters, len(model.layers), model.hidden)
    columns = [getattr(layouts, name) for name in NUMBERS[:8]]
    numbers = np.stack([*columns, *(np.full(n, float(v)) for v in fixed)], axis=1)
    return Features(
        labels=np.tile(np.array([code_of(text) for text in labels]), (n, 1)),
        numbers=np.log2(np.maximum(numbers, 0.5)),
    )


class Residual(Process):
    """The process conditioned on measured rows, its bands widened to hold what they say."""

    def __init__(
        self,
        kernel: Kernel,
        rows: Features,
        residual: FloatArray,
        *,
        extra_noise: FloatArray | None = None,
        ids: Sequence[str] = (),
        trust: Trust | None = None,
    ) -> None:
        extra = np.zeros(len(rows)) if extra_noise is None else extra_noise
        super().__init__(SHAPE, kernel, rows, residual, extra)
        self.ids = tuple(ids)
        self.trust = trust
        self.widening = self._widening()

    def _widening(self) -> float:
        """By how much bands must grow for 90 % of its own rows, each left out, to lie in theirs."""
        if len(self.rows) < MIN_ROWS_TO_WIDEN:
            return 1.0
        mean, deviation = super().left_out()
        apart = np.abs(self.residual - mean) / deviation
        return max(conformal_quantile(apart.tolist(), 0.9) / Z90, 1.0)

    def at(self, features: Features) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of ln(measured / predicted) for each row of ``features``,
        as far as the process is trusted there."""
        mean, deviation = super().at(features)
        if self.trust is None:
            return mean, deviation * self.widening
        return self._trusted(mean, deviation, nearness(self.kernel, SHAPE, features, self.rows))

    def unseen(self, count: int) -> tuple[FloatArray, FloatArray]:
        """The same for runs that are kin of none, as under a framework nobody knows: no mean, and
        the widest band of any nearness."""
        bare = (self.kernel.variance + self.kernel.noise**2) ** 0.5
        widest = self.widening if self.trust is None else self.trust.widening[0]
        most = max([bare * widest, *self.left_out()[1].tolist()])
        return np.zeros(count), np.full(count, most)

    def mean(self, features: Features) -> FloatArray:
        """The mean alone."""
        found = super().mean(features)
        if self.trust is None:
            return found
        near = nearness(self.kernel, SHAPE, features, self.rows)
        return found * self.trust.at(near)[0]

    def left_out(self) -> tuple[FloatArray, FloatArray]:
        """The same as :meth:`at` for its own rows, each predicted from all others."""
        mean, deviation = super().left_out()
        if self.trust is None:
            return mean, deviation * self.widening
        cross = self.kernel.covariance(SHAPE, self.rows, self.rows) / self.kernel.variance
        cross = np.broadcast_to(cross, (len(self.rows), len(self.rows))).copy()
        np.fill_diagonal(cross, 0.0)
        return self._trusted(mean, deviation, cross.max(axis=1))

    def _trusted(
        self, mean: FloatArray, deviation: FloatArray, near: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        if self.trust is None:
            return mean, deviation
        worth, widening = self.trust.at(near)
        return worth * mean, widening * deviation

    def nearest(self, features: Features) -> tuple[str, float] | None:
        """The measured row that says most of the first of ``features``, and their correlation."""
        if not self.ids:
            return None
        first = features.take(np.array([0]))
        cross = self.kernel.covariance(SHAPE, first, self.rows)[0]
        best = int(np.argmax(cross))
        return self.ids[best], float(cross[best] / self.kernel.variance)

    def near(self, features: Features, count: int) -> list[tuple[str, float, float]]:
        """(row, correlation, measured over predicted with that row left out) of the ``count`` rows
        that say most of the first of ``features``."""
        if not self.ids:
            return []
        cross = self.kernel.covariance(SHAPE, features.take(np.array([0])), self.rows)[0]
        order = np.argsort(-cross, kind="stable")[:count]
        off = np.exp(self.residual - self.left_out()[0])
        share = cross / self.kernel.variance
        return [(self.ids[i], float(share[i]), float(off[i])) for i in order]

    def index_of(self, features: Features, residual: FloatArray) -> list[int | None]:
        """Which of its own rows each given one is: same features, same measured residual."""
        found: list[int | None] = []
        for labels, numbers, value in zip(features.labels, features.numbers, residual, strict=True):
            same = (
                (self.rows.labels == labels).all(axis=1)
                & (np.abs(self.rows.numbers - numbers) < 1e-6).all(axis=1)
                & (np.abs(self.residual - value) < 1e-4)
            )
            hits = np.flatnonzero(same)
            found.append(int(hits[0]) if len(hits) else None)
        return found


def start_kernel() -> Kernel:
    """Where the kernel starts and what holds it: 5 % a label, 3 % noise, 2.5 doublings."""
    return Kernel(
        labels=np.full(len(LABELS), 0.05), within=np.array([0.08]), near=0.05, noise=0.03,
        scales=np.full(len(NUMBERS), 2.5),
    )  # fmt: skip


def kernel_to_json(kernel: Kernel) -> dict[str, Any]:
    """The kernel as plain values with names, as calibration files hold it."""
    plain = kernel.to_json(SHAPE)
    return {
        "labels": plain["labels"],
        "near_in_group": plain["within"]["group"],
        "near": plain["near"],
        "noise": plain["noise"],
        "scales": dict(zip(NUMBERS, (round(float(v), 4) for v in kernel.scales), strict=True)),
    }


def kernel_from_json(raw: dict[str, Any]) -> Kernel:
    """The inverse of :func:`kernel_to_json`."""
    return Kernel.from_json(SHAPE, {**raw, "within": {"group": raw["near_in_group"]}})
