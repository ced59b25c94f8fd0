"""First-token time, time per output token and throughput in closed form, on arrays.

``compile_load`` takes the iterations of every configuration apart once; ``solve`` puts them
together under coefficients, so that a fit or a sweep over constants costs a few multiplications.

A replica (or a pool of decode workers) serves ``concurrency`` requests at once in a closed loop: a
request that ends is followed by another. Then ``concurrency = rate x (TTFT + (output - 1) TPOT)``
(Little's law), and what runs at once is the lesser of what is asked, what the cache holds and,
where prefill has workers of its own, what they can feed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.serve.engine.memory import cache_tokens
from weftline.serve.engine.parts import (
    HOST_PARTS,
    PARTS,
    Iteration,
    Setting,
    least_seconds,
    part_seconds,
)
from weftline.serve.engine.stages import draft_multiples, fill_share, stage_multiples, stalled

__all__ = ["Answer", "Compiled", "Constants", "Load", "compile_load", "join", "solve"]

FloatArray = npt.NDArray[np.float64]

BATCH_SHARES: Final = (1.0, 0.4, 0.12, 0.03)
"""Where the decode iteration is taken apart, as shares of the largest batch."""
ITERATION_TOKENS: Final = 8192.0
"""Tokens of prompts that one iteration takes when they queue, by default."""
HOST_AT: Final = [PARTS.index(p) for p in HOST_PARTS]
SHARED: Final = [
    PARTS.index(p)
    for p in ("gemm_block", "gemm_8bit", "gemm_4bit", "gemm_plain", "gemm_compute", "quantise",
              "moe_block", "moe", "moe_spread", "all_reduce", "exchange", "kernels", "launches",
              "layers", "iteration", "tokens", "elementwise", "fp32", "head", "moe_route")
]  # fmt: skip
"""What a prompt's chunk and the sequences that decode beside it pay once in a common iteration:
weights are read and kernels launched once. Attention and the work of a sequence is each one's."""
LEAST_ADDED: Final = 0.15
"""A prompt's chunk never adds less than this share of its own time: sharing saves the rest."""
ROUNDS: Final = 6
"""Fixed-point rounds of the batch that prefill can feed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Configurations of one setting and what is asked of them; arrays of one length."""

    input_tokens: FloatArray
    output_tokens: FloatArray
    concurrency: FloatArray
    """Requests in flight, over all workers of the deployment."""
    tp: FloatArray
    pp: FloatArray
    dp: FloatArray
    ep: FloatArray
    moe_tp: FloatArray
    workers: FloatArray
    """Replicas; decode workers where prefill has its own."""
    max_batch: FloatArray
    """Sequences one replica may run."""
    queries: FloatArray
    """Tokens verified a step: 1, or 1 + drafted."""
    poll_steps: FloatArray
    """Decode iterations between two looks for new requests; 0 where every iteration looks."""
    gather_steps: FloatArray
    """Decode iterations a prompt is held back for others to join it, at most: for one on every
    attention rank where there are several; 0 where none is held."""
    iteration_tokens: FloatArray
    """Tokens of prompts that one iteration takes at most, on each attention rank."""
    static: FloatArray
    """1 where a batch is put together once: all its prompts are prefilled in one go."""
    equal: FloatArray
    """1 where all requests of a closed loop are of one length: an engine that prefills first then
    runs them in waves (:func:`_in_waves`)."""
    eager: FloatArray
    """1 where decoding replays no captured graph: the host launches every call, as in a prefill."""
    fused: FloatArray
    """1 where an all-reduce and the norm after it are one kernel."""
    own: FloatArray
    """1 where the engine is TensorRT-LLM, whose kernels are its own."""
    answer_held: FloatArray
    """Share of an answer's cache that a running sequence holds: half of it in the mean, all of it
    where an engine takes the room before it starts (TensorRT-LLM)."""
    prefill_workers: FloatArray
    """0 where the same workers prefill and decode."""
    prefill_tp: FloatArray
    prefill_pp: FloatArray
    prefill_dp: FloatArray
    prefill_ep: FloatArray
    prefill_moe_tp: FloatArray

    @classmethod
    def of(cls, **values: Any) -> Load:
        """From numbers and arrays, broadcast; prefill layouts default to the decode ones."""
        d: dict[str, Any] = {
            "tp": 1.0, "pp": 1.0, "dp": 1.0, "ep": 1.0, "workers": 1.0, "max_batch": np.inf,
            "queries": 1.0, "poll_steps": 0.0, "gather_steps": 0.0, "prefill_workers": 0.0,
            "iteration_tokens": ITERATION_TOKENS, "static": 0.0, "equal": 0.0,
            "eager": 0.0, "fused": 0.0, "own": 0.0, "answer_held": 0.5, **values,
        }  # fmt: skip
        d.setdefault("moe_tp", np.asarray(d["tp"]) * np.asarray(d["dp"]) / np.asarray(d["ep"]))
        for name in ("tp", "pp", "dp", "ep", "moe_tp"):
            d.setdefault(f"prefill_{name}", d[name])
        names = [f.name for f in fields(cls)]
        wide = np.broadcast_arrays(
            *[np.atleast_1d(np.asarray(d[n], dtype=np.float64)) for n in names]
        )
        return cls(**dict(zip(names, wide, strict=True)))

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def chips(self) -> FloatArray:
        """All chips."""
        decode = self.tp * self.pp * self.dp * self.workers
        pool = self.prefill_tp * self.prefill_pp * self.prefill_dp
        return decode + self.prefill_workers * pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """Loads taken apart: parts in seconds, and the numbers the closed form needs beside them."""

    decode: FloatArray
    """[n, shares, parts] decode iterations at shares of the largest batch."""
    prefill: FloatArray
    """[n, parts] an iteration that prefills one prompt (one on each attention rank)."""
    batched: FloatArray
    """[n, parts] an iteration that prefills ``batch_prompts`` prompts on each attention rank."""
    batch_prompts: FloatArray
    ranks: FloatArray
    """Attention ranks that prefill side by side in one worker."""
    lanes: FloatArray
    """Prompts a worker has under way at once: on each rank, one in each pipeline stage."""
    fill: FloatArray
    """Time to a prompt's end over the time of its chunks one after the other: where there are
    stages, chunk follows chunk through them."""
    largest: FloatArray
    """Largest batch of one worker: what is asked, allowed and held by the cache."""
    asked: FloatArray
    """Requests in flight a worker."""
    feeders: FloatArray
    """Prefill workers a decode worker; 0 where it prefills itself."""
    output_tokens: FloatArray
    chips: FloatArray
    """Chips a decode worker, its share of prefill workers included."""
    kv_bytes: FloatArray
    """Bytes of cache a prompt hands over from prefill to decode."""
    poll_steps: FloatArray
    gather_steps: FloatArray
    least_decode: FloatArray
    """[n, shares] what the chip's peaks allow for the iterations of ``decode``."""
    least_prefill: FloatArray
    """The same for a prompt on each attention rank."""
    chunks: FloatArray
    """Iterations that one prompt's prefill is spread over."""
    most_prompts: FloatArray
    """Prompts that one iteration of a worker takes at most; less than one where they are longer
    than its budget of tokens."""
    static: npt.NDArray[np.bool_]
    equal: npt.NDArray[np.bool_]
    eager: npt.NDArray[np.bool_]
    fits: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.asked)

    def take(self, index: npt.NDArray[Any]) -> Compiled:
        """Some of the loads."""
        return Compiled(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def join(parts: Sequence[Compiled]) -> Compiled:
    """Several compiled loads as one."""
    return Compiled(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Compiled)}
    )


def compile_load(setting: Setting, load: Load, prompts: Setting | None = None) -> Compiled:
    """Take the iterations of every configuration apart; ``prompts`` where a prefill pool has
    another chip."""
    asked = load.concurrency / load.workers
    layout = {"tp": load.tp, "dp": load.dp, "ep": load.ep, "moe_tp": load.moe_tp}
    mean = load.input_tokens + load.output_tokens / 2.0
    held = cache_tokens(
        setting,
        tp=load.tp,
        pp=load.pp,
        dp=load.dp,
        ep=load.ep,
        moe_tp=load.moe_tp,
        context=load.input_tokens + load.answer_held * load.output_tokens,
    )
    largest = np.minimum(np.minimum(asked, load.max_batch), np.maximum(held, 1.0))
    staged = stage_multiples(setting, load.pp) * draft_multiples(setting, load.queries - 1.0)
    steps = [
        Iteration.of(
            tokens=np.maximum(largest * share / load.pp, 1.0) * load.queries,
            sequences=np.maximum(largest * share / load.pp, 1.0),
            context=mean, queries=load.queries, stages=load.pp, eager=load.eager,
            fused=load.fused, own=load.own, **layout,
        )
        for share in BATCH_SHARES
    ]  # fmt: skip
    decode = np.stack([part_seconds(setting, it) * staged for it in steps], axis=1)
    side = {
        "tp": load.prefill_tp, "dp": load.prefill_dp, "ep": load.prefill_ep,
        "moe_tp": load.prefill_moe_tp,
    }  # fmt: skip
    most = np.maximum(np.floor(load.iteration_tokens / load.input_tokens), 1.0)
    most = np.where(load.static > 0, largest / load.dp, most)

    # One prompt's own way through the stages waits for nobody.
    ahead = prompts or setting
    prefill_staged = stage_multiples(ahead, load.prefill_pp)
    prefill_staged = prefill_staged / stalled(load.prefill_pp)[:, None]

    def chunk_of(count: Any) -> Iteration:
        return Iteration.of(
            tokens=load.input_tokens * load.prefill_dp * count, prefill_tokens=load.input_tokens,
            prefills=count, stages=load.prefill_pp, fused=load.fused, own=load.own, **side,
        )  # fmt: skip

    def prefill(count: Any) -> FloatArray:
        return prefill_staged * part_seconds(ahead, chunk_of(count))

    fits = held >= 1.0
    if prompts is not None:
        there = cache_tokens(
            prompts, tp=load.prefill_tp, pp=load.prefill_pp, dp=load.prefill_dp,
            ep=load.prefill_ep, moe_tp=load.prefill_moe_tp, context=load.input_tokens,
        )  # fmt: skip
        fits = fits & (there >= 1.0)

    return Compiled(
        decode=decode, least_decode=np.stack([least_seconds(setting, it) for it in steps], axis=1),
        least_prefill=least_seconds(ahead, chunk_of(1.0)), prefill=prefill(1.0),
        batched=prefill(most), batch_prompts=most,
        ranks=load.prefill_dp, lanes=load.prefill_dp * load.prefill_pp / stalled(load.prefill_pp),
        fill=fill_share(load.input_tokens, load.iteration_tokens, load.prefill_pp),
        largest=largest, asked=asked,
        feeders=load.prefill_workers / load.workers, output_tokens=load.output_tokens,
        chips=load.chips / load.workers,
        kv_bytes=load.input_tokens * setting.work.kv_values_per_token * setting.kv_bytes,
        poll_steps=load.poll_steps, gather_steps=load.gather_steps, static=load.static > 0,
        equal=load.equal > 0, eager=load.eager > 0,
        most_prompts=load.prefill_dp * load.iteration_tokens / load.input_tokens,
        chunks=np.maximum(np.ceil(load.input_tokens / load.iteration_tokens), 1.0),
        fits=fits,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What a calibration knows of an engine; arrays of one length (or scalars that broadcast)."""

    parts: FloatArray
    """[n, parts] coefficients of the parts when decoding."""
    prefill_parts: FloatArray
    """[n, parts] the same when prefilling."""
    cluster: FloatArray
    """How closely prompts follow each other: prompts prefilled together, over those that would
    come by chance while one is prefilled."""
    mixing: FloatArray
    """Time a prompt's chunks take among the iterations of others, in prefills of it alone."""
    sharing: FloatArray
    """Share of what an iteration pays once (``SHARED``) that decoding is spared where it runs
    beside a prompt's chunk."""
    host_mixing: FloatArray
    """Share of a prefill's launching that holds up the decoding of others."""
    tokens_per_step: FloatArray
    front_end_s: FloatArray
    """Once a request: HTTP, tokenising, dispatch, the first answer's way back."""
    wait_steps: FloatArray
    """Decode iterations between arrival and the start of its prefill."""
    hold: FloatArray
    """Time that prompts are held back, over what polling and gathering alone make of it."""
    wait_prefills: FloatArray
    """Share of the other requests' prefills that a request waits for: bursts and their echoes."""
    mixes: FloatArray
    """1 where prompts run in iterations that decode too, 0 where they go before all decoding."""
    feed: FloatArray
    """Share of its prefill throughput that a prefill pool reaches."""
    transfer_bytes_per_s: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the closed form says, one a configuration."""

    ttft_s: FloatArray
    tpot_s: FloatArray
    output_tokens_per_s: FloatArray
    """A chip, prefill workers counted."""
    batch: FloatArray
    """Sequences decoding at once in one worker."""
    decode_s: FloatArray
    """One decode iteration."""
    prefill_s: FloatArray
    """One prompt's prefill, alone."""
    load: FloatArray
    """Share of time spent prefilling: of the worker, or of the prefill pool."""


def k_shared(k: Constants, count: int) -> FloatArray:
    """Coefficients of what a common iteration pays once, [n, parts of ``SHARED``]."""
    return np.broadcast_to(k.parts[:, SHARED], (count, len(SHARED)))


def _host_and_chip(parts: FloatArray, coefficients: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What the host takes to launch an uncaptured iteration, and what the chip takes to run it."""
    weighed = parts * coefficients
    host = weighed[:, HOST_AT].sum(1)
    return host, weighed.sum(1) - host


def _decode_steps(c: Compiled, k: Constants) -> FloatArray:
    """Decode iterations at the shares compiled: all in one replay of a captured graph, or, where
    every call is launched, the longer of launching and computing."""
    parts = np.broadcast_to(k.parts, c.prefill.shape)
    decode = np.einsum("nsp,np->ns", c.decode, parts)
    if not c.eager.any():
        return np.asarray(decode)
    launched = np.broadcast_to(k.prefill_parts, c.prefill.shape)[:, HOST_AT]
    host = np.einsum("nsp,np->ns", c.decode[:, :, HOST_AT], launched)
    busy = decode - np.einsum("nsp,np->ns", c.decode[:, :, HOST_AT], parts[:, HOST_AT])
    return np.where(c.eager[:, None], overlap(host, busy), decode)


def overlap(host: FloatArray | float, busy: FloatArray) -> FloatArray:
    """Launching runs ahead of the chip: the longer of the two, with a soft corner."""
    return np.asarray((host**4 + busy**4) ** 0.25)


def _decode_at(times: FloatArray, share: FloatArray) -> FloatArray:
    """Time at a share of the largest batch: linear in the batch between the points compiled."""
    out = times[:, -1] * 1.0
    for j in range(len(BATCH_SHARES) - 1, 0, -1):
        low, high = BATCH_SHARES[j], BATCH_SHARES[j - 1]
        weight = np.clip((share - low) / (high - low), 0.0, 1.0)
        out = out + weight * (times[:, j - 1] - times[:, j])
    return np.asarray(out)


def solve(c: Compiled, k: Constants) -> Answer:
    """First-token time, time per token and throughput under some constants."""
    # Slow operators cannot be saturated: products over the parts axis are sums of known times.
    decode = np.maximum(_decode_steps(c, k), c.least_decode)
    host, busy = _host_and_chip(c.prefill, k.prefill_parts)
    busy = np.maximum(busy, c.least_prefill)
    prefill = overlap(host, busy) * c.fill
    host_batch, busy_batch = _host_and_chip(c.batched, k.prefill_parts)
    busy_batch = np.maximum(busy_batch, c.least_prefill * c.batch_prompts)
    whole = overlap(host_batch, busy_batch)
    apart = c.feeders > 0
    steps = np.maximum(c.output_tokens - 1.0, 1.0)
    # A worker's time a prompt, one at a time in each stage of each rank.
    each = k.mixing * overlap(k.host_mixing * host, busy) / c.lanes
    least = np.maximum(LEAST_ADDED * each, c.least_prefill / c.lanes)
    once = np.einsum("nsp,np->ns", c.decode[:, :, SHARED], k_shared(k, len(c)))
    rate_most = np.where(apart, k.feed * c.feeders * c.batch_prompts * c.lanes / whole, np.inf)
    transfer = np.where(apart, c.kv_bytes / k.transfer_bytes_per_s, 0.0)

    share = np.ones(len(c))
    # Beside decoding an iteration takes no more prompts than its budget holds: no more sequences
    # decode at once than prompts are finished for, whatever waits.
    fed = np.where((k.mixes > 0.5) & ~apart, np.maximum(c.most_prompts * steps, 1.0), np.inf)
    running = np.minimum(c.largest, fed)
    tpot = _tpot(c, k, decode, share, each, apart, steps)
    first = k.front_end_s + prefill + transfer
    for _ in range(ROUNDS):
        batch = c.largest * share
        rate = np.minimum(batch / (steps * tpot), rate_most)
        rate = np.minimum(rate, c.asked / (first + steps * tpot))
        share = np.clip(0.5 * share + 0.5 * rate * steps * tpot / c.largest, 0.0,
                        running / c.largest)  # fmt: skip
        # Prompts that come while one is prefilled are prefilled together: the host is paid once.
        together = np.clip(1.0 + k.cluster * rate * prefill, 1.0, c.batch_prompts)
        a_prompt = _each_of(together, busy, busy_batch, c.batch_prompts)
        each = k.mixing * overlap(k.host_mixing * host / together, a_prompt) / c.lanes
        # A common iteration is one that decoding need not run for itself.
        spared = k.mixes * k.sharing * c.chunks * _decode_at(once, share) / together / c.lanes
        each = np.where(apart, each, np.maximum(each - spared, least))
        # None of them is answered before the iteration ends.
        own = np.where(apart, prefill, overlap(host, together * a_prompt) * c.fill)
        first = k.front_end_s + own + transfer
        tpot = _tpot(c, k, decode, share, each, apart, steps)
    rate = np.minimum(np.minimum(running / (steps * tpot), rate_most),
                      c.asked / (first + steps * tpot))  # fmt: skip
    load = np.where(apart, rate / rate_most, np.minimum(rate * each, 0.98))
    waits = k.wait_steps + k.hold * _held_steps(c, k, c.largest * share)
    beside = k.mixes * 0.5 * decode[:, 0]  # the batch that decodes meanwhile grows from nothing
    others = k.wait_prefills * _burst_s(c, host_batch, busy_batch, np.where(apart, 0.0, beside))
    others += k.hold * _gang(c, k, c.largest * share) * each
    unloaded = first + waits * tpot * k.tokens_per_step + others
    # What does not run waits: Little's law on all that are in flight.
    ttft = np.maximum(unloaded, c.asked / rate - steps * tpot)
    ttft, tpot = _in_waves(c, k, ttft, tpot, decode[:, 0], whole, steps)
    ttft = np.where(c.static, k.front_end_s + whole, ttft)
    tpot = np.where(c.static, decode[:, 0] / k.tokens_per_step, tpot)
    rate = c.asked / (ttft + steps * tpot)
    return Answer(
        ttft_s=ttft, tpot_s=tpot, output_tokens_per_s=rate * c.output_tokens / c.chips,
        batch=c.largest * share, decode_s=_decode_at(decode, share), prefill_s=prefill, load=load,
    )  # fmt: skip


def _each_of(count: FloatArray, one: FloatArray, batch: FloatArray, most: FloatArray) -> FloatArray:
    """Chip time a prompt where ``count`` are in one iteration: what an iteration of more takes
    grows in a straight line from one prompt to the largest batch, as weights are read once."""
    along = (count - 1.0) / np.maximum(most - 1.0, 1.0)
    return np.asarray((one + along * np.maximum(batch - one, 0.0)) / count)


def _in_waves(
    c: Compiled, k: Constants, ttft: FloatArray, tpot: FloatArray, decode: FloatArray,
    whole: FloatArray, steps: FloatArray,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """First-token time and time per token where equal requests meet an engine that prefills first.

    All in flight are prefilled, ``b`` at a time, before any decodes; so all end in one step, and
    the next wave begins as the first did. A first token waits for (n + b) / 2 prefills in the mean,
    and the answer then for the prefills after its own.
    """
    waves = c.equal & (k.mixes < 0.5) & (c.feeders <= 0) & ~c.static
    per = whole / c.batch_prompts / c.lanes
    count = np.maximum(c.largest, 1.0)
    some = np.minimum(c.batch_prompts * c.lanes, count)
    first = k.front_end_s + 0.5 * (count + some) * per
    # Those beyond the batch wait for a whole wave.
    wave = count * per + steps * decode / k.tokens_per_step
    first = first + np.maximum(c.asked / count - 1.0, 0.0) * wave
    late = decode / k.tokens_per_step + 0.5 * (count - some) * per / steps
    return np.where(waves, first, ttft), np.where(waves, late, tpot)


def _burst_s(c: Compiled, host: FloatArray, busy: FloatArray,
             beside: FloatArray) -> FloatArray:  # fmt: skip
    """Twice the mean wait of requests that all come at once for the prefills before their own.

    Iterations of ``b`` prompts follow each other, and none of a batch is answered before all are:
    of ``n`` requests one ends after (n + b) / 2 prefills on average. ``beside`` is what an
    iteration decodes beside its prompts, where engines mix both.
    """
    lines = np.where(c.feeders > 0, c.feeders, 1.0) * c.lanes
    queue = np.maximum(c.asked / lines, 1.0)
    some = np.minimum(c.batch_prompts, queue)
    each = overlap(host / some, busy / c.batch_prompts) + beside / some
    return np.asarray((queue + some - 2.0) * each)


def _gang(c: Compiled, k: Constants, batch: FloatArray) -> FloatArray:
    """Prompts that were held back with one and are answered no earlier: as many as one iteration
    takes, and half of those that follow in further ones."""
    arrivals = batch * k.tokens_per_step / np.maximum(c.output_tokens, 1.0)
    found = arrivals * c.poll_steps / c.ranks
    return np.asarray(0.5 * found * (1.0 + np.minimum(c.batch_prompts / (found + 1.0), 1.0)))


def _held_steps(c: Compiled, k: Constants, batch: FloatArray) -> FloatArray:
    """Decode iterations a prompt is held back on average.

    Who polls every n iterations finds a request n / 2 late. Who gathers waits from the first prompt
    on until all ranks have one (the harmonic number of ranks times the time between arrivals at one
    rank) or the limit is reached; of those that join later each waits half as long on average.
    """
    arrivals = batch * k.tokens_per_step / np.maximum(c.output_tokens, 1.0)  # an iteration
    every = (np.log(c.ranks) + 0.5772 + 0.5 / c.ranks) * c.ranks / np.maximum(arrivals, 1e-9)
    span = np.where(c.ranks > 1, np.minimum(c.gather_steps, every), c.gather_steps)
    return np.asarray(0.5 * c.poll_steps + span * (0.5 + 0.5 / (1.0 + arrivals * span)))


def _tpot(
    c: Compiled, k: Constants, decode: FloatArray, share: FloatArray, each: FloatArray,
    apart: npt.NDArray[np.bool_], steps: FloatArray,
) -> FloatArray:  # fmt: skip
    alone = _decode_at(decode, share) / k.tokens_per_step
    others = np.maximum(c.largest * share - 1.0, 0.0) / steps * each
    return np.asarray(alone + np.where(apart, 0.0, others))
