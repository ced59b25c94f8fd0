"""Diffusion transformers of Stable Diffusion 3 and FLUX, from diffusers' ``config.json``.

``seq`` is image and text tokens together (FLUX at 1024 x 1024: 4,096 + 512). Every token passes the
weights of its own stream, image or text, so a double block holds each product twice and does it
once a token. Modulation and the embeddings of time and text are computed once an image: their
parameters count, their FLOPs do not. Text encoders and the image decoder are models of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from weftline.model.blocks import elementwise, gemm, norm, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Attention, Layer, Model, Operator

__all__ = ["FAMILY", "flux", "sd3"]

Ops = tuple[Operator, ...]
_TIME_WIDTH: Final = 256
"""Sinusoids of the time step (diffusers, ``Timesteps(num_channels=256)``)."""
_NOTE: Final = (
    "a sequence is the image and text tokens of one image; text encoders and image decoder are not "
    "counted"
)


def _once(name: str, *products: tuple[int, int]) -> Operator:
    """Products with biases that run once an image: parameters without FLOPs a token."""
    return elementwise(name, 0, parameters=sum(i * o + o for i, o in products))


def _joint(
    hidden: int, heads: int, head_dim: int, ffn: int, *, streams: int, out_streams: int,
    normed: bool, second: bool = False,
) -> Ops:  # fmt: skip
    """Attention over all tokens and a feed-forward, with weights of ``streams`` kinds of tokens.

    ``out_streams`` is 1 where the text stream ends with this block; ``second`` adds an attention
    of the image stream alone.
    """
    wide = heads * head_dim
    core = Attention(heads=heads, kv_heads=heads, qk_dim=head_dim, v_dim=head_dim, causal=False)
    ops: list[Operator] = list(norm("attn.norm", hidden, parameters=0))

    def attention(prefix: str, inside: int, outside: int) -> list[Operator]:
        made = [
            gemm(f"{prefix}.qkv", hidden, 3 * wide, shard="column",
                 parameters=inside * (3 * hidden * wide + 3 * wide)),
        ]  # fmt: skip
        if normed:
            made += norm(f"{prefix}.qk_norm", 2 * wide, parameters=inside * 2 * head_dim)
        made.append(
            Operator(name=f"{prefix}.core", kind="attention", attention=core, shard="heads",
                     in_features=wide, out_features=wide)
        )  # fmt: skip
        made.append(gemm(f"{prefix}.out", wide, hidden, shard="row",
                         parameters=outside * (wide * hidden + hidden)))  # fmt: skip
        return made

    ops += attention("attn", streams, out_streams)
    if second:
        ops += attention("attn2", 1, 1)
    ops += norm("mlp.norm", hidden, parameters=0)
    ops += [
        gemm("mlp.up", hidden, ffn, shard="column", parameters=out_streams * (hidden + 1) * ffn),
        elementwise("mlp.act", ffn, shard="column"),
        gemm("mlp.down", ffn, hidden, shard="row", parameters=out_streams * (ffn + 1) * hidden),
    ]
    return tuple(ops)


def _single(hidden: int, heads: int, head_dim: int, ffn: int) -> Ops:
    """FLUX's single block: attention and feed-forward side by side, one output product."""
    wide = heads * head_dim
    core = Attention(heads=heads, kv_heads=heads, qk_dim=head_dim, v_dim=head_dim, causal=False)
    return (
        _once("attn.modulation", (hidden, 3 * hidden)),
        *norm("attn.norm", hidden, parameters=0),
        gemm("attn.qkv_up", hidden, 3 * wide + ffn, shard="column", bias=True),
        *norm("attn.qk_norm", 2 * wide, parameters=2 * head_dim),
        elementwise("attn.rotary", 2 * wide, shard="heads"),
        Operator(name="attn.core", kind="attention", attention=core, shard="heads",
                 in_features=wide, out_features=wide),
        elementwise("mlp.act", ffn, shard="column"),
        gemm("attn.out_down", wide + ffn, hidden, shard="row", bias=True),
    )  # fmt: skip


def _sizes(config: HFConfig) -> tuple[int, int, int]:
    heads = config.int("num_attention_heads")
    head_dim = config.int("attention_head_dim")
    return heads * head_dim, heads, head_dim


def _model(
    config: HFConfig, family: str, hidden: int, layers: tuple[Layer, ...], before: Ops, after: Ops
) -> Model:
    config.unused("_class_name", "_diffusers_version", "sample_size", "axes_dims_rope")
    config.notes.append(_NOTE)
    config.check()
    return Model(
        name=config.name, family=family, source=config.source, hidden=hidden, vocab=0,
        layers=layers, embedding=before, head=after, dtype=config.dtype,
        notes=tuple(config.notes),
    )  # fmt: skip


def flux(config: HFConfig) -> Model:
    """FLUX.1 (Black Forest Labs): double blocks with a stream each for image and text, then single
    blocks over both.
    """
    hidden, heads, head_dim = _sizes(config)
    double, single = config.layers("num_layers"), config.int("num_single_layers", maximum=10_000)
    channels = config.int_or("in_channels", 64)
    out = config.int_or("out_channels", channels)
    patch = config.int_or("patch_size", 1)
    text, pooled = config.int("joint_attention_dim"), config.int("pooled_projection_dim")
    ffn = 4 * hidden
    times = 2 if config.bool_or("guidance_embeds", False) else 1
    embed = (hidden, hidden)
    before: Ops = (
        gemm("embed.tokens", channels, hidden, shard="replicated",
             parameters=(channels + 1) * hidden + (text + 1) * hidden),
        _once("embed.time", *([(_TIME_WIDTH, hidden), embed] * times)),
        _once("embed.pooled", (pooled, hidden), embed),
    )  # fmt: skip
    joint = (
        _once("attn.modulation", (hidden, 6 * hidden), (hidden, 6 * hidden)),
        *_joint(hidden, heads, head_dim, ffn, streams=2, out_streams=2, normed=True),
    )
    layers = (
        *stack(["double"] * double, lambda kind: (kind, joint), role="encoder"),
        *stack(["single"] * single, lambda kind: (kind, _single(hidden, heads, head_dim, ffn)),
               role="encoder", first=double),
    )  # fmt: skip
    after: Ops = (
        _once("head.modulation", (hidden, 2 * hidden)),
        gemm("head.patches", hidden, patch * patch * out, shard="replicated", bias=True),
    )
    return _model(config, "flux", hidden, layers, before, after)


def sd3(config: HFConfig) -> Model:
    """Stable Diffusion 3 and 3.5 (arXiv:2403.03206): double blocks, the text stream ends in the
    last one; 3.5 medium attends a second time within the image in its first layers.
    """
    hidden, heads, head_dim = _sizes(config)
    layers = config.layers("num_layers")
    channels = config.int_or("in_channels", 16)
    out = config.int_or("out_channels", channels)
    patch = config.int_or("patch_size", 2)
    text, pooled = config.int("joint_attention_dim"), config.int("pooled_projection_dim")
    caption = config.int_or("caption_projection_dim", hidden)
    config.require(
        caption == hidden, "caption_projection_dim",
        f"`caption_projection_dim` {caption} is not the width of the model, {hidden}",
    )  # fmt: skip
    normed = config.str_or("qk_norm", "none", allowed=("none", "rms_norm")) == "rms_norm"
    dual = config.indices("dual_attention_layers", layers)
    config.unused("pos_embed_max_size")  # positions are computed
    embed = (hidden, hidden)
    before: Ops = (
        gemm("embed.tokens", channels * patch * patch, hidden, shard="replicated",
             parameters=(channels * patch * patch + 1) * hidden + (text + 1) * caption),
        _once("embed.time", (_TIME_WIDTH, hidden), embed),
        _once("embed.pooled", (pooled, hidden), embed),
    )  # fmt: skip

    def build(kind: tuple[bool, bool]) -> tuple[str, Ops]:
        last, twice = kind
        image = 9 if twice else 6
        modulation = _once(
            "attn.modulation", (hidden, image * hidden), (hidden, (2 if last else 6) * hidden)
        )
        ops = _joint(
            hidden, heads, head_dim, 4 * hidden, streams=2, out_streams=1 if last else 2,
            normed=normed, second=twice,
        )  # fmt: skip
        return "double_last" if last else "double_dual" if twice else "double", (modulation, *ops)

    kinds = [(i == layers - 1, i in dual) for i in range(layers)]
    after: Ops = (
        _once("head.modulation", (hidden, 2 * hidden)),
        gemm("head.patches", hidden, patch * patch * out, shard="replicated", bias=True),
    )
    return _model(config, "sd3", hidden, stack(kinds, build, role="encoder"), before, after)


FAMILY: Final[dict[str, Callable[[HFConfig], Model]]] = {"flux": flux, "sd3": sd3}
