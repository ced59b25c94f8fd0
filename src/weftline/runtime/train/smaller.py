"""A plan's kind of layout on fewer ranks, and its kind of model with fewer parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from weftline.errors import InputError, InputErrors
from weftline.spec import Layout

__all__ = ["fitted_layout", "small_config"]

_HIDDEN: Final = 256
_HEAD: Final = 32
_LAYERS: Final = 4
_EXPERTS: Final = 8
_FREE: Final = ("dp", "pp", "cp", "tp")
"""Given up in this order where ranks are too few: data parallelism costs nothing to shrink."""


def fitted_layout(layout: Layout, ranks: int, *, micro_batch: int, global_batch: int) -> Layout:
    """The layout on ``ranks`` ranks: the largest degree halved, until they do.

    Raises InputError where no halving ends there, or the batch cannot be dealt out.
    """
    degrees = {name: getattr(layout, name) for name in _FREE}

    def chips() -> int:
        product = 1
        for degree in degrees.values():
            product *= degree
        return product

    while chips() > ranks:
        name = max(_FREE, key=lambda n: (degrees[n], -_FREE.index(n)))
        # From 8 to 3 ranks: 8, 4, 2; then the data axis takes what is there.
        degrees[name] = -(-degrees[name] // 2) if degrees[name] > 2 else 1
    others = chips() // degrees["dp"]
    if ranks % others:
        raise InputError(
            f"{layout.short()} does not fit on {ranks} processes", where="--nproc",
            hint=f"--nproc {others * max(1, ranks // others)} would",
        )  # fmt: skip
    degrees["dp"] = ranks // others
    per_rank, rest = divmod(global_batch, degrees["dp"] * micro_batch)
    if rest or not per_rank:
        raise InputError(
            f"a global batch of {global_batch} is no multiple of dp={degrees['dp']} * micro-batch "
            f"{micro_batch}", where="--global-batch",
            hint=f"--global-batch {max(1, per_rank) * degrees['dp'] * micro_batch}",
        )  # fmt: skip
    piped = degrees["pp"] > 1
    vp = layout.vp if piped else 1
    schedule = layout.schedule if piped else "1f1b"
    if schedule == "interleaved" and vp == 1:
        schedule = "1f1b"
    within = degrees["tp"] * degrees["cp"] * degrees["dp"]
    ep = max(e for e in range(1, layout.ep + 1) if layout.ep % e == 0 and within % e == 0)
    shared = degrees["cp"] * degrees["dp"]
    shard = layout.shard if layout.shard and shared % layout.shard == 0 else 0
    made = replace(
        layout, **degrees, ep=ep, etp=1 if ep > 1 else min(layout.etp, degrees["tp"]), vp=vp,
        schedule=schedule, shard=shard, micro_batch=micro_batch, num_micro_batches=per_rank,
    )  # fmt: skip
    try:
        made.check(chips=ranks, global_batch=global_batch, layers=made.pp * made.vp)
    except InputErrors as several:
        raise several.errors[0] from None
    return made


def small_config(
    fields: Mapping[str, Any], layout: Layout, *, seq_len: int, vocab: int | None
) -> dict[str, Any]:
    """A config of the same type and the same ratios of heads, of a few million parameters.

    As many layers as the pipeline needs. Raises InputError for a config that is no plain decoder.
    """
    if not {"num_hidden_layers", "num_attention_heads", "hidden_size"} <= set(fields):
        raise InputError(
            f"`{fields.get('model_type')}` cannot be made small", where="--small",
            hint="give a config.json of your own: --model",
        )  # fmt: skip
    heads = _HIDDEN // _HEAD
    shared = int(fields["num_attention_heads"]) // int(
        fields.get("num_key_value_heads") or fields["num_attention_heads"]
    )
    stages = layout.pp * (2 if layout.schedule == "zero-bubble" else layout.vp)
    wide = int(fields.get("intermediate_size") or 4 * _HIDDEN) / int(fields["hidden_size"])
    made = dict(fields) | {
        "hidden_size": _HIDDEN, "num_attention_heads": heads,
        "num_key_value_heads": max(layout.tp, heads // max(1, shared)),
        "num_hidden_layers": max(_LAYERS, stages),
        "intermediate_size": round(wide * _HIDDEN / 64) * 64 or 64,
        "max_position_embeddings": max(seq_len, 128), "vocab_size": vocab or 4096,
    }  # fmt: skip
    if "head_dim" in fields:
        made["head_dim"] = _HEAD
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if name in fields:
            made[name] = max(_EXPERTS, layout.ep)
            made["num_experts_per_tok"] = min(2, int(fields.get("num_experts_per_tok") or 2))
    if fields.get("moe_intermediate_size"):
        made["moe_intermediate_size"] = 128
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        made[name] = None
    # Scaled positions and layers by kind are about lengths and depths that are gone.
    for name in ("layer_types", "rope_scaling"):
        made.pop(name, None)
    if "max_window_layers" in made:
        made["max_window_layers"] = made["num_hidden_layers"]
    return made
