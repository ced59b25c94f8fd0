"""One engine iteration taken apart: seconds of every kind of work, before calibration.

All arrays are over configurations of one :class:`Setting` (model, chip, number formats). The sum of
the parts, each times its fitted coefficient (close to one), is the time of the iteration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError
from weftline.model import load_model
from weftline.operators import Chip, Operators, operators
from weftline.operators.dtypes import canonical, number_format
from weftline.serve.engine.adapters import Adapters, adapter_bytes, adapter_seconds
from weftline.serve.engine.config import KV_BYTES, ServingConfig
from weftline.serve.engine.work import Experts, Gemm, Mixer, Work, work_of
from weftline.spec.attention_counts import seen as seen_by

__all__ = ["HOST_PARTS", "PARTS", "Iteration", "Setting", "least_seconds", "part_seconds",
           "priced", "setting_for", "setting_of"]  # fmt: skip

FloatArray = npt.NDArray[np.float64]

PARTS: Final = (
    "gemm_block",  # products of weights quantised in blocks (fp8)
    "gemm_8bit",  # products of 8-bit weights, quantised by tensor or channel
    "gemm_4bit",  # products of 4-bit weights, quantised by group
    "gemm_plain",  # products in bf16
    "gemm_compute",  # what products of a decode step take beyond reading their weights
    "quantise",  # casting activations before a quantised product: 1 us a product
    "fp32",  # products in fp32, on the vector units: some routers
    "head",  # the output projection, for sequences that yield a token
    "moe_block",  # routed experts in block fp8
    "moe",  # routed experts in other formats
    "moe_spread",  # the same again where experts are split over ranks: their imbalance
    "moe_route",  # router, permutation: 1 us a layer
    "decode_attention",
    "prefill_attention",
    "scan",  # recurrent mixers
    "elementwise",  # norms, rotary, gates: bytes over bandwidth
    "all_reduce",
    "exchange",  # tokens to the ranks of their experts and back, under attention data parallelism
    "kernels",  # launches of a captured graph: 1 us a kernel
    "launches",  # calls of an uncaptured prefill: 1 us an operator, cast or collective
    "layers",  # what a layer costs whatever its size: 1 us
    "iteration",  # what an iteration costs the host: 1 ms
    "sequences",  # host work a running sequence: 1 us
    "tokens",  # work a token of one rank not counted elsewhere: 1 us
    "adapters",  # LoRA's thin products beside those of the base
)
HOST_PARTS: Final = ("moe_route", "launches", "layers", "iteration")
"""What the host does to launch an iteration: routing is many small kernels, little work."""
_SKEW: Final = 0.6
"""Power law of routed loads that the experts' tables are read at (1.2 is the measured one): that
is for uneven tiles, how many experts are met at all is ``POPULARITY``'s."""
POPULARITY: Final = 1.0
"""Experts are not equally liked: the power of their rank that the chance to be met falls with.
Chosen of 0.6, 0.8, 1 and 1.2, and ``_SKEW`` of 0, 0.6 and 1.2, by errors of runs left out."""
ONE_SHOT_TOKENS: Final = 128
"""Tokens up to which an all-reduce joined with its norm is one-shot: every rank sends all of its
sums to every other (TensorRT-LLM's and FlashInfer's ``kOneShotMaxToken``)."""
_XQA_CALL_S: Final = 7e-6
_XQA_REACHED: Final = 0.8
"""TensorRT-LLM's decode attention on Hopper: a call, and the share of the bandwidth it reads at.
The tables hold vLLM's kernel there (14 us, and half of the bandwidth from 8-bit caches). Read off
the steps of Llama-3.1-70B on H200; what it mends is also Qwen3-235B's on H100."""
SHARED_HIDDEN: Final = 0.5
"""Share of what shared experts take beyond reading their weights that a step does not show: they
run on a stream beside the routed ones (vLLM's ``shared_experts_stream``, SGLang's ``alt_stream``,
TensorRT-LLM's auxiliary stream). Chosen of none, half and all by the errors of runs left out."""
_FP32_CALL_S: Final = 10e-6
_FP32_REACHED: Final = 0.7
_FP32_SHARE: Final = 15.0
"""A product in fp32: what the smallest takes, what it reaches of the vector units' peak, and the
bf16 peak over that one where no sheet says it (H100: 989 and 67 TFLOP/s). Assumed."""
_OUT_IN_4_BITS: Final = ("deepseek-r1", "deepseek-v3")
"""Models whose 4-bit checkpoint quantises attention's output projection too: the card of
nvidia/DeepSeek-R1-0528-FP4-v2, the one that public sweeps serve, read 2026-12-01."""
_WIDE_RANKS: Final = 8
"""Beyond this many ranks engines exchange tokens point to point; within, they may gather."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all configurations of one call share."""

    work: Work
    chip: str
    attention_dtype: str
    out_dtype: str
    """Of attention's output projection."""
    gemm_dtype: str
    moe_dtype: str
    kv_dtype: str
    operators: Operators
    adapters: Adapters | None = None

    @property
    def kv_bytes(self) -> float:
        """Bytes of one cached value."""
        return KV_BYTES[self.kv_dtype]

    def dtype_of(self, g: Gemm) -> str:
        """Number format of a dense product's weights; products in fp32 are kept in bf16."""
        if g.head or g.fp32:
            return "bf16"
        if not g.mixer:
            return self.gemm_dtype
        return self.out_dtype if g.split_in else self.attention_dtype


@lru_cache(maxsize=512)
def setting_of(
    model: str, chip: str, gemm_dtype: str, moe_dtype: str, kv_dtype: str, policy: str = ""
) -> Setting:
    """The setting of a model on a chip in stated formats, as its published checkpoint is made.

    ``fp8`` means blocks where the published weights are in blocks; weights published in mxfp4 are
    served so whatever is asked. 4-bit checkpoints of mixture-of-experts models keep attention in
    bf16, NVIDIA's of DeepSeek-V3 and R1 all of it but the output projection.
    """
    work, published = work_of(model, policy), load_model(model).weights_format
    gemm_dtype, moe_dtype = canonical(gemm_dtype), canonical(moe_dtype)
    if published == "fp8_block":
        gemm_dtype = "fp8_block" if gemm_dtype == "fp8" else gemm_dtype
        moe_dtype = "fp8_block" if moe_dtype == "fp8" else moe_dtype
    attention = out = gemm_dtype
    if work.experts and number_format(gemm_dtype).weight_bytes < 1:
        attention = "bf16"
        out = gemm_dtype if model.startswith(_OUT_IN_4_BITS) else "bf16"
    if work.experts and published == "mxfp4" and gemm_dtype != "bf16":
        # Its attention was never quantised.
        gemm_dtype, attention, out, moe_dtype = "bf16", "bf16", "bf16", "mxfp4"
    ops = operators(chip)
    if moe_dtype == "mxfp4" and "fp4" in ops.chip.peaks:
        moe_dtype = "mxfp4_fp8"  # Blackwell's experts take fp8 activations
    return Setting(
        work=work, chip=chip, attention_dtype=attention, out_dtype=out, gemm_dtype=gemm_dtype,
        moe_dtype=moe_dtype, kv_dtype=kv_dtype, operators=ops,
    )  # fmt: skip


def setting_for(config: ServingConfig) -> Setting:
    """The setting of a configuration, its adapters included."""
    found = setting_of(config.model, config.chip, config.gemm_dtype, config.moe_format,
                       config.kv_dtype, config.policy)  # fmt: skip
    return found if config.adapters is None else replace(found, adapters=config.adapters)


@lru_cache(maxsize=512)
def priced(model: str, chip: str, gemm_dtype: str, moe_dtype: str, kv_dtype: str) -> Setting:
    """As :func:`setting_of`, once it is sure that every operator of it has a price.

    Raises InputError where one has none, such as a format that no table and no peak speaks for.
    """
    setting = setting_of(model, chip, gemm_dtype, moe_dtype, kv_dtype)
    try:
        seconds = part_seconds(setting, Iteration.of(
            tokens=17.0, sequences=1.0, context=64.0, prefill_tokens=16.0, prefills=1.0,
        ))  # fmt: skip
    except LookupError as error:
        raise InputError(f"no operator times: {error}") from error
    if not np.isfinite(seconds).all():
        raise InputError(f"no operator times for {model} on {chip} in {gemm_dtype}")
    return setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """Iterations of one replica, one a configuration; arrays of one length (or scalars)."""

    tokens: FloatArray
    """All tokens of the iteration, drafts included."""
    sequences: FloatArray
    """Sequences that decode."""
    context: FloatArray
    """Their mean cached tokens."""
    prefill_tokens: FloatArray
    """New tokens of prompt chunks, on one attention rank."""
    prefill_context: FloatArray
    """Tokens cached before each chunk."""
    prefills: FloatArray
    """Prompt chunks on one attention rank."""
    queries: FloatArray
    """Tokens each decoding sequence verifies: 1 without speculation."""
    tp: FloatArray
    dp: FloatArray
    ep: FloatArray
    moe_tp: FloatArray
    stages: FloatArray
    """Pipeline stages a traversal passes: between two of them its rows are sent."""
    eager: FloatArray
    """1 where the host launches every call though nothing is prefilled: no captured graph."""
    fused: FloatArray
    """1 where an all-reduce and the norm after it are one kernel."""
    own: FloatArray
    """1 where the engine is TensorRT-LLM: on Hopper it decodes with XQA, on Blackwell its kernels
    start as the ones before them end."""
    mixed: bool = False
    """Whether decoding runs beside a prompt's chunk: kernels for ragged batches."""

    @classmethod
    def of(cls, **values: Any) -> Iteration:
        """From numbers and arrays, broadcast to one length; absent ones are 0 (layouts: 1)."""
        names = (
            "tokens", "sequences", "context", "prefill_tokens", "prefill_context", "prefills",
            "eager", "fused", "own", "queries", "tp", "dp", "ep", "moe_tp", "stages",
        )  # fmt: skip
        default = dict.fromkeys(names, 1.0) | dict.fromkeys(names[:9], 0.0)
        given = [np.asarray(values.get(n, default[n]), dtype=np.float64) for n in names]
        wide = np.broadcast_arrays(*[np.atleast_1d(g) for g in given])
        return cls(**dict(zip(names, wide, strict=True)), mixed=bool(values.get("mixed")))

    def __len__(self) -> int:
        return len(self.tokens)


def part_seconds(setting: Setting, it: Iteration) -> FloatArray:
    """Seconds of every part, [configurations, parts]."""
    found: dict[str, Any] = dict.fromkeys(PARTS, 0.0)
    _products(setting, it, found)
    _experts(setting, it, found)
    for mixer in setting.work.mixers:
        _attention(setting, it, mixer, found)
    _scans(setting, it, found)
    _exchange(setting, it, found)
    work, rank_tokens = setting.work, it.tokens / it.dp
    whole = work.elementwise_values - work.sharded_elementwise_values
    values = whole + work.sharded_elementwise_values / it.tp
    found["elementwise"] = 2.0 * rank_tokens * values / setting.operators.chip.bandwidth_bytes_per_s
    found["kernels"] = _launched(setting, it) * 1e-6
    joins = (it.own > 0) & (_product_part(setting.gemm_dtype) != "gemm_block")
    found["quantise"] = np.where(joins, 0.0, found["quantise"])
    calls = _called(work, it) + 1e6 * found["quantise"]
    found["launches"] = np.where((it.prefill_tokens > 0) | (it.eager > 0), calls * 1e-6, 0.0)
    found["layers"] = work.layers * 1e-6
    found["iteration"] = 1e-3
    found["sequences"] = it.sequences * 1e-6
    found["tokens"] = rank_tokens * 1e-6
    if setting.adapters is not None:
        chip = setting.operators.chip
        found["adapters"] = adapter_seconds(
            work, setting.adapters, rank_tokens, (it.sequences + it.prefills) / it.dp, it.tp,
            bandwidth_bytes_per_s=chip.bandwidth_bytes_per_s, peak_flops=chip.peak_flops("bf16"),
        )  # fmt: skip
    out = np.empty((len(it), len(PARTS)))
    for j, name in enumerate(PARTS):
        out[:, j] = found[name]
    return out


def _launched(setting: Setting, it: Iteration) -> FloatArray:
    """Kernels that a captured step launches one after the other; less than none where each starts
    as the one before it ends (programmatic dependent launch), as the tables hold a launch each."""
    work = setting.work
    # A norm is a kernel of its own where it is not in the all-reduce before it.
    apart = work.kernels + np.where(_joined(it), 0, work.reductions)
    return np.where((it.own > 0) & _is_blackwell(setting), -work.kernels, apart)


def _called(work: Work, it: Iteration) -> FloatArray:
    """Calls of a step that replays no graph, casts not counted. TensorRT-LLM's attention holds the
    rotary embedding, its all-reduce the norm, and what makes activations casts them."""
    reduced = np.where(it.tp > 1, work.reductions, 0)
    own = work.operators - work.rotaries + np.where(_joined(it), 0, reduced)
    return np.where(it.own > 0, own, work.operators + reduced)


def _is_blackwell(setting: Setting) -> bool:
    """Whether the chip multiplies in fp4: TensorRT-LLM's kernels are others there."""
    return "fp4" in setting.operators.chip.peaks


def least_seconds(setting: Setting, it: Iteration) -> FloatArray:
    """Seconds that no iteration undercuts: its products at the chip's peaks, a token's share of
    the work at most; whatever a fit says, nothing is faster than the data sheet."""
    chip = setting.operators.chip
    rank_tokens = np.maximum(it.tokens / it.dp, 0.0)
    yielding = it.sequences / it.dp * it.queries
    out: FloatArray = np.zeros(len(it))
    for g in setting.work.gemms:
        dtype = setting.dtype_of(g)
        split = it.tp if g.split_in or g.split_out else 1.0
        size = 2.0 * g.count * g.in_features * g.out_features / split
        out = out + size * (yielding if g.head else rank_tokens) / chip.peak_flops(dtype)
    for e in setting.work.experts:
        pairs = it.tokens * e.top_k / it.ep
        out = out + 6.0 * e.count * pairs * e.hidden * e.inter / it.moe_tp / chip.peak_flops(
            setting.moe_dtype
        )
    return np.asarray(out)


def _products(setting: Setting, it: Iteration, found: dict[str, Any]) -> None:
    ops = setting.operators
    rank_tokens = np.maximum(it.tokens / it.dp, 1.0)
    yielding = np.maximum(it.sequences / it.dp * it.queries, 1.0)
    quantised = 0
    for g in setting.work.gemms:
        if g.fp32:
            found["fp32"] = found["fp32"] + g.count * _fp32_s(ops.chip, rank_tokens, g)
            continue
        dtype = setting.dtype_of(g)
        inside = np.maximum(g.in_features / it.tp, 1.0) if g.split_in else float(g.in_features)
        outside = np.maximum(g.out_features / it.tp, 1.0) if g.split_out else float(g.out_features)
        block = dtype == "fp8_block"
        if dtype != "bf16":
            quantised += g.count
        part = "head" if g.head else _product_part(dtype)
        m = yielding if g.head else rank_tokens
        # The block kernels' tables hold their launch, not their time: read as fp8.
        name = "fp8" if block else dtype
        whole = ops.gemm_s(name, m, outside, inside)
        more = np.maximum(whole - ops.gemm_s(name, 1.0, outside, inside), 0.0)
        decoding = it.prefill_tokens <= 0
        more = np.where(decoding & (not g.head), more, 0.0)
        if g.shared:
            # On a stream of their own beside the routed experts: what shows is what they read.
            read = inside * outside * number_format(name).weight_bytes
            hidden = np.maximum(whole - more - read / ops.chip.bandwidth_bytes_per_s, 0.0)
            whole = whole - SHARED_HIDDEN * np.where(decoding, hidden, 0.0)
        found[part] = found[part] + g.count * (whole - more)
        found["gemm_compute"] = found["gemm_compute"] + g.count * more
    found["quantise"] = quantised * 1e-6


def _fp32_s(chip: Chip, tokens: FloatArray, g: Gemm) -> FloatArray:
    """Seconds of a product in fp32: splitting its sums, joining them, and the casts before."""
    peak = chip.peaks.get("fp32") or chip.peak_flops("bf16") / _FP32_SHARE
    flops = 2.0 * tokens * g.in_features * g.out_features
    return np.asarray(_FP32_CALL_S + flops / (_FP32_REACHED * peak))


def _product_part(dtype: str) -> str:
    """The part that products of a number format belong to: each has kernels of its own."""
    if dtype in ("fp8_block", "bf16"):
        return "gemm_block" if dtype == "fp8_block" else "gemm_plain"
    return "gemm_4bit" if number_format(dtype).weight_bytes < 1 else "gemm_8bit"


def _experts(setting: Setting, it: Iteration, found: dict[str, Any]) -> None:
    for e in setting.work.experts:
        pairs, used = _routed(e, it)
        seconds = e.count * setting.operators.kernels.experts_s(
            setting.moe_dtype, pairs, used, e.inter / it.moe_tp, float(e.hidden), _SKEW
        )
        part = "moe_block" if setting.moe_dtype == "fp8_block" else "moe"
        found[part] = found[part] + seconds
        found["moe_spread"] = found["moe_spread"] + np.where(it.ep > 1, seconds, 0.0)
        found["moe_route"] = found["moe_route"] + e.count * 1e-6


def _routed(e: Experts, it: Iteration) -> tuple[FloatArray, FloatArray]:
    """Token-expert pairs of one rank and the distinct experts they hit."""
    log2_tokens, shares = _met(e.experts, e.top_k)
    hit = np.interp(np.log2(np.maximum(it.tokens, 1.0)), log2_tokens, shares)
    used = np.maximum(e.experts / it.ep * hit, 1.0)
    return np.maximum(it.tokens * e.top_k / it.ep, used), used


@lru_cache(maxsize=256)
def _met(experts: int, top_k: int) -> tuple[FloatArray, FloatArray]:
    """Log2 of tokens, and the share of experts that so many of them meet.

    The chance that a token meets the expert of rank ``r`` falls as ``r ** -POPULARITY``, none
    above one; tokens choose on their own.
    """
    falling = np.arange(1.0, experts + 1.0) ** -POPULARITY
    chance = falling * top_k / falling.sum()
    for _ in range(32):  # what is cut off at one is shared out among the others
        sure = chance >= 1.0
        rest = falling[~sure].sum()
        chance = np.where(sure, 1.0, falling * (top_k - sure.sum()) / max(rest, 1e-300))
        chance = np.minimum(chance, 1.0)
    grid = np.linspace(0.0, 20.0, 81)
    return grid, 1.0 - np.mean((1.0 - chance) ** np.exp2(grid)[:, None], axis=1)


def _attention(setting: Setting, it: Iteration, m: Mixer, found: dict[str, Any]) -> None:
    ops, kv = setting.operators, setting.kv_dtype
    heads = np.maximum(m.heads / it.tp, 1.0)
    batch = it.sequences / it.dp
    if m.v_dim == 0:  # an indexer: scores only, over keys that all ranks hold
        context, before = it.context / m.stride, it.prefill_context / m.stride
        decode = batch * context * m.qk_dim * setting.kv_bytes
        decode = decode / (0.5 * ops.chip.bandwidth_bytes_per_s) + 5e-6
        pairs = it.prefills * it.prefill_tokens * (before + it.prefill_tokens / 2)
        prefill = pairs * 2.0 * m.heads * m.qk_dim / (0.4 * ops.chip.peak_flops("fp8"))
    elif m.latent:
        decode = ops.mla_decode_s(kv, batch, it.context, heads, m.latent, m.rope, it.queries,
                                  m.decode_rule)  # fmt: skip
        prefill = ops.mla_prefill_s(it.prefills, it.prefill_tokens, it.prefill_context, heads,
                                    m.qk_dim, m.v_dim, m.rule)  # fmt: skip
    else:
        kv_heads = np.maximum(m.kv_heads / it.tp, 1.0)
        decode = ops.decode_attention_s(kv, np.maximum(batch, 1.0), it.context, heads,
                                        kv_heads, m.qk_dim, m.decode_rule, it.queries,
                                        it.mixed)  # fmt: skip
        if bool(np.any(it.own > 0)) and not _is_blackwell(setting):
            seen = seen_by(m.decode_rule, it.context)
            read = batch * kv_heads * seen * (m.qk_dim + m.v_dim) * setting.kv_bytes
            own = _XQA_CALL_S + read / (_XQA_REACHED * ops.chip.bandwidth_bytes_per_s)
            decode = np.where(it.own > 0, own, decode)
        prefill = ops.prefill_attention_s(kv, np.maximum(it.prefills, 1.0), it.prefill_tokens,
                                          it.prefill_context, heads, kv_heads, m.qk_dim,
                                          m.rule)  # fmt: skip
    found["decode_attention"] = found["decode_attention"] + np.where(
        it.sequences > 0, m.count * decode, 0.0
    )
    found["prefill_attention"] = found["prefill_attention"] + np.where(
        it.prefill_tokens > 0, m.count * prefill, 0.0
    )


def _scans(setting: Setting, it: Iteration, found: dict[str, Any]) -> None:
    ops = setting.operators
    for s in setting.work.scans:
        state = s.state_values / it.tp
        batch = np.maximum(it.sequences / it.dp, 1.0)
        tokens = np.maximum(it.prefill_tokens, 1.0)
        decode = ops.scan_s(batch, 1.0, state, decode=True)
        prefill = ops.scan_s(np.maximum(it.prefills, 1.0), tokens, state, decode=False)
        found["scan"] = found["scan"] + s.count * (
            np.where(it.sequences > 0, decode, 0.0) + np.where(it.prefill_tokens > 0, prefill, 0.0)
        )


def _exchange(setting: Setting, it: Iteration, found: dict[str, Any]) -> None:
    ops, work = setting.operators, setting.work
    row = work.hidden * 2.0
    rank_tokens = it.tokens / it.dp
    if bool(np.any(it.tp > 1)):
        one = ops.collective_s("all_reduce", rank_tokens * row, it.tp)
        once = ops.network.one_shot_s(rank_tokens * row, it.tp)
        one = np.where(_joined(it) & (rank_tokens <= ONE_SHOT_TOKENS), once, one)
        scalar = ops.collective_s("all_reduce", rank_tokens * 4.0, it.tp)
        both = work.reductions * one + work.scalar_reductions * scalar
        found["all_reduce"] = np.where(it.tp > 1, both, 0.0)
    if bool(np.any(it.stages > 1)):
        crossing = _crossings(it.stages, it.tp * it.dp, ops.network.domain)
        within = it.stages - 1.0 - crossing
        for many, across in ((within, False), (crossing, True)):
            if bool(np.any(many > 0)):
                each = ops.network.send_s(rank_tokens * row, across_hosts=across)
                found["all_reduce"] = found["all_reduce"] + many * each
    layers = sum(e.count for e in work.experts)
    if not layers or not bool(np.any(it.dp > 1)):
        return
    ranks = it.tp * it.dp
    gathered = ops.collective_s("all_gather", it.tokens * row, ranks) + ops.collective_s(
        "reduce_scatter", it.tokens * row, ranks
    )
    sent = np.asarray(0.0)
    for step in ("dispatch", "combine"):
        sent = sent + ops.network.exchange_s(
            step, rank_tokens, float(work.hidden), it.ep, low_latency=True
        )
    sent = np.where(it.ep > 1, sent, np.inf)
    best = np.where(it.ep > _WIDE_RANKS, sent, np.minimum(gathered, sent))
    found["exchange"] = np.where(it.dp > 1, layers * best, 0.0)


def _joined(it: Iteration) -> npt.NDArray[np.bool_]:
    """Where all-reduces hold the norm after them."""
    return np.asarray((it.fused > 0) & (it.tp > 1))


def _crossings(stages: FloatArray, ranks: FloatArray, domain: int) -> FloatArray:
    """Of the sends between stages of ``ranks`` chips each, numbered through, those that leave a
    domain of ``domain`` chips: all but the ones between two stages that share one."""
    first = np.arange(1.0, max(float(np.max(stages)), 1.0))[:, None]
    before = np.floor((first - 1.0) * ranks / domain)
    after = np.floor(((first + 1.0) * ranks - 1.0) / domain)
    return np.asarray(np.sum((first < stages) & (before != after), axis=0), dtype=np.float64)


def weight_bytes(setting: Setting, tp: FloatArray, ep: FloatArray, moe_tp: FloatArray,
                 dp: FloatArray) -> FloatArray:  # fmt: skip
    """Bytes of weights on one chip of a stage that holds the whole model (divide by stages)."""
    del dp  # attention weights are repeated on every data-parallel rank
    work = setting.work
    total = np.zeros(np.broadcast_shapes(np.shape(tp), np.shape(ep), np.shape(moe_tp)))
    for g in work.gemms:
        dtype = setting.dtype_of(g)
        split = tp if g.split_in or g.split_out else 1.0
        total = total + g.parameters * number_format(dtype).weight_bytes / split
    if setting.adapters is not None:
        held = min(setting.adapters.slots, setting.adapters.count)
        total = total + held * adapter_bytes(work, setting.adapters.rank) / tp
    width = number_format(setting.moe_dtype).weight_bytes
    total = total + work.expert_parameters * width / (ep * moe_tp)
    return np.asarray(total + work.plain_parameters * number_format("bf16").weight_bytes / tp)
