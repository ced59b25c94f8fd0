"""DeepSeek-V3 and its kin: latent attention and experts (V3, R1, Kimi-K2), with DeepSeek's sparse
attention where an indexer picks the tokens a query sees (V3.2, GLM-5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from weftline.model.blocks import assemble, gated_mlp, gemm, mla, moe, norm, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Attention, Model, Operator
from weftline.spec.attention import DENSE, Rule, TopK

__all__ = ["FAMILY", "deepseek_v3", "deepseek_v32", "glm_moe_dsa"]

Ops = tuple[Operator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Indexer:
    """The lightning indexer: small heads that score every earlier token, keep ``topk``."""

    heads: int
    dim: int
    topk: int

    @property
    def rule(self) -> Rule:
        """Single keys, the query's own among those that compete."""
        return TopK(block=1, count=self.topk, first=0, score="indexer", share="layer")

    def operators(self, hidden: int, q_rank: int) -> Ops:
        core = Attention(
            heads=self.heads, kv_heads=1, qk_dim=self.dim, v_dim=0, kv_values_per_token=self.dim
        )
        return (
            gemm("indexer.q", q_rank, self.heads * self.dim, shard="replicated"),
            gemm("indexer.k_weights", hidden, self.dim + self.heads, shard="replicated"),
            *norm("indexer.k_norm", self.dim, bias=True),
            Operator(name="indexer.core", kind="attention", attention=core,
                     in_features=self.heads * self.dim),
        )  # fmt: skip


def read_mla(
    config: HFConfig, hidden: int, *, gated: bool = False, rotary: bool = True
) -> Callable[[Rule], Ops]:
    """Read the latent attention's fields; the result builds it for what a query sees."""
    heads = config.int("num_attention_heads")
    q_rank = config.int("q_lora_rank") if config.has("q_lora_rank") else None
    kv_rank = config.int("kv_lora_rank")
    nope_dim, rope_dim = config.int("qk_nope_head_dim"), config.int("qk_rope_head_dim")
    v_dim = config.int("v_head_dim")
    bias = config.bool_or("attention_bias", False)
    config.unused("head_dim", "qk_head_dim", "num_key_value_heads")  # derived from the others

    def build(rule: Rule) -> Ops:
        return mla(
            hidden=hidden, heads=heads, q_rank=q_rank, kv_rank=kv_rank, nope_dim=nope_dim,
            rope_dim=rope_dim, v_dim=v_dim, bias=bias, rule=rule, gated=gated, rotary=rotary,
        )  # fmt: skip

    return build


def _forwards(config: HFConfig, hidden: int, layers: int) -> tuple[tuple[str, ...], dict[str, Ops]]:
    """Which layers are ``dense`` and ``sparse``, and the operators of both."""
    experts, top_k = config.expert_counts("n_routed_experts", "num_experts_per_tok")
    expert_ffn = config.int("moe_intermediate_size")
    dense = min(layers, config.int_or("first_k_dense_replace", 3, minimum=0))
    default = ["dense"] * dense + ["sparse"] * (layers - dense)
    kinds = config.kinds("mlp_layer_types", ("dense", "sparse"), layers, default)
    config.require(
        config.int_or("moe_layer_freq", 1) == 1, "moe_layer_freq",
        "`moe_layer_freq` other than 1 is not published for this family and not counted",
    )  # fmt: skip
    sparse = moe(
        hidden=hidden, experts=experts, top_k=top_k, expert_ffn=expert_ffn,
        shared_ffn=expert_ffn * config.int_or("n_shared_experts", 1, minimum=0),
    )  # fmt: skip
    return kinds, {
        "dense": gated_mlp(hidden, config.int("intermediate_size")),
        "sparse": sparse,
    }


def _build(config: HFConfig, indexed: Callable[[int], tuple[str, ...]] | None) -> Model:
    """``indexed`` names each layer's indexer: ``full`` its own, ``shared`` an earlier one's."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    attention = read_mla(config, hidden)
    indexer = None
    if indexed:
        config.kinds("layer_types", ("indexed_attention",), layers, ["indexed_attention"] * layers)
        indexer = _Indexer(
            heads=config.int("index_n_heads"), dim=config.int("index_head_dim"),
            topk=config.int("index_topk"),
        )  # fmt: skip
    q_rank = config.int("q_lora_rank") if indexed else 0
    forward_kinds, forwards = _forwards(config, hidden, layers)
    picks = indexed(layers) if indexed else ("none",) * layers
    tied = config.tied(False)
    config.check()
    if config.optional_int("num_nextn_predict_layers"):
        config.notes.append("next-token-prediction module left out")

    def build(kind: tuple[str, str]) -> tuple[str, Ops]:
        pick, forward = kind
        ops = attention(indexer.rule if indexer else DENSE)
        if indexer and pick == "full":
            at = next(i for i, op in enumerate(ops) if op.kind == "attention")
            ops = (*ops[:at], *indexer.operators(hidden, q_rank), *ops[at:])
        mixer = {"none": "mla", "full": "dsa", "shared": "dsa_shared"}[pick]
        signature = f"{mixer}+{'mlp' if forward == 'dense' else 'moe'}"
        return signature, (*ops, *forwards[forward])

    made = stack(list(zip(picks, forward_kinds, strict=True)), build)
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


def deepseek_v3(config: HFConfig) -> Model:
    """DeepSeek-V3, R1, Kimi-K2: the router's correction is a buffer, not a parameter."""
    return _build(config, None)


def deepseek_v32(config: HFConfig) -> Model:
    """DeepSeek-V3.2: an indexer in every layer."""
    return _build(config, lambda layers: ("full",) * layers)


def glm_moe_dsa(config: HFConfig) -> Model:
    """GLM-5: as V3.2; later ones let layers share the choice of an earlier layer's indexer."""

    def picks(layers: int) -> tuple[str, ...]:
        every = config.int_or("index_topk_freq", 1)
        offset = config.int_or("index_skip_topk_offset", 2, minimum=0)
        default = ["full" if max(i - offset + 1, 0) % every == 0 else "shared"
                   for i in range(layers)]  # fmt: skip
        return config.kinds("indexer_types", ("full", "shared"), layers, default)

    return _build(config, picks)


FAMILY: Final = {
    "deepseek_v3": deepseek_v3,
    "kimi_k2": deepseek_v3,
    "kimi_k25": deepseek_v3,
    "deepseek_v32": deepseek_v32,
    "glm_moe_dsa": glm_moe_dsa,
}
