"""One builder for decoders that differ from Llama, Mixtral or GPT only in what a row states.

A :class:`~weftline.model.shapes.row.Decoder` row says which norms, biases, gates and experts a
model type has and under which names its config keeps them; ``families/tables`` holds the rows. A
field that a row names defaults to what transformers' class has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from weftline.model.blocks import embedding, lm_head, norm, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model, Operator
from weftline.model.shapes.attention import attention
from weftline.model.shapes.feed_forward import dense, experts, sparse_layers
from weftline.model.shapes.row import Decoder, norm_values, size

__all__ = ["decoder", "kinds_of", "model_of"]

Ops = tuple[Operator, ...]
_MIXER_NAMES = {"linear_attention": "linear", "conv": "conv", "hybrid": "hybrid"}


def kinds_of(row: Decoder, config: HFConfig, layers: int) -> list[str]:
    """``full_attention`` or ``sliding_attention`` for each layer."""
    full, sliding = "full_attention", "sliding_attention"
    windowed = row.flag(config, row.windowed)
    if row.all_windowed:
        has = windowed and config.get(row.window) is not None
        return [sliding if has else full] * layers
    default = row.kinds(config, layers) if row.kinds else [full] * layers
    return list(config.kinds("layer_types", (full, sliding, *row.mixers), layers, default))


def _norm(row: Decoder, config: HFConfig, name: str, width: int) -> Ops:
    return norm(name, width, parameters=width * norm_values(row.norm, config))


def decoder(row: Decoder) -> Callable[[HFConfig], Model]:
    """The builder of a row."""

    def build(config: HFConfig) -> Model:
        hidden = size(config, row.hidden)
        layers = config.layers(row.layers)
        for key, value in row.only.items():
            found = config.get(key)
            config.require(
                found is None or found == value, key,
                f"`{key}` other than {value} is not modelled for `{config.text_model_type}`",
            )  # fmt: skip
        config.unused(*row.unused, row.window)
        for key, known in row.nested.items():
            config.part(key, *known)
        if row.latent:
            config.unused("head_dim", "qk_head_dim", "num_key_value_heads")
        if row.experts:
            config.unused(row.experts.dense_ffn, row.ffn)
        if row.mixers:  # there may be no layer of attention
            config.unused(row.heads, "num_key_value_heads", row.head_dim)
        skipped = row.norms_if and row.flag(config, row.norms_if[0])
        stated = row.norms(config) if callable(row.norms) else row.norms
        usual = tuple(n for n in stated if not (skipped and row.norms_if and n == row.norms_if[1]))
        kinds = kinds_of(row, config, layers)
        sparse = sparse_layers(row.experts, config, layers)
        listed = (
            config.list_or(row.heads_per_layer, (), length=layers)
            if (row.heads_per_layer and config.has(row.heads_per_layer))
            else ()
        )
        views = config.per_layer(layers, tuple({row.heads: heads} for heads in listed))

        def layer(kind: tuple[str, bool, int]) -> tuple[str, Ops]:
            view = by_id[kind[2]]
            window = None
            if kind[0] == "sliding_attention":
                window = size(view, row.window, view.default(row.window))
            norms = row.norms_of.get(kind[0], usual)
            if kind[0] in row.mixers:
                mixer = row.mixers[kind[0]](view, hidden)
            else:
                mixer = attention(row, view, hidden, window=window, kind=kind[0])
            if kind[1] and row.experts:
                forward = experts(row.experts, view, hidden, row)
            else:
                forward = dense(row, view, hidden)
            ops: Ops = ()
            for part, body in (("attn", mixer), ("mlp", forward)):
                first = "moe" if part == "mlp" and kind[1] else part
                ops += _norm(row, config, f"{first}.norm", hidden) if part in norms else ()
                ops += body
                after = f"{part}_post" in norms
                ops += _norm(row, config, f"{first}.post_norm", hidden) if after else ()
            name = "mla" if row.latent else "swa" if window else "gqa"
            name = _MIXER_NAMES.get(kind[0], name) if kind[0] in row.mixers else name
            return f"{name}+{'moe' if kind[1] else 'mlp'}", ops

        by_id = {id(view): view for view in views}
        keys = [(kinds[i], sparse[i], id(views[i])) for i in range(layers)]
        return model_of(row, config, hidden, stack(keys, layer))

    return build


def model_of(row: Decoder, config: HFConfig, hidden: int, layers: tuple[Any, ...]) -> Model:
    """The model around layers that are made: embedding, head, context."""
    vocab = size(config, row.vocab)
    tied = config.tied(bool(config.default("tie_word_embeddings", row.tied or False)))
    positions = 0
    if row.positions:
        positions = size(config, row.positions[0], config.default(row.positions[0]))
        positions += row.positions[1]
    before = embedding(vocab + row.vocab_more, hidden, positions=positions)
    if row.embedding_norm:
        before = (*before, *_norm(row, config, "embed.norm", hidden))
    head_bias = row.flag(config, row.head_bias)
    final = row.norm if row.final_norm == "same" else row.final_norm
    after = lm_head(hidden, vocab, tied=tied, bias=head_bias, final_norm=False)
    if final != "none":
        values = norm_values(final, config)
        after = (*norm("head.norm", hidden, parameters=hidden * values), *after)
    if any(config.get(k) for k in ("num_nextn_predict_layers", "num_mtp_modules")):
        config.notes.append("next-token-prediction modules left out")
    config.notes += row.notes
    context = config.optional_int(*row.context) if row.context else None
    config.check()
    return Model(
        name=config.name, family=config.model_type or config.text_model_type,
        source=config.source, hidden=hidden, vocab=vocab, layers=layers, embedding=before,
        head=after, max_seq_len=context, tied_embeddings=tied, dtype=config.dtype,
        notes=tuple(config.notes),
    )  # fmt: skip
