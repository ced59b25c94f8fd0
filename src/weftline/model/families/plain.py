"""A model type that nobody described, taken as a plain Llama stack because it was asked for."""

from __future__ import annotations

from typing import Final

from weftline.model.blocks import assemble, gated_mlp, gqa_attention, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Model
from weftline.model.known import is_harmless

__all__ = ["PLAIN", "plain_llama"]

PLAIN: Final = ("llama",)
"""What an unknown model type may be taken as."""
_SHOWN: Final = 6


def plain_llama(config: HFConfig) -> Model:
    """Grouped-query attention and a gated feed-forward of the sizes that the file states.

    The usual names of sizes are known. What else the file holds is not looked at: the notes say
    so, and name the fields.
    """
    hidden = config.int("hidden_size", "d_model", "n_embd", "dim", "model_dim")
    layers = config.layers("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = config.int("num_attention_heads", "n_head", "n_heads", "num_heads")
    kv_heads = config.int_or(
        "num_key_value_heads", heads, "num_kv_heads", "n_head_kv", "n_kv_heads"
    )
    head_dim = config.int_or("head_dim", max(1, hidden // heads), "kv_channels", "d_head")
    ffn = config.int_or(
        "intermediate_size", 4 * hidden, "ffn_hidden_size", "ffn_dim", "d_ff", "n_inner", "ff_dim"
    )
    vocab = config.int("vocab_size", "n_vocab")
    tied = config.tied(False)
    config.require(
        heads % kv_heads == 0, "num_key_value_heads",
        f"{heads} heads do not divide by {kv_heads} key-value heads",
    )  # fmt: skip
    config.check()
    operators = (
        *gqa_attention(hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim),
        *gated_mlp(hidden, ffn),
    )
    unread = [
        key
        for key, value in config.fields.items()
        if not config.was_read(key) and not is_harmless(key, value)
    ]
    kind = config.text_model_type or config.model_type or "no model type"
    config.notes.append(f"`{kind}` taken as a plain Llama stack, as asked: its own parts differ")
    if unread:
        more = f" and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
        named = ", ".join(f"`{key}`" for key in unread[:_SHOWN])
        config.notes.append(f"not looked at: {named}{more}")
    made = stack(["gqa+mlp"] * layers, lambda kind: (kind, operators))
    return assemble(config, hidden=hidden, vocab=vocab, layers=made, tied=tied)
