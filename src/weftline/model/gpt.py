"""Models by numbers: ``gpt:layers=96,hidden=12288,heads=96,vocab=51200,seq=2048``.

The shapes of papers that publish no config. Defaults are those of GPT-3 and Megatron-LM: LayerNorm
with bias, biases on every product, learned positions, tied embeddings, a feed-forward four times
as wide as the model. Beside these: attention to a ``window`` of tokens in all but each
``full_every``-th layer that attends, and ``state_layers`` that keep a Mamba-2 state of ``state``
values a channel in the place of keys (twice as wide as the model, heads of 64, one group: those of
Bamba and Granite 4), the others spread evenly between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from weftline.errors import InputError, InputErrors, nearest_names
from weftline.model.blocks import (
    embedding,
    gated_mlp,
    gqa_attention,
    lm_head,
    mlp,
    moe,
    norm,
    stack,
)
from weftline.model.families.recurrent.mamba import mamba2_mixer
from weftline.model.ir import Model, Operator

__all__ = ["PREFIX", "gpt_model"]

PREFIX: Final = "gpt:"
_EXAMPLE: Final = "gpt:layers=96,hidden=12288,heads=96,vocab=51200,seq=2048"
_NUMBERS: Final = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "seq",
                   "experts", "top_k", "window", "full_every", "state_layers",
                   "state")  # fmt: skip
_FLAGS: Final = ("gated", "tied", "bias")
_WORDS: Final = {"positions": ("learned", "rope"), "norm": ("layer", "rms")}
_KEYS: Final = (*_NUMBERS, *_FLAGS, *_WORDS)
_MAX: Final = {"layers": 10_000}
_SSM_HEAD: Final = 64
_SSM_EXPAND: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
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
    window: int
    full_every: int
    state_layers: int
    state: int

    def kinds(self) -> list[str]:
        """``state``, ``window`` or ``full`` for each layer; those that attend lie evenly."""
        attend = self.layers - self.state_layers
        found, seen = [], 0
        for i in range(self.layers):
            if (i + 1) * attend // self.layers == i * attend // self.layers:
                found.append("state")
                continue
            seen += 1
            full = not self.window or bool(self.full_every and seen % self.full_every == 0)
            found.append("full" if full else "window")
        return found


def gpt_model(spec: str, *, name: str | None = None) -> Model:
    """The model of a ``gpt:`` line. Raises InputError, or InputErrors for several mistakes."""
    shape = _parse(spec)

    def mixer(kind: str) -> tuple[Operator, ...]:
        if kind == "state":
            heads = _SSM_EXPAND * shape.hidden // _SSM_HEAD
            norms = norm("ssm.norm", shape.hidden, bias=not shape.rms)
            mixed = mamba2_mixer(hidden=shape.hidden, heads=heads, head_dim=_SSM_HEAD,
                                 state=shape.state, groups=1, kernel=4, chunk=256)  # fmt: skip
            return (*norms, *mixed)
        return gqa_attention(
            hidden=shape.hidden, heads=shape.heads, kv_heads=shape.kv_heads,
            head_dim=shape.head_dim, qkv_bias=shape.bias, out_bias=shape.bias,
            norm_bias=not shape.rms, rotary_dim=0 if shape.learned else None,
            window=shape.window if kind == "window" else None,
        )  # fmt: skip

    if shape.experts:
        forward = moe(
            hidden=shape.hidden, experts=shape.experts, top_k=shape.top_k, expert_ffn=shape.ffn,
            gated=shape.gated, expert_bias=shape.bias, norm_bias=not shape.rms,
        )  # fmt: skip
    else:
        body = gated_mlp if shape.gated else mlp
        forward = body(shape.hidden, shape.ffn, bias=shape.bias, norm_bias=not shape.rms)
    body_name = "moe" if shape.experts else "mlp"
    names = {"full": "gqa", "window": "swa", "state": "mamba2"}
    return Model(
        name=name or spec, family="gpt", source=spec, hidden=shape.hidden, vocab=shape.vocab,
        layers=stack(
            shape.kinds(), lambda kind: (f"{names[kind]}+{body_name}", (*mixer(kind), *forward))
        ),
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
    _mixers(words, numbers, hidden, errors)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InputErrors(errors)
    return _Shape(
        layers=numbers["layers"], hidden=hidden, heads=heads, kv_heads=kv_heads,
        head_dim=numbers.get("head_dim", hidden // heads), window=numbers.get("window", 0),
        full_every=numbers.get("full_every", 0), state_layers=numbers.get("state_layers", 0),
        state=numbers.get("state", 128), ffn=numbers.get("ffn", 4 * hidden),
        vocab=numbers.get("vocab", 51200),
        seq=numbers.get("seq", 2048), experts=experts, top_k=top_k,
        gated=flags.get("gated", False), tied=flags.get("tied", True),
        bias=flags.get("bias", True), learned=words.get("positions", "learned") == "learned",
        rms=words.get("norm", "layer") == "rms",
    )  # fmt: skip


def _contradictions(
    words: dict[str, str], hidden: int, heads: int, kv_heads: int, experts: int, top_k: int,
    errors: list[InputError],
) -> None:  # fmt: skip
    if hidden % heads and "head_dim" not in words:
        said = "" if "heads" in words else " (the default, hidden/128)"
        errors.append(_error(f"`hidden={hidden}` does not divide by `heads={heads}`{said}"))
    if heads % kv_heads:
        errors.append(_error(f"`heads={heads}` does not divide by `kv_heads={kv_heads}`"))
    if top_k > experts:
        what = (
            f"`top_k={top_k}` exceeds `experts={experts}`" if experts else "`top_k` needs `experts`"
        )
        errors.append(_error(what))


def _mixers(
    words: dict[str, str], numbers: Mapping[Any, int], hidden: int, errors: list[InputError]
) -> None:
    for key, needs in (("full_every", "window"), ("state", "state_layers")):
        if key in words and needs not in words:
            errors.append(_error(f"`{key}={words[key]}` needs `{needs}`"))
    layers, states = numbers.get("layers", 1), numbers.get("state_layers", 0)
    if states > layers:
        errors.append(_error(f"`state_layers={states}` exceeds `layers={layers}`"))
    if states and _SSM_EXPAND * hidden % _SSM_HEAD:
        errors.append(_error(f"`hidden={hidden}` has no whole number of state heads",
                             hint="a multiple of 32"))  # fmt: skip


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
