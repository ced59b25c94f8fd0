"""Bytes of one layer that backward reads again, operator by operator, and what recomputation drops.

A product saves its input in the format it multiplies in (Transformer Engine keeps the fp8 or fp4
copy alone); a norm, an activation and fused attention save theirs as computed. One tensor read by
several operators (the norm's output by router, shared expert and experts) is kept once.

For a GPT layer of hidden size h this is the s*b*h*(34 + 5*a*s/h) bytes of arXiv:2205.05198
(equation 1), with sequence parallelism /t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from weftline.model import Layer, Model, Operator
from weftline.model.once import once_per_model
from weftline.plan.step.frameworks import Framework

__all__ = ["Again", "SavedValues", "again_of", "saved_values"]

How = Literal["sharded", "sequence", "attention"]
_WIDE_ROUTER: Final = 16
"""A product of fewer outputs is a gate whose input a wider one keeps anyway."""
_UNQUANTISED: Final = ("router",)
"""Last words of products that stay in bf16 whatever the others multiply in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedValues:
    """Bytes a mean layer saves for one token, by how tensor parallelism divides them."""

    sharded: float
    """Divided by tp always: projections' outputs, attention inputs, expert tokens."""
    sequence: float
    """Divided by tp under sequence parallelism only: inputs of norms and of column products."""
    attention: float
    """Score matrices per token (unfused attention), dropped by selective recomputation."""
    residual: float
    """The layer's input alone: all that full recomputation keeps."""
    dropped_sharded: float
    """Of ``sharded``, what the framework's selective recomputation computes again."""
    dropped_sequence: float
    """Of ``sequence``, the same."""
    working: float
    """Gradients of the widest operator that stand beside all that is saved, divided by tp."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """One tensor: bytes a token, how it is divided, and the modules that can compute it again."""

    nbytes: float
    how: How
    modules: tuple[str, ...] = ()


@once_per_model
def saved_values(model: Model, frame: Framework, seq_len: int, *, dropout: bool) -> SavedValues:
    """Bytes saved a token by a mean layer of ``model``."""
    totals = dict.fromkeys(("sharded", "sequence", "attention"), 0.0)
    dropped = dict.fromkeys(totals, 0.0)
    working = 0.0
    for layer in model.layers:
        kept = list(_layer_kept(layer, model, frame, seq_len, dropout))
        for part in kept:
            totals[part.how] += part.nbytes
        for how, nbytes in _dropped(layer, model, frame, kept).items():
            dropped[how] += nbytes
        working = max(working, _working(layer))
    count, scale = max(len(model.layers), 1), frame.value_bytes / 2
    return SavedValues(
        sharded=totals["sharded"] * scale / count,
        sequence=totals["sequence"] * scale / count,
        attention=totals["attention"] * scale / count,
        residual=frame.value_bytes * model.hidden,
        dropped_sharded=dropped["sharded"] * scale / count,
        dropped_sequence=dropped["sequence"] * scale / count,
        working=working * scale,
    )


def _layer_kept(
    layer: Layer, model: Model, frame: Framework, seq_len: int, dropout: bool
) -> Iterator[_Kept]:
    """Every tensor a layer keeps for backward, at 2 bytes a value where it is not quantised."""
    if dropout:
        # Dropout after attention and after the feed-forward keeps one byte a value.
        yield _Kept(2.0 * model.hidden, "sequence")
    seen: set[tuple[int, float]] = set()
    latent = any(op.name.endswith(("q_up", "kv_up")) for op in layer.operators)
    rotated = any(op.name.endswith(("rotary", "qk_norm")) for op in layer.operators)
    for op in layer.operators:
        block = op.name.partition(".")[0]
        # Widths of activations already count the experts of a token.
        routed = frame.expert_capacity if op.shard == "expert" else 1.0
        if op.kind == "norm":
            if op.in_features >= model.hidden:
                seen.clear()
                yield _Kept(2.0 * op.in_features, "sequence")
            else:
                yield _Kept(2.0 * op.in_features, "sharded")
        elif op.attention is not None:
            yield from _attention_kept(op, frame, seq_len, dropout, latent=latent)
        elif op.kind in ("gemm", "grouped_gemm"):
            yield from _product_kept(op, frame, routed, seen)
            if op.name.endswith("attn.qkv") and rotated and frame.fused_qkv:
                # Values are a view of the fused projection, which stays whole beside the rotated
                # queries and keys.
                a = next(o.attention for o in layer.operators if o.attention is not None)
                yield _Kept(2.0 * (a.heads + a.kv_heads) * a.qk_dim, "sharded")
        elif op.kind == "elementwise" and (op.in_features > op.out_features > 0 or _is_act(op)):
            # Gated activations save both halves of their input.
            yield _Kept(2.0 * op.in_features * routed, "sharded", (block, _expert_module(op)))
        elif op.kind in ("scan", "conv"):
            yield _Kept(2.0 * op.in_features, "sharded")


def _is_act(op: Operator) -> bool:
    return ".act" in op.name


def _expert_module(op: Operator) -> str:
    """Megatron's name of the part of an expert layer an operator belongs to."""
    if not op.name.startswith("moe."):
        return ""
    return "shared_experts" if ".shared." in op.name else "moe"


def _product_kept(
    op: Operator, frame: Framework, routed: float, seen: set[tuple[int, float]]
) -> Iterator[_Kept]:
    """The input of a product, once for all products that read the same."""
    each = 2.0 if op.name.endswith(_UNQUANTISED) else frame.input_bytes
    block = op.name.partition(".")[0]
    if op.kind == "grouped_gemm":
        modules = ("moe", "moe_act") if op.name.endswith("down") else ("moe",)
        yield _Kept(each * op.in_features * op.experts_per_token * routed, "sharded", modules)
    elif op.shard == "row":
        own = (block, _expert_module(op))
        yield _Kept(each * op.in_features, "sharded", own if block in ("mlp", "moe") else ())
    elif op.out_features > _WIDE_ROUTER or op.shard in ("column", "heads", "vocab"):
        if (op.in_features, each) in seen:
            return
        seen.add((op.in_features, each))
        # The norm's output: computed again from the norm's input, which is kept.
        yield _Kept(each * op.in_features, "sequence", ("layernorm",))


def _attention_kept(
    op: Operator, frame: Framework, seq_len: int, dropout: bool, *, latent: bool
) -> Iterator[_Kept]:
    a = op.attention
    if a is None:
        return
    inputs = float(a.heads * a.qk_dim + a.kv_heads * (a.qk_dim + a.v_dim))
    yield _Kept(2.0 * inputs, "sharded", ("mla_up_proj",) if latent else ())
    if not frame.flash_attention:
        # Softmax output (2), dropout mask (1) and dropout output (2) of every score.
        scores = a.heads * a.mean_context(seq_len, masked=False)
        yield _Kept(scores * (5.0 if dropout else 2.0), "attention", ("core_attn",))
    elif frame.input_bytes < 2.0:
        # Fused attention keeps its output as computed beside the quantised input of the product.
        yield _Kept(2.0 * a.heads * a.v_dim, "sharded")


def _dropped(layer: Layer, model: Model, frame: Framework, kept: list[_Kept]) -> dict[How, float]:
    """What selective recomputation leaves out of a layer, by how it is divided; scores aside."""
    found: dict[How, float] = {"sharded": 0.0, "sequence": 0.0}
    for part in kept:
        if part.how != "attention" and set(part.modules) & set(frame.selective):
            found[part.how] += part.nbytes
    if frame.saved_products:
        # Policies that name what is kept: the layer's input, attention's output, and a share of
        # all products' outputs.
        total = sum(part.nbytes for part in kept if part.how == "sharded")
        outputs = sum(_output_kept(op, frame) for op in layer.operators)
        found["sharded"] = max(total - outputs, 0.0)
        whole = sum(part.nbytes for part in kept if part.how == "sequence")
        found["sequence"] = max(whole - 2.0 * model.hidden, 0.0)
    return found


def _output_kept(op: Operator, frame: Framework) -> float:
    if op.attention is not None:
        return 2.0 * op.attention.heads * op.attention.v_dim
    if op.kind in ("gemm", "grouped_gemm"):
        each = max(op.experts_per_token, 1) if op.kind == "grouped_gemm" else 1
        return 2.0 * op.out_features * each * frame.saved_products
    return 0.0


def _working(layer: Layer) -> float:
    """Gradients of the input and output of the widest operator of a layer, bytes a token."""
    widest = 0.0
    for op in layer.operators:
        if op.attention is not None:
            a = op.attention
            # Gradients of queries, keys, values and output, and fp32 sums of those of the queries.
            width = float(a.heads * (3 * a.qk_dim + a.v_dim) + a.kv_heads * (a.qk_dim + a.v_dim))
            widest = max(widest, 2.0 * width)
        elif _is_act(op):
            widest = max(widest, 2.0 * (op.in_features + op.out_features))
    return widest


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Shares of a mean layer's forward time that selective recomputation takes again."""

    products: float
    attention: float
    memory: float
    """Norms, activations and what else is bound by memory."""
    dispatch: float
    """Whether tokens are sent to their experts and back again, too."""


@once_per_model
def again_of(model: Model, frame: Framework) -> Again:
    """The work behind what :func:`saved_values` says is dropped: products by their FLOP, the rest
    by bytes; attention where its scores are unfused or it is named."""
    again = not frame.flash_attention or "core_attn" in frame.selective
    attention = 1.0 if again else 0.0
    if frame.saved_products:
        return Again(
            products=1 - frame.saved_products, attention=attention, memory=1.0, dispatch=0.0
        )
    flops = again_flops = width = again_width = 0.0
    for layer in model.layers:
        for op in layer.operators:
            named = bool(set(_modules_of(op)) & set(frame.selective))
            if op.kind in ("gemm", "grouped_gemm"):
                work = op.forward_flops_per_token(1)
                flops, again_flops = flops + work, again_flops + work * named
            elif op.kind in ("norm", "elementwise"):
                row = float(op.in_features + op.out_features)
                width, again_width = width + row, again_width + row * named
    return Again(
        products=again_flops / max(flops, 1.0), attention=attention,
        memory=again_width / max(width, 1.0), dispatch=float("moe" in frame.selective),
    )  # fmt: skip


def _modules_of(op: Operator) -> tuple[str, ...]:
    """Megatron's names of the modules whose recomputation runs an operator again."""
    block = op.name.partition(".")[0]
    if op.kind == "norm":
        return ("layernorm",)
    if op.name.endswith(("q_up", "kv_up", "rotary")):
        return ("mla_up_proj",)
    if op.name == "moe.experts.act":
        return ("moe_act", "moe")
    return (block, _expert_module(op)) if block in ("mlp", "moe") else ()
