"""The step-time surface: seconds of one engine iteration for any mix of prefill and decode.

A :class:`StepSurface` is made once a configuration and holds a few small tables, so that a
simulation needs no model of operators: time that depends on the iteration's tokens, attention of
decoding sequences, attention of a prompt's chunk, and what the host adds. Between the points of a
grid time is linear in the size; beyond the last point it goes on in a straight line.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.serve.calibrate.shipped import constants_for
from weftline.serve.engine.adapters import adapter_bytes
from weftline.serve.engine.closed_form import overlap
from weftline.serve.engine.config import HOST_BYTES_PER_S, ServingConfig
from weftline.serve.engine.engines import profile
from weftline.serve.engine.memory import memory
from weftline.serve.engine.parts import (
    HOST_PARTS,
    PARTS,
    Iteration,
    Setting,
    least_seconds,
    part_seconds,
    setting_for,
)
from weftline.serve.engine.scheduler import kernels_of
from weftline.serve.engine.stages import stage_multiples

__all__ = ["StepSurface", "prefill_surface", "surface"]

FloatArray = npt.NDArray[np.float64]

ATTENTION_PARTS: Final = ("decode_attention", "prefill_attention", "scan")
TOKENS: Final = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048,
                 3072, 4096, 6144, 8192, 12288, 16384, 32768, 65536)  # fmt: skip
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
CONTEXTS: Final = (1, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
CHUNKS: Final = (1, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_SURFACES_KEPT: Final = 64
"""Surfaces that are kept: a search simulates one configuration again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSurface:
    """Seconds of one engine iteration of one replica."""

    token_grid: FloatArray
    token_s: FloatArray
    """[tokens] everything that depends on the iteration's tokens but is not attention."""
    token_mixed_s: FloatArray
    """[tokens] the same in an iteration that holds prompt chunks: no captured graph, so the longer
    of launching and computing, of which ``host_s`` is counted apart."""
    decode_batch_grid: FloatArray
    decode_context_grid: FloatArray
    decode_attention_s: FloatArray
    """[batch, context] attention of decoding sequences, by their mean cached tokens."""
    decode_attention_mixed_s: FloatArray
    """[batch, context] the same beside a prompt's chunk."""
    prefill_tokens_grid: FloatArray
    prefill_context_grid: FloatArray
    prefill_attention_s: FloatArray
    """[new tokens, cached] attention of one prompt chunk."""
    host_s: float
    """Once an iteration."""
    host_per_sequence_s: float
    front_end_s: float
    """Once a request, before it can be scheduled."""
    stages: float
    """Pipeline stages: a prompt's last chunk passes all of them, though a round takes the time of
    one (:meth:`fill_s`)."""
    tokens_per_step: float
    spec_tokens: float
    kv_capacity_tokens: float
    kv_bytes_per_token: float
    state_bytes_per_sequence: float
    kv_capped_share: float
    kv_cap_tokens: float
    kv_transfer_bytes_per_s: float

    def as_arrays(self) -> dict[str, Any]:
        """Every field by name: arrays and floats."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def token(self, tokens: float, *, prompts: bool = False) -> float:
        """Seconds of what depends on the iteration's tokens, ``prompts`` among them or not."""
        return _line(self.token_grid, self.token_mixed_s if prompts else self.token_s, tokens)

    def decode(self, batch: float, context: float, *, mixed: bool = False) -> float:
        """Seconds of attention of ``batch`` sequences with ``context`` cached tokens each."""
        if batch <= 0:
            return 0.0
        table = self.decode_attention_mixed_s if mixed else self.decode_attention_s
        return _plane(self.decode_batch_grid, self.decode_context_grid, table, batch, context)

    def chunk(self, tokens: float, context: float) -> float:
        """Seconds of attention of one prompt chunk of ``tokens`` after ``context`` cached ones."""
        if tokens <= 0:
            return 0.0
        return _plane(self.prefill_tokens_grid, self.prefill_context_grid,
                      self.prefill_attention_s, tokens, context)  # fmt: skip

    def fill_s(self, prompt_tokens: FloatArray, chunk_tokens: float) -> FloatArray:
        """Seconds that the last chunk of each prompt is under way beyond its own round.

        Of ``p`` stages a round counts one; the chunk passes p - 1 more.
        """
        if self.stages <= 1:
            return np.zeros(len(prompt_tokens))
        chunk = np.minimum(prompt_tokens, chunk_tokens)
        alone = np.interp(chunk * self.stages, self.token_grid, self.token_s)
        return np.asarray((self.stages - 1.0) / self.stages * alone)

    def of_rank(self, ranks: int) -> StepSurface:
        """The surface of one of ``ranks`` attention ranks, each with a scheduler of its own.

        The others are taken to be as busy: what all ranks do together costs what ``ranks`` times
        this one's tokens and sequences cost.
        """
        return replace(
            self, token_grid=self.token_grid / ranks,
            decode_batch_grid=self.decode_batch_grid / ranks,
            kv_capacity_tokens=self.kv_capacity_tokens / ranks,
        )  # fmt: skip

    def step_s(
        self, prefill_tokens: float, prefill_context: float, decode_batch: float,
        decode_context_sum: float,
    ) -> float:  # fmt: skip
        """Seconds of an iteration with one prompt chunk and ``decode_batch`` sequences."""
        tokens = prefill_tokens + decode_batch * (1.0 + self.spec_tokens)
        if tokens <= 0:
            return 0.0
        mean = decode_context_sum / decode_batch if decode_batch > 0 else 0.0
        return (
            self.host_s + self.host_per_sequence_s * decode_batch
            + self.token(tokens, prompts=prefill_tokens > 0)
            + self.decode(decode_batch, mean, mixed=prefill_tokens > 0)
            + self.chunk(prefill_tokens, prefill_context)
        )  # fmt: skip


def _cell(grid: FloatArray, size: float) -> tuple[int, float]:
    at = int(np.searchsorted(grid, size, side="right")) - 1
    at = min(max(at, 0), len(grid) - 2)
    return at, float((size - grid[at]) / (grid[at + 1] - grid[at]))


def _line(grid: FloatArray, values: FloatArray, size: float) -> float:
    i, w = _cell(grid, size)
    return max(float(values[i] + w * (values[i + 1] - values[i])), 0.0)


def _plane(a: FloatArray, b: FloatArray, values: FloatArray, x: float, y: float) -> float:
    i, u = _cell(a, x)
    j, w = _cell(b, y)
    low = values[i, j] + w * (values[i, j + 1] - values[i, j])
    high = values[i + 1, j] + w * (values[i + 1, j + 1] - values[i + 1, j])
    return max(float(low + u * (high - low)), 0.0)


def surface(config: ServingConfig) -> StepSurface:
    """The surface of a replica, or of one decode worker where prefill has its own.

    Raises NoFeasiblePlanError where the weights do not fit, UnknownNameError for unknown names.
    """
    return _surface(config, prefilling=config.prefill is None)


def prefill_surface(config: ServingConfig) -> StepSurface:
    """The surface of one prefill worker; of the replica itself where there is no prefill pool."""
    return surface(config) if config.prefill is None else _surface(config.prefilling(),
                                                                   prefilling=True)  # fmt: skip


@functools.lru_cache(maxsize=_SURFACES_KEPT)
def _surface(config: ServingConfig, *, prefilling: bool) -> StepSurface:
    setting = setting_for(config)
    # What works in this worker is its own chip's, wherever prompts were prefilled.
    own = config if config.prefill is None else replace(
        config, prefill=replace(config.prefill, chip="")
    )  # fmt: skip
    k, held, engine = constants_for(own), memory(config), profile(config.engine)
    decode_k, prefill_k = k.parts[0], k.prefill_parts[0]
    stages, queries = float(config.pp), 1.0 + config.spec_tokens
    layout = {"tp": config.tp, "dp": config.dp, "ep": config.ep, "moe_tp": config.expert_tp,
              "stages": stages, **kernels_of(config.engine)}  # fmt: skip
    tokens = np.array(TOKENS, dtype=np.float64)
    # A round of as many micro-batches as stages: each has its share of what the round works on,
    # and passes all layers once while the others are in other stages.
    staged = stage_multiples(setting, np.array([stages]))[0]
    decode_k, prefill_k = decode_k * staged, prefill_k * staged
    token_s = _tokens(setting, tokens / stages, layout, decode_k, prefill_k)
    one = part_seconds(setting, Iteration.of(tokens=1.0, sequences=1.0, **layout))[0]
    host = float(_pick(one, HOST_PARTS) @ _pick(decode_k, HOST_PARTS))
    first = part_seconds(setting, Iteration.of(tokens=1.0, prefill_tokens=1.0, prefills=1.0,
                                               **layout))[0]  # fmt: skip
    host_prefill = float(_pick(first, HOST_PARTS) @ _pick(prefill_k, HOST_PARTS))

    def attend(*, mixed: bool) -> FloatArray:
        return _grid(BATCHES, CONTEXTS, lambda b, c: _weigh(
            setting, Iteration.of(sequences=b / stages, tokens=b / stages * queries,
                                  context=c, queries=queries, mixed=mixed, **layout),
            ("decode_attention", "scan"), decode_k))  # fmt: skip

    draft = _draft_s(config) if config.spec_method != "none" else 0.0
    return StepSurface(
        token_grid=tokens, token_s=token_s,
        token_mixed_s=np.maximum(overlap(host_prefill, token_s) - host, token_s)
        if prefilling else token_s,
        decode_batch_grid=np.array(BATCHES, dtype=np.float64),
        decode_context_grid=np.array(CONTEXTS, dtype=np.float64),
        decode_attention_s=attend(mixed=False),
        decode_attention_mixed_s=attend(mixed=True) if prefilling else attend(mixed=False),
        prefill_tokens_grid=np.array(CHUNKS, dtype=np.float64),
        prefill_context_grid=np.array(CONTEXTS, dtype=np.float64),
        # A chunk is in one stage at a time: the round is longer by its share of the stages.
        prefill_attention_s=_grid(CHUNKS, CONTEXTS, lambda n, c: _weigh(
            setting, Iteration.of(prefill_tokens=n, prefills=1.0, tokens=n,
                                  prefill_context=c - 1.0, **layout),
            ("prefill_attention", "scan"), prefill_k) / stages),
        host_s=float(host + draft),
        host_per_sequence_s=float(decode_k[PARTS.index("sequences")] * 1e-6),
        stages=stages,
        front_end_s=_fetched_s(config, setting)
        + (float(k.front_end_s[0]) if engine.calibrated else engine.front_end_s),
        tokens_per_step=config.tokens_per_step, spec_tokens=float(config.spec_tokens),
        kv_capacity_tokens=held.kv_capacity_tokens, kv_bytes_per_token=held.kv_bytes_per_token,
        state_bytes_per_sequence=held.state_bytes_per_sequence,
        kv_capped_share=held.capped_share, kv_cap_tokens=held.cap_tokens,
        kv_transfer_bytes_per_s=float(k.transfer_bytes_per_s[0]),
    )  # fmt: skip


def _fetched_s(config: ServingConfig, setting: Setting) -> float:
    """Mean time that a request waits for its adapter to come from host memory."""
    if config.adapters is None:
        return 0.0
    one = adapter_bytes(setting.work, config.adapters.rank) / config.tp
    return config.adapters.missed * one / HOST_BYTES_PER_S


def _pick(values: FloatArray, names: tuple[str, ...]) -> FloatArray:
    return np.array([values[PARTS.index(n)] for n in names])


def _tokens(setting: Setting, tokens: FloatArray, layout: dict[str, Any], decode_k: FloatArray,
            prefill_k: FloatArray) -> FloatArray:  # fmt: skip
    """Token-dependent time: decode's coefficients for small iterations, prefill's for large."""
    shape = {"tokens": tokens, "sequences": np.minimum(tokens, 256.0), **layout}
    it = Iteration.of(**shape)
    keep = np.array([p not in (*HOST_PARTS, *ATTENTION_PARTS, "sequences") for p in PARTS])
    large = np.clip(np.log2(np.maximum(tokens, 1.0) / 128.0) / 3.0, 0.0, 1.0)
    least = least_seconds(setting, it)
    decoding = np.maximum(part_seconds(setting, it)[:, keep] @ decode_k[keep], least)
    prompts = part_seconds(setting, Iteration.of(**shape, prefill_tokens=tokens, prefills=1.0))
    prompting = np.maximum(prompts[:, keep] @ prefill_k[keep], least)
    whole = np.exp((1 - large) * np.log(decoding) + large * np.log(prompting))
    return np.asarray(np.maximum.accumulate(whole))


def _weigh(setting: Setting, it: Iteration, names: tuple[str, ...],
           coefficients: FloatArray) -> FloatArray:  # fmt: skip
    found = part_seconds(setting, it)
    return sum(
        (found[:, PARTS.index(n)] * coefficients[PARTS.index(n)] for n in names),
        start=np.zeros(len(it)),
    )


def _grid(rows: tuple[int, ...], columns: tuple[int, ...],
          time: Callable[[FloatArray, FloatArray], FloatArray]) -> FloatArray:  # fmt: skip
    a, b = np.meshgrid(np.array(rows, float), np.array(columns, float), indexing="ij")
    return time(a.ravel(), b.ravel()).reshape(a.shape)


def _draft_s(config: ServingConfig) -> float:
    """Seconds a step spends on drafting its tokens."""
    if config.spec_method == "draft" and config.draft_model:
        small = replace(config, model=config.draft_model, spec_method="none", spec_tokens=0,
                        draft_model=None)  # fmt: skip
        return float(config.spec_tokens * surface(small).step_s(0.0, 0.0, 1.0, 1024.0))
    # A prediction module is one more layer, run once a drafted token.
    setting = setting_for(config)
    k = constants_for(config).parts[0]
    layout = {"tp": config.tp, "dp": config.dp, "ep": config.ep, "moe_tp": config.expert_tp,
              **kernels_of(config.engine)}  # fmt: skip
    one = part_seconds(setting, Iteration.of(tokens=8.0, sequences=8.0, context=1024.0, **layout))
    iteration = float(k[PARTS.index("iteration")]) * 1e-3
    body = float((one[0] * k).sum()) - iteration
    return float(config.spec_tokens * body / setting.work.layers)
