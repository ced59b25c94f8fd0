"""What a design is worth: a named proxy, or the user's own loss law as an arithmetic expression.

A law is read as Python's arithmetic and nothing more: numbers, the names below, + - * / **, and
log, exp, sqrt, min, max. Nothing is ever run as code.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Final

from weftline.errors import InputError, UnknownNameError

__all__ = ["NAMES", "PROXIES", "Law", "law_of"]

PROXIES: Final[Mapping[str, tuple[str, str]]] = {
    "parameters": ("params", "all parameters"),
    "active": ("active", "parameters that a token touches"),
    "effective": ("sqrt(params * active)",
                  "assumed: a sparse model is worth a dense one of sqrt(all x active) parameters"),
}  # fmt: skip
"""Name -> (expression, what it says)."""
NAMES: Final = ("params", "active", "tokens", "layers", "hidden", "heads", "kv_heads", "window",
                "experts", "top_k", "state_layers")  # fmt: skip
"""What a law may speak of; ``window`` is the sequence where attention is full, ``experts`` 1 where
the model is dense."""
_CALLS: Final[Mapping[str, Callable[..., float]]] = {
    "log": math.log, "exp": math.exp, "sqrt": math.sqrt, "min": min, "max": max,
}  # fmt: skip
_PAIRS: Final[Mapping[type, Callable[[float, float], float]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: operator.pow,
}  # fmt: skip
_MOST: Final = 2000
_WHERE: Final = "--quality"


class Law:
    """An expression over the facts of a design."""

    def __init__(self, text: str, said: str) -> None:
        if len(text) > _MOST:
            raise InputError("too long for a law", where=_WHERE)
        self.text, self.said = text, said
        try:
            self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise InputError(
                f"`{text}` is no expression", where=_WHERE,
                hint=f"{', '.join(PROXIES)}, or 1.69 + 406.4/params**0.34 + 410.7/tokens**0.28",
            ) from None  # fmt: skip
        self.value(dict.fromkeys(NAMES, 2.0))

    @property
    def names(self) -> set[str]:
        """What the law speaks of."""
        return {n.id for n in ast.walk(self._tree) if isinstance(n, ast.Name)} & set(NAMES)

    def value(self, facts: Mapping[str, float]) -> float:
        """The law at a design. Raises InputError where it has no value."""
        try:
            found = _value(self._tree, facts)
        except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"`{self.text}` has no value: {error}", where=_WHERE) from None
        if isinstance(found, complex) or not math.isfinite(found):
            raise InputError(f"`{self.text}` has no value", where=_WHERE)
        return found


def _value(node: ast.expr, facts: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name):
            if name not in facts:
                raise UnknownNameError("name", name, NAMES, where=_WHERE)
            return facts[name]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, facts)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _PAIRS:
            return _PAIRS[type(op)](_value(left, facts), _value(right, facts))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS:
            return float(_CALLS[name](*(_value(a, facts) for a in args)))
    said = ast.unparse(node)
    raise InputError(
        f"`{said}` is not arithmetic", where=_WHERE,
        hint=f"numbers, {', '.join(NAMES)}, + - * / **, {', '.join(_CALLS)}",
    )  # fmt: skip


def law_of(text: str) -> Law:
    """A proxy by name, or a law as written. Raises InputError."""
    if text in PROXIES:
        return Law(*PROXIES[text])
    return Law(text, "the user's law")
