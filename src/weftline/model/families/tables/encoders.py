"""BERT's kin: bidirectional encoders with a masked-token head, one row a model type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from weftline.model.blocks import (
    elementwise,
    embedding,
    gated_mlp,
    gemm,
    gqa_attention,
    lm_head,
    mlp,
    norm,
    stack,
)
from weftline.model.config import HFConfig
from weftline.model.families.encoders.bert import uncached
from weftline.model.families.encoders.deberta import Relative, deberta, deberta_v2
from weftline.model.ir import Model, Operator
from weftline.model.shapes.row import Flag, Norm, flag, norm_values

__all__ = ["FAMILY", "ROWS", "Encoder", "encoder"]

Ops = tuple[Operator, ...]
FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """What tells an encoder from RoBERTa."""

    norm: Norm = "layer"
    before: bool = False
    """Norms before the blocks, and a last one, instead of after them."""
    first_norm: bool = True
    """The first layer has a norm before its attention, too."""
    embedding_norm: Flag = True
    types: str | None = "type_vocab_size"
    more_types: tuple[str, str] | None = None
    """(flag, field): a further segment table where the flag is set."""
    positions: str | None = "max_position_embeddings"
    positions_if: Flag = True
    """Whether positions are learned."""
    extra_positions: tuple[tuple[str, int], ...] = ()
    """(field, tables): further learned positions, of a page's layout."""
    relative: str | None = None
    """Field with the buckets of relative positions, shared by all layers."""
    rotary: bool | str = False
    """Whether heads are rotated, or the field that is ``rotary`` or ``absolute``: learned."""
    narrow: str | None = None
    """Field with the width of the embedding, where it is not the model's."""
    head: bool = True
    """The masked-token head transforms and norms before it projects."""
    head_norm: bool = True
    head_width: str | None = None
    """Field with the width of that transformation."""
    transform_bias: Flag = True
    head_bias: Flag = True
    second_bias: bool = True
    """An untied output projection has a bias beside the head's own."""
    pooler: bool = False
    bias: Flag = True
    mlp_bias: Flag = True
    gated: bool = False
    kv_heads: str | None = None
    window: str | None = None
    """Field with the tokens a windowed layer sees, half to each side."""
    shared: bool = False
    """All layers share the weights of the first (ALBERT)."""
    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    ffn: str = "intermediate_size"
    causal: bool = False
    """A token sees only those before it (CLIP's text tower)."""
    projects: bool = True
    """There is an output projection; without, no vocabulary is predicted: it is then 0."""
    disentangled: Callable[[HFConfig, int], Relative] | None = None
    """Rule from (config, hidden size) for scores against relative positions (DeBERTa)."""
    contacts: bool = False
    """A head reads contacts off all attention maps (ESM)."""
    unused: tuple[str, ...] = ()
    only: dict[str, Any] = field(default_factory=dict)
    """Field -> the only value that is modelled."""


def _number(config: HFConfig, key: str, minimum: int = 1) -> int:
    return config.int(key, default=config.default(key), minimum=minimum)


def _layer(row: Encoder, config: HFConfig, hidden: int, window: int | None, first: bool) -> Ops:
    heads = _number(config, row.heads)
    kv_heads = config.int_or(row.kv_heads, heads) if row.kv_heads else heads
    config.require(
        heads % kv_heads == 0 and (hidden % heads == 0 or config.has("head_dim")), row.heads,
        f"`{row.hidden}` {hidden}, `{row.heads}` {heads} and {kv_heads} key-value heads do not "
        "divide",
    )  # fmt: skip
    head_dim = config.int_or("head_dim", max(1, hidden // heads))
    bias = flag(config, row.bias)
    values = norm_values(row.norm, config)
    rotary = _is_rotary(row, config)
    attention = uncached(
        gqa_attention(
            hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, qkv_bias=bias,
            out_bias=bias, rotary_dim=None if rotary else 0, pre_norm=False, causal=row.causal,
            window=window,
        )
    )  # fmt: skip
    if row.disentangled:
        attention = row.disentangled(config, hidden).attending(attention)
    body = gated_mlp if row.gated else mlp
    forward = body(hidden, _number(config, row.ffn), bias=flag(config, row.mlp_bias),
                   pre_norm=False)  # fmt: skip
    made: Ops = ()
    for name, block in (("attn", attention), ("mlp", forward)):
        own = norm(f"{name}.{'norm' if row.before else 'post_norm'}", hidden,
                   parameters=hidden * values)  # fmt: skip
        if row.before and name == "attn" and first and not row.first_norm:
            own = ()
        made += (*own, *block) if row.before else (*block, *own)
    return made


def _is_rotary(row: Encoder, config: HFConfig) -> bool:
    if isinstance(row.rotary, bool):
        return row.rotary
    default = str(config.default(row.rotary, "absolute"))
    return config.str_or(row.rotary, default, allowed=("absolute", "rotary")) == "rotary"


def _embedding(row: Encoder, config: HFConfig, vocab: int, width: int, hidden: int) -> Ops:
    positions = _number(config, row.positions) if row.positions else 0
    if _is_rotary(row, config) or not flag(config, row.positions_if):
        positions = 0
    types = _number(config, row.types, 0) if row.types else 0
    if row.more_types and config.bool_or(row.more_types[0], False):
        types += _number(config, row.more_types[1])
    elif row.more_types:
        config.unused(row.more_types[1])
    ops: Ops = embedding(vocab, width, positions=positions, types=types)
    for key, count in row.extra_positions:
        learned = count * _number(config, key) * width
        ops = (*ops, elementwise(f"embed.{key}", width, parameters=learned))
    if row.relative:
        tables = _number(config, row.relative) * _number(config, row.heads)
        ops = (*ops, elementwise("embed.relative", 0, parameters=tables))
    if row.disentangled:
        ops = (*ops, *row.disentangled(config, hidden).before)
    if flag(config, row.embedding_norm):
        values = norm_values(row.norm, config)
        ops = (*ops, *norm("embed.norm", width, parameters=width * values))
    if width != hidden:
        ops = (*ops, gemm("embed.project", width, hidden, shard="replicated", bias=True))
    return ops


def _head(row: Encoder, config: HFConfig, vocab: int, width: int, hidden: int, tied: bool) -> Ops:
    inner = _number(config, row.head_width) if row.head_width else width
    values = norm_values(row.norm, config)
    bias = flag(config, row.head_bias)
    ops: Ops = ()
    if row.before:
        ops = norm("head.last_norm", hidden, parameters=hidden * values)
    if row.head:
        ops += (
            gemm("head.transform", hidden, inner, shard="replicated",
                 bias=flag(config, row.transform_bias)),
            elementwise("head.act", inner),
        )  # fmt: skip
        ops += norm("head.norm", inner, parameters=inner * values) if row.head_norm else ()
    if not row.projects:
        return ops
    ops += lm_head(inner, vocab, tied=tied, bias=bias, final_norm=False)
    if bias and row.second_bias and not tied:
        ops += (elementwise("head.bias", vocab, parameters=vocab),)
    if row.pooler:
        ops += (elementwise("head.pooler", 0, parameters=hidden * (hidden + 1)),)
    return ops


def encoder(row: Encoder) -> Callable[[HFConfig], Model]:
    """The builder of a row."""

    def build(config: HFConfig) -> Model:
        hidden, vocab = _number(config, row.hidden), _number(config, "vocab_size")
        layers = config.layers(row.layers)
        config.unused(*row.unused, *((row.window,) if row.window else ()))
        for key, value in row.only.items():
            config.require(
                config.get(key) in (None, value), key, f"`{key}` other than {value} is not modelled"
            )
        width = _number(config, row.narrow) if row.narrow else hidden
        tied = config.tied(bool(config.default("tie_word_embeddings", True))) and row.projects
        kinds = [FULL] * layers
        if row.window:
            every = config.int_or("global_attn_every_n_layers", 3)
            default = [SLIDING if i % every else FULL for i in range(layers)]
            kinds = list(config.kinds("layer_types", (FULL, SLIDING), layers, default))

        def layer(kind: tuple[str, bool]) -> tuple[str, Ops]:
            window = None
            if kind[0] == SLIDING and row.window:
                window = _number(config, row.window) // 2
            return "swa+mlp" if window else "mha+mlp", _layer(row, config, hidden, window, kind[1])

        made = stack([(kind, i == 0) for i, kind in enumerate(kinds)], layer, role="encoder")
        if row.shared:
            made = (made[0], *(replace(one, operators=_again(one.operators)) for one in made[1:]))
        before = _embedding(row, config, vocab, width, hidden)
        after = _head(row, config, vocab, width, hidden, tied)
        if row.contacts:
            maps = layers * _number(config, row.heads)
            after = (*after, elementwise("head.contacts", 0, parameters=maps + 1))
        if row.projects:
            config.notes.append("counted with its masked-token head, as it is pre-trained")
        positions = config.optional_int("max_position_embeddings")
        config.check()
        return Model(
            name=config.name, family=config.model_type or config.text_model_type,
            source=config.source, hidden=hidden, vocab=vocab * row.projects, layers=made,
            embedding=before, head=after, max_seq_len=positions, tied_embeddings=tied,
            dtype=config.dtype, notes=tuple(config.notes),
        )  # fmt: skip

    return build


def _again(operators: Ops) -> Ops:
    """The same operators with weights that were counted before."""
    return tuple(replace(op, parameters=0, tied=True) if op.parameters else op for op in operators)


_OFF: Final = {"is_decoder": False, "add_cross_attention": False}
_ROBERTA: Final = Encoder()

ROWS: Final[dict[str, Encoder]] = {
    "roberta": _ROBERTA, "xlm-roberta": _ROBERTA, "camembert": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "roberta-prelayernorm": Encoder(before=True),
    "xlm-roberta-xl": Encoder(before=True, embedding_norm=False),
    "megatron-bert": Encoder(before=True, embedding_norm=False),
    "ernie": Encoder(more_types=("use_task_id", "task_type_vocab_size")),
    "electra": Encoder(narrow="embedding_size", second_bias=False),
    "albert": Encoder(
        narrow="embedding_size", shared=True, only={"num_hidden_groups": 1, "inner_group_num": 1}
    ),
    "rembert": Encoder(
        narrow="input_embedding_size", head_width="output_embedding_size", second_bias=False
    ),
    "distilbert": Encoder(
        types=None, hidden="dim", layers="n_layers", heads="n_heads", ffn="hidden_dim",
        unused=("sinusoidal_pos_embds",), second_bias=False,
    ),
    "mpnet": Encoder(types=None, relative="relative_attention_num_buckets"),
    "layoutlm": Encoder(pooler=True, extra_positions=(("max_2d_position_embeddings", 4),)),
    "deberta": Encoder(
        positions_if="position_biased_input", disentangled=deberta, only={"legacy": True},
        unused=("pooler_hidden_size", "pooler_dropout", "pooler_hidden_act"),
    ),
    "deberta-v2": Encoder(
        positions_if="position_biased_input", disentangled=deberta_v2, only={"legacy": True},
        unused=("pooler_hidden_size", "pooler_dropout", "pooler_hidden_act", "conv_act"),
    ),
    "esm": Encoder(
        before=True, embedding_norm="emb_layer_norm_before", types=None, contacts=True,
        rotary="position_embedding_type", second_bias=False, only={"is_folding_model": False},
        unused=("token_dropout", "mask_token_id", "esmfold_config", "vocab_list"),
    ),
    "clip_text_model": Encoder(
        before=True, embedding_norm=False, types=None, causal=True, head=False, projects=False,
        unused=("projection_dim",),
    ),
    "bert-generation": Encoder(types=None, head=False),
    "nomic_bert": Encoder(
        positions=None, rotary=True, bias=False, mlp_bias=False, gated=True, second_bias=False
    ),
    "eurobert": Encoder(
        norm="rms", before=True, types=None, positions=None, rotary=True, embedding_norm=False,
        bias="attention_bias", mlp_bias="mlp_bias", gated=True, head=False, head_bias="mlp_bias",
        second_bias=False, kv_heads="num_key_value_heads",
    ),
    "modernbert": Encoder(
        norm="field", before=True, first_norm=False, types=None, positions=None, rotary=True,
        bias="attention_bias", mlp_bias="mlp_bias", gated=True, transform_bias="classifier_bias",
        head_bias="decoder_bias", second_bias=False, window="local_attention",
        unused=("sparse_prediction", "sparse_pred_ignore_index", "sliding_window"),
    ),
}  # fmt: skip

FAMILY: Final[dict[str, Callable[[HFConfig], Model]]] = {
    kind: encoder(row) for kind, row in ROWS.items()
}
