"""Facts of a model that are worth computing once: a search asks for them on every cluster."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from weftline.model import Model

P = ParamSpec("P")
T = TypeVar("T")
_KEPT = 512


def once_per_model(
    function: Callable[Concatenate[Model, P], T],
) -> Callable[Concatenate[Model, P], T]:
    """Cache by the identity of the model and the (hashable) other arguments.

    Hashing a model walks thousands of operators; its identity does not, and holding the model in
    the cache keeps that identity from being reused.
    """
    kept: OrderedDict[object, tuple[Model, T]] = OrderedDict()

    def wrapper(model: Model, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (id(model), args, tuple(sorted(kwargs.items())))
        if key not in kept:
            kept[key] = (model, function(model, *args, **kwargs))
            if len(kept) > _KEPT:
                kept.popitem(last=False)
        return kept[key][1]

    functools.update_wrapper(wrapper, function)
    return wrapper
