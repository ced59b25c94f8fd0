"""The feed-forwards of a decoder row, dense and of experts, and which layers have which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from weftline.model.blocks import gated_mlp, mlp, moe, norm, shared_experts
from weftline.model.config import HFConfig
from weftline.model.ir import Operator
from weftline.model.shapes.row import Decoder, Experts

__all__ = ["RULES", "dense", "experts", "sparse_layers"]

Ops = tuple[Operator, ...]


def dense(row: Decoder, config: HFConfig, hidden: int) -> Ops:
    """A feed-forward without the norms around it."""
    key = row.experts.dense_ffn if row.experts else row.ffn
    if row.ffn_rule is not None:
        ffn = row.ffn_rule(config, hidden)
    elif row.ffn_default is not None and not config.has(key):
        ffn = int(row.ffn_default * hidden)
    elif row.experts and not config.has(key):
        # The width of a dense feed-forward that a family's experts take where no field says it.
        key = row.ffn if config.has(row.ffn) else key
        ffn = config.int(key, default=config.default(key) or config.default(row.ffn))
    else:
        ffn = config.int(key, default=config.default(key) if config.section else None)
    bias = row.flag(config, row.mlp_bias)
    body = gated_mlp if row.gated else mlp
    ops = list(body(hidden, ffn, bias=bias, pre_norm=False))
    if row.down_bias is not None and row.flag(config, row.down_bias) != bias:
        weights = ffn * hidden
        ops[-1] = replace(ops[-1], parameters=weights if bias else weights + hidden)
    if row.act_parameters:
        ops[1] = replace(ops[1], parameters=row.act_parameters)
    if row.inner_norms:
        ops[-1:-1] = norm("mlp.inner_norm", ffn)
    return tuple(ops)


def experts(row: Experts, config: HFConfig, hidden: int, decoder: Decoder) -> Ops:
    """Routed and shared experts without the norms around them."""

    def number(key: str, minimum: int = 0) -> int:
        return config.int(key, default=config.default(key), minimum=minimum)

    least = 0 if row.optional else 1
    count, top_k = number(row.count, least), number(row.top_k, least)
    if count == 0:
        config.unused(row.ffn, row.top_k)
        each = number(row.shared_ffn or row.ffn, 1)
        return gated_mlp(hidden, each, pre_norm=False)
    config.require(
        top_k <= count, row.top_k, f"`{row.top_k}` {top_k} exceeds `{row.count}` {count}",
        hint="a token cannot be routed to more experts than there are",
    )  # fmt: skip
    ffn, images = _expert_widths(row, config)
    least = 1 if row.shared_gate else row.shared_least
    each = number(row.shared_ffn, least) if row.shared_ffn else ffn
    shared = each * (number(row.shared, least) if row.shared else 1)
    if not (row.shared or row.shared_ffn):
        shared = 0

    def routed(width: int) -> Ops:
        return moe(
            hidden=hidden, experts=count, top_k=top_k, expert_ffn=width, pre_norm=False,
            gated=row.gated, router_bias=row.router_bias,
            correction_bias=decoder.flag(config, row.correction),
            expert_bias=decoder.flag(config, row.bias),
        )  # fmt: skip

    ops = routed(ffn)
    if images:
        # Text tokens never meet the others: these are held beside their own, and do no work.
        ops = tuple(
            replace(op, parameters=op.parameters + other.parameters, active_parameters=op.active)
            for op, other in zip(ops, routed(images), strict=True)
        )
    if shared:
        made = shared_experts(hidden, shared, gated=row.gated, sigmoid_gate=row.shared_gate)
        if decoder.flag(config, row.shared_bias):
            made = tuple(
                replace(op, parameters=op.parameters + op.out_features) if op.kind == "gemm" else op
                for op in made
            )
        ops = (*ops, *made)
    return ops


def _expert_widths(row: Experts, config: HFConfig) -> tuple[int, int]:
    """Widths of an expert and of one for image tokens; 0 where there are none of these."""
    if not row.image_experts:
        return config.int(row.ffn, default=config.default(row.ffn)), 0
    widths = config.list_or(row.ffn, (1536, 512), length=2)
    good = all(isinstance(w, int) and not isinstance(w, bool) and w > 0 for w in widths)
    config.require(
        good and len(widths) == 2, row.ffn,
        f"field `{row.ffn}` must list two widths, of the text's and of the image's experts",
    )  # fmt: skip
    return (widths[0], widths[1]) if good and len(widths) == 2 else (1, 1)


# -- which layers have experts ------------------------------------------------------------------


def _all(_: HFConfig, layers: int) -> list[bool]:
    return [True] * layers


def _after_first(key: str) -> Callable[[HFConfig, int], list[bool]]:
    def rule(config: HFConfig, layers: int) -> list[bool]:
        first = config.int_or(key, config.default(key, 0), minimum=0)
        return [i >= first for i in range(layers)]

    return rule


def _named(
    fallback: Callable[[HFConfig, int], list[bool]],
) -> Callable[[HFConfig, int], list[bool]]:
    """``mlp_layer_types``, or the rule that stands for it."""

    def rule(config: HFConfig, layers: int) -> list[bool]:
        default = ["sparse" if s else "dense" for s in fallback(config, layers)]
        kinds = config.kinds("mlp_layer_types", ("dense", "sparse"), layers, default)
        return [kind == "sparse" for kind in kinds]

    return rule


def _step(config: HFConfig, layers: int) -> list[bool]:
    """Every ``decoder_sparse_step``-th layer but those of ``mlp_only_layers``."""
    step = config.int_or("decoder_sparse_step", config.default("decoder_sparse_step", 1))
    dense = config.indices("mlp_only_layers", layers)
    return [i not in dense and (i + 1) % step == 0 for i in range(layers)]


def _step_after_two(config: HFConfig, layers: int) -> list[bool]:
    """As ``_step``; without a list the first two layers are dense."""
    if config.get("mlp_only_layers") is None:
        step = config.int_or("decoder_sparse_step", config.default("decoder_sparse_step", 1))
        return [i > 1 and (i + 1) % step == 0 for i in range(layers)]
    return _step(config, layers)


def _ernie(config: HFConfig, layers: int) -> list[bool]:
    start = config.int_or("moe_layer_start_index", 1, minimum=0)
    end = config.int_or("moe_layer_end_index", -1, minimum=-1)
    interval = config.int_or("moe_layer_interval", 1)
    last = layers - 1 if end == -1 else end
    return [(i + 1) % interval == 0 and start <= i <= last for i in range(layers)]


RULES: Final[dict[str, Callable[[HFConfig, int], list[bool]]]] = {
    "all": _all,
    "first_k_dense": _after_first("first_k_dense_replace"),
    "num_dense": _after_first("num_dense_layers"),
    "named": _named(_all),
    "named_after_first_k": _named(_after_first("first_k_dense_replace")),
    "named_after_three": _named(lambda _, layers: [i > 2 for i in range(layers)]),
    "step_after_two": _step_after_two,
    "named_after_one": _named(lambda _, layers: [i > 0 for i in range(layers)]),
    "step": _step,
    "ernie": _ernie,
}


def sparse_layers(row: Experts | None, config: HFConfig, layers: int) -> list[bool]:
    """Whether each layer has experts."""
    return RULES[row.layers](config, layers) if row else [False] * layers
