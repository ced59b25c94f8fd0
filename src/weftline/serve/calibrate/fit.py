"""Fit the engine model to measured rows: constants with pulls, then what is left over.

Run as ``python -m weftline.serve.calibrate.fit OUT.json ROWS.csv...`` to make the shipped file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.learn import Features, Kernel, Process, fit_process
from weftline.operators import operators
from weftline.serve.calibrate.constants import Traits, constants_of, fuses
from weftline.serve.calibrate.harness import HARNESSES
from weftline.serve.calibrate.pool import (
    KINDS,
    LEFT_OUT_FIRST_TOKENS,
    by_times,
    is_early,
    is_left_out,
    measured,
    weights_of,
)
from weftline.serve.calibrate.residual import SHAPE, features_of, place_of, start_kernel, tempered
from weftline.serve.calibrate.row import Row
from weftline.serve.calibrate.solver import Problem, Solved
from weftline.serve.engine.closed_form import Answer, Compiled, Load, compile_load, join, solve
from weftline.serve.engine.parts import setting_of
from weftline.serve.engine.scheduler import answer_held, kernels_of

__all__ = ["Fitted", "answer_rows", "compile_rows", "fit_all", "fit_constants", "throughput_of",
           "traits_of"]  # fmt: skip

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

OUTLIER: Final = 0.12
"""Errors of ln(time) beyond this count linearly: one bad row does not bend the constants."""
WEIGHTS: Final = {"tpot": 1.0, "ttft": 0.35, "rate": 0.7}
"""What the kinds of measurement count in the fit of the constants."""
OFFSET_PULL: Final = 4.0
"""Pull of the offsets of single models: the square root of the rows they are worth."""
CLIP: Final = {"tpot": 0.6, "ttft": 1.0, "rate": 0.8}
"""Residuals beyond this are taken as this."""
BATCHES: Final = (1.0, 0.8, 0.63, 0.5, 0.4, 0.31, 0.25, 0.2, 0.15, 0.12, 0.09, 0.06, 0.04, 0.02)
"""Shares of the largest batch at which a harness with limits may run."""
TAIL: Final = 1.1
"""A limit on 99 % of requests over their mean: assumed, as in a capacity screen."""


Factors = Mapping[str, tuple[float, float]]
"""ln factors on decoding and prefill by chip."""


def traits_of(rows: Sequence[Row], factors: Factors | None = None) -> Traits:
    """What decides the constants of measured rows."""
    known = factors or {}
    return Traits.of(
        slower=np.array([known.get(r.chip, (0.0, 0.0)) for r in rows]).reshape(-1, 2),
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


def within_limits(rows: Sequence[Row], vector: FloatArray) -> list[Row]:
    """The rows, those whose harness keeps limits with the largest batch that keeps them."""
    out = list(rows)
    index = [i for i, r in enumerate(rows) if r.limits is not None]
    if not index:
        return out
    own = [rows[i] for i in index]
    tried = [replace(r, max_batch=max(1.0, share * r.max_batch)) for share in BATCHES for r in own]
    answer = answer_rows(compile_rows(tried), traits_of(tried), vector)
    late = answer.tpot_s.reshape(len(BATCHES), len(own))
    alone = answer.prefill_s.reshape(len(BATCHES), len(own))
    for j, i in enumerate(index):
        limits = own[j].limits
        if limits is None:
            continue
        good = (TAIL * late[:, j] <= limits.tpot_s) & (alone[:, j] <= limits.ttft_s)
        share = BATCHES[int(np.argmax(good))] if good.any() else BATCHES[-1]
        out[i] = replace(rows[i], max_batch=max(1.0, share * rows[i].max_batch))
    return out


def is_eager(row: Row) -> bool:
    """Whether a row's server decodes without captured graphs."""
    return row.launch.eager or (row.harness in HARNESSES and HARNESSES[row.harness].eager)


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
        equal=column(lambda r: HARNESSES[r.harness].equal if r.harness in HARNESSES else False),
        eager=column(is_eager),
        fused=column(lambda r: r.launch.fused or kernels_of(r.engine)["fused"]),
        own=column(lambda r: kernels_of(r.engine)["own"]),
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


def of_kind(answer: Answer, kind: str) -> FloatArray:
    """What the closed form says of one of ``KINDS``."""
    return {"tpot": answer.tpot_s, "ttft": answer.ttft_s,
            "rate": answer.output_tokens_per_s}[kind]  # fmt: skip


def fit_constants(
    rows: Sequence[Row], compiled: Compiled, *, start: FloatArray | None = None, rounds: int = 15
) -> tuple[Solved, IntArray]:
    """(the constants that fit the rows' times, and the rates of those without times; which rows
    they were fitted on)."""
    weight = weights_of(rows) * [not is_carried(r.chip) for r in rows]
    keep = np.flatnonzero(weight > 0)
    own = [rows[int(i)] for i in keep]
    some, traits = compiled.take(keep), traits_of(own)
    stated = np.stack([measured(own, kind) for kind in KINDS])
    counts = np.isfinite(stated)
    counts[KINDS.index("rate")] &= ~np.array([by_times(r) for r in own])
    late = np.array([(r.engine, r.version) in LEFT_OUT_FIRST_TOKENS for r in own])
    counts[KINDS.index("ttft")] &= ~late
    truth = np.where(counts, np.log(np.where(counts, stated, 1.0)), 0.0)
    group, groups = _offsets(own)

    def gaps(vector: FloatArray) -> FloatArray:
        found = answer_rows(some, traits, vector)
        logs = np.log(np.stack([of_kind(found, kind) for kind in KINDS]))
        return np.where(counts, logs - truth, 0.0)

    problem = Problem(
        gaps=gaps, traits=traits,
        weight=counts * weight[keep] * np.array([[WEIGHTS[k]] for k in KINDS]),
        group=group, groups=groups, offset_pull=OFFSET_PULL, outlier=OUTLIER,
    )  # fmt: skip
    return Solved(problem, problem.solve(start, rounds)), keep


def _offsets(rows: Sequence[Row]) -> tuple[npt.NDArray[np.int64], int]:
    """A group for each row: what a model departs by on one engine, chip generation and harness.

    The groups' offsets are fitted beside the constants and thrown away: a model that is odd for
    reasons of its own then does not bend constants that all models share.
    """
    keys = [
        (r.family, r.engine, r.chip[0], r.precision, is_early(r), r.mode, r.drafted > 0, r.harness)
        for r in rows
    ]
    names = sorted(set(keys), key=str)
    at = {k: i for i, k in enumerate(names)}
    return np.array([at[k] for k in keys]), len(names)


def chip_factors(
    rows: Sequence[Row], compiled: Compiled, vector: FloatArray
) -> dict[str, tuple[float, float]]:
    """ln factors of chips whose own kernels were not measured: medians of measured over predicted.

    Where a chip's rows state rates alone, of their inverse; limits on latency say nothing of it.
    """
    answer = answer_rows(compiled, traits_of(rows), vector)
    gaps = {k: np.log(measured(rows, k) / of_kind(answer, k)) for k in KINDS}
    bound = np.array([r.limits is not None for r in rows])
    out: dict[str, tuple[float, float]] = {}
    for chip in sorted({r.chip for r in rows if is_carried(r.chip)}):
        own = np.array([r.chip == chip for r in rows])
        some = own & ~bound if (own & ~bound).any() else own
        middle = {k: _median(g[some]) for k, g in gaps.items()}
        rate = -(middle["rate"] or 0.0)
        late = rate if middle["tpot"] is None else middle["tpot"]
        first = late if middle["ttft"] is None else middle["ttft"]
        out[chip] = (round(late, 4), round(first, 4))
    return out


def _median(values: FloatArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


@lru_cache(maxsize=128)
def is_carried(chip: str) -> bool:
    """Whether a chip is priced by a prior, or by the kernels of another maker's."""
    found = operators(chip).chip
    return found.like is None or found.vendor != operators(found.like).chip.vendor


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Constants and a residual process for each kind of measurement, from one pool of rows."""

    vector: FloatArray
    factors: dict[str, tuple[float, float]]
    processes: dict[str, Process]
    ids: tuple[str, ...]
    families: frozenset[str]

    def predict(self, rows: Sequence[Row], compiled: Compiled) -> dict[str, FloatArray]:
        """Rows by kind of measurement, corrected by points of their own place."""
        answer = answer_rows(compiled, traits_of(rows, self.factors), self.vector)
        features = features_of(rows, answer)
        found = {
            kind: of_kind(answer, kind) * np.exp(self.processes[kind].mean(features))
            for kind in KINDS
        }
        return with_rates(rows, found)


def with_rates(rows: Sequence[Row], found: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """The same with the rates of closed loops and static batches as their times make them."""
    queued = np.array([r.scenario == "offline" for r in rows])
    rate = np.where(queued, found["rate"], throughput_of(rows, found["ttft"], found["tpot"]))
    return {**found, "rate": rate}


def fit_all(
    rows: Sequence[Row], compiled: Compiled, *, start: FloatArray | None = None,
    kernels: dict[str, Kernel] | None = None, rounds: int = 10,
) -> Fitted:  # fmt: skip
    """Constants and processes; ``kernels`` by kind are learnt if absent."""
    vector = fit_constants(rows, compiled, start=start, rounds=rounds)[0].vector
    return with_constants(rows, compiled, vector, kernels)


def with_constants(
    rows: Sequence[Row], compiled: Compiled, vector: FloatArray,
    kernels: dict[str, Kernel] | None = None, places: frozenset[str] | None = None,
) -> Fitted:  # fmt: skip
    """Processes over what given constants leave of the rows; with ``places``, of those alone, as
    no other says anything of them."""
    keep = [i for i, r in enumerate(rows) if not is_left_out(r)]
    factors = chip_factors([rows[i] for i in keep], compiled.take(np.array(keep)), vector)
    if places is not None:
        keep = [i for i in keep if place_of(rows[i]) in places]
    own = [rows[i] for i in keep]
    some = compiled.take(np.array(keep, dtype=np.int64))
    answer = answer_rows(some, traits_of(own, factors), vector)
    features = features_of(own, answer)
    return Fitted(
        vector=vector, factors=factors, ids=tuple(r.id for r in own),
        families=frozenset(r.family for r in own),
        processes={
            kind: _process(own, kind, of_kind(answer, kind), features, kernels) for kind in KINDS
        },
    )  # fmt: skip


def _process(
    rows: Sequence[Row], kind: str, found: FloatArray, features: Features,
    kernels: dict[str, Kernel] | None,
) -> Process:  # fmt: skip
    """The process of what one kind of measurement leaves over."""
    truth = measured(rows, kind)
    if kind == "rate":
        truth = np.where([by_times(r) for r in rows], np.nan, truth)
    has = np.isfinite(truth)
    if kernels and not has.any():
        return Process(SHAPE, kernels[kind], features.take(has), truth[has])
    residual = np.clip(np.log(truth[has] / found[has]), -CLIP[kind], CLIP[kind])
    start = kernels[kind] if kernels else start_kernel(first=kind == "ttft")
    own = features.take(has)
    if not kernels:
        start = tempered(fit_process(SHAPE, own, residual, start, learn_on=450, pull=2.0).kernel)
    return fit_process(SHAPE, own, residual, start, fit=False)


def throughput_of(rows: Sequence[Row], ttft_s: FloatArray, tpot_s: FloatArray) -> FloatArray:
    """Output tokens a second and chip, by Little's law (see ``row.with_throughput``)."""
    count = np.array([r.concurrency / r.chips for r in rows])
    length = np.array([r.output_tokens for r in rows])
    return np.asarray(count * length / (ttft_s + (length - 1.0) * tpot_s))
