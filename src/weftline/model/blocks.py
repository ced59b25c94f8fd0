"""Building blocks of the families: each returns operators, exact to the parameter.

Names are stable, for other rooms match on them. An attention block yields ``attn.norm``,
``attn.qkv``, ``attn.qk_norm``, ``attn.rotary``, ``attn.core``, ``attn.out``; a feed-forward
``mlp.norm``, ``mlp.gate_up`` (``mlp.up`` without a gate), ``mlp.act``, ``mlp.down``; a mixture of
experts ``moe.norm``, ``moe.router``, ``moe.experts.gate_up``, ``moe.experts.act``,
``moe.experts.down``, ``moe.shared.*``. Widths of norms and elementwise operators are what one
token reads and writes, in values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from weftline.model.config import HFConfig
from weftline.model.ir import Attention, Layer, LayerRole, Model, Operator, Shard
from weftline.spec.attention import DENSE, Rule, Window

__all__ = [
    "assemble",
    "conv",
    "elementwise",
    "embedding",
    "gated_mlp",
    "gemm",
    "gqa_attention",
    "lm_head",
    "mla",
    "mlp",
    "moe",
    "norm",
    "scan",
    "shared_experts",
    "stack",
]

Ops = tuple[Operator, ...]
K = TypeVar("K", bound=Hashable)


def gemm(
    name: str, in_features: int, out_features: int, *, shard: Shard, bias: bool = False,
    parameters: int | None = None, fp32: bool = False,
) -> Operator:  # fmt: skip
    """A dense product; ``parameters`` overrides ``in * out`` where weights are structured."""
    weights = in_features * out_features if parameters is None else parameters
    return Operator(
        name=name, kind="gemm", parameters=weights + (out_features if bias else 0),
        in_features=in_features, out_features=out_features, shard=shard, fp32=fp32,
    )  # fmt: skip


def norm(name: str, width: int, *, bias: bool = False, parameters: int | None = None) -> Ops:
    """RMSNorm (``width`` parameters) or, with ``bias``, LayerNorm (twice that)."""
    count = (2 * width if bias else width) if parameters is None else parameters
    return (
        Operator(
            name=name, kind="norm", parameters=count, in_features=width, out_features=width
        ),
    )  # fmt: skip


def elementwise(
    name: str, read: int, written: int | None = None, *, parameters: int = 0,
    shard: Shard = "replicated",
) -> Operator:  # fmt: skip
    """An elementwise operator that reads ``read`` and writes ``written`` values a token."""
    return Operator(
        name=name, kind="elementwise", parameters=parameters, in_features=read,
        out_features=read if written is None else written, shard=shard,
    )  # fmt: skip


def conv(name: str, channels: int, kernel: int, *, bias: bool = False) -> Operator:
    """A causal depthwise convolution: ``kernel`` weights a channel, ``kernel - 1`` kept."""
    return Operator(
        name=name, kind="conv", parameters=channels * (kernel + (1 if bias else 0)),
        in_features=channels, out_features=channels, shard="heads",
        state_values=channels * (kernel - 1), scan_flops_per_token=2.0 * channels * kernel,
    )  # fmt: skip


def gqa_attention(
    *, hidden: int, heads: int, kv_heads: int, head_dim: int, v_dim: int | None = None,
    qkv_bias: bool = False, out_bias: bool = False,
    qk_norm: Literal["none", "head", "whole", "free"] = "none",
    rotary_dim: int | None = None, sinks: bool = False, gated: bool = False,
    shared_kv: bool = False, norm_bias: bool = False, pre_norm: bool = True,
    causal: bool = True, window: int | None = None, rule: Rule = DENSE,
    post_norm: bool = False, prefix: str = "attn",
) -> Ops:  # fmt: skip
    """Grouped-query attention with everything around it, from its norm to its output.

    ``qk_norm``: ``head`` has ``head_dim`` weights for queries and again for keys, ``whole`` one a
    feature, ``free`` none. ``sinks`` adds a learned logit a head. ``gated`` has a gate as wide as
    the queries in the fused projection. ``shared_kv`` uses keys as values (one projection).
    ``rotary_dim`` is how much of each head is rotated: 0 for none, ``None`` for all of it.
    ``window`` is short for the rule of one.
    """
    rule = rule if window is None else Window(tokens=window)
    v_dim = head_dim if v_dim is None else v_dim
    q_width, k_width = heads * head_dim, kv_heads * head_dim
    v_width = 0 if shared_kv else kv_heads * v_dim
    gate_width = heads * v_dim if gated else 0
    turned = head_dim if rotary_dim is None else rotary_dim
    core = Attention(
        heads=heads, kv_heads=kv_heads, qk_dim=head_dim, v_dim=v_dim, causal=causal,
        rule=rule, kv_values_per_token=kv_heads * (head_dim + v_dim),
    )  # fmt: skip
    ops: list[Operator] = []
    if pre_norm:
        ops += norm(f"{prefix}.norm", hidden, bias=norm_bias)
    qkv_width = q_width + gate_width + k_width + v_width
    ops.append(gemm(f"{prefix}.qkv", hidden, qkv_width, shard="column", bias=qkv_bias))
    if qk_norm != "none":
        count = {"head": 2 * head_dim, "whole": q_width + k_width, "free": 0}[qk_norm]
        ops += norm(f"{prefix}.qk_norm", q_width + k_width, parameters=count)
    if turned:
        ops.append(elementwise(f"{prefix}.rotary", (heads + kv_heads) * turned, shard="heads"))
    ops.append(
        Operator(
            name=f"{prefix}.core", kind="attention", attention=core, shard="heads",
            in_features=q_width, out_features=heads * v_dim, parameters=heads if sinks else 0,
        )
    )  # fmt: skip
    if gated:
        ops.append(elementwise(f"{prefix}.gate", 2 * gate_width, gate_width, shard="heads"))
    ops.append(gemm(f"{prefix}.out", heads * v_dim, hidden, shard="row", bias=out_bias))
    if post_norm:
        ops += norm(f"{prefix}.post_norm", hidden)
    return tuple(ops)


def gated_mlp(
    hidden: int, ffn: int, *, bias: bool = False, norm_bias: bool = False, pre_norm: bool = True,
    post_norm: bool = False, prefix: str = "mlp",
) -> Ops:  # fmt: skip
    """A feed-forward ``down(act(gate(x)) * up(x))`` with gate and up as one product."""
    ops: list[Operator] = []
    if pre_norm:
        ops += norm(f"{prefix}.norm", hidden, bias=norm_bias)
    ops += [
        gemm(f"{prefix}.gate_up", hidden, 2 * ffn, shard="column", bias=bias),
        elementwise(f"{prefix}.act", 2 * ffn, ffn, shard="column"),
        gemm(f"{prefix}.down", ffn, hidden, shard="row", bias=bias),
    ]
    if post_norm:
        ops += norm(f"{prefix}.post_norm", hidden)
    return tuple(ops)


def mlp(
    hidden: int, ffn: int, *, bias: bool = True, norm_bias: bool = True, pre_norm: bool = True,
    prefix: str = "mlp",
) -> Ops:  # fmt: skip
    """A feed-forward ``down(act(up(x)))`` without a gate."""
    ops: list[Operator] = []
    if pre_norm:
        ops += norm(f"{prefix}.norm", hidden, bias=norm_bias)
    ops += [
        gemm(f"{prefix}.up", hidden, ffn, shard="column", bias=bias),
        elementwise(f"{prefix}.act", ffn, shard="column"),
        gemm(f"{prefix}.down", ffn, hidden, shard="row", bias=bias),
    ]
    return tuple(ops)


def mla(
    *, hidden: int, heads: int, q_rank: int | None, kv_rank: int, nope_dim: int, rope_dim: int,
    v_dim: int, bias: bool = False, gated: bool = False, rule: Rule = DENSE,
    rotary: bool = True,
) -> Ops:  # fmt: skip
    """Multi-head latent attention (DeepSeek-V2): low-rank queries, keys and values.

    ``attn.qkv_down`` is the fused down projection of queries (where ``q_rank`` is set) and of the
    latent with its shared rotary key; only latent and rotary key are cached. FLOPs are those of
    training and prefill, where keys and values are expanded a head.
    """
    qk_dim = nope_dim + rope_dim
    core = Attention(
        heads=heads, kv_heads=heads, qk_dim=qk_dim, v_dim=v_dim, rule=rule,
        kv_values_per_token=kv_rank + rope_dim,
    )  # fmt: skip
    ops: list[Operator] = [*norm("attn.norm", hidden)]
    if q_rank is None:
        ops.append(gemm("attn.q", hidden, heads * qk_dim, shard="column"))
        ops.append(gemm("attn.kv_down", hidden, kv_rank + rope_dim, shard="replicated", bias=bias))
    else:
        down = q_rank + kv_rank + rope_dim
        ops.append(gemm("attn.qkv_down", hidden, down, shard="replicated", bias=bias))
        ops += norm("attn.q_norm", q_rank)
        ops.append(gemm("attn.q_up", q_rank, heads * qk_dim, shard="column"))
    ops += norm("attn.kv_norm", kv_rank)
    ops.append(gemm("attn.kv_up", kv_rank, heads * (nope_dim + v_dim), shard="column"))
    if rotary and rope_dim:
        ops.append(elementwise("attn.rotary", (heads + 1) * rope_dim, shard="heads"))
    ops.append(
        Operator(
            name="attn.core", kind="attention", attention=core, shard="heads",
            in_features=heads * qk_dim, out_features=heads * v_dim,
        )
    )  # fmt: skip
    if gated:
        ops.append(gemm("attn.gate_proj", hidden, heads * v_dim, shard="column"))
        ops.append(elementwise("attn.gate", 2 * heads * v_dim, heads * v_dim, shard="heads"))
    ops.append(gemm("attn.out", heads * v_dim, hidden, shard="row", bias=bias))
    return tuple(ops)


def moe(
    *, hidden: int, experts: int, top_k: int, expert_ffn: int, shared_ffn: int = 0,
    shared_gate: bool = False, gated: bool = True, router_bias: bool = False,
    correction_bias: bool = False, expert_bias: bool = False, pre_norm: bool = True,
    latent: int | None = None, latent_norm: bool = False, norm_bias: bool = False,
    groups: tuple[int, int] = (1, 1), router_fp32: bool = False,
) -> Ops:  # fmt: skip
    """Routed experts, with shared ones where ``shared_ffn`` (their summed width) is set.

    ``correction_bias`` is the load-balancing bias added to router scores, where it is a trainable
    parameter. ``latent`` projects tokens to a narrower width before the experts and back after.
    ``groups``: how many the experts lie in, and in how many of them those of one token.
    ``router_fp32``: the router multiplies in fp32.
    """
    width = latent or hidden
    up = 2 * expert_ffn if gated else expert_ffn
    ops: list[Operator] = [*norm("moe.norm", hidden, bias=norm_bias)] if pre_norm else []
    router = hidden * experts + experts * (int(router_bias) + int(correction_bias))
    ops.append(gemm("moe.router", hidden, experts, shard="replicated", parameters=router,
                    fp32=router_fp32))  # fmt: skip
    if latent:
        ops.append(gemm("moe.latent_down", hidden, latent, shard="replicated"))
        if latent_norm:
            ops += norm("moe.latent_norm", latent)
    ops += [
        _grouped("moe.experts.gate_up" if gated else "moe.experts.up", width, up, experts, top_k,
                 expert_bias, groups),
        elementwise("moe.experts.act", top_k * up, top_k * expert_ffn, shard="expert"),
        _grouped("moe.experts.down", expert_ffn, width, experts, top_k, expert_bias, groups),
    ]  # fmt: skip
    if latent:
        ops.append(gemm("moe.latent_up", latent, hidden, shard="replicated"))
    if shared_ffn:
        ops += shared_experts(hidden, shared_ffn, gated=gated, sigmoid_gate=shared_gate)
    return tuple(ops)


def shared_experts(hidden: int, ffn: int, *, gated: bool = True, sigmoid_gate: bool = False) -> Ops:
    """The experts every token passes, as one feed-forward of their summed width."""
    body = gated_mlp if gated else mlp
    ops = body(hidden, ffn, bias=False, pre_norm=False, prefix="moe.shared")
    if sigmoid_gate:
        ops = (*ops, gemm("moe.shared.gate", hidden, 1, shard="replicated"))
    return ops


def _grouped(
    name: str, in_features: int, out_features: int, experts: int, top_k: int, bias: bool,
    groups: tuple[int, int],
) -> Operator:  # fmt: skip
    one = in_features * out_features + (out_features if bias else 0)
    return Operator(
        name=name, kind="grouped_gemm", parameters=experts * one, active_parameters=top_k * one,
        in_features=in_features, out_features=out_features, experts=experts,
        experts_per_token=top_k, expert_groups=groups[0], groups_per_token=groups[1],
        shard="expert",
    )  # fmt: skip


def scan(
    name: str, *, heads: int, key_dim: int, value_dim: int, flops_per_token: float,
    parameters: int = 0, read: int = 0,
) -> Operator:  # fmt: skip
    """A recurrent state update with ``heads`` states of ``key_dim`` by ``value_dim``."""
    return Operator(
        name=name, kind="scan", parameters=parameters, shard="heads",
        in_features=read or heads * (2 * key_dim + value_dim), out_features=heads * value_dim,
        state_values=heads * key_dim * value_dim, scan_flops_per_token=flops_per_token,
    )  # fmt: skip


def embedding(vocab: int, hidden: int, *, positions: int = 0, types: int = 0) -> Ops:
    """Token table, and learned position and segment tables where their lengths are given."""
    ops = [_table("embed.tokens", vocab, hidden, "vocab")]
    if positions:
        ops.append(_table("embed.positions", positions, hidden, "replicated"))
    if types:
        ops.append(_table("embed.types", types, hidden, "replicated"))
    return tuple(ops)


def _table(name: str, rows: int, width: int, shard: Shard) -> Operator:
    return Operator(
        name=name, kind="embedding", parameters=rows * width, in_features=1,
        out_features=width, shard=shard,
    )  # fmt: skip


def lm_head(
    hidden: int, vocab: int, *, tied: bool, bias: bool = False, norm_bias: bool = False,
    final_norm: bool = True,
) -> Ops:  # fmt: skip
    """Final norm and output projection; a tied projection owns no weights (a bias it does)."""
    head = gemm("head.lm", hidden, vocab, shard="vocab", bias=bias)
    if tied:
        head = replace(head, parameters=vocab if bias else 0, tied=True)
    return (*(norm("head.norm", hidden, bias=norm_bias) if final_norm else ()), head)


def stack(
    kinds: Sequence[K], build: Callable[[K], tuple[str, Ops]], *, role: LayerRole = "decoder",
    first: int = 0,
) -> tuple[Layer, ...]:  # fmt: skip
    """One layer for each entry of ``kinds``; ``build`` gives (signature, operators) of a kind.

    Layers of one kind share their operators, so that a hundred layers cost what their kinds do.
    """
    made = {kind: build(kind) for kind in dict.fromkeys(kinds)}
    return tuple(
        Layer(index=index, kind=made[kind][0], operators=made[kind][1], role=role)
        for index, kind in enumerate(kinds, start=first)
    )


def assemble(
    config: HFConfig, *, hidden: int, vocab: int, layers: tuple[Layer, ...], tied: bool = False,
    embedding_ops: Ops | None = None, head_ops: Ops | None = None,
) -> Model:  # fmt: skip
    """The Model of a config, with the usual embedding and head where none are given."""
    return Model(
        name=config.name, family=config.model_type or config.text_model_type,
        source=config.source, hidden=hidden, vocab=vocab, layers=layers,
        embedding=embedding(vocab, hidden) if embedding_ops is None else embedding_ops,
        head=lm_head(hidden, vocab, tied=tied) if head_ops is None else head_ops,
        max_seq_len=config.optional_int("max_position_embeddings", "n_positions"),
        tied_embeddings=tied, dtype=config.dtype, notes=tuple(config.notes),
    )  # fmt: skip
