"""DBRX: grouped-query attention and fine-grained experts, their sizes in objects of their own."""

from __future__ import annotations

from typing import Any, Final

from weftline.model.blocks import assemble, gqa_attention, lm_head, moe, norm, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model

__all__ = ["FAMILY", "dbrx"]

_ATTENTION: Final = ("kv_n_heads", "clip_qkv", "rope_theta", "attn_pdrop")
_FEED_FORWARD: Final = (
    "hidden_size", "ffn_hidden_size", "moe_num_experts", "moe_top_k", "ffn_act_fn",
    "moe_jitter_eps", "moe_loss_weight", "moe_normalize_expert_weights",
    "uniform_expert_assignment",
)  # fmt: skip


def dbrx(config: HFConfig) -> Model:
    """DBRX (Databricks, 2024): LayerNorm without bias, 16 experts of which 4 are used."""
    hidden = config.int("d_model")
    heads = config.int("n_heads")
    layers = config.layers("n_layers")
    vocab = config.int("vocab_size")
    inside = config.part("attn_config", *_ATTENTION)
    forward = config.part("ffn_config", *_FEED_FORWARD)

    def size(part: dict[str, Any], key: str, field: str, default: int) -> int:
        value = part.get(key, default)
        good = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
        config.require(good, field, f"`{field}.{key}` must be a whole number above 0")
        return value if good else 1

    kv_heads = size(inside, "kv_n_heads", "attn_config", 1)
    ffn = size(forward, "ffn_hidden_size", "ffn_config", 3584)
    experts = size(forward, "moe_num_experts", "ffn_config", 4)
    top_k = size(forward, "moe_top_k", "ffn_config", 1)
    own = forward.get("hidden_size", hidden)
    config.require(
        own in (hidden, 6144), "ffn_config", f"`ffn_config.hidden_size` {own} is not `d_model`"
    )
    config.require(
        hidden % heads == 0 and heads % kv_heads == 0, "n_heads",
        f"`d_model` {hidden}, `n_heads` {heads} and `kv_n_heads` {kv_heads} do not divide",
    )  # fmt: skip
    config.require(top_k <= experts, "ffn_config", f"`moe_top_k` {top_k} exceeds {experts} experts")
    tied = config.tied(False)
    config.unused("num_key_value_heads")  # that of `attn_config`
    config.check()
    operators = (
        *gqa_attention(hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=hidden // heads),
        *moe(hidden=hidden, experts=experts, top_k=top_k, expert_ffn=ffn),
    )
    made = stack(["gqa+moe"] * layers, lambda kind: (kind, operators))
    return assemble(
        config, hidden=hidden, vocab=vocab, layers=made, tied=tied,
        head_ops=(*norm("head.norm", hidden), *lm_head(hidden, vocab, tied=tied, final_norm=False)),
    )  # fmt: skip


FAMILY: Final = {"dbrx": dbrx}
