"""Blocks of the delta rule: gated delta net, Kimi delta attention.

FLOP of a scan are those of the plain recurrence, from what is done to each value of the state in
one token: decay it (1), read it with the key (2), add an outer product (2), read it with the query
(2). Chunked kernels do more work to use matrix units; how much is theirs to say.
"""

from __future__ import annotations

from weftline.model.blocks import conv, elementwise, gemm, norm, scan
from weftline.model.ir import Operator

__all__ = ["gated_delta_net", "kda"]

Ops = tuple[Operator, ...]
_DELTA_FLOPS = 7.0


def gated_delta_net(
    *, hidden: int, key_heads: int, value_heads: int, key_dim: int, value_dim: int, kernel: int
) -> Ops:
    """Gated delta net (Qwen3-Next, Qwen3.5): delta rule with a decay a head.

    The projections of queries, keys, values, output gate, write strength and decay are one.
    """
    inner = value_heads * value_dim
    channels = 2 * key_heads * key_dim + inner
    flops = _DELTA_FLOPS * value_heads * key_dim * value_dim
    return (
        *norm("gdn.norm", hidden),
        gemm("gdn.in", hidden, channels + inner + 2 * value_heads, shard="column"),
        conv("gdn.conv", channels, kernel),
        scan("gdn.scan", heads=value_heads, key_dim=key_dim, value_dim=value_dim,
             parameters=2 * value_heads, flops_per_token=flops, read=channels + 2 * value_heads),
        *norm("gdn.out_norm", inner, parameters=value_dim),
        elementwise("gdn.gate", 2 * inner, inner, shard="heads"),
        gemm("gdn.out", inner, hidden, shard="row"),
    )  # fmt: skip


def kda(
    *, hidden: int, heads: int, head_dim: int, kernel: int, full_rank_gate: bool = False
) -> Ops:
    """Kimi delta attention: delta rule with a decay a channel, projected at low rank.

    ``full_rank_gate`` (Kimi-K3) makes the output gate one product instead of two of rank
    ``head_dim``.
    """
    inner = heads * head_dim
    gate = inner if full_rank_gate else head_dim
    flops = _DELTA_FLOPS * inner * head_dim
    ops: list[Operator] = [
        *norm("kda.norm", hidden),
        gemm("kda.in", hidden, 3 * inner + head_dim + heads + gate, shard="column"),
        gemm("kda.decay_up", head_dim, inner, shard="column"),
        conv("kda.conv", 3 * inner, kernel),
        scan("kda.scan", heads=heads, key_dim=head_dim, value_dim=head_dim,
             parameters=heads + inner, flops_per_token=flops, read=4 * inner + heads),
    ]  # fmt: skip
    if not full_rank_gate:
        ops.append(gemm("kda.gate_up", head_dim, inner, shard="column"))
    ops += norm("kda.out_norm", inner, parameters=head_dim)
    ops.append(elementwise("kda.gate", 2 * inner, inner, shard="heads"))
    ops.append(gemm("kda.out", inner, hidden, shard="row"))
    return tuple(ops)
