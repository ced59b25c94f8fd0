"""Vision transformers and the towers of multimodal models: patches in, features out, as rows.

``seq`` of such a model is the patches (and class tokens) of one image: no vocabulary, no cache. A
classifier's last layer is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from weftline.model.blocks import (
    elementwise,
    gated_mlp,
    gemm,
    gqa_attention,
    mlp,
    norm,
    stack,
)
from weftline.model.config import HFConfig
from weftline.model.families.encoders.bert import uncached
from weftline.model.ir import Model, Operator
from weftline.model.shapes.row import Flag, flag

__all__ = ["FAMILY", "ROWS", "Vision", "vision"]

Ops = tuple[Operator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vision:
    """What tells a vision transformer from ViT."""

    rms: bool = False
    qkv_bias: Flag = True
    key_bias: Flag | None = None
    """The keys' bias, where it is not the others'."""
    value_bias: Flag | None = None
    out_bias: Flag = True
    mlp_bias: Flag = True
    gated: Flag = False
    fused_ffn: bool = False
    """DINOv2's gated feed-forward: two thirds of the width, rounded up to a multiple of 8."""
    patch_bias: bool = True
    patch_norm: bool = False
    temporal: str | None = None
    """Field with the number of frames that a patch spans."""
    tokens: int = 0
    """Learned tokens before the patches: class, distillation."""
    more_tokens: str | None = None
    """Field with further ones (registers)."""
    masked: Flag = False
    """A learned token for masked patches."""
    position_tokens: int | None = None
    """Tokens among the positions, where they are not ``tokens``."""
    positions: Literal["image", "none"] | str = "image"
    """Learned positions: one a patch, none, or the field that counts them."""
    before: bool = False
    """A norm before the first layer."""
    after: Flag = True
    """A norm after the last one."""
    scale: bool = False
    """A learned scale a feature after each block."""
    pooler: Literal["none", "dense", "attention"] = "none"
    pooler_if: Flag = True
    merger: Callable[[HFConfig, int], Ops] | None = None
    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    ffn: str = "intermediate_size"
    ffn_ratio: str | None = None
    """Field with the feed-forward's width in hidden sizes."""
    channels: str = "num_channels"
    unused: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    """Field -> the only value that is modelled."""


def _number(config: HFConfig, key: str, minimum: int = 1) -> int:
    return config.int(key, default=config.default(key), minimum=minimum)


def _side(config: HFConfig, key: str) -> tuple[int, int]:
    """A length or a pair of them."""
    value = config.get(key)
    value = config.default(key) if value is None else value
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return int(value[0]), int(value[1])
    if not isinstance(value, list):
        side = config.int(key, default=config.default(key))
        return side, side
    config.mistake(key, f"field `{key}` must be a whole number or a pair of them")
    return 1, 1


def _layer(row: Vision, config: HFConfig, hidden: int) -> Ops:
    heads = _number(config, row.heads)
    config.require(
        hidden % heads == 0, row.hidden,
        f"`{row.hidden}` {hidden} does not divide by `{row.heads}` {heads}",
    )  # fmt: skip
    bias = flag(config, row.qkv_bias)
    attention = list(
        uncached(
            gqa_attention(
                hidden=hidden, heads=heads, kv_heads=heads, head_dim=hidden // heads,
                qkv_bias=bias, out_bias=flag(config, row.out_bias), norm_bias=not row.rms,
                rotary_dim=0, causal=False,
            )
        )
    )  # fmt: skip
    own = [row.key_bias, row.value_bias]
    biased = bias + sum(flag(config, b) if b is not None else bias for b in own)
    attention[1] = replace(attention[1], parameters=3 * hidden * hidden + biased * hidden)
    ffn = _ffn(row, config, hidden)
    gated = flag(config, row.gated)
    if gated and row.fused_ffn:
        ffn = (int(ffn * 2 / 3) + 7) // 8 * 8
    body = gated_mlp if gated else mlp
    forward = body(hidden, ffn, bias=flag(config, row.mlp_bias), norm_bias=not row.rms)
    if not row.scale:
        return (*attention, *forward)
    return (
        *attention, elementwise("attn.scale", hidden, parameters=hidden),
        *forward, elementwise("mlp.scale", hidden, parameters=hidden),
    )  # fmt: skip


def _ffn(row: Vision, config: HFConfig, hidden: int) -> int:
    if row.ffn_ratio is None:
        return _number(config, row.ffn)
    return int(hidden * config.float_or(row.ffn_ratio, float(config.default(row.ffn_ratio, 4))))


def _embedding(row: Vision, config: HFConfig, hidden: int) -> tuple[Ops, int]:
    """(operators before the layers, sequence length of one image)."""
    patch, image = _side(config, "patch_size"), (0, 0)
    frames = _number(config, row.temporal) if row.temporal else 1
    channels = _number(config, row.channels)
    pixels = channels * frames * patch[0] * patch[1]
    ops: list[Operator] = [
        gemm("embed.patches", pixels, hidden, shard="replicated", bias=row.patch_bias)
    ]
    tokens = row.tokens + (_number(config, row.more_tokens, 0) if row.more_tokens else 0)
    if row.positions == "image":
        image = _side(config, "image_size")
    elif row.positions == "none":
        config.unused("image_size")
    patches = (image[0] // patch[0]) * (image[1] // patch[1])
    if row.positions not in ("image", "none"):
        patches = _number(config, row.positions)
        config.unused("image_size")
    learned = tokens * hidden + (hidden if flag(config, row.masked) else 0)
    if row.positions != "none":
        among = row.tokens if row.position_tokens is None else row.position_tokens
        learned += (patches + among) * hidden
    if learned:
        ops.append(elementwise("embed.positions", hidden, parameters=learned))
    if row.patch_norm or row.before:
        ops += norm("embed.norm", hidden, bias=not row.rms)
    return tuple(ops), patches + tokens


def vision(row: Vision) -> Callable[[HFConfig], Model]:
    """The builder of a row."""

    def build(config: HFConfig) -> Model:
        hidden = _number(config, row.hidden)
        layers = config.int(row.layers, default=config.default(row.layers), maximum=10_000)
        config.unused("projection_dim", "encoder_stride", *row.unused)
        for key, value in row.values.items():
            config.require(
                config.get(key) in (None, value), key, f"`{key}` other than {value} is not modelled"
            )
        operators = _layer(row, config, hidden)
        before, seq_len = _embedding(row, config, hidden)
        after: Ops = ()
        if flag(config, row.after):
            after = norm("head.norm", hidden, bias=not row.rms)
        if row.pooler != "none" and flag(config, row.pooler_if):
            after = (*after, *_pooler(row, config, hidden))
        if row.merger:
            after = (*after, *row.merger(config, hidden))
        config.notes.append("a sequence is the patches of one image; no classifier is counted")
        config.check()
        return Model(
            name=config.name, family=config.model_type or config.text_model_type,
            source=config.source, hidden=hidden, vocab=0,
            layers=stack(["mha+mlp"] * layers, lambda kind: (kind, operators), role="encoder"),
            embedding=before, head=after, max_seq_len=seq_len or None, dtype=config.dtype,
            notes=tuple(config.notes),
        )  # fmt: skip

    return build


def _pooler(row: Vision, config: HFConfig, hidden: int) -> Ops:
    if row.pooler == "dense":
        out = config.int_or("pooler_output_size", hidden)
        return (elementwise("head.pooler", 0, parameters=(hidden + 1) * out),)
    # SigLIP: one learned query attends to all patches, then a feed-forward.
    ffn = _number(config, row.ffn)
    attention = 4 * hidden * (hidden + 1)
    forward = ffn * (hidden + 1) + hidden * (ffn + 1)
    return (elementwise("head.pooler", 0, parameters=hidden + attention + 2 * hidden + forward),)


def _merge(config: HFConfig, hidden: int) -> int:
    """Width of ``spatial_merge_size`` squared patches side by side."""
    return hidden * _number(config, "spatial_merge_size") ** 2


def _qwen2_5_merger(config: HFConfig, hidden: int) -> Ops:
    wide, out = _merge(config, hidden), _number(config, "out_hidden_size")
    return (
        *norm("merger.norm", hidden),
        gemm("merger.up", wide, wide, shard="replicated", bias=True),
        gemm("merger.down", wide, out, shard="replicated", bias=True),
    )


def _qwen2_merger(config: HFConfig, hidden: int) -> Ops:
    wide, out = _merge(config, hidden), _number(config, "hidden_size")
    return (
        *norm("merger.norm", hidden, bias=True),
        gemm("merger.up", wide, wide, shard="replicated", bias=True),
        gemm("merger.down", wide, out, shard="replicated", bias=True),
    )


def _qwen3_merger(config: HFConfig, hidden: int) -> Ops:
    wide, out = _merge(config, hidden), _number(config, "out_hidden_size")
    deep = config.list_or("deepstack_visual_indexes", config.default(
        "deepstack_visual_indexes", ()))  # fmt: skip
    ops: Ops = ()
    for at, width in enumerate((hidden, *([wide] * len(deep)))):
        name = f"merger.{at}"
        ops += (
            *norm(f"{name}.norm", width, bias=True),
            gemm(f"{name}.up", wide, wide, shard="replicated", bias=True),
            gemm(f"{name}.down", wide, out, shard="replicated", bias=True),
        )
    return ops


_QWEN: Final = Vision(
    positions="num_position_embeddings", temporal="temporal_patch_size", channels="in_channels",
    layers="depth", heads="num_heads", after=False, merger=_qwen3_merger,
)  # fmt: skip
_DINO2: Final = Vision(
    tokens=1, masked="use_mask_token", scale=True, ffn_ratio="mlp_ratio",
    gated="use_swiglu_ffn", fused_ffn=True, qkv_bias="qkv_bias",
    unused=("apply_layernorm", "reshape_hidden_states", "out_features", "out_indices",
            "stage_names", "layerscale_value", "_out_features", "_out_indices"),
)  # fmt: skip
_SIGLIP: Final = Vision(pooler="attention", pooler_if="vision_use_head")

ROWS: Final[dict[str, Vision]] = {
    "vit": Vision(tokens=1, pooler="dense", qkv_bias="qkv_bias", unused=("pooler_act",)),
    "deit": Vision(tokens=2, pooler="dense", qkv_bias="qkv_bias", unused=("pooler_act",)),
    "vit_msn": Vision(tokens=1, qkv_bias="qkv_bias"),
    "ijepa": Vision(qkv_bias="qkv_bias", unused=("pooler_act", "pooler_output_size")),
    "dinov2": _DINO2,
    "dinov2_with_registers": replace(_DINO2, masked=True, more_tokens="num_register_tokens"),
    "dinov3_vit": Vision(
        tokens=1, more_tokens="num_register_tokens", masked=True, positions="none", scale=True,
        qkv_bias="query_bias", key_bias="key_bias", value_bias="value_bias", out_bias="proj_bias",
        mlp_bias="mlp_bias", gated="use_gated_mlp",
        unused=("apply_layernorm", "reshape_hidden_states", "out_features", "out_indices",
                "stage_names", "pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale",
                "layerscale_value",
                "_out_features", "_out_indices"),
    ),
    "clip_vision_model": Vision(tokens=1, patch_bias=False, before=True),
    "chinese_clip_vision_model": Vision(tokens=1, patch_bias=False, before=True),
    "metaclip_2_vision_model": Vision(tokens=1, patch_bias=False, before=True),
    "siglip_vision_model": _SIGLIP,
    "idefics3_vision": Vision(),
    "smolvlm_vision": Vision(),
    "siglip2_vision_model": replace(_SIGLIP, positions="num_patches"),
    "pixtral": Vision(
        rms=True, qkv_bias=False, out_bias=False, mlp_bias=False, gated=True, patch_bias=False,
        positions="none", before=True, after=False, unused=("head_dim",),
    ),
    "qwen2_5_vl_vision": replace(
        _QWEN, rms=True, gated=True, patch_bias=False, positions="none", merger=_qwen2_5_merger,
        unused=("fullatt_block_indexes", "window_size", "tokens_per_second"),
    ),
    "qwen2_vl_vision": replace(
        _QWEN, patch_bias=False, positions="none", merger=_qwen2_merger, hidden="embed_dim",
        ffn_ratio="mlp_ratio",
    ),
    "ernie4_5_vl_moe_vision": Vision(
        patch_bias=False, positions="none", layers="depth", heads="num_heads",
        channels="in_channels", unused=("spatial_merge_size", "temporal_merge_size"),
    ),
    "qwen3_vl_vision": _QWEN, "qwen3_vl_moe_vision": _QWEN,
    "qwen3_5_vision": _QWEN, "qwen3_5_moe_vision": _QWEN,
}  # fmt: skip

FAMILY: Final[dict[str, Callable[[HFConfig], Model]]] = {
    kind: vision(row) for kind, row in ROWS.items()
}
