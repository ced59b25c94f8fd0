"""Blocks with a recurrent state: Mamba-2, gated delta net, Kimi delta attention.

FLOP of a scan are those of the plain recurrence, from what is done to each value of the state in
one token: decay it (1), add an outer product (2), read it with a vector (2); the delta rule reads
it once more (2). Chunked kernels do more work to use matrix units; how much is theirs to say.
"""

from __future__ import annotations

from weftline.model.blocks import conv, elementwise, gemm, norm, scan
from weftline.model.ir import Operator

__all__ = ["gated_delta_net", "kda", "mamba2"]

Ops = tuple[Operator, ...]
_LINEAR_FLOPS = 5.0
_DELTA_FLOPS = 7.0


def mamba2(
    *, hidden: int, heads: int, head_dim: int, state: int, groups: int, kernel: int,
    bias: bool = False, conv_bias: bool = True, gated_norm: bool = True, pre_norm: bool = True,
) -> Ops:  # fmt: skip
    """Mamba-2: one input projection to gate, values, B, C and step sizes; scan; output.

    Own parameters of the scan are decay, skip and step bias, one each a head.
    """
    inner = heads * head_dim
    channels = inner + 2 * groups * state
    flops = _LINEAR_FLOPS * heads * head_dim * state
    ops: list[Operator] = [*norm("mamba.norm", hidden)] if pre_norm else []
    ops += [
        gemm("mamba.in", hidden, inner + channels + heads, shard="column", bias=bias),
        conv("mamba.conv", channels, kernel, bias=conv_bias),
        scan("mamba.scan", heads=heads, key_dim=state, value_dim=head_dim, parameters=3 * heads,
             flops_per_token=flops, read=channels + heads),
    ]  # fmt: skip
    if gated_norm:
        ops += norm("mamba.out_norm", inner)
    ops.append(gemm("mamba.out", inner, hidden, shard="row", bias=bias))
    return tuple(ops)


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
