"""A question of co-design as people write it: knobs with values, sizes, and the two jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weftline.catalog.asked import parse_accelerators
from weftline.decide.codesign.law import Law, law_of
from weftline.decide.codesign.variants import KNOBS, Shape, is_base, shape_of
from weftline.errors import InputError, UnknownNameError
from weftline.model import load_model
from weftline.spec.decide_options import CodesignOptions
from weftline.spec.parse import Collector
from weftline.units import parse_count

__all__ = ["Asked", "codesign_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked, as values; the options stay for the jobs."""

    model: str
    base: Shape
    note: str
    """How the base differs from the model, or nothing."""
    varied: Mapping[str, tuple[str, ...]]
    chips: tuple[str, ...]
    law: Law
    tokens: int
    served: int
    sizes: tuple[float, ...]
    options: CodesignOptions


def codesign_of(model: str, options: CodesignOptions) -> Asked:
    """The options as values. Raises every mistake at once."""
    get = Collector()
    found = get(lambda: shape_of(load_model(model)))
    base, note = found if found is not None else (None, "")
    chips = get(lambda: parse_accelerators(options.on, where="--on"))
    law = get(lambda: law_of(options.quality))
    tokens = get(lambda: parse_count(options.tokens, where="--tokens"))
    served = options.served
    served_tokens = tokens if served is None else get(
        lambda: 0 if served.strip() == "0" else parse_count(served, where="--served")
    )  # fmt: skip
    sizes = get(lambda: _sizes(options.sizes))
    varied = None if base is None else get(lambda: _varied(options.vary, base))
    get.raise_all()
    if base is None or not chips or law is None or tokens is None or not sizes or varied is None:
        raise InputError("name the chips", where="--on", hint="--on h100,tpu-v6e,trainium2")
    return Asked(
        model=model, base=base, note=note, varied=varied, chips=tuple(chips), law=law,
        tokens=tokens, served=served_tokens or 0, sizes=sizes, options=options,
    )  # fmt: skip


def _sizes(text: str) -> tuple[float, ...]:
    try:
        found = sorted({float(w) for w in text.split(",")})
    except ValueError:
        found = [0.0]
    if not all(0.1 <= s <= 10 for s in found):
        raise InputError(f"`{text}`: sizes from 0.1 to 10", where="--sizes", hint="0.5,1,2")
    return tuple(sorted({*found, 1.0}))


def usual(base: Shape, knob: str) -> tuple[str, ...]:
    """Values of a knob where none are given: the base's own, and what is common beside it."""
    match knob:
        case "window":
            return ("full", "4096", "1024/6")
        case "heads":
            wide = base.heads * base.head_dim
            own = (base.heads, base.kv_heads)
            fewer = (base.heads, max(1, base.kv_heads // 4))
            broad = (wide // (2 * base.head_dim), max(1, base.kv_heads // 4))
            pairs = dict.fromkeys((own, fewer, broad))
            return tuple(f"{h}:{kv}" for h, kv in pairs if h and h % kv == 0)
        case "experts":
            return ("dense", "8:2", "64:8")
        case _:
            return ("none", "75%:128")


def _varied(text: str, base: Shape) -> dict[str, tuple[str, ...]]:
    """Knob -> values, the base's own first. Raises InputError for all mistakes."""
    get = Collector()
    found: dict[str, tuple[str, ...]] = {}
    for word in (w.strip() for w in text.split(",")):
        knob, equals, values = (p.strip() for p in word.partition("="))
        if knob not in KNOBS:
            get.errors.append(UnknownNameError("knob", knob, KNOBS, where="--vary"))
            continue
        if knob in found:
            get.errors.append(InputError(f"`{knob}` stands twice", where="--vary"))
        told = [v.strip() for v in values.split("+")] if equals else list(usual(base, knob))
        own = [v for v in told if get(lambda k=knob, v=v: is_base(base, k, v))]  # type: ignore[misc]
        found[knob] = tuple(dict.fromkeys([*(own[:1] or [own_value(base, knob)]), *told]))
    get.raise_all()
    return found


def own_value(base: Shape, knob: str) -> str:
    """The base's own value of a knob, as text."""
    match knob:
        case "window":
            every = f"/{base.full_every}" if base.full_every else ""
            return f"{base.window}{every}" if base.window else "full"
        case "heads":
            return f"{base.heads}:{base.kv_heads}"
        case "experts":
            return f"{base.experts}:{base.top_k}" if base.experts else "dense"
        case _:
            return "none"
