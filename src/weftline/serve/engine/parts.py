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
from weftline.operators import Operators, operators
from weftline.operators.dtypes import canonical, number_format
from weftline.serve.engine.adapters import Adapters, adapter_bytes, adapter_seconds
from weftline.serve.engine.config import KV_BYTES, ServingConfig
from weftline.serve.engine.work import Experts, Mixer, Work, work_of

__all__ = ["HOST_PARTS", "PARTS", "Iteration", "Setting", "least_seconds", "part_seconds",
           "priced", "setting_for", "setting_of"]  # fmt: skip

FloatArray = npt.NDArray[np.float64]

PARTS: Final = (
    "gemm_block",  # products of weights quantised in blocks (fp8)
    "gemm_8bit",  # products of 8-bit weights, quantised by tensor or channel
    "gemm_4bit",  # products of 4-bit weights, quantised by group
    "gemm_plain",  # products in bf16
    "quantise",  # casting activations before a quantised product: 1 us a product
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
_SKEW: Final = 1.0
"""Power law of routed loads that the experts' tables are read at (1.2 is the measured one)."""
DISTINCT: Final = 0.65
"""Share of an iteration's tokens that are routed on their own: tokens of like texts meet the same
experts. Chosen among 0.4, 0.65 and 1 by the error of models left out."""
_WIDE_RANKS: Final = 8
"""Beyond this many ranks engines exchange tokens point to point; within, they may gather."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all configurations of one call share."""

    work: Work
    chip: str
    attention_dtype: str
    gemm_dtype: str
    moe_dtype: str
    kv_dtype: str
    operators: Operators
    adapters: Adapters | None = None

    @property
    def kv_bytes(self) -> float:
        """Bytes of one cached value."""
        return KV_BYTES[self.kv_dtype]


@lru_cache(maxsize=512)
def setting_of(
    model: str, chip: str, gemm_dtype: str, moe_dtype: str, kv_dtype: str, policy: str = ""
) -> Setting:
    """The setting of a model on a chip in stated formats, as its published checkpoint is made.

    ``fp8`` means blocks where the published weights are in blocks; weights published in mxfp4 are
    served so whatever is asked. 4-bit checkpoints of mixture-of-experts models keep attention in
    bf16.
    """
    work, published = work_of(model, policy), load_model(model).weights_format
    gemm_dtype, moe_dtype = canonical(gemm_dtype), canonical(moe_dtype)
    if published == "fp8_block":
        gemm_dtype = "fp8_block" if gemm_dtype == "fp8" else gemm_dtype
        moe_dtype = "fp8_block" if moe_dtype == "fp8" else moe_dtype
    attention = gemm_dtype
    if work.experts and number_format(gemm_dtype).weight_bytes < 1:
        attention = "bf16"
    if work.experts and published == "mxfp4" and gemm_dtype != "bf16":
        # Its attention was never quantised.
        gemm_dtype, attention, moe_dtype = "bf16", "bf16", "mxfp4"
    ops = operators(chip)
    if moe_dtype == "mxfp4" and "fp4" in ops.chip.peaks:
        moe_dtype = "mxfp4_fp8"  # Blackwell's experts take fp8 activations
    return Setting(
        work=work, chip=chip, attention_dtype=attention, gemm_dtype=gemm_dtype,
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
    mixed: bool = False
    """Whether decoding runs beside a prompt's chunk: kernels for ragged batches."""

    @classmethod
    def of(cls, **values: Any) -> Iteration:
        """From numbers and arrays, broadcast to one length; absent ones are 0 (layouts: 1)."""
        names = ("tokens", "sequences", "context", "prefill_tokens", "prefill_context", "prefills",
                 "queries", "tp", "dp", "ep", "moe_tp", "stages", "eager")  # fmt: skip
        default = dict.fromkeys(names, 1.0) | dict.fromkeys((*names[:6], "eager"), 0.0)
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
    found["kernels"] = work.kernels * 1e-6
    calls = work.operators + 1e6 * found["quantise"] + np.where(it.tp > 1, work.reductions, 0)
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


def least_seconds(setting: Setting, it: Iteration) -> FloatArray:
    """Seconds that no iteration undercuts: its products at the chip's peaks, a token's share of
    the work at most; whatever a fit says, nothing is faster than the data sheet."""
    chip = setting.operators.chip
    rank_tokens = np.maximum(it.tokens / it.dp, 0.0)
    yielding = it.sequences / it.dp * it.queries
    out: FloatArray = np.zeros(len(it))
    for g in setting.work.gemms:
        dtype = "bf16" if g.head else setting.attention_dtype if g.mixer else setting.gemm_dtype
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
        dtype = setting.attention_dtype if g.mixer else setting.gemm_dtype
        dtype = "bf16" if g.head else dtype
        inside = np.maximum(g.in_features / it.tp, 1.0) if g.split_in else float(g.in_features)
        outside = np.maximum(g.out_features / it.tp, 1.0) if g.split_out else float(g.out_features)
        block = dtype == "fp8_block"
        if dtype != "bf16":
            quantised += g.count
        part = "head" if g.head else _product_part(dtype)
        m = yielding if g.head else rank_tokens
        # The block kernels' tables hold their launch, not their time: read as fp8.
        found[part] = found[part] + g.count * ops.gemm_s("fp8" if block else dtype, m, outside,
                                                         inside)  # fmt: skip
    found["quantise"] = quantised * 1e-6


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
    """Token-expert pairs of one rank and the distinct experts they hit, routed at random."""
    apart = 1.0 + DISTINCT * np.maximum(it.tokens - 1.0, 0.0)
    hit = 1.0 - (1.0 - e.top_k / e.experts) ** apart
    used = np.maximum(e.experts / it.ep * hit, 1.0)
    return np.maximum(it.tokens * e.top_k / it.ep, used), used


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
        dtype = setting.attention_dtype if g.mixer else setting.gemm_dtype
        dtype = "bf16" if g.head else dtype
        split = tp if g.split_in or g.split_out else 1.0
        total = total + g.parameters * number_format(dtype).weight_bytes / split
    if setting.adapters is not None:
        held = min(setting.adapters.slots, setting.adapters.count)
        total = total + held * adapter_bytes(work, setting.adapters.rank) / tp
    width = number_format(setting.moe_dtype).weight_bytes
    total = total + work.expert_parameters * width / (ep * moe_tp)
    return np.asarray(total + work.plain_parameters * number_format("bf16").weight_bytes / tp)
