"""Jamba: Mamba layers with an attention layer among them, every other feed-forward of experts."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import embedding, gated_mlp, gqa_attention, lm_head, moe, norm, stack
from weftline.model.config import HFConfig
from weftline.model.families.recurrent.mamba import mamba_mixer, step_rank
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "jamba"]


def jamba(config: HFConfig) -> Model:
    """Jamba (arXiv:2403.19887): the layer's index decides its mixer and its feed-forward.

    Attention has no positions; the Mamba mixers normalise step size, B and C.
    """
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    experts, top_k = config.expert_counts("num_experts", "num_experts_per_tok")
    attention_layers = _every(config, "attn", (8, 4), layers)
    expert_layers = _every(config, "expert", (2, 1), layers)
    tied = config.tied(False)
    positions = config.optional_int("max_position_embeddings")
    mixer = mamba_mixer(
        hidden=hidden, inner=config.int_or("mamba_expand", 2) * hidden,
        state=config.int_or("mamba_d_state", 16), kernel=config.int_or("mamba_d_conv", 4),
        rank=step_rank(config, "mamba_dt_rank", hidden),
        bias=config.bool_or("mamba_proj_bias", False),
        conv_bias=config.bool_or("mamba_conv_bias", True), inner_norms=True,
    )  # fmt: skip
    config.check()
    attention = gqa_attention(
        hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rotary_dim=0
    )

    def build(kind: tuple[bool, bool]) -> tuple[str, tuple[Operator, ...]]:
        attends, routes = kind
        first = attention if attends else (*norm("ssm.norm", hidden), *mixer)
        second = (
            moe(hidden=hidden, experts=experts, top_k=top_k, expert_ffn=ffn)
            if routes
            else gated_mlp(hidden, ffn)
        )
        name = f"{'gqa' if attends else 'mamba'}+{'moe' if routes else 'mlp'}"
        return name, (*first, *second)

    kinds = [(i in attention_layers, i in expert_layers and experts > 1) for i in range(layers)]
    return Model(
        name=config.name, family=config.model_type, source=config.source, hidden=hidden,
        vocab=vocab, layers=stack(kinds, build), embedding=embedding(vocab, hidden),
        head=lm_head(hidden, vocab, tied=tied), max_seq_len=positions, tied_embeddings=tied,
        dtype=config.dtype, notes=tuple(config.notes),
    )  # fmt: skip


def _every(config: HFConfig, what: str, default: tuple[int, int], layers: int) -> frozenset[int]:
    """Layers ``offset``, ``offset + period``... of the fields ``{what}_layer_*``."""
    period = config.int_or(f"{what}_layer_period", default[0])
    offset = config.int_or(f"{what}_layer_offset", default[1], minimum=0)
    config.require(
        offset < period, f"{what}_layer_offset",
        f"`{what}_layer_offset` {offset} is not below `{what}_layer_period` {period}",
        hint="the offset counts from 0 within one period",
    )  # fmt: skip
    return frozenset(range(offset, layers, period))


FAMILY: Final = {"jamba": jamba}
