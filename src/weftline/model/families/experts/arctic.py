"""Snowflake Arctic: a dense feed-forward beside the experts, each with a norm and a residual."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, gated_mlp, gqa_attention, moe, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "arctic"]


def arctic(config: HFConfig) -> Model:
    """Arctic (Snowflake, 2024), after its published modelling code.

    Every ``moe_layer_frequency``-th layer has experts; with ``parallel_attn_mlp_res`` these have a
    dense feed-forward as wide as the model beside them. Other layers have one of an expert's width.
    """
    hidden = config.int("hidden_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    layers = config.layers()
    vocab = config.int("vocab_size")
    ffn = config.int("intermediate_size")
    every = config.int_or("moe_layer_frequency", 2)
    beside = config.bool_or("parallel_attn_mlp_res", False, "use_residual")
    experts, top_k = config.expert_counts("num_local_experts", "num_experts_per_tok")
    tied = config.tied(False)
    for key in ("sliding_window", "quantization"):
        config.require(
            not config.has(key), key, f"`{key}` is not modelled for `arctic`", hint="remove it"
        )
    config.unused("moe_train_capacity_factor", "moe_eval_capacity_factor", "moe_min_capacity",
                  "moe_token_dropping", "enable_expert_tensor_parallelism")  # fmt: skip
    config.check()

    def layer(sparse: bool) -> tuple[str, tuple[Operator, ...]]:
        attention = gqa_attention(hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
        if not sparse:
            return "gqa+mlp", (*attention, *gated_mlp(hidden, ffn))
        dense = gated_mlp(hidden, hidden, prefix="residual") if beside else ()
        routed = moe(hidden=hidden, experts=experts, top_k=top_k, expert_ffn=ffn)
        return "gqa+moe", (*attention, *dense, *routed)

    made = stack([(i + 1) % every == 0 for i in range(layers)], layer)
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


FAMILY: Final = {"arctic": arctic}
