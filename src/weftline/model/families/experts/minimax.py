"""MiniMax-M2 (full attention) and MiniMax-M3 (block-sparse attention behind an indexer)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from weftline.model.blocks import (
    assemble,
    elementwise,
    gated_mlp,
    gemm,
    gqa_attention,
    moe,
    norm,
    stack,
)
from weftline.model.config import HFConfig
from weftline.model.ir import Attention, Model, Operator
from weftline.spec.attention import Rule, TopK

__all__ = ["FAMILY", "minimax_m2", "minimax_m3"]


def minimax_m2(config: HFConfig) -> Model:
    """Norms over all of queries and keys, sigmoid routing whose correction is no parameter."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    experts, top_k = config.expert_counts("num_local_experts", "num_experts_per_tok")
    ffn = config.int("intermediate_size")
    rotary = config.int_or("rotary_dim", config.rotated(head_dim))
    listed = config.list_or("attn_type_list", [1] * layers)
    config.require(
        all(kind == 1 for kind in listed), "attn_type_list",
        "`attn_type_list` other than 1 (full attention) is not published for this family",
    )  # fmt: skip
    tied = config.tied(False)
    config.check()
    if config.has("num_mtp_modules"):
        config.notes.append("next-token-prediction modules left out")
    operators = (
        *gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qk_norm="whole",
            rotary_dim=rotary,
        ),
        # Its router is published in fp32, and served so.
        *moe(hidden=hidden, experts=experts, top_k=top_k, expert_ffn=ffn, router_fp32=True),
    )  # fmt: skip
    made = stack(["gqa+moe"] * layers, lambda kind: (kind, operators))
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


_SPARSE: Final = {
    "index_n_heads": ("sparse_num_index_heads", 4), "index_head_dim": ("sparse_index_dim", 128),
    "index_block_size": ("sparse_block_size", 128), "index_topk_blocks": ("sparse_topk_blocks", 16),
}  # fmt: skip
"""transformers' field -> (name inside the published ``sparse_attention_config``, default)."""
_MIXERS: Final = ("full_attention", "minimax_m3_sparse")


def _indexer(
    config: HFConfig, hidden: int, sparse: dict[str, Any]
) -> tuple[tuple[Operator, ...], Rule]:
    """The block indexer's operators, and what it lets a query see."""
    sizes = {}
    for key, (inner, default) in _SPARSE.items():
        value = sparse.get(inner, config.int_or(key, default))
        good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        config.require(good, "sparse_attention_config", f"`{inner}` must be a whole number above 0")
        sizes[key] = value if good else 1
    heads, dim = sizes["index_n_heads"], sizes["index_head_dim"]
    first = sparse.get("sparse_init_block", 0)
    local = sparse.get("sparse_local_block", config.int_or("index_local_blocks", 1))
    for name, value in (("sparse_init_block", first), ("sparse_local_block", local)):
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        config.require(good, "sparse_attention_config", f"`{name}` must be a whole number")
    rule = TopK(
        block=sizes["index_block_size"], count=sizes["index_topk_blocks"], score="indexer",
        first=first if isinstance(first, int) and first > 0 else 0,
        recent=local if isinstance(local, int) and local > 1 else 1,
    )  # fmt: skip
    core = Attention(heads=heads, kv_heads=1, qk_dim=dim, v_dim=0, kv_values_per_token=dim)
    width = (heads + 1) * dim
    return (
        gemm("indexer.qk", hidden, width, shard="replicated"),
        *norm("indexer.qk_norm", width, parameters=2 * dim),
        elementwise("indexer.rotary", width),
        Operator(
            name="indexer.core", kind="attention", attention=core, in_features=heads * dim,
            out_features=0,
        ),
    ), rule  # fmt: skip


def minimax_m3(config: HFConfig) -> Model:
    """Per-head norms, one shared expert; sparse layers see the blocks their indexer picks."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    heads, kv_heads, head_dim = config.attention_heads(hidden, default_head_dim=128)
    experts, top_k = config.expert_counts("num_local_experts", "num_experts_per_tok")
    ffn = config.int("intermediate_size")
    dense_ffn = config.int_or("dense_intermediate_size", 12288)
    shared = config.int_or("shared_intermediate_size", ffn) * config.int_or("n_shared_experts", 1)
    rotary = config.int_or("rotary_dim", 64)
    # The published file says twice what the indexer's fields and the lists of layers say.
    config.unused("moe_intermediate_size", "first_k_dense_replace", "partial_rotary_factor")
    sparse = config.part(
        "sparse_attention_config", "sparse_attention_freq", "sparse_local_block",
        "sparse_init_block", "sparse_score_type",
        "sparse_disable_index_value", "use_sparse_attention",
        *(inner for inner, _ in _SPARSE.values()),
    )  # fmt: skip
    indexer, seen = _indexer(config, hidden, sparse)
    picks = sparse.get("sparse_attention_freq") or [0] * layers
    config.require(
        isinstance(picks, list) and len(picks) == layers, "sparse_attention_config",
        f"`sparse_attention_freq` needs one entry for each of the {layers} layers",
    )  # fmt: skip
    default = [_MIXERS[bool(pick)] for pick in picks]
    mixers = config.kinds("layer_types", _MIXERS, layers, default)
    experts_in = config.list_or("moe_layer_freq", [1] * layers, length=layers)
    default = ["sparse" if inside else "dense" for inside in experts_in]
    forwards = config.kinds("mlp_layer_types", ("dense", "sparse"), layers, default)
    tied = config.tied(False)
    config.check()
    if config.has("num_mtp_modules"):
        config.notes.append("next-token-prediction modules left out")

    def build(kind: tuple[bool, bool]) -> tuple[str, tuple[Operator, ...]]:
        attention = gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qk_norm="head",
            rotary_dim=rotary,
        )  # fmt: skip
        if kind[0]:
            attention = _sparse(attention, indexer, seen)
        mixer = "msa" if kind[0] else "gqa"
        if not kind[1]:
            return f"{mixer}+mlp", (*attention, *gated_mlp(hidden, dense_ffn))
        forward = moe(
            hidden=hidden, experts=experts, top_k=top_k, expert_ffn=ffn, shared_ffn=shared
        )
        return f"{mixer}+moe", (*attention, *forward)

    kinds = [(m == _MIXERS[1], f == "sparse") for m, f in zip(mixers, forwards, strict=True)]
    return assemble(config, hidden=hidden, vocab=vocab, layers=stack(kinds, build), tied=tied)


def _sparse(
    attention: tuple[Operator, ...], indexer: tuple[Operator, ...], seen: Rule
) -> tuple[Operator, ...]:
    """The same attention, its core limited to the blocks that the indexer picks."""
    ops: list[Operator] = []
    for op in attention:
        if op.attention is None:
            ops.append(op)
        else:
            ops += [*indexer, replace(op, attention=replace(op.attention, rule=seen))]
    return tuple(ops)


FAMILY: Final = {
    "minimax_m2": minimax_m2,
    "minimax_m3": minimax_m3,
    "minimax_m3_vl": minimax_m3,
    "minimax_m3_vl_text": minimax_m3,
}
