"""Architectures around a base, each a ``gpt:`` line, sized so that all are worth the same.

The base is read off the model's own operators. A knob replaces one property; then the feed-forward
is made wider or narrower, in steps of 64, until the proxy of quality is the target.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from weftline.decide.codesign.law import Law
from weftline.errors import InputError
from weftline.model import Model, load_model
from weftline.spec.attention import Window
from weftline.spec.codesign import Design

__all__ = ["KNOBS", "Shape", "designs_of", "facts_of", "shape_of", "sized"]

KNOBS: Final = ("window", "heads", "experts", "state")
FFN_STEP: Final = 64
MOST_DESIGNS: Final = 120
MOST_FFN: Final = 1 << 22
LIKENESS: Final = 0.05
"""A model whose ``gpt:`` line has parameters so far off its own is no plain decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder by its numbers; becomes a ``gpt:`` line."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    seq: int
    gated: bool
    tied: bool
    experts: int = 0
    top_k: int = 0
    window: int = 0
    full_every: int = 0
    state_share: float = 0.0
    state: int = 128

    @property
    def state_layers(self) -> int:
        """Layers that keep a state in the place of keys; one at least attends."""
        return min(self.layers - 1, round(self.state_share * self.layers))

    @property
    def line(self) -> str:
        """The model as every command takes it."""
        words: dict[str, object] = {
            "layers": self.layers, "hidden": self.hidden, "heads": self.heads,
            "kv_heads": self.kv_heads, "head_dim": self.head_dim, "ffn": self.ffn,
            "vocab": self.vocab, "seq": self.seq, "gated": str(self.gated).lower(),
            "tied": str(self.tied).lower(), "bias": "false", "positions": "rope", "norm": "rms",
        }  # fmt: skip
        if self.experts:
            words |= {"experts": self.experts, "top_k": self.top_k}
        if self.window:
            words["window"] = self.window
            if self.full_every:
                words["full_every"] = self.full_every
        if self.state_layers:
            words |= {"state_layers": self.state_layers, "state": self.state}
        return "gpt:" + ",".join(f"{k}={v}" for k, v in words.items())


def shape_of(model: Model) -> tuple[Shape, str]:
    """(a model's numbers, how its ``gpt:`` line differs from it).

    Raises InputError for what is no stack of grouped-query attention and feed-forward layers.
    """
    wrong = InputError(
        f"{model.name} is not a plain decoder: its architecture cannot be varied",
        hint="a model of grouped-query attention, or gpt:layers=..,hidden=..",
    )  # fmt: skip
    last = model.layers[-1]
    named = {op.name: op for op in last.operators}
    core, out = named.get("attn.core"), named.get("attn.out")
    if core is None or core.attention is None or out is None:
        raise wrong
    heads = core.attention
    experts = named.get("moe.experts.down")
    down = experts or named.get("mlp.down")
    if down is None or heads.qk_dim != heads.v_dim:
        raise wrong
    up = named.get("moe.experts.gate_up" if experts else "mlp.gate_up")
    rules = [a.attention.rule for layer in model.layers for a in layer.operators
             if a.attention is not None]  # fmt: skip
    windows = [r.tokens for r in rules if isinstance(r, Window)]
    full = len(rules) - len(windows)
    shape = Shape(
        layers=len(model.layers), hidden=model.hidden, heads=heads.heads, kv_heads=heads.kv_heads,
        head_dim=heads.qk_dim, ffn=down.in_features, vocab=model.vocab,
        seq=model.max_seq_len or 8192, gated=up is not None, tied=model.tied_embeddings,
        experts=experts.experts if experts else 0,
        top_k=experts.experts_per_token if experts else 0,
        window=windows[0] if windows else 0,
        full_every=round(len(rules) / full) if windows and full else 0,
    )  # fmt: skip
    again = load_model(shape.line)
    off = again.parameters / model.parameters - 1
    if abs(off) > LIKENESS:
        raise wrong
    said = "" if abs(off) < 5e-5 else (
        f"the base is planned as its gpt: line, {again.parameters:,} parameters, {off:+.2%} of "
        f"{model.name}"
    )  # fmt: skip
    return shape, said


def facts_of(shape: Shape, model: Model, tokens: float) -> dict[str, float]:
    """What a law may speak of."""
    return {
        "params": float(model.parameters), "active": float(model.active_parameters),
        "tokens": tokens, "layers": float(shape.layers), "hidden": float(shape.hidden),
        "heads": float(shape.heads), "kv_heads": float(shape.kv_heads),
        "window": float(shape.window or shape.seq), "experts": float(shape.experts or 1),
        "top_k": float(shape.top_k or 1), "state_layers": float(shape.state_layers),
    }  # fmt: skip


def worth(shape: Shape, law: Law, tokens: float) -> float:
    """The proxy of a shape."""
    return law.value(facts_of(shape, load_model(shape.line), tokens))


def sized(shape: Shape, law: Law, tokens: float, target: float) -> Shape | None:
    """The shape with the width at which it is worth the target; None where no width does it.

    Parameters are linear in the width, so a law that moves with them is met by bisection.
    """

    def at(steps: int) -> float:
        return worth(replace(shape, ffn=steps * FFN_STEP), law, tokens) - target

    low, high = 1, max(2, 2 * shape.ffn // FFN_STEP)
    first = at(low)
    while first * at(high) > 0:
        high *= 2
        if high * FFN_STEP > MOST_FFN:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if first * at(middle) > 0:
            low = middle
        else:
            high = middle
    best = min((low, high), key=lambda n: abs(at(n)))
    return replace(shape, ffn=best * FFN_STEP)


def designs_of(
    base: Shape, varied: Mapping[str, Sequence[str]], sizes: Sequence[float], law: Law,
    tokens: float,
) -> Iterator[tuple[Design, str]]:  # fmt: skip
    """(design, why it is left out or nothing) for every combination of knobs and size.

    A design of size s is worth what the base with s times its layers is worth.
    """
    count = math.prod(len(v) for v in varied.values()) * len(sizes)
    if count > MOST_DESIGNS:
        raise InputError(f"{count} designs, {MOST_DESIGNS} are the most", where="--vary",
                         hint="fewer values, knobs or sizes")  # fmt: skip
    for size in sizes:
        layers = max(2, round(base.layers * size))
        target = worth(replace(base, layers=layers), law, tokens)
        for values in itertools.product(*varied.values()):
            knobs = dict(zip(varied, values, strict=True))
            shape = replace(base, layers=layers)
            for knob, text in knobs.items():
                shape = turned(shape, knob, text)
            found = shape if all(is_base(base, k, v) for k, v in knobs.items()) else sized(
                shape, law, tokens, target
            )  # fmt: skip
            kept = found or shape
            model = load_model(kept.line)
            said = [f"{k}={v}" for k, v in knobs.items() if not is_base(base, k, v)]
            design = Design(
                name=", ".join(said) or "base", size=size, spec=kept.line, knobs=knobs,
                parameters=model.parameters, active_parameters=model.active_parameters,
                quality=law.value(facts_of(kept, model, tokens)),
            )  # fmt: skip
            yield design, "" if found else "no width makes it worth the same"


def is_base(base: Shape, knob: str, text: str) -> bool:
    """Whether a value is the base's own."""
    return turned(base, knob, text) == base


def turned(shape: Shape, knob: str, text: str) -> Shape:
    """The shape with one knob at a value: full, 4096, 1024/6; 32:8; dense, 8:2; none, 75%, 75%:64.

    Raises InputError.
    """
    try:
        match knob:
            case "window":
                return _window(shape, text)
            case "heads":
                heads, _, kv = text.partition(":")
                return _heads(shape, int(heads), int(kv or heads))
            case "experts":
                if text in ("dense", "1"):
                    return replace(shape, experts=0, top_k=0)
                experts, _, top = text.partition(":")
                return _experts(shape, int(experts), int(top or 2))
            case "state":
                return _state(shape, text)
    except ValueError:
        pass
    else:
        raise InputError(f"unknown knob `{knob}`", where="--vary", hint=", ".join(KNOBS))
    raise InputError(
        f"`{knob}={text}`", where="--vary",
        hint="window=full+4096+1024/6, heads=32:8, experts=dense+8:2, state=none+75%:128",
    )  # fmt: skip


def _window(shape: Shape, text: str) -> Shape:
    if text == "full":
        return replace(shape, window=0, full_every=0)
    tokens, slash, every = text.partition("/")
    if int(tokens) < 1 or (slash and int(every) < 2):
        raise ValueError
    return replace(shape, window=int(tokens), full_every=int(every) if slash else 0)


def _heads(shape: Shape, heads: int, kv: int) -> Shape:
    wide = shape.heads * shape.head_dim
    if heads < 1 or kv < 1 or heads % kv or wide % heads:
        raise ValueError
    return replace(shape, heads=heads, kv_heads=kv, head_dim=wide // heads)


def _experts(shape: Shape, experts: int, top: int) -> Shape:
    if not 1 <= top <= experts or experts < 2:
        raise ValueError
    return replace(shape, experts=experts, top_k=top)


def _state(shape: Shape, text: str) -> Shape:
    if text == "none":
        return replace(shape, state_share=0.0, state=128)
    share, _, state = text.partition(":")
    value = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
    if not 0 < value <= 1 or int(state or 128) < 1 or 2 * shape.hidden % 64:
        raise ValueError
    return replace(shape, state_share=value, state=int(state or 128))
