"""What the physics leaves over: measured runs near a job correct its time and size its error bar.

The logarithm of measured over predicted time is a Gaussian process over runs (Rasmussen & Williams,
2006, chapter 2): runs share what their chip, framework, framework version, model and precision
share, and near layouts are alike. Far from every measurement the correction goes to nothing and the
error bar widens to what the physics alone is worth. The rows behind it stand beside the constants
in ``data/``; nothing is corrected that no measured row speaks for.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weftline.model import Model
from weftline.plan.constants import FloatArray
from weftline.plan.step import IntArray, Layouts
from weftline.spec import Cluster

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
Z90: Final = 1.6449
"""Half width of a central 90 % interval of a normal error, in standard deviations."""
MIN_ROWS_TO_WIDEN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Rows as the process sees them: ``labels`` [n, labels] coded, ``numbers`` [n, numbers]."""

    labels: IntArray
    """Codes of texts (:func:`code_of`): equal where the texts are."""
    numbers: FloatArray

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, index: np.ndarray[Any, np.dtype[Any]]) -> Features:
        """Some of the rows."""
        return Features(labels=self.labels[index], numbers=self.numbers[index])


@functools.cache
def code_of(text: str) -> int:
    """A number that stands for a label; 56 bits of BLAKE2, so that no two labels meet."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Standard deviations of the shared parts, and length scales in doublings."""

    labels: FloatArray
    """[labels] standard deviation of what each label shares."""
    near_in_group: float
    near: float
    """Standard deviation of what near layouts share, within one group and across all."""
    noise: float
    """Standard deviation between repeated measurements of one configuration."""
    scales: FloatArray
    """[numbers] length scales."""

    def covariance(self, a: Features, b: Features) -> FloatArray:
        """Covariance of the residuals of rows ``a`` and ``b``, [len(a), len(b)]."""
        # Layouts of one job share their labels: compare them once.
        alike = bool((a.labels == a.labels[0]).all()) if len(a) else False
        left = a.labels[:1] if alike else a.labels
        same = left[:, None, :] == b.labels[None, :, :]
        scaled_a, scaled_b = a.numbers / self.scales, b.numbers / self.scales
        square = (
            (scaled_a**2).sum(1)[:, None] + (scaled_b**2).sum(1)[None, :]
            - 2 * scaled_a @ scaled_b.T
        )  # fmt: skip
        near = np.exp(-0.5 * np.maximum(square, 0.0))
        in_group = same[:, :, LABELS.index("group")]
        out: FloatArray = (
            same @ (self.labels**2) + (self.near**2 + self.near_in_group**2 * in_group) * near
        )
        return out

    @property
    def variance(self) -> float:
        """Variance of a row nothing is known of."""
        return float((self.labels**2).sum() + self.near**2 + self.near_in_group**2)


def labels_of(
    model: Model, cluster: Cluster, *, group: str, version: str, precision: str
) -> tuple[str, ...]:
    """What runs of one job on one cluster share with others, in the order of ``LABELS``."""
    chip = f"{cluster.accelerator} {cluster.memory_bytes / 1e9:.0f}GB"
    return (
        chip, group, version, model.name, f"{chip}|{model.name}",
        f"{chip}|{model.name}|{precision}", precision, f"{version}|{precision}",
        f"{version}|{model.name}",
    )  # fmt: skip


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


def stack(features: Sequence[Features]) -> Features:
    """Rows of several features as one."""
    return Features(
        labels=np.concatenate([f.labels for f in features]),
        numbers=np.concatenate([f.numbers for f in features]),
    )


class Residual:
    """The process conditioned on measured rows."""

    def __init__(
        self,
        kernel: Kernel,
        rows: Features,
        residual: FloatArray,
        *,
        extra_noise: FloatArray | None = None,
        ids: Sequence[str] = (),
    ) -> None:
        self.kernel = kernel
        self.rows = rows
        self.residual = residual
        self.extra_noise = np.zeros(len(rows)) if extra_noise is None else extra_noise
        """Standard deviation that single rows have beyond the noise: outliers weigh less."""
        self.ids = tuple(ids)
        noise = kernel.noise**2 + self.extra_noise**2
        self._inverse = np.linalg.inv(kernel.covariance(rows, rows) + np.diag(noise))
        self._weights: FloatArray = self._inverse @ residual
        self.widening = self._widening()

    def _widening(self) -> float:
        """By how much bands must grow for 90 % of its own rows, each left out, to lie in theirs."""
        if len(self.rows) < MIN_ROWS_TO_WIDEN:
            return 1.0
        mean, deviation = self._left_out()
        n = len(self.rows)
        # The rank that holds for a new row too, as in conformal prediction (arXiv:1905.02928).
        rank = min(int(np.ceil((n + 1) * 0.9)), n) - 1
        apart = np.sort(np.abs(self.residual - mean) / deviation)
        return max(float(apart[rank]) / Z90, 1.0)

    def at(self, features: Features) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of ln(measured / predicted) for each row of ``features``."""
        if not len(self.rows):
            return (
                np.zeros(len(features)),
                np.full(len(features), (self.kernel.variance + self.kernel.noise**2) ** 0.5),
            )
        cross = self.kernel.covariance(features, self.rows)
        mean: FloatArray = cross @ self._weights
        known = np.einsum("ij,jk,ik->i", cross, self._inverse, cross, optimize=True)
        variance = np.maximum(self.kernel.variance - known, 0.0) + self.kernel.noise**2
        return mean, np.sqrt(variance) * self.widening

    def mean(self, features: Features) -> FloatArray:
        """The mean alone: all that a ranking of many layouts needs."""
        if not len(self.rows):
            return np.zeros(len(features))
        out: FloatArray = self.kernel.covariance(features, self.rows) @ self._weights
        return out

    def nearest(self, features: Features) -> tuple[str, float] | None:
        """The measured row that says most of the first of ``features``, and their correlation."""
        if not self.ids:
            return None
        cross = self.kernel.covariance(features.take(np.array([0])), self.rows)[0]
        best = int(np.argmax(cross))
        return self.ids[best], float(cross[best] / self.kernel.variance)

    def left_out(self) -> tuple[FloatArray, FloatArray]:
        """The same for its own rows, each predicted from all others (chapter 5.4.2)."""
        mean, deviation = self._left_out()
        return mean, deviation * self.widening

    def _left_out(self) -> tuple[FloatArray, FloatArray]:
        diagonal = np.diag(self._inverse)
        variance = np.maximum(1 / diagonal - self.extra_noise**2, self.kernel.noise**2)
        return self.residual - self._weights / diagonal, np.sqrt(variance)

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


def kernel_to_json(kernel: Kernel) -> dict[str, Any]:
    """The kernel as plain values with names."""
    return {
        "labels": dict(zip(LABELS, (round(float(v), 5) for v in kernel.labels), strict=True)),
        "near_in_group": round(kernel.near_in_group, 5),
        "near": round(kernel.near, 5),
        "noise": round(kernel.noise, 5),
        "scales": dict(zip(NUMBERS, (round(float(v), 4) for v in kernel.scales), strict=True)),
    }


def kernel_from_json(raw: dict[str, Any]) -> Kernel:
    """The inverse of :func:`kernel_to_json`."""
    return Kernel(
        labels=np.array([float(raw["labels"][name]) for name in LABELS]),
        near_in_group=float(raw["near_in_group"]),
        near=float(raw["near"]),
        noise=float(raw["noise"]),
        scales=np.array([float(raw["scales"][name]) for name in NUMBERS]),
    )
