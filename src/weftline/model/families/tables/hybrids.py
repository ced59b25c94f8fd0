"""Decoders that mix attention with recurrent or convolution layers, as rows with their mixers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from weftline.model.blocks import conv, elementwise, gemm, norm
from weftline.model.config import HFConfig
from weftline.model.families.recurrent.mamba import mamba2_mixer
from weftline.model.ir import Model, Operator
from weftline.model.recurrent import gated_delta_net, kda
from weftline.model.shapes.attention import attention
from weftline.model.shapes.decoder import decoder
from weftline.model.shapes.row import Decoder, Experts

__all__ = ["FAMILY", "ROWS"]

Ops = tuple[Operator, ...]
LINEAR: Final = "linear_attention"
FULL: Final = "full_attention"


def _number(config: HFConfig, key: str, *aliases: str) -> int:
    return config.int(key, *aliases, default=config.default(key))


def _mamba2(config: HFConfig, hidden: int) -> Ops:
    """Mamba-2 under the names ``mamba_*`` (Bamba, Falcon-H1, Granite 4)."""
    heads = _number(config, "mamba_n_heads")
    expand = config.int_or("mamba_expand", config.default("mamba_expand", 2))
    inner = config.int_or("mamba_d_ssm", config.default("mamba_d_ssm") or expand * hidden)
    stated = config.get("mamba_d_head")
    head_dim = inner // heads if stated in (None, "auto") else config.int("mamba_d_head")
    config.require(
        heads * head_dim == inner, "mamba_n_heads",
        f"`mamba_n_heads` {heads} x `mamba_d_head` {head_dim} is not the expanded width {inner}",
        hint="the heads together are as wide as the expanded hidden state",
    )  # fmt: skip
    groups = config.int_or("mamba_n_groups", config.default("mamba_n_groups", 1))
    config.require(
        heads % groups == 0, "mamba_n_groups",
        f"`mamba_n_heads` {heads} does not divide by `mamba_n_groups` {groups}",
    )  # fmt: skip
    return mamba2_mixer(
        hidden=hidden, heads=heads, head_dim=head_dim, state=_number(config, "mamba_d_state"),
        groups=groups, kernel=_number(config, "mamba_d_conv"),
        chunk=_number(config, "mamba_chunk_size"),
        bias=config.bool_or("mamba_proj_bias", bool(config.default("mamba_proj_bias", False))),
        conv_bias=config.bool_or("mamba_conv_bias", bool(config.default("mamba_conv_bias", True))),
    )  # fmt: skip


def _falcon_h1(config: HFConfig, hidden: int) -> Ops:
    """Falcon-H1: Mamba-2 and attention side by side, behind one norm."""
    ops = list(_mamba2(config, hidden))
    if not config.bool_or("mamba_rms_norm", bool(config.default("mamba_rms_norm", False))):
        ops = [op for op in ops if op.name != "ssm.gate_norm"]
    out = config.bool_or("projectors_bias", bool(config.default("projectors_bias", False)))
    into = config.bool_or("mamba_proj_bias", bool(config.default("mamba_proj_bias", False)))
    last = ops[-1]
    weights = last.in_features * last.out_features
    ops[-1] = replace(last, parameters=weights + (last.out_features if out else 0))
    if into and ops[0].parameters == ops[0].in_features * ops[0].out_features:
        ops[0] = replace(ops[0], parameters=ops[0].parameters + ops[0].out_features)
    return (*ops, *attention(FALCON_H1, config, hidden, window=None, kind=FULL))


def _bamba_kinds(config: HFConfig, layers: int) -> list[str]:
    listed = config.indices("attn_layer_indices", layers)
    return [FULL if i in listed else LINEAR for i in range(layers)]


def _short_conv(config: HFConfig, hidden: int) -> Ops:
    """LFM2's gated short convolution: three products in one, a convolution between two gates."""
    bias = config.bool_or("conv_bias", bool(config.default("conv_bias", False)))
    kernel = config.int_or("conv_L_cache", config.default("conv_L_cache", 3))
    return (
        gemm("conv.in", hidden, 3 * hidden, shard="column", bias=bias),
        elementwise("conv.gate_in", 2 * hidden, hidden, shard="heads"),
        conv("conv.conv", hidden, kernel, bias=bias),
        elementwise("conv.gate_out", 2 * hidden, hidden, shard="heads"),
        gemm("conv.out", hidden, hidden, shard="row", bias=bias),
    )


def _lfm2_kinds(config: HFConfig, layers: int) -> list[str]:
    listed = config.get("full_attn_idxs")
    inside = config.indices("full_attn_idxs", layers) if listed is not None else range(layers)
    return [FULL if i in inside else "conv" for i in range(layers)]


def _stated(config: HFConfig, layers: int) -> list[str]:
    """LFM2-MoE's class has no pattern of its own: the file has to say it."""
    config.require(
        config.has("layer_types"), "layer_types",
        "field `layer_types` is missing: `conv` or `full_attention` for each layer is needed",
    )  # fmt: skip
    return [FULL] * layers


def _lfm2_ffn(config: HFConfig, _: int) -> int:
    """Two thirds of the stated width, rounded up to a multiple, unless the file says not to."""
    ffn = _number(config, "intermediate_size", "block_ff_dim")
    if not config.bool_or("block_auto_adjust_ff_dim", True):
        config.unused("block_ffn_dim_multiplier", "block_multiple_of")
        return ffn
    ffn = int(config.float_or("block_ffn_dim_multiplier", 1.0) * int(2 * ffn / 3))
    multiple = config.int_or("block_multiple_of", config.default("block_multiple_of", 256))
    return -(-ffn // multiple) * multiple


def _delta_net(config: HFConfig, hidden: int) -> Ops:
    """Qwen3-Next's gated delta net without its norm."""
    value_heads = _number(config, "linear_num_value_heads")
    key_heads = _number(config, "linear_num_key_heads")
    config.require(
        value_heads % key_heads == 0, "linear_num_value_heads",
        f"`linear_num_value_heads` {value_heads} does not divide by `linear_num_key_heads` "
        f"{key_heads}",
    )  # fmt: skip
    made = gated_delta_net(
        hidden=hidden, key_heads=key_heads, value_heads=value_heads,
        key_dim=_number(config, "linear_key_head_dim"),
        value_dim=_number(config, "linear_value_head_dim"),
        kernel=_number(config, "linear_conv_kernel_dim"),
    )  # fmt: skip
    return tuple(op for op in made if op.name != "gdn.norm")


def _olmo_delta_net(config: HFConfig, hidden: int) -> Ops:
    """OLMo-hybrid: the sizes follow from the attention's where they are not stated."""
    heads = _number(config, "num_attention_heads")
    key_heads = config.int_or("linear_num_key_heads", heads)
    value_heads = config.int_or("linear_num_value_heads", heads)
    key_dim = config.int_or("linear_key_head_dim", int(0.75 * hidden / key_heads))
    value_dim = config.int_or("linear_value_head_dim", 2 * key_dim)
    made = gated_delta_net(
        hidden=hidden, key_heads=key_heads, value_heads=value_heads, key_dim=key_dim,
        value_dim=value_dim, kernel=_number(config, "linear_conv_kernel_dim"),
    )  # fmt: skip
    return tuple(op for op in made if op.name != "gdn.norm")


def _every_full(key: str, default: int) -> Callable[[HFConfig, int], list[str]]:
    def rule(config: HFConfig, layers: int) -> list[str]:
        every = config.int_or(key, default)
        return [FULL if (i + 1) % every == 0 else LINEAR for i in range(layers)]

    return rule


def _lightning(config: HFConfig, hidden: int) -> Ops:
    """MiniMax-01's lightning attention: linear attention, its output normed and gated."""
    heads = _number(config, "num_attention_heads")
    head_dim = config.int_or("head_dim", hidden // heads)
    inner = heads * head_dim
    block = config.int_or("block_size", 256)
    # Forward, a token: scores and values inside a block, the state read and added to.
    flops = 2.0 * 2.0 * block * inner + 2.0 * 2.0 * inner * head_dim
    return (
        gemm("lightning.qkv", hidden, 3 * inner, shard="column"),
        Operator(
            name="lightning.scan", kind="scan", shard="heads", in_features=3 * inner,
            out_features=inner, state_values=inner * head_dim, scan_flops_per_token=flops,
        ),
        *norm("lightning.norm", inner),
        gemm("lightning.gate_proj", hidden, inner, shard="column"),
        elementwise("lightning.gate", 2 * inner, inner, shard="heads"),
        gemm("lightning.out", inner, hidden, shard="row"),
    )  # fmt: skip


def _bailing_delta(config: HFConfig, hidden: int) -> Ops:
    """Ling 2.6's delta attention: full-rank decay and output gate."""
    heads = config.int_or("linear_num_heads", _number(config, "num_attention_heads"))
    head_dim = config.int_or("linear_head_dim", 128)
    inner = heads * head_dim
    made = kda(
        hidden=hidden, heads=heads, head_dim=head_dim,
        kernel=config.int_or("linear_conv_kernel_dim", 4, "short_conv_kernel_size"),
        full_rank_gate=True,
    )  # fmt: skip
    wide = gemm("kda.in", hidden, 5 * inner + heads, shard="column")
    kept = [op for op in made if op.name not in ("kda.norm", "kda.decay_up", "kda.in")]
    return (wide, *kept)


def _griffin(config: HFConfig, hidden: int) -> Ops:
    """RecurrentGemma's block: a short convolution and a gated linear recurrence, beside a gate.

    Source: arXiv:2402.19427. The recurrence's two gates are block-diagonal, one block a head; its
    FLOPs are theirs.
    """
    heads = _number(config, "num_attention_heads")
    width = config.int_or("lru_width", hidden)
    config.require(
        width % heads == 0, "lru_width",
        f"`lru_width` {width} does not divide by `num_attention_heads` {heads}",
    )  # fmt: skip
    block = width // heads
    return (
        gemm("lru.in", hidden, 2 * width, shard="column", bias=True),
        elementwise("lru.act", width, shard="heads"),
        conv("lru.conv", width, _number(config, "conv1d_width"), bias=True),
        Operator(
            name="lru.scan", kind="scan", shard="heads", in_features=width, out_features=width,
            parameters=width + 2 * width * (block + 1), state_values=width,
            scan_flops_per_token=2.0 * 2 * width * block,
        ),
        elementwise("lru.gate", 2 * width, width, shard="heads"),
        gemm("lru.out", width, hidden, shard="row", bias=True),
    )  # fmt: skip


def _griffin_kinds(config: HFConfig, layers: int) -> list[str]:
    """``block_types`` over and over: ``recurrent``, or ``attention`` to a window."""
    blocks = config.get("block_types") or config.default("block_types")
    good = isinstance(blocks, list) and all(b in ("recurrent", "attention") for b in blocks)
    config.require(good, "block_types", "`block_types` must list `recurrent` and `attention`")
    if not good or not blocks:
        return [LINEAR] * layers
    kinds = [LINEAR if b == "recurrent" else "sliding_attention" for b in blocks]
    return [kinds[i % len(kinds)] for i in range(layers)]


FALCON_H1: Final = Decoder(
    qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias",
    kinds=lambda _, layers: ["hybrid"] * layers, mixers={"hybrid": _falcon_h1},
    unused=("mamba_norm_before_gate", "mlp_multipliers", "ssm_multipliers"),
)  # fmt: skip
_QWEN_EXPERTS: Final = Experts(
    shared_ffn="shared_expert_intermediate_size", shared_gate=True, layers="step"
)

ROWS: Final[dict[str, Decoder]] = {
    "bamba": Decoder(
        qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias", rotary=0.5,
        kinds=_bamba_kinds, mixers={LINEAR: _mamba2},
    ),
    "falcon_h1": FALCON_H1,
    "granitemoehybrid": Decoder(
        qkv_bias="attention_bias", out_bias="attention_bias",
        kinds=lambda _, layers: [LINEAR] * layers, mixers={LINEAR: _mamba2},
        unused=("position_embedding_type",),
        experts=Experts(count="num_local_experts", ffn="intermediate_size",
                        shared_ffn="shared_intermediate_size", optional=True),
    ),
    "lfm2": Decoder(
        qk_norm="head", kinds=_lfm2_kinds, mixers={"conv": _short_conv}, ffn_rule=_lfm2_ffn,
        unused=("conv_L_cache", "conv_bias", "full_attn_idxs", "conv_dim", "conv_dim_out",
                "block_dim", "conv_use_xavier_init",
                "block_use_swiglu", "block_use_xavier_init", "use_pos_enc", "block_mlp_init_scale",
                "block_norm_eps", "block_out_init_scale", "num_heads", "theta"),
    ),
    "lfm2_moe": Decoder(
        qk_norm="head", kinds=_stated, mixers={"conv": _short_conv},
        unused=("use_expert_bias", "conv_L_cache", "conv_bias"),
        experts=Experts(layers="num_dense"),
    ),
    "olmo_hybrid": Decoder(
        qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="whole",
        norms=("attn_post", "mlp_post"), norms_of={LINEAR: ("attn", "mlp")},
        kinds=_every_full("full_attention_interval", 4), mixers={LINEAR: _olmo_delta_net},
        unused=("linear_a_log_min", "linear_a_log_max", "linear_dt_init_floor", "linear_dt_min",
                "linear_dt_max",
                "linear_allow_neg_eigval"),
    ),
    "qwen3_next": Decoder(
        qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head", gate="wide",
        gate_bias=True, rotary=0.25, kinds=_every_full("full_attention_interval", 4),
        mixers={LINEAR: _delta_net},
        experts=_QWEN_EXPERTS,
    ),
    "recurrent_gemma": Decoder(
        qkv_bias="attention_bias", out_bias=True, mlp_bias=True, rotary=0.5,
        kinds=_griffin_kinds, mixers={LINEAR: _griffin}, window="attention_window_size",
        ffn_rule=lambda config, _: _number(config, "intermediate_size") // 2,
        unused=("w_init_variance_scale", "final_w_init_variance_scale", "logits_soft_cap",
                "lru_width", "conv1d_width", "block_types"),
        context=(),
    ),
    "minimax": Decoder(
        kinds=lambda _, layers: [FULL if (i + 1) % 2 else LINEAR for i in range(layers)],
        mixers={LINEAR: _lightning}, unused=("block_size",), rotary_field="rotary_dim",
        experts=Experts(count="num_local_experts", ffn="intermediate_size"),
    ),
    "bailing_hybrid": Decoder(
        latent=True, gate="head", qkv_bias="attention_bias",
        kinds=_every_full("layer_group_size", 6),
        mixers={LINEAR: _bailing_delta},
        unused=("kda_safe_gate", "kda_lower_bound", "linear_conv_kernel_dim",
                "short_conv_kernel_size", "linear_head_dim", "linear_num_heads"),
        experts=Experts(count="num_experts", top_k="num_experts_per_token",
                        shared="num_shared_experts", layers="named_after_first_k"),
        context=("model_max_length", "max_position_embeddings"),
    ),
}  # fmt: skip

FAMILY: Final[dict[str, Callable[[HFConfig], Model]]] = {
    kind: decoder(row) for kind, row in ROWS.items()
}
