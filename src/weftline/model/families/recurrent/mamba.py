"""Mamba and Mamba-2: layers that are one selective state-space mixer and nothing else.

Legend: ``d`` channels (``expand * hidden``), ``N`` state values a channel, ``P`` channels a head,
``H`` heads, ``G`` groups that share B and C, ``Q`` tokens a chunk, ``r`` rank of the step size.
"""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import conv, elementwise, embedding, gemm, lm_head, norm, scan, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = [
    "FAMILY",
    "mamba",
    "mamba2",
    "mamba2_mixer",
    "mamba_mixer",
    "selective_scan_flops",
    "ssd_flops",
]

Ops = tuple[Operator, ...]


def selective_scan_flops(channels: int, state: int) -> float:
    """Forward FLOP a token of Mamba's selective scan: ``d * (7 N + 3)``.

    Counted from the recurrence of arXiv:2312.00752, equations 2a and 2b, with the discretisation
    its code uses. A channel and token: the decay ``exp(step * A)`` is a product and an
    exponential a state value (2 N); the input ``(step * x) * B`` is 1 + N; ``decay * h + input``
    is 2 N; ``C . h`` is 2 N; the skip ``D * x`` and its sum are 2. Megatron-LM's FLOP report of
    Mamba layers has the same leading term, ``7 d N``. The gate's SiLU and the step size's softplus
    are activations and not counted.
    """
    return channels * (7.0 * state + 3.0)


def ssd_flops(*, heads: int, head_dim: int, state: int, groups: int, chunk: int) -> float:
    """Forward FLOP a token of Mamba-2's chunked scan (SSD), as matrix products.

    The four steps of arXiv:2405.21060, section 6 (listing 1), for one token of a chunk of ``Q``:
    ``C B^T`` within the chunk, once a group (2 Q N G); its product with the inputs (2 Q P H); the
    chunk's state from B and the inputs, and the output from C and the state before the chunk
    (2 N P H each); carrying the state on, a product and a sum a chunk (2 N P H / Q). The masked
    half of ``Q x Q`` counts, as the kernels compute whole tiles.
    """
    inner = heads * head_dim
    within = 2.0 * chunk * state * groups + 2.0 * chunk * inner
    return within + 4.0 * state * inner + 2.0 * state * inner / chunk


def mamba_mixer(
    *, hidden: int, inner: int, state: int, kernel: int, rank: int, bias: bool = False,
    conv_bias: bool = True, inner_norms: bool = False,
) -> Ops:  # fmt: skip
    """A Mamba mixer without its norm before; ``inner_norms`` are Jamba's, on step size, B and C.

    ``ssm.scan`` owns ``A`` (d N) and ``D`` (d).
    """
    ops: list[Operator] = [
        gemm("ssm.in", hidden, 2 * inner, shard="column", bias=bias),
        conv("ssm.conv", inner, kernel, bias=conv_bias),
        elementwise("ssm.act", inner, shard="heads"),
        gemm("ssm.step_bc", inner, rank + 2 * state, shard="row"),
    ]
    if inner_norms:
        ops += norm("ssm.step_bc_norm", rank + 2 * state)
    ops += [
        gemm("ssm.step", rank, inner, shard="column", bias=True),
        scan(
            "ssm.scan", heads=inner, key_dim=state, value_dim=1,
            flops_per_token=selective_scan_flops(inner, state), parameters=inner * (state + 1),
            read=2 * inner + 2 * state,
        ),
        elementwise("ssm.gate", 2 * inner, inner, shard="heads"),
        gemm("ssm.out", inner, hidden, shard="row", bias=bias),
    ]  # fmt: skip
    return tuple(ops)


def mamba2_mixer(
    *, hidden: int, heads: int, head_dim: int, state: int, groups: int, kernel: int, chunk: int,
    bias: bool = False, conv_bias: bool = True,
) -> Ops:  # fmt: skip
    """A Mamba-2 mixer without its norm before; one product yields gate, x, B, C and step size.

    ``ssm.scan`` owns ``A``, ``D`` and the step size's bias, one value a head each.
    """
    inner = heads * head_dim
    mixed = inner + 2 * groups * state
    return (
        gemm("ssm.in", hidden, inner + mixed + heads, shard="column", bias=bias),
        conv("ssm.conv", mixed, kernel, bias=conv_bias),
        elementwise("ssm.act", mixed, shard="heads"),
        scan(
            "ssm.scan", heads=heads, key_dim=state, value_dim=head_dim,
            flops_per_token=ssd_flops(
                heads=heads, head_dim=head_dim, state=state, groups=groups, chunk=chunk
            ),
            parameters=3 * heads, read=mixed + heads,
        ),
        elementwise("ssm.gate", 2 * inner, inner, shard="heads"),
        *norm("ssm.gate_norm", inner),
        gemm("ssm.out", inner, hidden, shard="row", bias=bias),
    )  # fmt: skip


def mamba(config: HFConfig) -> Model:
    """Mamba (arXiv:2312.00752)."""
    hidden = config.int("hidden_size")
    # Stated, the width wins over the expansion, as in transformers.
    inner = config.int_or("intermediate_size", config.int_or("expand", 2) * hidden)
    mixer = mamba_mixer(
        hidden=hidden,
        inner=inner,
        state=config.int_or("state_size", 16),
        kernel=config.int_or("conv_kernel", 4),
        rank=step_rank(config, "time_step_rank", hidden),
        bias=config.bool_or("use_bias", False),
        conv_bias=config.bool_or("use_conv_bias", True),
    )
    return _mixers_only(config, hidden, "mamba", mixer, tied_default=True)


def mamba2(config: HFConfig) -> Model:
    """Mamba-2 (arXiv:2405.21060) and Codestral Mamba."""
    hidden = config.int("hidden_size")
    heads, head_dim = config.int("num_heads"), config.int_or("head_dim", 64)
    groups, expand = config.int_or("n_groups", 8), config.int_or("expand", 2)
    config.require(
        heads * head_dim == expand * hidden, "num_heads",
        f"`num_heads` {heads} x `head_dim` {head_dim} is not `expand` {expand} x "
        f"`hidden_size` {hidden}",
        hint="the heads together are as wide as the expanded hidden state",
    )  # fmt: skip
    config.require(
        heads % groups == 0, "n_groups",
        f"`num_heads` {heads} does not divide by `n_groups` {groups}",
        hint="each group of B and C serves the same number of heads",
    )  # fmt: skip
    mixer = mamba2_mixer(
        hidden=hidden,
        heads=heads,
        head_dim=head_dim,
        state=config.int_or("state_size", 128),
        groups=groups,
        kernel=config.int_or("conv_kernel", 4),
        chunk=config.int_or("chunk_size", 256),
        bias=config.bool_or("use_bias", False),
        conv_bias=config.bool_or("use_conv_bias", True),
    )
    return _mixers_only(config, hidden, "mamba2", mixer, tied_default=False)


def step_rank(config: HFConfig, key: str, hidden: int) -> int:
    """Rank of the step size's projection: a number, or ``"auto"`` for ``ceil(hidden / 16)``."""
    if config.get(key) in (None, "auto"):
        return -(-hidden // 16)
    return config.int(key)


def _mixers_only(
    config: HFConfig, hidden: int, kind: str, mixer: Ops, *, tied_default: bool
) -> Model:
    vocab = config.int("vocab_size")
    layers = config.layers()
    tied = config.tied(tied_default)
    config.check()
    operators = (*norm("ssm.norm", hidden), *mixer)
    return Model(
        name=config.name, family=config.model_type, source=config.source, hidden=hidden,
        vocab=vocab, layers=stack([kind] * layers, lambda kind: (kind, operators)),
        embedding=embedding(vocab, hidden), head=lm_head(hidden, vocab, tied=tied),
        tied_embeddings=tied, dtype=config.dtype, notes=tuple(config.notes),
    )  # fmt: skip


FAMILY: Final = {"falcon_mamba": mamba, "mamba": mamba, "mamba2": mamba2}
