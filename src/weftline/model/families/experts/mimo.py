"""Xiaomi MiMo-7B (Qwen2's decoder) and MiMo-V2-Flash (sliding windows with sinks, experts)."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, gated_mlp, gqa_attention, moe, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "mimo", "mimo_v2_flash"]

_KINDS: Final = ("full_attention", "sliding_attention")
_FORWARDS: Final = ("dense", "sparse")


def mimo(config: HFConfig) -> Model:
    """Qwen2's layers: biases on queries, keys and values, none on the output."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    bias = config.bool_or("attention_bias", True)
    config.unused("use_sliding_window", "sliding_window", "max_window_layers")
    tied = config.tied(False)
    config.check()
    if config.has("num_nextn_predict_layers"):
        config.notes.append("next-token-prediction module left out")
    operators = (
        *gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qkv_bias=bias
        ),
        *gated_mlp(hidden, ffn),
    )
    made = stack(["gqa+mlp"] * layers, lambda kind: (kind, operators))
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


def _attention(config: HFConfig, hidden: int, *, sliding: bool) -> tuple[Operator, ...]:
    prefix = "swa_" if sliding else ""
    heads = config.int(f"{prefix}num_attention_heads", "num_attention_heads")
    # transformers' class has no field for the sliding layers' heads: they are twice the others'.
    shared = config.int("num_key_value_heads") * (2 if sliding else 1)
    kv_heads = config.int_or(f"{prefix}num_key_value_heads", shared)
    config.require(
        heads % kv_heads == 0, f"{prefix}num_key_value_heads",
        f"`{prefix}num_attention_heads` {heads} does not divide by "
        f"`{prefix}num_key_value_heads` {kv_heads}",
    )  # fmt: skip
    head_dim = config.int(f"{prefix}head_dim", "head_dim")
    sinks = "add_swa_attention_sink_bias" if sliding else "add_full_attention_sink_bias"
    return gqa_attention(
        hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        v_dim=config.int(f"{prefix}v_head_dim", "v_head_dim"),
        qkv_bias=config.bool_or("attention_bias", False),
        rotary_dim=config.rotated(head_dim, 0.334, kind=_KINDS[sliding]),
        sinks=config.bool_or(sinks, sliding),
        window=_window(config) if sliding else None,
    )  # fmt: skip


def _window(config: HFConfig) -> int:
    """Tokens a query sees: ``sliding_window_size`` counts those before it, without itself."""
    before = config.optional_int("sliding_window_size")
    window = config.int("sliding_window", default=None if before is None else before + 1)
    return window if before is None else before + 1


def mimo_v2_flash(config: HFConfig) -> Model:
    """Full and sliding layers have heads of their own; values are narrower than keys."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    experts, top_k = config.expert_counts("n_routed_experts", "num_experts_per_tok")
    expert_ffn = config.int("moe_intermediate_size")
    shared = expert_ffn * config.int_or("n_shared_experts", 0, minimum=0)
    full = _attention(config, hidden, sliding=False)
    sliding = _attention(config, hidden, sliding=True)
    usual = [int(i > 0 and (i + 1) % 6 != 0) for i in range(layers)]
    pattern = config.list_or("hybrid_layer_pattern", usual, length=layers)
    kinds = config.kinds("layer_types", _KINDS, layers, [_KINDS[bool(p)] for p in pattern])
    sparse = config.list_or("moe_layer_freq", [0] + [1] * (layers - 1), length=layers)
    forwards = config.kinds(
        "mlp_layer_types", _FORWARDS, layers, [_FORWARDS[bool(m)] for m in sparse]
    )
    tied = config.tied(False)
    # What the makers' code names besides: the windows are those of ``sliding_window_size``.
    config.unused("attention_chunk_size", "hybrid_block_size", "sliding_window", "v_head_dim")
    config.check()
    config.notes.append("next-token-prediction modules left out")

    def build(kind: tuple[str, str]) -> tuple[str, tuple[Operator, ...]]:
        mixer, attention = ("swa", sliding) if kind[0] == _KINDS[1] else ("gqa", full)
        if kind[1] == "dense":
            return f"{mixer}+mlp", (*attention, *gated_mlp(hidden, ffn))
        forward = moe(
            hidden=hidden, experts=experts, top_k=top_k, expert_ffn=expert_ffn, shared_ffn=shared
        )
        return f"{mixer}+moe", (*attention, *forward)

    made = stack(list(zip(kinds, forwards, strict=True)), build)
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


FAMILY: Final = {"mimo": mimo, "mimo_v2_flash": mimo_v2_flash}
