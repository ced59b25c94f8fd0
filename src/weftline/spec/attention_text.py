"""Attention rules and policies as people write them, and back.

A rule is ``dense``, ``window=512,sinks=4``, ``chunk=8192``, ``topk=12.5%,block=128,score=mean``,
``compress=4,topk=512,local=128``, or several joined with ``+``. A policy is a rule, with
``kv=free`` (give back what no later query sees), ``phase=decode`` (the other phase stays dense) and
``dense=0-1`` (layers that stay dense) if need be, or a YAML or JSON file of ::

    prefill: window=512,sinks=4
    decode: topk=12.5%
    kv: keep
    layers:
      - layers: 0-1, 5
        rule: dense

where ``rule`` stands for both phases. Such a mapping may also stand in the text itself, in braces.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

from weftline.errors import InputError, UnknownNameError
from weftline.spec.attention import (
    DENSE,
    PHASES,
    SCORES,
    AttentionPolicy,
    Chunk,
    Compress,
    Dense,
    KvAction,
    LayerRules,
    Phase,
    Rule,
    TopK,
    Union,
    Window,
)
from weftline.spec.located import Located, read_located
from weftline.spec.parse import Collector, choice
from weftline.units import format_number, parse_count, parse_fraction

__all__ = [
    "COMMON",
    "POLICY_FIELD",
    "POLICY_VARIABLE",
    "parse_policy",
    "parse_rule",
    "policy_from",
    "policy_table",
    "policy_text",
    "rule_text",
]

EXAMPLE: Final = "window=512,sinks=4; chunk=8192; topk=12.5%,block=128; dense; or a policy.yaml"
COMMON: Final = (
    "window=512,sinks=4", "window=512", "window=512,sinks=4,phase=decode",
    "window=512,sinks=4,dense=0-1", "topk=25%,block=32,floor=8",
    "topk=12.5%,block=32,floor=8", "topk=25%,block=32,floor=8,phase=decode",
    "topk=25%,block=32,floor=8,score=mean,share=layer",
)  # fmt: skip
"""What is measured where nobody says."""
POLICY_FIELD: Final = "attention_policy"
"""Of vLLM's ``--additional-config``, where the plugin reads a policy."""
POLICY_VARIABLE: Final = "WEFTLINE_ATTENTION_POLICY"
"""Environment variable with a policy, or the name of its file."""
_OWN: Final = ("kv", "phase", "dense")
"""Parts of a short policy that belong to no rule."""


def _number(text: str, where: str, name: str) -> int:
    if re.fullmatch(r"0+", text):
        return 0
    return parse_count(text, where=where, what=f"`{name}`")


def _word(allowed: tuple[str, ...]) -> Callable[[str, str, str], str]:
    return lambda text, where, name: choice(text, allowed, name, where=where)


_SHARES: Final = {"kv-head": "kv_head", "layer": "layer"}
_FIELDS: Final[Mapping[type[Rule], Mapping[str, Callable[[str, str, str], Any]]]] = {
    Window: {"sinks": _number},
    Chunk: {},
    Compress: {"topk": _number, "local": _number},
    TopK: {
        "block": _number, "floor": _number, "first": _number, "recent": _number,
        "queries": _number, "heads": _number, "dim": _number, "score": _word(SCORES),
        "share": _word(tuple(_SHARES)),
    },
}  # fmt: skip
"""What may stand beside a rule's first part, and how it is read."""
_HEADS: Final[Mapping[str, type[Rule]]] = {
    "window": Window, "chunk": Chunk, "compress": Compress, "topk": TopK, "dense": Dense,
}  # fmt: skip


def parse_rule(text: str, *, where: str = "--policy") -> Rule:
    """The rule that ``text`` says. Raises InputError, or InputErrors with all mistakes."""
    get = Collector(where)
    found = get.each(text.split("+"), lambda part: _one(_pairs(part, where), part, where))
    get.raise_all()
    return found[0] if len(found) == 1 else Union(rules=found)


def _pairs(text: str, where: str) -> dict[str, str]:
    """``window=512,sinks=4`` -> by name, as written; a name alone has an empty value."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = (piece.strip().lower() for piece in part.partition("="))
        if not name:
            raise InputError(f"`{text.strip()}` is not a rule", where=where, hint=EXAMPLE)
        if name in found:
            raise InputError(f"`{name}` stands twice", where=where)
        found[name] = value
    return found


def _one(pairs: dict[str, str], text: str, where: str) -> Rule:
    head = next((name for name in _HEADS if name in pairs), None)
    if head is None:
        first = next(iter(pairs))
        raise UnknownNameError("attention rule", first, _HEADS, where=where, hint=EXAMPLE)
    kind, get = _HEADS[head], Collector(where)
    if kind is Dense:
        for name in pairs.keys() - {"dense"}:
            get(partial(_refuse, f"`{name}` does not go with `dense`", where))
        get.raise_all()
        return DENSE
    values: dict[str, Any] = {}
    for name, value in pairs.items():
        if name == head:
            got = get(partial(_head, kind, value, where, name))
            values |= got or {}
        elif name not in _FIELDS[kind]:
            get(partial(_unknown, name, (head, *_FIELDS[kind]), where))
        else:
            read = get(partial(_FIELDS[kind][name], value, where, name))
            values[name] = _SHARES.get(read, read) if isinstance(read, str) else read
    if not get.errors:
        rule = get(lambda: kind(**values))
        if rule is not None:
            return rule
    get.raise_all()
    raise InputError(f"`{text.strip()}` is not a rule", where=where, hint=EXAMPLE)


def _head(kind: type[Rule], value: str, where: str, name: str) -> dict[str, Any]:
    if kind is not TopK:
        return {"tokens": _number(value, where, name)}
    if "%" in value or "." in value:
        return {"fraction": parse_fraction(value, where=where)}
    return {"count": _number(value, where, name)}


def _refuse(what: str, where: str) -> None:
    raise InputError(what, where=where)


def _unknown(name: str, allowed: tuple[str, ...], where: str) -> None:
    raise UnknownNameError("part of a rule", name, allowed, where=where,
                           hint=f"one of {', '.join(allowed)}")  # fmt: skip


def rule_text(rule: Rule) -> str:
    """The shortest text that :func:`parse_rule` reads as ``rule``."""
    match rule:
        case Union():
            return "+".join(map(rule_text, rule.rules))
        case Window():
            return f"window={rule.tokens}" + (f",sinks={rule.sinks}" if rule.sinks else "")
        case Chunk():
            return f"chunk={rule.tokens}"
        case Compress():
            topk = "" if rule.topk is None else f",topk={rule.topk}"
            return f"compress={rule.tokens}{topk}" + (f",local={rule.local}" if rule.local else "")
        case TopK():
            return ",".join(_topk_parts(rule))
        case _:
            return "dense"


def _topk_parts(rule: TopK) -> Iterator[str]:
    if rule.count is not None:
        yield f"topk={rule.count}"
    else:
        percent = format_number(100.0 * (rule.fraction or 0.0), 6)
        exact = f"{percent}%"
        same = math.isclose(parse_fraction(exact), rule.fraction or 0.0, rel_tol=1e-15)
        yield f"topk={exact}" if same else f"topk={rule.fraction!r}"
    plain = TopK(count=1)
    for name in ("block", "floor", "first", "recent", "score", "share", "queries", "heads", "dim"):
        value = getattr(rule, name)
        if name == "block" or value != getattr(plain, name):
            yield f"{name}={str(value).replace('_', '-')}"


def parse_policy(text: str, *, where: str = "--policy") -> AttentionPolicy:
    """A policy from its short form, or from the file of that name."""
    if text.strip().startswith("{"):
        return policy_from(read_located(text, where), where)
    if re.search(r"\.(ya?ml|json)$", text.strip(), re.IGNORECASE):
        return _from_file(text.strip(), where)
    pairs = [part for part in re.split(r",", text) if part.strip()]
    own: dict[str, str] = {}
    for part in list(pairs):
        name, equals, value = (piece.strip().lower() for piece in part.partition("="))
        if name in _OWN and equals:
            own[name] = value
            pairs.remove(part)
    get = Collector(where)
    rule = get(lambda: parse_rule(",".join(pairs), where=where))
    kv = get(lambda: choice(own.get("kv", "keep"), get_args(KvAction), "kv", where=where))
    phase: Phase | None = None
    if "phase" in own:
        phase = get(lambda: choice(own["phase"], PHASES, "phase", where=where))
    dense = get(lambda: _layers(own["dense"], where)) if "dense" in own else ()
    found = None
    if not get.errors and rule is not None:
        found = get(lambda: AttentionPolicy(
            prefill=rule if phase != "decode" else DENSE,
            decode=rule if phase != "prefill" else DENSE,
            layers=(LayerRules(layers=dense, prefill=DENSE, decode=DENSE),) if dense else (),
            kv=kv or "keep",
        ))  # fmt: skip
    get.raise_all()
    assert found is not None  # noqa: S101  (raised otherwise)
    return found


def _layers(text: str, where: str) -> tuple[int, ...]:
    """``0-1, 5`` or ``0-1.5``: layers, ranges with both ends; in a short policy joined by dots."""
    found: list[int] = []
    for part in re.split(r"[,.\s]+", text.strip()):
        ends = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part)
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise InputError(f"`{part}` is not a layer or a range of them", where=where,
                             hint="0-1 or 5, counted from 0")  # fmt: skip
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return tuple(dict.fromkeys(found))


def _layers_text(layers: tuple[int, ...], joint: str) -> str:
    """The shortest ranges of ``layers``."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return joint.join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _from_file(path: str, where: str) -> AttentionPolicy:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"`{path}`: {getattr(error, 'strerror', None) or 'not a text file'}", where=where,
            hint=EXAMPLE,
        ) from None  # fmt: skip
    return policy_from(read_located(text, path), path)


def policy_from(root: Located, name: str) -> AttentionPolicy:
    """A policy from the mapping of a file; ``name`` is said before the line of a mistake."""
    get = Collector(f"{name}:{root.line}")
    get(lambda: _known(root, ("rule", *PHASES, "kv", "layers"), name))
    rules = _phases(root, name, get)
    own: list[LayerRules] = []
    for each in root.items("layers"):
        get(partial(_known, each, ("layers", "rule", *PHASES), name))
        place = f"{name}:{each.line}"
        layers = get(partial(_layers, str(each.get("layers") or ""), place))
        pair = _phases(each, name, get)
        if layers:
            own.append(LayerRules(layers=layers, prefill=pair[0], decode=pair[1]))
    kv = get(lambda: choice(
        str(root.get("kv") or "keep"), get_args(KvAction), "kv", where=f"{name}:{root.line}"
    ))  # fmt: skip
    found = None
    if not get.errors:
        found = get(lambda: AttentionPolicy(
            prefill=rules[0], decode=rules[1], layers=tuple(own), kv=kv or "keep"
        ))  # fmt: skip
    get.raise_all()
    assert found is not None  # noqa: S101  (raised otherwise)
    return found


def _known(at: Located, allowed: tuple[str, ...], name: str) -> None:
    if not isinstance(at.value, dict):
        raise InputError("a mapping is needed", where=f"{name}:{at.line}", hint=f"rule: {EXAMPLE}")
    get = Collector()
    for key, held in at.value.items():
        if key not in allowed:
            get(partial(_unknown, key, allowed, f"{name}:{held.line}"))
    get.raise_all()


def _phases(at: Located, name: str, get: Collector) -> tuple[Rule, Rule]:
    """(prefill, decode) of one mapping: ``rule`` for both, or each of its own."""
    found: dict[str, Rule] = dict.fromkeys(PHASES, DENSE)
    table = at.value if isinstance(at.value, dict) else {}
    for key in ("rule", *PHASES):
        if key not in table:
            continue
        place = f"{name}:{table[key].line}"
        rule = get(partial(parse_rule, str(table[key].plain()), where=place))
        for phase in PHASES if key == "rule" else (key,):
            found[phase] = rule or DENSE
    return found["prefill"], found["decode"]


def policy_table(policy: AttentionPolicy) -> dict[str, Any]:
    """The policy as the mapping that its file holds."""
    out: dict[str, Any] = dict(_phase_table(policy.prefill, policy.decode))
    if policy.kv != "keep":
        out["kv"] = policy.kv
    if policy.layers:
        out["layers"] = [
            {"layers": _layers_text(own.layers, ", "), **_phase_table(own.prefill, own.decode)}
            for own in policy.layers
        ]
    return out


def _phase_table(prefill: Rule, decode: Rule) -> dict[str, str]:
    if prefill == decode:
        return {"rule": rule_text(prefill)}
    return {"prefill": rule_text(prefill), "decode": rule_text(decode)}


def policy_text(policy: AttentionPolicy) -> str:
    """The shortest text that :func:`parse_policy` reads as ``policy``."""
    pair = (policy.prefill, policy.decode)
    rules = [r for r in dict.fromkeys(pair) if r != DENSE] or [DENSE]
    dense = policy.layers
    if len(rules) > 1 or len(dense) > 1 or any(
        (own.prefill, own.decode) != (DENSE, DENSE) for own in dense
    ):  # fmt: skip
        return json.dumps(policy_table(policy))
    text = rule_text(rules[0])
    if pair != (rules[0], rules[0]):
        text += f",phase={'prefill' if policy.prefill == rules[0] else 'decode'}"
    text += f",dense={_layers_text(dense[0].layers, '.')}" if dense else ""
    return text + (",kv=free" if policy.kv == "free" else "")
