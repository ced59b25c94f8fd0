"""The attention of a decoder row: grouped queries or a latent, with the row's biases and gates."""

from __future__ import annotations

from dataclasses import replace

from weftline.model.blocks import elementwise, gemm, gqa_attention, mla, norm
from weftline.model.config import HFConfig
from weftline.model.ir import Operator
from weftline.model.shapes.row import Decoder

__all__ = ["attention", "heads_of"]

Ops = tuple[Operator, ...]


def heads_of(row: Decoder, config: HFConfig, hidden: int) -> tuple[int, int, int]:
    """(query heads, key-value heads, head dimension), checked against each other."""
    default = config.default(row.heads) if config.section else None
    heads = config.int(row.heads, default=default)
    kv_heads = heads
    if callable(row.kv_heads):
        kv_heads = row.kv_heads(config, heads)
    elif row.kv_heads:
        # Absent or null, it is the class's number only where the class has one of its own.
        stated = config.get(row.kv_heads)
        other = heads if stated is None and row.kv_heads in config.fields else None
        kv_heads = config.int_or(row.kv_heads, other or config.default(row.kv_heads, heads))
        config.require(
            heads % kv_heads == 0, row.kv_heads,
            f"`{row.heads}` {heads} does not divide by `{row.kv_heads}` {kv_heads}",
            hint="each key-value head serves the same number of query heads",
        )  # fmt: skip
    stated = config.get(row.head_dim)
    own = None if row.head_dim in config.fields else config.default(row.head_dim)
    config.require(
        stated is not None or own is not None or hidden % heads == 0, row.hidden,
        f"`{row.hidden}` {hidden} does not divide by `{row.heads}` {heads}",
        hint=f"correct one of them, or state `{row.head_dim}`",
    )  # fmt: skip
    return heads, kv_heads, config.int_or(row.head_dim, own or max(1, hidden // heads))


def attention(row: Decoder, config: HFConfig, hidden: int, *, window: int | None, kind: str) -> Ops:
    """Attention without the norms around it."""
    if row.latent:
        return _latent(row, config, hidden)
    heads, kv_heads, head_dim = heads_of(row, config, hidden)
    has_norm = row.flag(config, row.qk_norm_if)
    gated = row.gate if row.flag(config, row.gate_if) else row.gate_else
    if row.square_out:
        config.require(
            heads * head_dim == hidden, row.head_dim,
            f"{heads} heads of {head_dim} are not as wide as the model, {hidden}",
        )  # fmt: skip
    if row.rotary_field:
        turned = config.int_or(row.rotary_field, config.default(row.rotary_field, head_dim))
    else:
        turned = config.rotated(head_dim, row.rotary, kind=kind)
    qk_norm = {"none": "none", "head": "head", "free": "free"}.get(row.qk_norm, "whole")
    ops = list(
        gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
            qkv_bias=row.flag(config, row.qkv_bias), out_bias=row.flag(config, row.out_bias),
            qk_norm=qk_norm if has_norm else "none",  # type: ignore[arg-type]
            rotary_dim=min(turned, head_dim), gated=gated == "wide", window=window, pre_norm=False,
        )
    )  # fmt: skip
    for at, op in enumerate(ops):
        if op.name == "attn.qk_norm" and row.qk_norm == "head_bias":
            ops[at] = replace(op, parameters=4 * head_dim)
        if op.name == "attn.qkv" and gated == "wide" and not row.gate_bias:
            biased = row.flag(config, row.qkv_bias)
            ops[at] = replace(op, parameters=op.parameters - biased * heads * head_dim)
        if op.name == "attn.core" and row.core_parameters:
            ops[at] = replace(op, parameters=row.core_parameters(heads, head_dim))
    if gated == "head":
        wide = heads * head_dim
        ops[-1:-1] = [
            gemm("attn.gate_proj", hidden, heads, shard="column"),
            elementwise("attn.gate", wide + heads, wide, shard="heads"),
        ]
    if row.inner_norms:
        ops[-1:-1] = norm("attn.inner_norm", heads * head_dim)
    return tuple(ops)


def _latent(row: Decoder, config: HFConfig, hidden: int) -> Ops:
    heads = config.int(row.heads)
    q_rank = config.int("q_lora_rank") if config.has("q_lora_rank") else None
    if q_rank is None and "q_lora_rank" not in config.fields:
        q_rank = config.default("q_lora_rank")
    made = mla(
        hidden=hidden, heads=heads, q_rank=q_rank,
        kv_rank=config.int_or("kv_lora_rank", config.default("kv_lora_rank", 512)),
        nope_dim=config.int_or("qk_nope_head_dim", config.default("qk_nope_head_dim", 128)),
        rope_dim=config.int_or("qk_rope_head_dim", config.default("qk_rope_head_dim", 64)),
        v_dim=config.int_or("v_head_dim", config.default("v_head_dim", 128)),
        bias=row.flag(config, row.qkv_bias),
    )  # fmt: skip
    ops = [op for op in made if op.name != "attn.norm"]
    if row.gate == "head":
        wide = ops[-1].in_features
        ops[-1:-1] = [
            gemm("attn.gate_proj", hidden, heads, shard="column"),
            elementwise("attn.gate", wide + heads, wide, shard="heads"),
        ]
    return tuple(ops)
