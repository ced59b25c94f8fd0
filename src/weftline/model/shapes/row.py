"""Rows that tell families of decoders apart: norms, biases, gates, experts, names of fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from weftline.model.config import HFConfig
from weftline.model.ir import Operator

__all__ = ["Decoder", "Experts", "Flag", "Norm", "flag", "norm_values", "size"]

Ops = tuple[Operator, ...]
Flag = bool | str
"""A fact of the family, or the name of the boolean field that decides it."""
Norm = Literal["rms", "layer", "layer_no_bias", "free", "field"]
"""RMSNorm, LayerNorm, LayerNorm without bias, without parameters; LayerNorm whose bias is
``norm_bias``'s."""
Kinds = Callable[[HFConfig, int], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Routed experts of a family: names of the fields, and what is special."""

    count: str = "num_experts"
    top_k: str = "num_experts_per_tok"
    ffn: str = "moe_intermediate_size"
    """Field of one expert's width."""
    shared: str | None = None
    """Field with the number of shared experts, each ``shared_ffn`` wide."""
    shared_ffn: str | None = None
    """Field of the shared experts' width, where it is not ``ffn``'s."""
    shared_gate: bool = False
    shared_least: int = 0
    """Least number, or width, of shared experts that the model class can do with."""
    layers: str = "all"
    """Rule that names the layers with experts: a key of ``feed_forward.RULES``."""
    dense_ffn: str = "intermediate_size"
    """Field of the feed-forward's width in the other layers."""
    router: bool = True
    router_bias: bool = False
    correction: Flag = False
    """A bias a router score, as a trainable parameter."""
    bias: Flag = False
    """Biases of the experts' products."""
    shared_bias: Flag = False
    gated: bool = True
    image_experts: bool = False
    """``ffn`` lists two widths: those of the text's experts, and of as many for image tokens."""
    optional: bool = False
    """Zero experts leave only the shared ones, in layers that then have none routed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """What tells a family's decoder from Llama's."""

    norm: Norm = "rms"
    norms: tuple[str, ...] | Callable[[HFConfig], tuple[str, ...]] = ("attn", "mlp")
    """Norms of a layer, of ``attn`` and ``mlp`` before a block, ``attn_post``, ``mlp_post`` after.
    A parallel block has one before: ``("attn",)``."""
    norms_if: tuple[str, str] | None = None
    """(field, norm): a norm that is left out where the boolean field is set."""
    norms_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Kind of layer -> its norms, where they are not those of the others."""
    inner_norms: bool = False
    """Norms before the output projection and before the down projection (BitNet)."""
    embedding_norm: bool = False
    final_norm: Norm | Literal["same", "none"] = "same"
    qkv_bias: Flag = False
    out_bias: Flag = False
    mlp_bias: Flag = False
    down_bias: Flag | None = None
    """Bias of the down projection, where it is not ``mlp_bias``."""
    head_bias: Flag = False
    gated: bool = True
    act_parameters: int = 0
    """Learned parameters of the activation function in a layer."""
    qk_norm: Literal["none", "head", "head_bias", "whole", "heads", "free"] = "none"
    """``head`` shares weights between heads, ``heads`` has its own for each."""
    qk_norm_if: Flag = True
    gate: Literal["none", "wide", "head"] = "none"
    """Gate on attention's output, as wide as it or one value a head."""
    gate_if: Flag = True
    gate_else: Literal["none", "wide"] = "none"
    gate_bias: bool = False
    """The gate is part of the queries' product and shares its bias."""
    square_out: bool = False
    """The output projection is as wide as the model on both sides."""
    core_parameters: Callable[[int, int], int] | None = None
    """(heads, head dimension) -> learned parameters of the attention itself."""
    latent: bool = False
    """Multi-head latent attention (DeepSeek-V2)."""
    rotary: float = 1.0
    """How much of a head is rotated where the config does not say; 0 for none."""
    rotary_field: str | None = None
    """Field that states the rotated width itself."""
    positions: tuple[str, int] | None = None
    """(field with the number of learned positions, rows more than that)."""
    kinds: Kinds | None = None
    """Rule for ``layer_types`` where the file has none; ``None`` for full attention throughout."""
    mixers: dict[str, Callable[[HFConfig, int], Ops]] = field(default_factory=dict)
    """Kind of layer -> its mixer from (config, hidden size), where it is not attention alone."""
    window: str = "sliding_window"
    """Field of the window's length."""
    windowed: Flag = True
    """Whether windows are used at all."""
    all_windowed: bool = False
    """The window, where set, holds in every layer: there are no ``layer_types``."""
    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    kv_heads: str | Callable[[HFConfig, int], int] | None = "num_key_value_heads"
    """The field, or a rule from (config, heads). ``None``: every head has its own."""
    heads_per_layer: str | None = None
    """Field that lists each layer's query heads."""
    head_dim: str = "head_dim"
    ffn: str = "intermediate_size"
    ffn_rule: Callable[[HFConfig, int], int] | None = None
    """(config, hidden size) -> the feed-forward's width, where no single field has it."""
    ffn_default: float | None = None
    """The feed-forward's width in hidden sizes where no field says it."""
    vocab: str = "vocab_size"
    vocab_more: int = 0
    """Rows of the token table beyond the vocabulary."""
    experts: Experts | None = None
    context: tuple[str, ...] = ("max_position_embeddings",)
    only: dict[str, Any] = field(default_factory=dict)
    """Field -> the only value that is modelled; another is refused."""
    tied: bool | None = None
    """Whether embedding and output are tied, where the class has no say."""
    nested: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Object inside the config -> what it may hold without changing a shape."""
    unused: tuple[str, ...] = ()
    """Fields that the class has and that change no shape."""
    notes: tuple[str, ...] = ()

    def flag(self, config: HFConfig, value: Flag) -> bool:
        """A flag's value in a config."""
        return flag(config, value)


def flag(config: HFConfig, value: Flag) -> bool:
    """A flag's value in a config: the field it names, or the class's default."""
    if isinstance(value, bool):
        return value
    return config.bool_or(value, bool(config.default(value, False)))


def size(config: HFConfig, key: str, default: int | None = None) -> int:
    """A size that the file states, or, inside a section, that its class defaults to."""
    if default is None and config.section:
        default = config.default(key)
        if default is not None and not config.has(key):
            config.note_default(key, default)
    return config.int(key, default=default)


def norm_values(kind: str, config: HFConfig) -> int:
    """Learned values a feature: 0, 1 or, with a bias, 2."""
    if kind == "field":
        return 1 + config.bool_or("norm_bias", bool(config.default("norm_bias", False)))
    return {"rms": 1, "layer": 2, "layer_no_bias": 1, "free": 0, "none": 0}[kind]
