"""Facts of a model that are worth computing once: a search asks for them on every cluster."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

M = TypeVar("M")
P = ParamSpec("P")
T = TypeVar("T")
_KEPT = 512


def once_per_model(
    function: Callable[Concatenate[M, P], T], kept_most: int = _KEPT
) -> Callable[Concatenate[M, P], T]:
    """Cache by the identity of the model and the (hashable) other arguments.

    Hashing a model walks thousands of operators; its identity does not, and holding the model in
    the cache keeps that identity from being reused. ``kept_most`` bounds what is kept, the least
    recently used going first.
    """
    kept: OrderedDict[object, tuple[Any, T]] = OrderedDict()

    def wrapper(model: M, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (id(model), args, tuple(sorted(kwargs.items())))
        if key in kept:
            kept.move_to_end(key)
        else:
            kept[key] = (model, function(model, *args, **kwargs))
            if len(kept) > kept_most:
                kept.popitem(last=False)
        return kept[key][1]

    functools.update_wrapper(wrapper, function)
    return wrapper
