"""A Gaussian process over rows that share labels and lie near in numbers.

Rows are runs or requests; a label is something two rows can have in common (an engine, a chip), a
number something in which they can be near (a batch size, in doublings). The covariance of two rows
is a sum: one variance for each label they share, and one for being near, alone or within a label
(Rasmussen & Williams, 2006, chapters 2 and 5). Far from all rows the mean goes to nothing and the
deviation to what is unexplained.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "Features",
    "FloatArray",
    "IntArray",
    "Kernel",
    "Process",
    "Shape",
    "code_of",
    "fit_kernel",
    "fit_process",
    "stack",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FAR: Final = 3.0
"""Standard deviations beyond which a row gets noise of its own."""
BLOCK: Final = 1 << 20
"""Labels compared at once: enough to be quick, few enough to stay within 10 MB."""
REACH: Final = 4.0
"""How far the logarithms of a kernel may move from where they start: a factor of 55."""


@functools.cache
def code_of(text: str) -> int:
    """A number that stands for a label; 56 bits of BLAKE2, so that no two labels meet."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the rows of one process have: names of labels and numbers."""

    labels: tuple[str, ...]
    numbers: tuple[str, ...]
    within: tuple[str, ...] = ()
    """Labels inside which near rows share more than near rows in general do."""

    @property
    def within_index(self) -> tuple[int, ...]:
        """Positions of ``within`` among the labels."""
        return tuple(self.labels.index(name) for name in self.within)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Rows as the process sees them: ``labels`` [n, labels] coded, ``numbers`` [n, numbers]."""

    labels: IntArray
    numbers: FloatArray

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, index: npt.NDArray[Any]) -> Features:
        """Some of the rows, by position or by mask."""
        return Features(labels=self.labels[index], numbers=self.numbers[index])


def stack(features: Sequence[Features]) -> Features:
    """Rows of several features as one."""
    return Features(
        labels=np.concatenate([f.labels for f in features]),
        numbers=np.concatenate([f.numbers for f in features]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Standard deviations of what rows share, and length scales of the numbers."""

    labels: FloatArray
    """[labels] standard deviation of what each label shares."""
    within: FloatArray
    """[within] standard deviation of what near rows of one such label share."""
    near: float
    """Standard deviation of what near rows share, whatever their labels."""
    noise: float
    """Standard deviation between repeated measurements."""
    scales: FloatArray
    """[numbers] length scales."""

    def covariance(self, shape: Shape, a: Features, b: Features) -> FloatArray:
        """Covariance of rows ``a`` and ``b``, [len(a), len(b)], without noise."""
        # Rows of one job share their labels: compare them once.
        alike = bool((a.labels == a.labels[0]).all()) if len(a) else False
        labels = a.labels[:1] if alike else a.labels
        left, right = a.numbers / self.scales, b.numbers / self.scales
        square = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * left @ right.T
        near = np.exp(-0.5 * np.maximum(square, 0.0))
        shared: FloatArray = np.empty((len(labels), len(b)))
        strength = np.empty_like(shared)
        step = max(1, BLOCK // max(1, b.labels.size))
        for first in range(0, len(labels), step):
            rows = slice(first, first + step)
            same = labels[rows, None, :] == b.labels[None, :, :]
            shared[rows] = same @ self.labels**2
            strength[rows] = same[:, :, shape.within_index] @ self.within**2 + self.near**2
        out: FloatArray = shared + strength * near
        return out

    @property
    def variance(self) -> float:
        """Variance of a row nothing is known of, without noise."""
        return float((self.labels**2).sum() + (self.within**2).sum() + self.near**2)

    def logs(self) -> FloatArray:
        """All parameters as logarithms, in a fixed order."""
        parts = [self.labels, self.within, np.array([self.near, self.noise]), self.scales]
        out: FloatArray = np.log(np.concatenate(parts))
        return out

    @classmethod
    def of_logs(cls, shape: Shape, logs: FloatArray) -> Kernel:
        """The inverse of :meth:`logs`."""
        v = np.exp(logs)
        n, m = len(shape.labels), len(shape.within)
        return cls(labels=v[:n], within=v[n : n + m], near=float(v[n + m]),
                   noise=float(v[n + m + 1]), scales=v[n + m + 2 :])  # fmt: skip

    def to_json(self, shape: Shape) -> dict[str, Any]:
        """Plain values with names."""

        def named(names: tuple[str, ...], values: FloatArray) -> dict[str, float]:
            return {k: round(float(v), 5) for k, v in zip(names, values, strict=True)}

        return {
            "labels": named(shape.labels, self.labels), "within": named(shape.within, self.within),
            "near": round(self.near, 5), "noise": round(self.noise, 5),
            "scales": named(shape.numbers, self.scales),
        }  # fmt: skip

    @classmethod
    def from_json(cls, shape: Shape, raw: dict[str, Any]) -> Kernel:
        """The inverse of :meth:`to_json`."""
        return cls(
            labels=np.array([float(raw["labels"][k]) for k in shape.labels]),
            within=np.array([float(raw["within"][k]) for k in shape.within]),
            near=float(raw["near"]), noise=float(raw["noise"]),
            scales=np.array([float(raw["scales"][k]) for k in shape.numbers]),
        )  # fmt: skip


@dataclass(slots=True)
class Process:
    """A kernel conditioned on rows with known residuals."""

    shape: Shape
    kernel: Kernel
    rows: Features
    residual: FloatArray
    extra_noise: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Standard deviation that single rows have beyond the noise: outliers weigh less."""
    _inverse: FloatArray = field(init=False, repr=False)
    _weights: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.extra_noise):
            self.extra_noise = np.zeros(len(self.rows))
        noise = self.kernel.noise**2 + self.extra_noise**2
        own = self.kernel.covariance(self.shape, self.rows, self.rows)
        self._inverse = np.asarray(np.linalg.inv(own + np.diag(noise)), dtype=np.float64)
        self._weights = self._inverse @ self.residual

    @property
    def weights(self) -> FloatArray:
        """What each row's covariance with a new one is worth: the mean is their product."""
        return self._weights

    def at(self, features: Features) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation (noise included) of the residual of each row."""
        if not len(self.rows):
            spread = (self.kernel.variance + self.kernel.noise**2) ** 0.5
            return np.zeros(len(features)), np.full(len(features), spread)
        cross = self.kernel.covariance(self.shape, features, self.rows)
        mean: FloatArray = cross @ self._weights
        known = np.einsum("ij,ij->i", cross @ self._inverse, cross)
        variance = np.maximum(self.kernel.variance - known, 0.0) + self.kernel.noise**2
        return mean, np.sqrt(variance)

    def mean(self, features: Features) -> FloatArray:
        """The mean alone."""
        if not len(self.rows):
            return np.zeros(len(features))
        out: FloatArray = self.kernel.covariance(self.shape, features, self.rows) @ self._weights
        return out

    def left_out(self) -> tuple[FloatArray, FloatArray]:
        """:meth:`at` for its own rows, each predicted from all others (chapter 5.4.2)."""
        diagonal = np.diag(self._inverse)
        variance = np.maximum(1 / diagonal - self.extra_noise**2, self.kernel.noise**2)
        return self.residual - self._weights / diagonal, np.sqrt(variance)


def fit_kernel(
    shape: Shape,
    features: Features,
    residual: FloatArray,
    start: Kernel,
    *,
    extra_noise: FloatArray | None = None,
    pull: float = 1.0,
    reach: float = REACH,
    iterations: int = 20,
) -> Kernel:
    """The kernel of greatest marginal likelihood; ``pull`` holds its logarithms to the start's.

    None goes further than ``reach`` from there: far beyond anything meant, but a covariance on the
    way there does not become singular.
    """
    from scipy.optimize import minimize

    count, groups = len(shape.labels), shape.within_index
    same = [
        (features.labels[:, None, q] == features.labels[None, :, q]).astype(np.float64)
        for q in range(count)
    ]
    square = (features.numbers[:, None, :] - features.numbers[None, :, :]) ** 2
    flat = square.reshape(-1, square.shape[-1])
    eye = np.eye(len(features))
    own = 0.0 if extra_noise is None else np.diag(extra_noise**2)
    begin = start.logs()
    m = len(groups)

    def cost(theta: FloatArray) -> tuple[float, FloatArray]:
        """Negative log marginal likelihood plus prior, and its gradient (equation 5.9)."""
        sd = np.exp(theta[: count + m + 2])
        weights = np.exp(-2 * theta[count + m + 2 :])
        near = np.exp(-0.5 * square @ weights)
        strength = sd[count + m] ** 2 * np.ones_like(near)
        for j, q in enumerate(groups):
            strength = strength + sd[count + j] ** 2 * same[q]
        covariance = strength * near + (sd[count + m + 1] ** 2 + 1e-9) * eye + own
        for q in range(count):
            covariance = covariance + sd[q] ** 2 * same[q]
        inverse = np.linalg.inv(covariance)
        alpha = inverse @ residual
        _, logdet = np.linalg.slogdet(covariance)
        gap = theta - begin
        value = 0.5 * residual @ alpha + 0.5 * logdet + 0.5 * pull * gap @ gap
        outer = 0.5 * (inverse - np.outer(alpha, alpha))
        parts = [2 * sd[q] ** 2 * np.vdot(outer, same[q]) for q in range(count)]
        parts += [
            2 * sd[count + j] ** 2 * np.vdot(outer, same[q] * near) for j, q in enumerate(groups)
        ]
        parts.append(2 * sd[count + m] ** 2 * np.vdot(outer, near))
        parts.append(2 * sd[count + m + 1] ** 2 * np.trace(outer))
        by_scale = ((outer * strength * near).ravel() @ flat) * weights
        return float(value), np.concatenate([np.array(parts), by_scale]) + pull * gap

    found = minimize(
        cost, begin, jac=True, method="L-BFGS-B", options={"maxiter": iterations},
        bounds=[(at - reach, at + reach) for at in begin],
    )  # fmt: skip
    return Kernel.of_logs(shape, found.x)


def fit_process(
    shape: Shape,
    features: Features,
    residual: FloatArray,
    start: Kernel,
    *,
    learn_on: int = 600,
    seed: int = 0,
    pull: float = 1.0,
    fit: bool = True,
) -> Process:
    """The process of some rows; rows that all others contradict are given less weight.

    The kernel is learnt on at most ``learn_on`` rows drawn with ``seed``. A row further than
    ``FAR`` deviations from what the others say gets that distance as noise of its own: a heavy
    tail by two Gaussians.
    """
    kernel = start
    index = np.sort(np.random.default_rng(seed).permutation(len(features))[:learn_on])
    extra = np.zeros(len(features))
    process = Process(shape, kernel, features, residual)
    for _ in range(2):
        if fit:
            kernel = fit_kernel(shape, features.take(index), residual[index], kernel,
                                extra_noise=extra[index], pull=pull)  # fmt: skip
        process = Process(shape, kernel, features, residual, extra)
        mean, deviation = process.left_out()
        gap = np.abs(residual - mean)
        far = np.where(gap > FAR * deviation, gap, 0.0)
        if not far.any():
            return process
        extra = np.maximum(extra, far)
    return Process(shape, kernel, features, residual, extra)
