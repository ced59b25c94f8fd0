"""Step-3.5 and 3.7: sliding and full attention with a gate a head, then experts."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, elementwise, gated_mlp, gemm, gqa_attention, moe, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator

__all__ = ["FAMILY", "step3p7"]

_KINDS: Final = ("full_attention", "sliding_attention")
_OTHER: Final = ("num_attention_heads", "num_attention_groups", "head_dim", "attention_type",
                 "true_head_dim")  # fmt: skip


def _trimmed(config: HFConfig, key: str, layers: int) -> None:
    """Drop a per-layer list's last entries, which are for next-token-prediction layers."""
    more = config.int_or("num_nextn_predict_layers", 0, minimum=0)
    value = config.get(key)
    if more and isinstance(value, list) and len(value) == layers + more:
        config.fields = {**config.fields, key: value[:layers]}


def _sliding_heads(config: HFConfig, heads: int) -> int:
    other = config.part("attention_other_setting", *_OTHER)
    same = {
        "num_attention_groups": config.get("num_key_value_heads", "num_attention_groups"),
        "head_dim": config.int_or("head_dim", 128),
    }
    for key, value in same.items():
        config.require(
            other.get(key, value) == value, "attention_other_setting",
            f"`{key}` of its own for sliding layers is not modelled",
        )  # fmt: skip
    if isinstance(other.get("num_attention_heads"), int):
        return int(other["num_attention_heads"])
    if not config.has("num_sliding_attention_heads") and not config.has("per_layer_config"):
        config.notes.append(
            "sliding layers counted with `num_attention_heads`: the file has no "
            "`attention_other_setting`, where the published model states 96 heads for them"
        )
    return config.int_or("num_sliding_attention_heads", heads)


def _moe_layers(config: HFConfig, layers: int) -> list[str]:
    listed = config.get("moe_layers_enum")
    if isinstance(listed, str):
        listed = [int(part) for part in listed.split(",") if part.strip().isdigit()]
    dense = config.int_or("first_k_dense_replace", 3, minimum=0)
    sparse = set(listed) if isinstance(listed, list) else set(range(dense, layers))
    return ["sparse" if i in sparse else "dense" for i in range(layers)]


def step3p7(config: HFConfig) -> Model:
    """Norms on query and key heads, a sigmoid gate for each head from the layer's input."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    ffn = config.int("intermediate_size")
    config.require(
        config.has("num_key_value_heads") or config.has("num_attention_groups"),
        "num_key_value_heads", "field `num_key_value_heads` is missing",
    )  # fmt: skip
    heads, kv_heads, head_dim = config.attention_heads(hidden, default_head_dim=128)
    kv_heads = config.int_or("num_key_value_heads", kv_heads, "num_attention_groups")
    _trimmed(config, "layer_types", layers)
    _trimmed(config, "mlp_layer_types", layers)
    kinds = config.kinds("layer_types", _KINDS, layers, [_KINDS[0]] * layers)
    default = _moe_layers(config, layers)
    forwards = config.kinds("mlp_layer_types", ("dense", "sparse"), layers, default)
    window = config.int("sliding_window") if _KINDS[1] in kinds else None
    sliding_heads = _sliding_heads(config, heads)
    experts_key = next((k for k in ("n_routed_experts", "moe_num_experts") if config.has(k)),
                       "num_experts")  # fmt: skip
    top_k_key = "moe_top_k" if config.has("moe_top_k") else "num_experts_per_tok"
    experts, top_k = config.expert_counts(experts_key, top_k_key)
    expert_ffn = config.int("moe_intermediate_size")
    shared = config.int_or("share_expert_dim", expert_ffn, "share_expert_dims")
    tied = config.tied(False)
    views = config.per_layer(layers)
    # Written by transformers 5: each sliding layer's heads, which the lines above say for all.
    counts = [
        view.int("num_attention_heads") if config.has("per_layer_config")
        else sliding_heads if kind == _KINDS[1] else heads
        for view, kind in zip(views, kinds, strict=True)
    ]  # fmt: skip
    config.check()
    if config.optional_int("num_nextn_predict_layers"):
        config.notes.append("next-token-prediction modules left out")

    def build(kind: tuple[str, str, int]) -> tuple[str, tuple[Operator, ...]]:
        sliding = kind[0] == "sliding_attention"
        count = kind[2]
        attention = gqa_attention(
            hidden=hidden, heads=count, kv_heads=kv_heads, head_dim=head_dim, qk_norm="head",
            window=window if sliding else None,
        )  # fmt: skip
        gate = (
            gemm("attn.gate_proj", hidden, count, shard="column"),
            elementwise("attn.gate", count * (head_dim + 1), count * head_dim, shard="heads"),
        )
        attention = (*attention[:-1], *gate, attention[-1])
        mixer = "swa" if sliding else "gqa"
        if kind[1] == "dense":
            return f"{mixer}+mlp", (*attention, *gated_mlp(hidden, ffn))
        forward = moe(
            hidden=hidden, experts=experts, top_k=top_k, expert_ffn=expert_ffn, shared_ffn=shared
        )
        return f"{mixer}+moe", (*attention, *forward)

    made = stack(list(zip(kinds, forwards, counts, strict=True)), build)
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)


FAMILY: Final = {"step3p7": step3p7, "step3p5": step3p7}
