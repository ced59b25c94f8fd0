"""transformers' own models of every type, made small, and ours of the same config."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from weftline.errors import InputError
from weftline.model import Model
from weftline.model.config import HFConfig
from weftline.model.families import TWO_TOWERS
from weftline.model.load import load_config
from weftline.runtime.meta import meta_model

LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers",
                 "decoder_layers", "num_encoder_layers", "num_decoder_layers")  # fmt: skip
MORE: Final[dict[str, dict[str, Any]]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "bailing_hybrid": {"layer_group_size": 2},
    "cohere2_moe": {"first_k_dense_replace": 1},
    "dbrx": {"attn_config": {"rope_theta": 5e5, "kv_n_heads": 8}},
    "deepseek_v2": {"num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"],
                   "position_buckets": 256, "share_att_key": True, "norm_rel_ebd": "layer_norm",
                   "conv_kernel_size": 3},
    "doge": {"is_moe": True},
    "esm": {"vocab_size": 33},
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention",
                     "full_attention"] * 2, "intermediate_size": 16_384},
    "gemma4": {"text_config": {"hidden_size_per_layer_input": 0}},
    "gemma4_text": {"num_kv_shared_layers": 2, "use_double_wide_mlp": True,
                    "layer_types": ["sliding_attention", "full_attention"] * 2},
    "glm4_moe": {"head_dim": 128},
    "glm4v_moe": {"text_config": {"head_dim": 128}},
    "glm4v_moe_text": {"head_dim": 128},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "hunyuan_v1_dense": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
                         "head_dim": 128},
    "hunyuan_v1_moe": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
                       "num_experts": 8, "moe_topk": 2, "head_dim": 128},
    "mllama": {"text_config": {"cross_attention_layers": [1, 3]}},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "conv"]},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "ovis2": {"hidden_size": 1536, "vocab_size": 151643,
              "text_config": {"hidden_size": 1536, "vocab_size": 151643,
                              "num_attention_heads": 12, "num_key_value_heads": 2}},
    "zamba2": {"num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid", "mamba"] * 2},
    "qwen3_omni_moe_thinker": {"text_config": {"head_dim": 128}},
}  # fmt: skip
"""What a class's defaults lack to be a model, or to show all kinds of layers in four."""
TOWER: Final = re.compile(
    r"vision|visual|image|audio|(?<!vocab_)projector|connector|aligner|speech|vq|multi_modal|"
    r"perceiver|high_res|resampler|qformer|generation_"
)
"""Modules of a multimodal model beside its language model."""
_NOT_SHAPES: Final = re.compile(
    r"transformers_version|architectures|id2label|label2id|problem_type|dtype|return_dict|output_.*"
    r"|chunk_size_feed_forward|is_encoder_decoder|model_type|_.*"
)


def small_config(transformers: Any, kind: str, layers: int = 4) -> dict[str, Any]:
    """The fields of a model type's class with its defaults, but few layers."""
    class_ = transformers.CONFIG_MAPPING[kind]
    known = class_.__dataclass_fields__
    fields: dict[str, Any] = {name: layers for name in LAYERS if name in known}
    base = class_()
    for name in base.sub_configs or ():
        inner = getattr(base, name, None)
        if getattr(inner, "model_type", ""):
            few = {key: layers for key in LAYERS if key in type(inner).__dataclass_fields__}
            fields[name] = {"model_type": inner.model_type, **few}
    for key, value in MORE.get(kind, {}).items():
        nested = isinstance(value, dict) and key.endswith("_config")
        fields[key] = fields.get(key, {}) | value if nested else value
    try:
        made = class_(**fields)
    except Exception:
        if kind in MORE:
            raise
        made = base  # what depends on the number of layers is then as it is
    return _plain(json.loads(made.to_json_string(use_diff=False)))


def _plain(value: Any) -> Any:
    """JSON without the form in which transformers keeps infinities."""
    if isinstance(value, dict):
        return 1e30 if "__float__" in value else {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def ours(fields: dict[str, Any]) -> Model:
    return load_config(HFConfig(json.dumps(fields), "config.json"))


def theirs(fields: dict[str, Any]) -> tuple[int, bool]:
    """(parameters of the language model, whether its output projection is among them)."""
    model = pretrained_bert(fields) if fields["model_type"] == "bert" else meta_model(fields)
    sizes = [(name, math.prod(p.shape)) for name, p in model.named_parameters()]
    if fields["model_type"] in TWO_TOWERS:
        pass
    elif any("language_model" in name for name, _ in sizes):
        sizes = [s for s in sizes if "language_model" in s[0] or s[0].startswith("lm_head")]
    else:
        sizes = [s for s in sizes if not TOWER.search(s[0])]
    class_ = type(model).__name__
    headed = bool(
        re.search(r"For(Causal|Cond|Masked|Pre)|LMHead|MTModel|GenerationDecoder", class_)
    )
    return sum(size for _, size in sizes), headed


def pretrained_bert(fields: dict[str, Any]) -> Any:
    """BERT as we count it: with both heads of its pre-training."""
    import torch
    import transformers

    with torch.device("meta"):
        return transformers.BertForPreTraining(transformers.BertConfig(**fields))


def comparable(model: Model, headed: bool) -> int:
    """Our parameters of what transformers' class holds: without the projection if it has none."""
    head = sum(op.parameters for op in model.head if op.name == "head.lm")
    return model.parameters - (0 if headed else head)


def changes(fields: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config with one field changed at a time, also inside the language model's section."""
    section = HFConfig(json.dumps(fields), "config.json").section
    inside = [section] if section else []
    inside += ["vision_config"] if fields["model_type"] in TWO_TOWERS else []
    for path in ((), *(tuple(name.split(".")) for name in inside)):
        inner: Any = fields
        for name in path:
            inner = inner[name]
        for key, value in inner.items():
            if _NOT_SHAPES.fullmatch(key):
                continue
            for other in _others(value):
                changed = json.loads(json.dumps(fields))
                place = changed
                for name in path:
                    place = place[name]
                place[key] = other
                yield f"{'.'.join((*path, key))}: {value} -> {other}", changed


def _others(value: Any) -> list[Any]:
    match value:
        case None:
            return [True, 8, 64]
        case bool():
            return [not value]
        case int():
            near = (value * 2, value + 1, 1 if value != 1 else 2, 0)
            return [v for v in dict.fromkeys(near) if v != value and v < 1e7]
        case float():
            return [value * 2 if value else 0.5]
    return []


def silent_differences(transformers: Any, kind: str) -> tuple[int, list[str]]:
    """(changes that both sides take, those of them where the counts differ without a word)."""
    taken, found = 0, []
    for said, fields in changes(small_config(transformers, kind)):
        try:
            model = ours(fields)
        except InputError:
            continue
        try:
            count, headed = theirs(fields)
        except Exception:  # noqa: S112  (what transformers itself cannot build proves nothing)
            continue
        taken += 1
        if comparable(model, headed) != count:
            found.append(f"{kind}.{said}: {comparable(model, headed) - count:+,}")
    return taken, found
