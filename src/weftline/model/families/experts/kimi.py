"""Kimi-Linear and Kimi-K3: Kimi delta attention with a latent attention every few layers.

Kimi-K3 adds to Kimi-Linear a full-rank output gate, a gate and low-rank queries in its latent
attention, experts in a narrower latent space with a norm after them, and attention residuals: a
score vector and a norm before each of a layer's two blocks and once before the output. Their
shapes are those of the published checkpoint's tensors.
"""

from __future__ import annotations

from typing import Any, Final

from weftline.model.blocks import (
    assemble,
    elementwise,
    gated_mlp,
    gemm,
    lm_head,
    moe,
    norm,
    stack,
)
from weftline.model.config import HFConfig
from weftline.model.families.experts.deepseek import read_mla
from weftline.model.ir import Model, Operator
from weftline.model.recurrent import kda
from weftline.spec.attention import DENSE

__all__ = ["FAMILY", "kimi_linear"]

Ops = tuple[Operator, ...]
_KINDS: Final = ("linear_attention", "full_attention")


def _linear_config(config: HFConfig) -> dict[str, Any]:
    config.unused("moe_renormalize", "moe_layer_freq")  # experts after the first dense layers
    return config.part(
        "linear_attn_config", "full_attn_layers", "kda_layers", "head_dim", "num_heads",
        "short_conv_kernel_size", "use_full_rank_gate",
    )  # fmt: skip


def _mixers(config: HFConfig, linear: dict[str, Any], layers: int) -> tuple[str, ...]:
    """Each layer's mixer; the published lists count layers from 1."""
    full, delta = linear.get("full_attn_layers"), linear.get("kda_layers")
    if config.has("layer_types") or not (isinstance(full, list) and isinstance(delta, list)):
        default = [_KINDS[i > 0 and i % 4 == 0] for i in range(layers)]
        return config.kinds("layer_types", _KINDS, layers, default)
    config.require(
        sorted([*full, *delta], key=str) == sorted(range(1, layers + 1), key=str),
        "linear_attn_config",
        f"`full_attn_layers` and `kda_layers` do not name each of layers 1 to {layers} once",
    )
    return tuple(_KINDS[i + 1 in full] for i in range(layers))


def _delta_attention(config: HFConfig, linear: dict[str, Any], hidden: int) -> Ops:
    sizes = {
        "head_dim": linear.get("head_dim", config.int_or("linear_head_dim", 128)),
        "heads": linear.get("num_heads", config.int_or("linear_num_heads", 32)),
        "kernel": linear.get("short_conv_kernel_size", config.int_or("linear_conv_kernel_dim", 4)),
    }
    for key, value in sizes.items():
        good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        config.require(good, "linear_attn_config", f"`{key}` must be a whole number above 0")
        sizes[key] = value if good else 1
    return kda(hidden=hidden, **sizes, full_rank_gate=bool(linear.get("use_full_rank_gate")))


def _residual(name: str, hidden: int) -> Ops:
    """Attention residual: a norm and a score vector over the outputs of earlier blocks."""
    return (
        *norm(f"{name}.norm", hidden),
        gemm(f"{name}.score", hidden, 1, shard="replicated"),
        elementwise(f"{name}.mix", 2 * hidden, hidden),
    )


def _experts(config: HFConfig, hidden: int) -> Ops:
    top_k_key = "num_experts_per_token" if config.has("num_experts_per_token") else (
        "num_experts_per_tok"
    )  # fmt: skip
    experts_key = "num_experts" if config.has("num_experts") else "num_local_experts"
    experts, top_k = config.expert_counts(experts_key, top_k_key)
    ffn = config.int("moe_intermediate_size")
    return moe(
        hidden=hidden, experts=experts, top_k=top_k, expert_ffn=ffn,
        shared_ffn=ffn * config.int_or("num_shared_experts", 1, "n_shared_experts", minimum=0),
        latent=config.optional_int("routed_expert_hidden_size"),
        latent_norm=config.bool_or("latent_moe_use_norm", False),
    )  # fmt: skip


def kimi_linear(config: HFConfig) -> Model:
    """Delta attention three times to one latent attention without positions."""
    hidden = config.int("hidden_size")
    vocab = config.int("vocab_size")
    layers = config.layers()
    linear = _linear_config(config)
    mixers = _mixers(config, linear, layers)
    gated = config.bool_or("mla_use_output_gate", False)
    latent = read_mla(config, hidden, gated=gated, rotary=not config.bool_or("mla_use_nope", False))
    blocks = {_KINDS[0]: _delta_attention(config, linear, hidden), _KINDS[1]: latent(DENSE)}
    dense = config.int_or("first_k_dense_replace", 1, minimum=0)
    default = ["dense" if i < dense else "sparse" for i in range(layers)]
    forwards = config.kinds("mlp_layer_types", ("dense", "sparse"), layers, default)
    feed = {
        "dense": gated_mlp(hidden, config.int("intermediate_size")),
        "sparse": _experts(config, hidden),
    }
    residuals = config.has("attn_res_block_size")
    tied = config.tied(False)
    config.check()

    def build(kind: tuple[str, str]) -> tuple[str, Ops]:
        mixer = "kda" if kind[0] == _KINDS[0] else "mla"
        signature = f"{mixer}+{'mlp' if kind[1] == 'dense' else 'moe'}"
        before: Ops = ()
        between: Ops = ()
        if residuals:
            before, between = _residual("attn.residual", hidden), _residual("mlp.residual", hidden)
        return signature, (*before, *blocks[kind[0]], *between, *feed[kind[1]])

    head = lm_head(hidden, vocab, tied=tied)
    if residuals:
        head = (*_residual("head.residual", hidden), *head)
    made = stack(list(zip(mixers, forwards, strict=True)), build)
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied, head_ops=head)


FAMILY: Final = {"kimi_linear": kimi_linear, "kimi_k3": kimi_linear}
