"""Plain Python values as bytes and back, without pickle: step counters, options, RNG state, names.

MessagePack with tags for what it lacks: tuples, sets, whole numbers beyond 64 bits, dictionaries
with keys that are no text, ordered, counting and default dictionaries, complex numbers, and
``Ref``, which stands for a tensor stored apart.
A value that is none of these is refused with its place, so that nothing is lost without a word.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from weftline.burst.stage.state import check_name
from weftline.errors import InputError

_TAG: Final = "\x00t"
"""Key that marks a tagged value; a user's dictionary that has it is stored as pairs."""
_INT64: Final = range(-(2**63), 2**64)
MAX_DEPTH: Final = 64
_FACTORIES: Final[dict[str, Any]] = {
    "none": None, "list": list, "dict": dict, "set": set, "int": int, "float": float, "str": str,
}  # fmt: skip
"""What a defaultdict may make: anything else would be code."""
_DICTIONARIES: Final[dict[str, Any]] = {
    "dict": dict, "OrderedDict": OrderedDict, "Counter": lambda pairs: Counter(dict(pairs)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands in a tree of plain values for the tensor stored under ``name``."""

    name: str


def encode(value: Any, where: str = "value", special: Callable[[Any], Any] | None = None) -> bytes:
    """``value`` as bytes.

    ``special`` may turn a value this module does not know into ``(tag, plain value)``, or answer
    None. Raises InputError that names the place of a value that cannot be stored.
    """
    return msgspec.msgpack.encode(_tree(value, where, special, 0))


def decode(data: bytes, special: Callable[[str, Any], Any] | None = None) -> Any:
    """The value that :func:`encode` made; ``special`` turns ``(tag, plain value)`` back.

    Raises InputError for bytes that are no such value.
    """
    try:
        return _value(msgspec.msgpack.decode(data), special)
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"a stored value cannot be read: {error}", hint="verify the checkpoint"
        ) from None


def _tree(value: Any, where: str, special: Callable[[Any], Any] | None, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise InputError(f"`{where}` is nested deeper than {MAX_DEPTH} levels, or holds itself")
    kind = type(value)
    if kind is str and not _is_text(value):
        return {_TAG: "text", "v": value.encode("utf-8", "surrogatepass")}
    if value is None or kind in (bool, str, bytes, float):
        return value
    if kind is int:
        return value if value in _INT64 else {_TAG: "int", "v": str(value)}
    if kind is list:
        return [_tree(v, f"{where}[{i}]", special, depth + 1) for i, v in enumerate(value)]
    if kind is Ref:
        if not _is_text(value.name):
            check_name(value.name)
        return {_TAG: "ref", "v": value.name}
    if kind in (tuple, set, frozenset):
        items = sorted(value, key=repr) if kind is not tuple else value
        inner = [_tree(v, f"{where}[{i}]", special, depth + 1) for i, v in enumerate(items)]
        return {_TAG: kind.__name__, "v": inner}
    if kind is complex:
        return {_TAG: "complex", "v": [value.real, value.imag]}
    if kind is bytearray:
        return {_TAG: "bytearray", "v": bytes(value)}
    if kind is dict:
        return _dictionary(value, where, special, depth)
    if kind in (OrderedDict, Counter):
        tagged = {_TAG: kind.__name__, "v": _pairs(value, where, special, depth)}
        about = getattr(value, "_metadata", None)  # a module's state dict carries versions so
        if about is not None:
            tagged["m"] = _tree(about, f"{where}._metadata", special, depth + 1)
        return tagged
    if kind is defaultdict and value.default_factory in _FACTORIES.values():
        name = next(n for n, f in _FACTORIES.items() if f is value.default_factory)
        return {_TAG: "defaultdict", "v": [name, _pairs(value, where, special, depth)]}
    found = None if special is None else special(value)
    if found is None:
        raise InputError(
            f"`{where}` is a {kind.__module__}.{kind.__qualname__}, which cannot be stored",
            hint="store numbers, text, bytes, lists, tuples, sets, dictionaries and tensors; turn "
            "others into these first (burst never pickles)",
        )
    tag, inner_value = found
    return {_TAG: f"x:{tag}", "v": _tree(inner_value, where, special, depth + 1)}


def _is_text(value: str) -> bool:
    """False for what Python makes of file names that are no UTF-8: half a pair stands in it."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _dictionary(
    value: dict[Any, Any], where: str, special: Callable[[Any], Any] | None, depth: int
) -> Any:
    if all(type(k) is str and _is_text(k) for k in value) and _TAG not in value:
        return {k: _tree(v, f"{where}.{k}", special, depth + 1) for k, v in value.items()}
    return {_TAG: "dict", "v": _pairs(value, where, special, depth)}


def _pairs(
    value: dict[Any, Any], where: str, special: Callable[[Any], Any] | None, depth: int
) -> list[list[Any]]:
    return [
        [_tree(k, f"key {k!r} of {where}", special, depth + 1),
         _tree(v, f"{where}[{k!r}]", special, depth + 1)]
        for k, v in value.items()
    ]  # fmt: skip


def _value(tree: Any, special: Callable[[str, Any], Any] | None) -> Any:
    if isinstance(tree, list):
        return [_value(v, special) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if _TAG not in tree:
        return {k: _value(v, special) for k, v in tree.items()}
    tag: str = tree[_TAG]
    inner: Any = tree["v"]
    if tag in _DICTIONARIES:
        made_of = _DICTIONARIES[tag]((_value(k, special), _value(v, special)) for k, v in inner)
        if "m" in tree:
            made_of._metadata = _value(tree["m"], special)
        return made_of
    if tag == "defaultdict":
        name, pairs = inner
        return defaultdict(_FACTORIES[name], ((_value(k, special), _value(v, special))
                                              for k, v in pairs))  # fmt: skip
    if tag in ("tuple", "set", "frozenset"):
        made = {"tuple": tuple, "set": set, "frozenset": frozenset}[tag]
        return made(_value(v, special) for v in inner)
    simple: dict[str, Callable[[Any], Any]] = {
        "int": int, "ref": Ref, "complex": lambda v: complex(*v), "bytearray": bytearray,
        "text": lambda v: v.decode("utf-8", "surrogatepass"),
    }  # fmt: skip
    if tag in simple:
        return simple[tag](inner)
    if tag.startswith("x:") and special is not None:
        return special(tag[2:], _value(inner, special))
    raise InputError(
        f"a stored value of kind `{tag}` is not known here",
        hint="read the checkpoint with the adapter that wrote it, or a newer weftline",
    )
