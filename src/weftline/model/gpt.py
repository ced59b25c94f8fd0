"""Models by numbers: ``gpt:layers=96,hidden=12288,heads=96,vocab=51200,seq=2048``.

The shapes of papers that publish no config. Defaults are those of GPT-3 and Megatron-LM: LayerNorm
with bias, biases on every product, learned positions, tied embeddings, a feed-forward four times
as wide as the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from weftline.errors import InputError, InputErrors, nearest_names
from weftline.model.blocks import embedding, gated_mlp, gqa_attention, lm_head, mlp, moe, stack
from weftline.model.ir import Model

__all__ = ["PREFIX", "gpt_model"]

PREFIX: Final = "gpt:"
_EXAMPLE: Final = "gpt:layers=96,hidden=12288,heads=96,vocab=51200,seq=2048"
_NUMBERS: Final = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq", "experts",
                   "top_k")  # fmt: skip
_FLAGS: Final = ("gated", "tied", "bias")
_WORDS: Final = {"positions": ("learned", "rope"), "norm": ("layer", "rms")}
_KEYS: Final = (*_NUMBERS, *_FLAGS, *_WORDS)
_MAX: Final = {"layers": 10_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    seq: int
    experts: int
    top_k: int
    gated: bool
    tied: bool
    bias: bool
    learned: bool
    rms: bool


def gpt_model(spec: str, *, name: str | None = None) -> Model:
    """The model of a ``gpt:`` line. Raises InputError, or InputErrors for several mistakes."""
    shape = _parse(spec)
    attention = gqa_attention(
        hidden=shape.hidden, heads=shape.heads, kv_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads, qkv_bias=shape.bias, out_bias=shape.bias,
        norm_bias=not shape.rms, rotary_dim=0 if shape.learned else None,
    )  # fmt: skip
    if shape.experts:
        forward = moe(
            hidden=shape.hidden, experts=shape.experts, top_k=shape.top_k, expert_ffn=shape.ffn,
            gated=shape.gated, expert_bias=shape.bias, norm_bias=not shape.rms,
        )  # fmt: skip
    else:
        body = gated_mlp if shape.gated else mlp
        forward = body(shape.hidden, shape.ffn, bias=shape.bias, norm_bias=not shape.rms)
    kind = "gqa+moe" if shape.experts else "gqa+mlp"
    return Model(
        name=name or spec, family="gpt", source=spec, hidden=shape.hidden, vocab=shape.vocab,
        layers=stack([kind] * shape.layers, lambda kind: (kind, (*attention, *forward))),
        embedding=embedding(
            shape.vocab, shape.hidden, positions=shape.seq if shape.learned else 0
        ),
        head=lm_head(shape.hidden, shape.vocab, tied=shape.tied, norm_bias=not shape.rms),
        max_seq_len=shape.seq, tied_embeddings=shape.tied,
    )  # fmt: skip


def _parse(spec: str) -> _Shape:
    errors: list[InputError] = []
    words = _split(spec, errors)
    numbers = {key: _number(key, words[key], errors) for key in _NUMBERS if key in words}
    flags = {key: _flag(key, words[key], errors) for key in _FLAGS if key in words}
    for key, allowed in _WORDS.items():
        if key in words and words[key] not in allowed:
            errors.append(_error(f"`{key}={words[key]}`: one of {', '.join(allowed)} is needed"))
    errors += [
        _error(f"`{key}` is missing", hint=f"for example {_EXAMPLE}")
        for key in ("layers", "hidden")
        if key not in words
    ]
    hidden = numbers.get("hidden", 128)
    heads = numbers.get("heads", max(1, hidden // 128))
    kv_heads = numbers.get("kv_heads", heads)
    experts = numbers.get("experts", 0)
    top_k = numbers.get("top_k", min(2, experts))
    _contradictions(words, hidden, heads, kv_heads, experts, top_k, errors)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InputErrors(errors)
    return _Shape(
        layers=numbers["layers"], hidden=hidden, heads=heads, kv_heads=kv_heads,
        ffn=numbers.get("ffn", 4 * hidden), vocab=numbers.get("vocab", 51200),
        seq=numbers.get("seq", 2048), experts=experts, top_k=top_k,
        gated=flags.get("gated", False), tied=flags.get("tied", True),
        bias=flags.get("bias", True), learned=words.get("positions", "learned") == "learned",
        rms=words.get("norm", "layer") == "rms",
    )  # fmt: skip


def _contradictions(
    words: dict[str, str], hidden: int, heads: int, kv_heads: int, experts: int, top_k: int,
    errors: list[InputError],
) -> None:  # fmt: skip
    if hidden % heads:
        said = "" if "heads" in words else " (the default, hidden/128)"
        errors.append(_error(f"`hidden={hidden}` does not divide by `heads={heads}`{said}"))
    if heads % kv_heads:
        errors.append(_error(f"`heads={heads}` does not divide by `kv_heads={kv_heads}`"))
    if top_k > experts:
        what = (
            f"`top_k={top_k}` exceeds `experts={experts}`" if experts else "`top_k` needs `experts`"
        )
        errors.append(_error(what))


def _split(spec: str, errors: list[InputError]) -> dict[str, str]:
    words: dict[str, str] = {}
    for part in spec[len(PREFIX) :].split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not part.strip():
            continue
        if not equals or not value:
            errors.append(_error(f"`{part.strip()}` has no value", hint=f"for example {_EXAMPLE}"))
            continue
        if key not in _KEYS:
            near = nearest_names(key, _KEYS)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(_KEYS)}"
            errors.append(_error(f"unknown key `{key}`", hint=hint))
            continue
        if key in words:
            errors.append(_error(f"`{key}` stands twice"))
        words[key] = value
    return words


def _number(key: str, text: str, errors: list[InputError]) -> int:
    most = _MAX.get(key, 2**31)
    digits = text.replace("_", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 12) or int(digits) == 0:
        errors.append(_error(f"`{key}={text}`: a whole number above zero is needed"))
        return 1
    if int(digits) > most:
        errors.append(_error(f"`{key}={text}`: {most} is the most"))
        return 1
    return int(digits)


def _flag(key: str, text: str, errors: list[InputError]) -> bool:
    if text.lower() not in ("true", "false"):
        errors.append(_error(f"`{key}={text}`: true or false is needed"))
    return text.lower() == "true"


def _error(what: str, *, hint: str | None = None) -> InputError:
    return InputError(what, where="gpt", hint=hint)
