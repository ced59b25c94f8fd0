"""Decoders that share the Llama, Mixtral or GPT shape: one row a model type says what differs.

Defaults of fields that rows name are those of transformers' classes (``data/classes.json``); the
tests hold every row to transformers' own model, parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from weftline.model.blocks import elementwise, gemm, norm
from weftline.model.config import HFConfig
from weftline.model.ir import Attention, Model, Operator
from weftline.model.shapes.decoder import decoder
from weftline.model.shapes.row import Decoder, Experts

__all__ = ["FAMILY", "ROWS"]

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"


# -- rules for layer kinds that a file leaves out ------------------------------------------------


def every(key: str, default: int) -> Callable[[HFConfig, int], list[str]]:
    """Every ``key``-th layer sees everything, the others a window."""

    def rule(config: HFConfig, layers: int) -> list[str]:
        period = config.int_or(key, config.default(key) or default)
        return [FULL if (i + 1) % period == 0 else SLIDING for i in range(layers)]

    return rule


def from_window_layer(config: HFConfig, layers: int) -> list[str]:
    """Windows from layer ``max_window_layers`` on, where a window is set and used."""
    used = config.bool_or("use_sliding_window", bool(config.default("use_sliding_window", True)))
    has = used and config.get("sliding_window") is not None
    first = config.int_or("max_window_layers", config.default("max_window_layers", 0), minimum=0)
    return [SLIDING if has and i >= first else FULL for i in range(layers)]


def without_rotary(config: HFConfig, layers: int) -> list[str]:
    """SmolLM3: windows, where used, in the layers without rotary positions."""
    every = config.int_or("no_rope_layer_interval", 4)
    turned = config.list_or(
        "no_rope_layers", [int((i + 1) % every != 0) for i in range(layers)], length=layers
    )
    used = config.bool_or("use_sliding_window", False) and config.get("sliding_window") is not None
    return [SLIDING if used and not rotary else FULL for rotary in turned]


def first_of_four(_: HFConfig, layers: int) -> list[str]:
    """CWM: the first of every four layers sees everything."""
    return [FULL if i % 4 == 0 else SLIDING for i in range(layers)]


def sixth_and_last(_: HFConfig, layers: int) -> list[str]:
    """Beam: every sixth layer and the last see everything."""
    return [FULL if (i + 1) % 6 == 0 or i == layers - 1 else SLIDING for i in range(layers)]


def ends_and_fourths(_: HFConfig, layers: int) -> list[str]:
    """Flint: the first two layers, every fourth and the last see everything."""
    whole = (i < 2 or i % 4 == 1 or i == layers - 1 for i in range(layers))
    return [FULL if full else SLIDING for full in whole]


def fourths_from_the_end(_: HFConfig, layers: int) -> list[str]:
    """Muse: the last layer and every fourth before it see everything."""
    return [FULL if (layers - 1 - i) % 4 == 0 else SLIDING for i in range(layers)]


def after_dense(config: HFConfig, layers: int) -> list[str]:
    """Command A+: the pattern starts anew after the dense layers, which have their own."""
    dense = config.int_or("first_k_dense_replace", 0, minimum=0)
    own = config.int_or("prefix_dense_sliding_window_pattern", 1)
    every = config.int_or("sliding_window_pattern", 4)
    return [
        FULL if ((i + 1) % own if i < dense else (i - dense + 1) % every) == 0 else SLIDING
        for i in range(layers)
    ]


def always(kind: str) -> Callable[[HFConfig, int], list[str]]:
    """All layers alike."""
    return lambda _, layers: [kind] * layers


def alternating(_: HFConfig, layers: int) -> list[str]:
    """A window first, then everything, in turn."""
    return [FULL if (i + 1) % 2 == 0 else SLIDING for i in range(layers)]


MPT_ATTENTION: Final = (
    "attn_type", "attn_impl", "clip_qkv", "softmax_scale", "prefix_lm", "qk_ln",
    "attn_uses_sequence_id", "alibi", "alibi_bias_max",
)  # fmt: skip
"""Fields of MPT's ``attn_config``: positions are ALiBi's, no norm on queries and keys."""


CROSS: Final = "cross_attention"


def cross_attending(config: HFConfig, layers: int) -> list[str]:
    """Llama 3.2 Vision: the listed layers attend to the image instead of the text."""
    listed = config.indices("cross_attention_layers", layers)
    if not config.has("cross_attention_layers"):
        listed = frozenset(i for i in (3, 8, 13, 18, 23, 28, 33, 38) if i < layers)
    return [CROSS if i in listed else FULL for i in range(layers)]


def cross_attention(config: HFConfig, hidden: int) -> tuple[Operator, ...]:
    """Queries from the text, normed keys and values from the image, two learned gates."""
    heads, kv_heads, head_dim = config.attention_heads(hidden)
    core = Attention(
        heads=heads, kv_heads=kv_heads, qk_dim=head_dim, v_dim=head_dim, causal=False, cross=True,
        kv_values_per_token=0,
    )  # fmt: skip
    wide, narrow = heads * head_dim, kv_heads * head_dim
    return (
        gemm("cross.q", hidden, wide, shard="column"),
        gemm("cross.kv", hidden, 2 * narrow, shard="column"),
        *norm("cross.qk_norm", wide + narrow, parameters=2 * head_dim),
        Operator(name="cross.core", kind="attention", attention=core, shard="heads",
                 in_features=wide, out_features=wide),
        gemm("cross.out", wide, hidden, shard="row"),
        elementwise("cross.gates", 2 * hidden, parameters=2),
    )  # fmt: skip


def global_and_local(config: HFConfig, layers: int) -> list[str]:
    """GPT-Neo: ``attention_types`` lists kinds and how often they repeat."""
    kinds: list[str] = []
    for row in config.list_or("attention_types", [[["global", "local"], layers // 2]]):
        kinds += list(row[0]) * int(row[1])
    listed = config.list_or("attention_layers", kinds, length=layers)
    config.require(
        all(kind in ("global", "local") for kind in listed), "attention_types",
        "`attention_types` must list `global` and `local`",
    )  # fmt: skip
    return [SLIDING if kind == "local" else FULL for kind in listed]


def sinks(heads: int, _: int) -> int:
    """One learned logit a head."""
    return heads


# -- rows ---------------------------------------------------------------------------------------

LLAMA: Final = Decoder()
BIASED: Final = Decoder(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias")
QKV: Final = Decoder(qkv_bias="attention_bias")
QWEN2: Final = Decoder(
    qkv_bias=True, kinds=from_window_layer, windowed="use_sliding_window",
)  # fmt: skip
QK_HEAD: Final = Decoder(qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head")
OLMO2: Final = Decoder(
    qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="whole",
    norms=("attn_post", "mlp_post"),
)  # fmt: skip
GLM4_MOE: Final = Decoder(
    qkv_bias="attention_bias", qk_norm="head", qk_norm_if="use_qk_norm", rotary=0.5,
    experts=Experts(count="n_routed_experts", shared="n_shared_experts", layers="first_k_dense"),
)  # fmt: skip
COHERE: Final = Decoder(
    norm="layer_no_bias", norms=("attn",), qkv_bias="attention_bias", out_bias="attention_bias",
)  # fmt: skip
DEEPSEEK: Final = Decoder(
    latent=True, qkv_bias="attention_bias",
    experts=Experts(count="n_routed_experts", shared="n_shared_experts", layers="first_k_dense"),
)  # fmt: skip
GRANITE_MOE: Final = Decoder(
    qkv_bias="attention_bias", out_bias="attention_bias",
    experts=Experts(count="num_local_experts", ffn="intermediate_size"),
)  # fmt: skip


def one_or_all(config: HFConfig, heads: int) -> int:
    """GPT-BigCode: one key and value for all heads, or for each its own."""
    config.unused("num_key_value_heads")
    return 1 if config.bool_or("multi_query", bool(config.default("multi_query", True))) else heads


def falcon_heads(config: HFConfig, heads: int) -> int:
    """Falcon: 40B and 180B state them, 7B has one, RW its own for every head."""
    stated = config.int_or("num_kv_heads", heads, "n_head_kv")
    multi_query = config.bool_or("multi_query", True)
    if config.bool_or("new_decoder_architecture", False):
        return stated
    return 1 if multi_query else heads


def falcon_norms(config: HFConfig) -> tuple[str, ...]:
    """One norm before a parallel block, two in the newer architecture or in turn."""
    newer = config.bool_or("new_decoder_architecture", False)
    count = config.optional_int("num_ln_in_parallel_attn") or (2 if newer else 1)
    parallel = config.bool_or("parallel_attn", True)
    both = (not parallel and not newer) or (newer and count == 2) or (not newer and not parallel)
    return ("attn", "mlp") if both else ("attn",)


GPTJ: Final = Decoder(
    norm="layer", norms=("attn",), mlp_bias=True, head_bias=True, gated=False,
    rotary_field="rotary_dim", hidden="n_embd", layers="n_layer", heads="n_head", kv_heads=None,
    ffn="n_inner", ffn_default=4, context=("n_positions",),
)  # fmt: skip

ROWS: Final[dict[str, Decoder]] = {
    # Llama with other names, biases or windows
    "granite": BIASED, "smollm3": replace(BIASED, kinds=without_rotary),
    "helium": replace(BIASED, out_bias=False, square_out=True),
    "granite_swa": replace(BIASED, kinds=first_of_four, core_parameters=sinks),
    "internlm3": replace(BIASED, mlp_bias="mlp_bias"),
    "seed_oss": replace(BIASED, out_bias="attention_out_bias"),
    "gemma": replace(BIASED, mlp_bias=False),
    "cwm": replace(LLAMA, kinds=first_of_four),
    "ministral": replace(LLAMA, kinds=always(SLIDING)),
    "ministral3": replace(LLAMA, all_windowed=True),
    "vaultgemma": replace(BIASED, mlp_bias=False, kinds=alternating),
    "arcee": replace(BIASED, gated=False),
    "iquestcoder": replace(BIASED),
    "hyperclovax": replace(
        BIASED, norms=lambda config: (
            ("attn", "attn_post", "mlp", "mlp_post")
            if config.bool_or("use_post_norm", bool(config.default("use_post_norm", False)))
            else ("attn", "mlp")
        ),
    ),
    "diffllama": replace(
        BIASED, mlp_bias=False, core_parameters=lambda _, dim: 4 * dim
    ),
    "nanochat": replace(
        BIASED, norm="free", gated=False, mlp_bias=False, qk_norm="free"
    ),
    "jais2": replace(BIASED, norm="layer", gated=False),
    "nemotron": replace(BIASED, norm="layer", gated=False, rotary=0.5),
    "starcoder2": Decoder(
        norm="layer", gated=False, qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias",
        all_windowed=True,
    ),
    "stablelm": Decoder(
        norm="layer", qkv_bias="use_qkv_bias", norms_if=("use_parallel_residual", "mlp"),
        rotary=0.25, qk_norm="heads", qk_norm_if="qk_layernorm",
    ),
    "persimmon": Decoder(
        norm="layer", gated=False, qkv_bias=True, out_bias=True, mlp_bias=True, rotary=0.5,
        qk_norm="head_bias", qk_norm_if="qk_layernorm", kv_heads=None,
    ),
    "apertus": replace(
        QK_HEAD, gated=False, act_parameters=2
    ),
    "bitnet": replace(BIASED, mlp_bias=False, inner_norms=True),
    "ernie4_5": Decoder(qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias"),
    "hunyuan_v1_dense": QK_HEAD,
    # Qwen 2
    "qwen2": QWEN2, "qwen2_vl_text": QWEN2, "qwen2_5_vl_text": QWEN2, "qwen2_5_omni_text": QWEN2,
    "qwen2_moe": replace(
        QWEN2, qkv_bias="qkv_bias",
        experts=Experts(shared_ffn="shared_expert_intermediate_size", shared_gate=True,
                        layers="step"),
    ),
    # norms after the blocks
    "olmo": replace(BIASED, norm="free", mlp_bias=False),
    "olmo2": OLMO2,
    "olmo3": replace(OLMO2, kinds=every("sliding_window_pattern", 4)),
    "exaone4": Decoder(
        qk_norm="head", norms=("attn_post", "mlp_post"), kinds=every("sliding_window_pattern", 4)
    ),
    "glm": replace(QKV, rotary=0.5),
    "glm4": replace(QKV, rotary=0.5, norms=("attn", "attn_post", "mlp", "mlp_post")),
    "glm4v_text": replace(
        QKV, qkv_bias=True, rotary=0.5, norms=("attn", "attn_post", "mlp", "mlp_post")
    ),
    # parallel blocks
    "cohere": replace(COHERE, qk_norm="heads", qk_norm_if="use_qk_norm"),
    "cohere2": replace(COHERE, kinds=every("sliding_window_pattern", 4)),
    "gptj": GPTJ,
    "codegen": GPTJ,
    # GPT-2's kin
    "gpt_bigcode": Decoder(
        norm="layer", gated=False, qkv_bias=True, out_bias=True, mlp_bias=True, rotary=0,
        positions=("n_positions", 0), hidden="n_embd", layers="n_layer", heads="n_head",
        kv_heads=one_or_all, ffn="n_inner", ffn_default=4, context=("n_positions",),
    ),
    "xglm": Decoder(
        norm="layer", gated=False, qkv_bias=True, out_bias=True, mlp_bias=True, rotary=0,
        hidden="d_model", layers="num_layers", heads="attention_heads", kv_heads=None,
        ffn="ffn_dim",
    ),
    "biogpt": Decoder(
        norm="layer", gated=False, qkv_bias=True, out_bias=True, mlp_bias=True, rotary=0,
        positions=("max_position_embeddings", 2), kv_heads=None,
    ),
    "openai-gpt": Decoder(
        norm="layer", gated=False, qkv_bias=True, out_bias=True, mlp_bias=True, rotary=0,
        norms=("attn_post", "mlp_post"), final_norm="none", positions=("n_positions", 0),
        hidden="n_embd", layers="n_layer", heads="n_head", kv_heads=None,
        ffn_rule=lambda _, hidden: 4 * hidden, context=("n_positions",),
    ),
    "ctrl": Decoder(
        norm="layer", gated=False, qkv_bias=True, out_bias=True, mlp_bias=True, rotary=0,
        head_bias=True, hidden="n_embd", layers="n_layer", heads="n_head", kv_heads=None,
        ffn="dff", context=("n_positions",),
    ),
    "gpt_neo": Decoder(
        norm="layer", gated=False, out_bias=True, mlp_bias=True, rotary=0,
        positions=("max_position_embeddings", 0), layers="num_layers", heads="num_heads",
        kv_heads=None, ffn_default=4, kinds=global_and_local, window="window_size",
    ),
    "mpt": Decoder(
        norm="layer_no_bias", gated=False, rotary=0, hidden="d_model", layers="n_layers",
        heads="n_heads", kv_heads=None, ffn_rule=lambda _, hidden: 4 * hidden,
        context=("max_seq_len",),
        unused=("learned_pos_emb", "expansion_ratio", "embedding_fraction", "norm_type"),
        only={"no_bias": True}, nested={"attn_config": MPT_ATTENTION},
    ),
    "falcon": Decoder(
        norm="layer", norms=falcon_norms, gated=False, qkv_bias="bias", out_bias="bias",
        mlp_bias="bias", kv_heads=falcon_heads, ffn="ffn_hidden_size", ffn_default=4,
        unused=("alibi",),
    ),
    # gates and sinks
    "beam": Decoder(
        norms=("attn", "attn_post", "mlp", "mlp_post"), qk_norm="head", gate="wide",
        qkv_bias="attention_bias", out_bias="attention_bias", core_parameters=sinks,
        kinds=sixth_and_last, experts=Experts(layers="named_after_three"),
    ),
    "flint": Decoder(
        qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head",
        core_parameters=sinks, kinds=ends_and_fourths,
        experts=Experts(shared_ffn="shared_expert_intermediate_size", layers="step_after_two"),
    ),
    "kolibri1": Decoder(
        norms=("attn", "attn_post", "mlp", "mlp_post"), qk_norm="head",
        kinds=every("sliding_window_pattern", 5),
        experts=Experts(count="num_local_experts", shared_ffn="shared_expert_intermediate_size"),
    ),
    "glm_ocr_text": Decoder(norms=("attn", "attn_post", "mlp", "mlp_post")),
    "muse_glimmer_text": Decoder(
        norms=("attn", "attn_post", "mlp", "mlp_post"), gate="wide", qkv_bias="attention_bias",
        out_bias="attention_bias", kinds=fourths_from_the_end,
    ),
    "paddleocr_vl_text": Decoder(qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias"),
    # a multimodal decoder that attends to its images
    "mllama_text_model": Decoder(
        kinds=cross_attending, mixers={CROSS: cross_attention}, vocab_more=8,
        unused=("cross_attention_layers",),
        notes=("cross-attention layers are taken to see as many image tokens as text tokens",),
    ),
    "phi4_multimodal": Decoder(all_windowed=True, unused=("original_max_position_embeddings",)),
    # known by their makers' code alone
    "internlm2": Decoder(qkv_bias="bias", out_bias="bias", unused=("attn_implementation",)),
    "minicpm": Decoder(unused=("scale_emb", "scale_depth", "dim_model_base"), tied=True),
    "bailing_moe": Decoder(
        qkv_bias="use_qkv_bias", out_bias="use_bias", qk_norm="head", qk_norm_if="use_qk_norm",
        experts=Experts(shared="num_shared_experts", layers="first_k_dense"),
        unused=("embedding_dropout", "output_dropout", "norm_head", "norm_softmax",
                "max_window_layers", "use_rmsnorm", "moe_router_enable_expert_bias",
                "rotary_dim"),
    ),
    # experts
    "olmoe": Decoder(
        qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="whole",
        experts=Experts(ffn="intermediate_size"),
    ),
    "flex_olmo": replace(OLMO2, experts=Experts(ffn="intermediate_size")),
    "granitemoe": GRANITE_MOE, "granitemoe_swa": replace(
        GRANITE_MOE, kinds=first_of_four, core_parameters=sinks,
        experts=Experts(count="num_local_experts", ffn="intermediate_size",
                        shared_ffn="shared_intermediate_size"),
    ),
    "granitemoeshared": replace(
        GRANITE_MOE, experts=Experts(count="num_local_experts", ffn="intermediate_size",
                                     shared_ffn="shared_intermediate_size"),
    ),
    "phimoe": Decoder(
        norm="layer", qkv_bias="attention_bias", out_bias="attention_bias",
        head_bias="lm_head_bias", all_windowed=True,
        experts=Experts(count="num_local_experts", ffn="intermediate_size"),
    ),
    "aria_text": replace(
        BIASED, experts=Experts(count="moe_num_experts", top_k="moe_topk", ffn="intermediate_size",
                                shared="moe_num_shared_experts", shared_bias="mlp_bias"),
    ),
    "ernie4_5_moe": Decoder(
        qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", head_bias="use_bias",
        experts=Experts(count="moe_num_experts", top_k="moe_k", shared="moe_num_shared_experts",
                        layers="ernie", correction=True, shared_bias="use_bias"),
    ),
    "ernie4_5_vl_moe_text": Decoder(
        qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias",
        experts=Experts(count="moe_num_experts", top_k="moe_k", shared="moe_num_shared_experts",
                        layers="named_after_one", correction=True, shared_bias="use_bias",
                        image_experts=True),
        notes=("the experts of image tokens are held and counted, and do nothing for text",),
    ),
    "dots1": replace(
        QK_HEAD, kinds=from_window_layer,
        experts=Experts(count="n_routed_experts", shared="n_shared_experts",
                        layers="first_k_dense"),
    ),
    "glm4_moe": GLM4_MOE,
    "glm4v_moe_text": replace(GLM4_MOE, qk_norm="none"),
    "solar_open": replace(
        QKV, experts=Experts(count="n_routed_experts", shared="n_shared_experts")
    ),
    "exaone_moe": Decoder(
        qk_norm="head", kinds=every("sliding_window_pattern", 4),
        experts=Experts(shared="num_shared_experts", layers="named_after_first_k"),
    ),
    "hunyuan_v1_moe": replace(
        QK_HEAD, experts=Experts(ffn="intermediate_size", shared_ffn="intermediate_size",
                                 top_k="moe_topk"),
    ),
    "hy_v3": replace(
        QK_HEAD, mlp_bias="mlp_bias",
        experts=Experts(shared="num_shared_experts", layers="named_after_one",
                        shared_bias="mlp_bias", shared_least=1),
    ),
    "mellum": replace(
        QK_HEAD, kinds=always(FULL),
        experts=Experts(count="num_local_experts", layers="named"),
    ),
    "afmoe": Decoder(
        norms=("attn", "attn_post", "mlp", "mlp_post"), qk_norm="head", gate="wide",
        qkv_bias="attention_bias", out_bias="attention_bias",
        kinds=every("global_attn_every_n_layers", 4),
        experts=Experts(shared="num_shared_experts", layers="num_dense", correction=True),
    ),
    "laguna": Decoder(
        heads_per_layer="num_attention_heads_per_layer",
        qk_norm="head", gate="head", gate_if="gating", gate_else="wide", kinds=always(FULL),
        qkv_bias="attention_bias", out_bias="attention_bias",
        experts=Experts(shared_ffn="shared_expert_intermediate_size", layers="named_after_one",
                        correction=True),
    ),
    "cohere2_moe": replace(
        COHERE, kinds=after_dense,
        unused=("prefix_dense_sliding_window_pattern", "sliding_window_pattern"),
        experts=Experts(ffn="intermediate_size", shared="num_shared_experts",
                        layers="named_after_first_k", dense_ffn="prefix_dense_intermediate_size"),
    ),
    # latent attention
    "deepseek_v2": DEEPSEEK,
    "mistral4": DEEPSEEK,
    "glm4_moe_lite": replace(
        DEEPSEEK, experts=Experts(count="n_routed_experts", shared="n_shared_experts",
                                  layers="named_after_one"),
    ),
    "youtu": replace(DEEPSEEK, experts=None),
    "minicpm3": replace(DEEPSEEK, experts=None, mlp_bias="mlp_bias"),
}  # fmt: skip

_LING: Final = ROWS["bailing_moe"]
ROWS["bailing_moe_v2"] = replace(
    _LING, experts=replace(_LING.experts or Experts(), correction=True)
)

FAMILY: Final[dict[str, Callable[[HFConfig], Model]]] = {
    kind: decoder(row) for kind, row in ROWS.items()
}
