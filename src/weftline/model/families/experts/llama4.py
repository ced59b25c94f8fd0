"""Llama 4, text part: chunked and full attention, experts in some or all layers."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, gated_mlp, gqa_attention, moe, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator
from weftline.spec.attention import DENSE, Chunk

__all__ = ["FAMILY", "llama4"]

_KINDS: Final = ("chunked_attention", "full_attention")


def _attention_kinds(config: HFConfig, layers: int) -> tuple[str, ...]:
    """Layers without rotary positions see everything, the others their own chunk."""
    every = config.int_or("no_rope_layer_interval", 4)
    rotary = [int((i + 1) % every != 0) for i in range(layers)]
    if config.get("no_rope_layers"):  # an empty list means the default pattern
        rotary = config.list_or("no_rope_layers", rotary, length=layers)
    default = [_KINDS[0] if has_rotary else _KINDS[1] for has_rotary in rotary]
    return config.kinds("layer_types", _KINDS, layers, default)


def llama4(config: HFConfig) -> Model:
    """Top-1 routed experts beside one shared expert; unweighted norms on queries and keys."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    heads, kv_heads, head_dim = config.attention_heads(hidden, default_head_dim=128)
    experts, top_k = config.expert_counts("num_local_experts", "num_experts_per_tok")
    expert_ffn = config.int("intermediate_size")
    step = config.int_or("interleave_moe_layer_step", 1)
    sparse = config.indices("moe_layers", layers) or frozenset(range(step - 1, layers, step))
    config.unused("intermediate_size_mlp")
    dense_ffn = config.int("intermediate_size_mlp") if len(sparse) < layers else 1
    chunk = config.int_or("attention_chunk_size", 8192)
    bias = config.bool_or("attention_bias", False)
    norm_free = config.bool_or("use_qk_norm", True)
    tied = config.tied(False)
    attention_kinds = _attention_kinds(config, layers)
    config.check()

    def build(kind: tuple[str, bool]) -> tuple[str, tuple[Operator, ...]]:
        chunked = kind[0] == "chunked_attention"
        attention = gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qkv_bias=bias,
            out_bias=bias, qk_norm="free" if norm_free and chunked else "none",
            rotary_dim=None if chunked else 0, rule=Chunk(tokens=chunk) if chunked else DENSE,
        )  # fmt: skip
        mixer = "chunked" if chunked else "gqa"
        if not kind[1]:
            return f"{mixer}+mlp", (*attention, *gated_mlp(hidden, dense_ffn))
        forward = moe(
            hidden=hidden, experts=experts, top_k=top_k, expert_ffn=expert_ffn,
            shared_ffn=expert_ffn,
        )  # fmt: skip
        return f"{mixer}+moe", (*attention, *forward)

    kinds = [(kind, i in sparse) for i, kind in enumerate(attention_kinds)]
    return assemble(config, hidden=hidden, vocab=vocab, layers=stack(kinds, build), tied=tied)


FAMILY: Final = {"llama4": llama4, "llama4_text": llama4}
