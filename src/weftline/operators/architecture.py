"""How well a chip suits a model: predicted time against the ideal at its peaks, and why.

Every operator of the model is timed on the chip (:class:`Operators`) and at its roofline. The fit
is ideal over predicted time; the parts say which unit bounds the ideal (matrix, memory), and where
the rest goes: the vector unit, gathers, launches, what kernels lose, communication.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from weftline.errors import NoFeasiblePlanError
from weftline.model import Attention, Model, Operator
from weftline.operators.chips import Chip, chip_of
from weftline.operators.dtypes import CACHE_BYTES, number_format
from weftline.operators.operators import Operators, operators
from weftline.operators.surface import FloatArray
from weftline.spec.attention_counts import mean_seen, seen

Unit = Literal["matrix", "vector", "gather", "link"]
PARTS: Final = ("matrix", "memory", "vector", "gather", "launch", "kernel_loss", "communication")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One kind of operator over a whole pass."""

    name: str
    unit: Unit
    calls: int
    seconds: float
    ideal_s: float
    bound: Literal["matrix", "memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFit:
    """One phase: a prompt, or a decode step."""

    fit: float
    """Ideal over predicted time, 0 to 1."""
    seconds: float
    ideal_s: float
    parts: dict[str, float]
    """Shares of the predicted time, adding up to 1 (see :data:`PARTS`)."""
    operators: tuple[Timed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureFit:
    """The fit of a model on a chip, for the shapes stated in it."""

    model: str
    chip: str
    chips: int
    quantisation: str
    kv_cache: str
    prompt_tokens: int
    batch: int
    context: int
    basis: str
    prefill: PhaseFit
    decode: PhaseFit

    @property
    def fit(self) -> float:
        """Geometric mean of both phases' fits."""
        return float(np.sqrt(self.prefill.fit * self.decode.fit))

    def to_dict(self) -> dict[str, Any]:
        """The report's plain form."""
        return {"fit": self.fit, **asdict(self)}


@dataclass(frozen=True, slots=True)
class _Phase:
    """Shapes of one pass on one chip."""

    rows: float
    """Tokens worked on."""
    batch: float
    tokens: float
    """New tokens a sequence."""
    context: float
    decode: bool
    tp: int


def architecture_fit(
    model: Model,
    chip: str | Chip,
    *,
    chips: int | None = None,
    quantisation: str = "bf16",
    kv_cache: str = "bf16",
    prompt_tokens: int = 2048,
    batch: int = 32,
    context: int = 4096,
) -> ArchitectureFit:
    """The fit of ``model`` on ``chips`` tensor-parallel chips (the fewest that hold it).

    Raises NoFeasiblePlanError where no scale-up domain of the chip holds the weights.
    """
    known = chip_of(chip) if isinstance(chip, str) else chip
    ops = operators(chip)
    tp = chips or _fewest(model, known, quantisation)
    prompt = _Phase(prompt_tokens, 1.0, prompt_tokens, 0.0, False, tp)
    step = _Phase(batch, batch, 1.0, context, True, tp)
    return ArchitectureFit(
        model=model.name,
        chip=known.name,
        chips=tp,
        quantisation=quantisation,
        kv_cache=kv_cache,
        prompt_tokens=prompt_tokens,
        batch=batch,
        context=context,
        basis=ops.basis,
        prefill=_phase(model, ops, prompt, quantisation, kv_cache),
        decode=_phase(model, ops, step, quantisation, kv_cache),
    )


def _fewest(model: Model, chip: Chip, quantisation: str) -> int:
    """The least power of two of chips whose memory holds the weights and a fifth more."""
    needed = 1.2 * model.parameters * number_format(quantisation).weight_bytes
    most = max(chip.link_domain, 1)
    count = 1
    while count * chip.memory_bytes < needed:
        count *= 2
        if count > most:
            raise NoFeasiblePlanError(
                f"`{model.name}` in {quantisation} needs {needed / 1e9:,.0f} GB; {most} x "
                f"{chip.name} have {most * chip.memory_bytes / 1e9:,.0f} GB",
                hint="a smaller number format, or say how many chips: more than a domain holds",
            )
    return count


def _phase(model: Model, ops: Operators, phase: _Phase, quantisation: str, kv: str) -> PhaseFit:
    kinds: dict[str, list[Timed]] = {}
    for timed in _timed(model, ops, phase, quantisation, kv):
        kinds.setdefault(timed.name, []).append(timed)
    rows = tuple(_summed(group) for group in kinds.values())
    seconds = sum(r.seconds for r in rows)
    ideal = sum(r.ideal_s for r in rows)
    return PhaseFit(
        fit=min(ideal / seconds, 1.0),
        seconds=seconds,
        ideal_s=ideal,
        parts=_parts(rows, seconds, _launch_s(ops)),
        operators=tuple(sorted(rows, key=lambda r: -r.seconds)),
    )


def _launch_s(ops: Operators) -> float:
    """What the smallest product costs: launching it."""
    return float(ops.gemm_s("bf16", 1.0, 32.0, 32.0))


def _summed(group: list[Timed]) -> Timed:
    ideal = sum(t.ideal_s for t in group)
    matrix = sum(t.ideal_s for t in group if t.bound == "matrix")
    return Timed(
        name=group[0].name,
        unit=group[0].unit,
        calls=sum(t.calls for t in group),
        seconds=sum(t.seconds for t in group),
        ideal_s=ideal,
        bound="matrix" if matrix > ideal / 2 else "memory",
    )


def _parts(rows: tuple[Timed, ...], seconds: float, launch_s: float) -> dict[str, float]:
    """Shares of the time: matrix and memory rooflines, other units, launches, the rest."""
    found = dict.fromkeys(PARTS, 0.0)
    for row in rows:
        if row.unit == "link":
            found["communication"] += row.seconds
            continue
        launch = min(row.calls * launch_s, max(row.seconds - row.ideal_s, 0.0))
        found["launch"] += launch
        if row.unit == "matrix":
            roof = min(row.ideal_s, row.seconds)
            found[row.bound] += roof
            found["kernel_loss"] += row.seconds - launch - roof
        else:
            found[row.unit] += row.seconds - launch
    return {name: value / seconds for name, value in found.items()}


def _timed(
    model: Model, ops: Operators, phase: _Phase, quantisation: str, kv: str
) -> Iterator[Timed]:
    """Every operator of the pass, equal layers counted at once."""
    layers: dict[tuple[Operator, ...], int] = {}
    for layer in model.layers:
        layers[layer.operators] = layers.get(layer.operators, 0) + 1
    for held, count in layers.items():
        for op in held:
            yield from _operator(ops, op, count, phase, quantisation, kv)
        if phase.tp > 1:
            sums = sum(op.shard == "row" for op in held) or 1
            nbytes = 2.0 * phase.rows * model.hidden
            wire = ops.collective_s("all_reduce", nbytes, phase.tp)
            yield Timed(
                name="all-reduce", unit="link", calls=count * sums,
                seconds=count * sums * float(wire), ideal_s=0.0, bound="memory",
            )  # fmt: skip
    for op in model.head:
        last = _Phase(phase.batch, phase.batch, 1.0, 0.0, phase.decode, phase.tp)
        yield from _operator(ops, op, 1, last, "bf16", kv)


def _operator(
    ops: Operators, op: Operator, count: int, phase: _Phase, quantisation: str, kv: str
) -> Iterator[Timed]:
    chip, tp = ops.chip, phase.tp
    q = quantisation if op.kind in ("gemm", "grouped_gemm") else "bf16"
    peak, band = chip.peak_flops(q), chip.bandwidth_bytes_per_s
    width = number_format(q).weight_bytes
    unit: Unit = "matrix"
    flops = nbytes = 0.0
    seconds: FloatArray | float
    if ".experts." in op.name and not op.name.endswith("down"):
        return  # an expert layer's other operators are timed with its last
    match op.kind:
        case "gemm":
            out = op.out_features / (tp if op.shard in ("column", "vocab") else 1)
            into = op.in_features / (tp if op.shard == "row" else 1)
            seconds = ops.gemm_s(q, phase.rows, out, into)
            flops = 2.0 * phase.rows * out * into
            nbytes = out * into * width + 2.0 * phase.rows * (out + into)
        case "grouped_gemm" if op.name.endswith("down"):
            inter, hidden = op.in_features / tp, op.out_features
            pairs = phase.rows * op.experts_per_token
            seconds = ops.moe_s(
                q, phase.rows, hidden, op.in_features, op.experts, op.experts_per_token, tp=tp
            )
            flops = 6.0 * pairs * inter * hidden
            nbytes = 3.0 * min(pairs, op.experts) * inter * hidden * width
            moved = min(4.0 * pairs * hidden / band, float(seconds) / 2.0)
            seconds = float(seconds) - moved
            yield Timed(
                name="moe.gather", unit="gather", calls=count, seconds=count * moved,
                ideal_s=count * moved, bound="memory",
            )  # fmt: skip
        case "attention" if op.attention is not None:
            seconds, flops, nbytes = _attention(ops, op.attention, phase, kv)
        case "scan":
            unit = "vector"
            state = op.state_values / tp
            seconds = ops.scan_s(phase.batch, phase.tokens, state, decode=phase.decode)
            flops = 6.0 * phase.rows * state
            nbytes = 8.0 * phase.batch * state
        case "conv":
            unit = "vector"
            channels = op.in_features / tp
            seconds = ops.convolution_s(phase.batch, phase.tokens, channels, decode=phase.decode)
            nbytes = 4.0 * phase.rows * channels
        case "norm" | "elementwise":
            unit = "vector"
            share = 1 if op.shard == "replicated" else tp
            nbytes = 2.0 * phase.rows * (op.in_features + op.out_features) / share
            seconds = ops.elementwise_s(nbytes)
        case "embedding":
            unit = "gather"
            nbytes = 4.0 * phase.rows * op.out_features
            seconds = ops.elementwise_s(nbytes)
        case _:
            return
    matrix, memory = flops / peak, nbytes / band
    yield Timed(
        name=op.name.removesuffix(".down") if ".experts." in op.name else op.name,
        unit=unit,
        calls=count,
        seconds=count * float(seconds),
        ideal_s=count * max(matrix, memory),
        bound="matrix" if matrix > memory else "memory",
    )


def _attention(ops: Operators, a: Attention, phase: _Phase, kv: str) -> tuple[float, float, float]:
    """Seconds, FLOP and bytes of one attention core on one chip."""
    heads, kv_heads = max(a.heads / phase.tp, 1.0), max(a.kv_heads / phase.tp, 1.0)
    rule = a.decoding if phase.decode else a.rule
    context = phase.context if phase.decode else phase.tokens / 2.0
    within = seen(rule, phase.context - 1.0) if phase.decode else mean_seen(rule, phase.tokens)
    entries = min(context, float(within))
    flops = 2.0 * phase.rows * heads * entries * (a.qk_dim + a.v_dim)
    latent = 0 < a.kv_values_per_token < kv_heads * (a.qk_dim + a.v_dim)
    if latent and phase.decode:
        rope = 64
        width = a.kv_values_per_token - rope
        seconds = ops.mla_decode_s(
            kv, phase.batch, phase.context, heads, latent=width, rope=rope, rule=rule
        )
        flops = 2.0 * phase.rows * heads * entries * (2.0 * width + rope)
        nbytes = phase.batch * entries * a.kv_values_per_token * CACHE_BYTES[kv]
    elif latent:
        seconds = ops.mla_prefill_s(phase.batch, phase.tokens, 0.0, heads, a.qk_dim, a.v_dim, rule)
        nbytes = 4.0 * phase.rows * heads * (a.qk_dim + a.v_dim)
    else:
        cached = kv_heads * (a.qk_dim + a.v_dim) * CACHE_BYTES[kv]
        nbytes = phase.batch * entries * cached if phase.decode else 2.0 * phase.rows * cached
        if phase.decode:
            seconds = ops.decode_attention_s(
                kv, phase.batch, phase.context, heads, kv_heads, a.qk_dim, rule
            )
        else:
            seconds = ops.prefill_attention_s(
                kv, phase.batch, phase.tokens, 0.0, heads, kv_heads, a.qk_dim, rule
            )
    return float(seconds), flops, nbytes
