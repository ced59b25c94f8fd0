"""Fit the engine model to measured rows: constants with pulls, then what is left over.

Run as ``python -m weftline.serve.calibrate.fit ROWS.csv OUT.json`` to make the shipped file.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.learn import Kernel, Process, conformal_quantile, fit_process
from weftline.serve.calibrate.constants import (
    Traits,
    constants_of,
    fuses,
    to_json,
)
from weftline.serve.calibrate.residual import ELSEWHERE, SHAPE, features_of, start_kernel
from weftline.serve.calibrate.row import Row
from weftline.serve.calibrate.rows import read_rows
from weftline.serve.calibrate.solver import Problem
from weftline.serve.engine.closed_form import Answer, Compiled, Load, compile_load, join, solve
from weftline.serve.engine.parts import setting_of
from weftline.serve.engine.scheduler import answer_held

__all__ = ["Fitted", "compile_rows", "fit_all", "fit_constants", "held_out", "make", "traits_of"]

FloatArray = npt.NDArray[np.float64]

OUTLIER: Final = 0.12
"""Errors of ln(time) beyond this count linearly: one bad row does not bend the constants."""
FIRST_TOKEN_WEIGHT: Final = 0.35
OFFSET_PULL: Final = 4.0
"""Pull of the offsets of single models: the square root of the rows they are worth."""
CROWD: Final = -0.25
"""A row counts by this power of its group's size: large groups of one run do not rule."""
LEFT_OUT_VERSIONS: Final = ("1.3.0rc1", "0.12.0", "0.11.2")
"""Versions whose rows contradict all others by more than a factor two; scored, never fitted on."""
EARLY: Final = "2025-12"
"""Runs before this month are `early`: kernels and host paths were slower."""
OLD_VERSIONS: Final = ("1.1.0rc2",)
"""Versions of that time that later runs used still."""
LEFT_OUT_FIRST_TOKENS: Final = (("sglang", "2025-11"),)
"""Engines and versions whose first-token times contradict all others by more than a factor two:
scored, never fitted on. Their times per token agree with the others'."""


def is_early(row: Row) -> bool:
    """Whether a run's software is of before ``EARLY``, by its version where that is older."""
    return bool(row.era) and (row.era < EARLY or row.version.startswith(OLD_VERSIONS))


def traits_of(rows: Sequence[Row]) -> Traits:
    """What decides the constants of measured rows."""
    return Traits.of(
        engine=[r.engine for r in rows], chip=[r.chip for r in rows],
        apart=[r.prefill is not None for r in rows],
        early=[is_early(r) for r in rows],
        drafted=[r.drafted for r in rows], captured=[r.launch.captured for r in rows],
        triton=[r.launch.triton for r in rows],
        fused=[fuses(r.chip, (r.prefill or r.layout).dp) for r in rows],
        waves=[r.launch.waves for r in rows],
    )  # fmt: skip


def compile_rows(rows: Sequence[Row]) -> Compiled:
    """The rows taken apart, in their order."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, r in enumerate(rows):
        groups[r.model, r.chip, r.gemm_dtype, r.moe_dtype, r.kv_dtype].append(i)
    parts, order = [], []
    for key, index in groups.items():
        own = [rows[i] for i in index]
        parts.append(compile_load(setting_of(*key), _load(own)))
        order += index
    return join(parts).take(np.argsort(np.array(order)))


def _load(rows: Sequence[Row]) -> Load:
    def column(get: Callable[[Row], float]) -> FloatArray:
        return np.array([float(get(r)) for r in rows])

    side = [r.prefill or r.layout for r in rows]
    return Load.of(
        input_tokens=column(lambda r: r.input_tokens),
        output_tokens=column(lambda r: r.output_tokens),
        concurrency=column(lambda r: r.concurrency), queries=column(lambda r: 1 + r.drafted),
        tp=column(lambda r: r.layout.tp), pp=column(lambda r: r.layout.pp),
        max_batch=column(lambda r: r.max_batch), poll_steps=column(lambda r: r.launch.poll_steps),
        gather_steps=column(lambda r: r.launch.gather_steps),
        iteration_tokens=column(lambda r: r.launch.iteration_tokens),
        static=column(lambda r: r.scenario == "static"),
        answer_held=column(lambda r: answer_held(r.engine)),
        dp=column(lambda r: r.layout.dp), ep=column(lambda r: r.layout.ep),
        moe_tp=column(lambda r: r.layout.moe_tp), workers=column(lambda r: r.layout.workers),
        prefill_workers=column(lambda r: r.prefill.workers if r.prefill else 0),
        prefill_tp=np.array([float(s.tp) for s in side]),
        prefill_pp=np.array([float(s.pp) for s in side]),
        prefill_dp=np.array([float(s.dp) for s in side]),
        prefill_ep=np.array([float(s.ep) for s in side]),
        prefill_moe_tp=np.array([float(s.moe_tp) for s in side]),
    )  # fmt: skip


def answer_rows(compiled: Compiled, traits: Traits, vector: FloatArray) -> Answer:
    """The closed form of compiled rows under a vector of constants."""
    return solve(compiled, constants_of(vector, traits))


def weights_of(rows: Sequence[Row]) -> FloatArray:
    """How much each row counts in the fit of the constants."""
    keys = [(r.family, r.engine, r.version, r.chip, r.precision, r.mode) for r in rows]
    size = Counter(keys)
    weight = np.array([float(size[k]) for k in keys]) ** CROWD
    weight[[r.version in LEFT_OUT_VERSIONS for r in rows]] = 0.0
    return np.asarray(weight / weight[weight > 0].mean())


def fit_constants(
    rows: Sequence[Row], compiled: Compiled, *, start: FloatArray | None = None, rounds: int = 15
) -> FloatArray:
    """The vector of constants that fits the rows' first-token times and times per token."""
    weight = weights_of(rows)
    keep = np.flatnonzero(weight > 0)
    own = [rows[int(i)] for i in keep]
    some, traits = compiled.take(keep), traits_of(own)
    tpot = np.log([r.tpot_s or np.nan for r in own])
    ttft = np.log([r.ttft_s or np.nan for r in own])
    group, groups = _offsets(own)

    def gaps(vector: FloatArray) -> tuple[FloatArray, FloatArray]:
        found = answer_rows(some, traits, vector)
        return np.log(found.tpot_s) - tpot, np.log(found.ttft_s) - ttft

    first = [0.0 if (r.engine, r.version) in LEFT_OUT_FIRST_TOKENS else 1.0 for r in own]
    problem = Problem(
        gaps=gaps, traits=traits, weight=weight[keep],
        first_weight=FIRST_TOKEN_WEIGHT * np.array(first),
        group=group, groups=groups, offset_pull=OFFSET_PULL, outlier=OUTLIER,
    )  # fmt: skip
    return problem.solve(start, rounds)


def _offsets(rows: Sequence[Row]) -> tuple[npt.NDArray[np.int64], int]:
    """A group for each row: what a model departs by on one engine and chip generation.

    The groups' offsets are fitted beside the constants and thrown away: a model that is odd for
    reasons of its own then does not bend constants that all models share.
    """
    keys = [
        (r.family, r.engine, r.chip[0], r.precision, is_early(r), r.mode, r.drafted > 0)
        for r in rows
    ]
    names = sorted(set(keys), key=str)
    at = {k: i for i, k in enumerate(names)}
    return np.array([at[k] for k in keys]), len(names)


def unique_rows(rows: Sequence[Row]) -> list[Row]:
    """One row for each measurement: files repeat each other in different words."""
    seen: set[tuple[object, ...]] = set()
    out = []
    for r in rows:
        if r.ttft_s is None or r.tpot_s is None:
            continue
        key = (r.family, r.chip, round(r.ttft_s, 4), round(r.tpot_s, 6))
        if key not in seen:
            seen.add(key)
            out.append(r)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Constants and the two residual processes of one pool of rows."""

    vector: FloatArray
    tpot: Process
    ttft: Process
    ids: tuple[str, ...]
    families: frozenset[str]
    chips: frozenset[str]

    def predict(self, rows: Sequence[Row], compiled: Compiled) -> tuple[FloatArray, FloatArray]:
        """First-token time and time per token of rows, corrected where their model is known."""
        answer = answer_rows(compiled, traits_of(rows), self.vector)
        features = features_of(rows, answer)
        known = np.array([r.family in self.families for r in rows])
        near = np.where([r.chip in self.chips for r in rows], 1.0, ELSEWHERE)
        first = np.where(known, near * self.ttft.mean(features), 0.0)
        late = np.where(known, self.tpot.mean(features), 0.0)
        return answer.ttft_s * np.exp(first), answer.tpot_s * np.exp(late)


def fit_all(
    rows: Sequence[Row], compiled: Compiled, *, start: FloatArray | None = None,
    kernels: tuple[Kernel, Kernel] | None = None, rounds: int = 10,
) -> Fitted:  # fmt: skip
    """Constants and processes; ``kernels`` (time per token, first token) are learnt if absent."""
    vector = fit_constants(rows, compiled, start=start, rounds=rounds)
    keep = [i for i, r in enumerate(rows) if r.version not in LEFT_OUT_VERSIONS]
    own = [rows[i] for i in keep]
    answer = answer_rows(compiled.take(np.array(keep)), traits_of(own), vector)
    features = features_of(own, answer)
    processes = []
    for at, (found, measured) in enumerate((
        (answer.tpot_s, [r.tpot_s or np.nan for r in own]),
        (answer.ttft_s, [r.ttft_s or np.nan for r in own]),
    )):  # fmt: skip
        residual = np.clip(np.log(np.array(measured) / found), -CLIP[at], CLIP[at])
        processes.append(fit_process(
            SHAPE, features, residual, kernels[at] if kernels else start_kernel(first=at == 1),
            learn_on=450, pull=2.0, fit=kernels is None,
        ))  # fmt: skip
    return Fitted(
        vector=vector, tpot=processes[0], ttft=processes[1], ids=tuple(r.id for r in own),
        families=frozenset(r.family for r in own), chips=frozenset(r.chip for r in own),
    )  # fmt: skip


CLIP: Final = (0.6, 1.0)
"""Residuals beyond this are taken as this: time per token, first-token time."""


def folds_of(rows: Sequence[Row], by: str, *, parts: int = 5, seed: int = 0) -> list[list[int]]:
    """Rows left out together: whole model families, whole chips, or random parts."""
    if by == "random":
        order = np.random.default_rng(seed).permutation(len(rows))
        return [sorted(int(i) for i in part) for part in np.array_split(order, parts)]
    names = [r.family if by == "model" else r.chip for r in rows]
    return [[i for i, n in enumerate(names) if n == name] for name in sorted(set(names))]


def held_out(
    rows: Sequence[Row], compiled: Compiled, by: str, *, start: FloatArray | None = None,
    kernels: tuple[Kernel, Kernel] | None = None, seed: int = 0,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """First-token time and time per token of every row, by fits that have not seen its group.

    Copies of a measurement that other rows hold are left out with it.
    """
    first, late = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for test in folds_of(rows, by, seed=seed):
        twins = {_twin(rows[i]) for i in test}
        gone = set(test)
        train = [i for i in range(len(rows)) if i not in gone and _twin(rows[i]) not in twins]
        index = _first_of([rows[i] for i in train])
        train = [train[i] for i in index]
        if len(train) < MIN_ROWS:
            continue
        fitted = fit_all([rows[i] for i in train], compiled.take(np.array(train)), start=start,
                         kernels=kernels, rounds=5)  # fmt: skip
        at = np.array(test)
        first[at], late[at] = fitted.predict([rows[i] for i in test], compiled.take(at))
    return first, late


MIN_ROWS: Final = 20


def _twin(row: Row) -> tuple[object, ...]:
    return (row.family, row.chip, round(row.ttft_s or 0.0, 4), round(row.tpot_s or 0.0, 6))


def _first_of(rows: Sequence[Row]) -> list[int]:
    seen: set[tuple[object, ...]] = set()
    out = []
    for i, r in enumerate(rows):
        if _twin(r) not in seen and r.ttft_s is not None and r.tpot_s is not None:
            seen.add(_twin(r))
            out.append(i)
    return out


def interval_scores(
    rows: Sequence[Row], predicted: FloatArray, measured: FloatArray
) -> dict[str, list[float]]:
    """|ln(measured / predicted)| by engine and chip, by engine, and of all rows."""
    scores: dict[str, list[float]] = defaultdict(list)
    for r, value in zip(rows, np.abs(np.log(measured / predicted)), strict=True):
        if np.isfinite(value):
            for name in interval_path(r.engine, r.chip):
                scores[name].append(float(value))
    return scores


def interval_path(engine: str, chip: str) -> tuple[str, str, str]:
    """Groups an interval is taken from, the most particular one first."""
    return f"{engine}|{chip}", engine, "all"


def widths(scores: Mapping[str, Sequence[float]], level: float = 0.9) -> dict[str, float]:
    """The conformal bound of every group with enough rows."""
    return {
        name: round(conformal_quantile(own, level), 4)
        for name, own in sorted(scores.items())
        if len(own) >= MIN_ROWS
    }


def throughput_of(rows: Sequence[Row], ttft_s: FloatArray, tpot_s: FloatArray) -> FloatArray:
    """Output tokens a second and chip, by Little's law (see ``rows.with_throughput``)."""
    count = np.array([r.concurrency / r.chips for r in rows])
    length = np.array([r.output_tokens for r in rows])
    return np.asarray(count * length / (ttft_s + (length - 1.0) * tpot_s))


def make(path: str, out: str) -> None:
    """Fit the rows of ``path`` and write the shipped files ``out`` (.json) and its rows (.npz)."""
    rows = unique_rows(read_rows(path)[0])
    compiled = compile_rows(rows)
    fitted = fit_all(rows, compiled)
    kernels = (fitted.tpot.kernel, fitted.ttft.kernel)
    keep = [i for i, r in enumerate(rows) if r.version not in LEFT_OUT_VERSIONS]
    own = [rows[i] for i in keep]
    answer = answer_rows(compiled.take(np.array(keep)), traits_of(own), fitted.vector)
    seen = (answer.ttft_s * np.exp(fitted.ttft.left_out()[0]),
            answer.tpot_s * np.exp(fitted.tpot.left_out()[0]))  # fmt: skip
    unseen = held_out(rows, compiled, "model", start=fitted.vector, kernels=kernels)
    data: dict[str, Any] = {
        "format": "weftline-serving-calibration/1",
        "as_of": "2026-11-21",
        "source": "measured serving points of aiconfigurator-core 0.12.0 (Apache-2.0); "
        "made by `python -m weftline.serve.calibrate.fit ROWS.csv OUT.json`",
        "rows": len(own),
        "left_out_versions": list(LEFT_OUT_VERSIONS),
        "constants": to_json(fitted.vector),
        "kernels": {"tpot": kernels[0].to_json(SHAPE), "ttft": kernels[1].to_json(SHAPE)},
        "families": sorted(fitted.families),
        "chips": sorted(fitted.chips),
        "intervals": {"level": 0.9},
    }
    for name, group, (first, late) in (("seen", own, seen), ("unseen", rows, unseen)):
        rate = throughput_of(group, first, late)
        for what, found, measured in (
            ("ttft", first, [r.ttft_s for r in group]),
            ("tpot", late, [r.tpot_s for r in group]),
            ("throughput", rate, [r.output_tokens_per_s for r in group]),
        ):
            values = np.array(measured, dtype=np.float64)
            data["intervals"][f"{what}.{name}"] = widths(interval_scores(group, found, values))
            error = np.abs(found / values - 1)
            data.setdefault("errors", {})[f"{what}.{name}_median_pct"] = round(
                100 * float(np.nanmedian(error)), 2
            )
    Path(out).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(
        Path(out).with_suffix(".npz"), ids=np.array(fitted.ids), labels=fitted.tpot.rows.labels,
        numbers=fitted.tpot.rows.numbers.astype(np.float32),
        tpot_weights=fitted.tpot.weights, ttft_weights=fitted.ttft.weights,
        tpot_residual=fitted.tpot.residual, ttft_residual=fitted.ttft.residual,
        tpot_s=np.array([r.tpot_s for r in own]),
        ttft_s=np.array([r.ttft_s for r in own]),
        tpot_left_out=fitted.tpot.left_out()[0], ttft_left_out=fitted.ttft.left_out()[0],
    )  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m weftline.serve.calibrate.fit ROWS.csv OUT.json")
    make(sys.argv[1], sys.argv[2])
