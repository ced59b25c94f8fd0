"""What torch and NumPy add to plain values: names of dtypes, sizes, devices, small arrays."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from typing import Any

import numpy as np
import torch

from weftline.errors import InputError

_TENSOR_BYTES_MAX = 1 << 20
"""A tensor up to this size may stand where a plain value does: a generator's state, a learning rate
in a tuple. It comes back in host memory."""
_NOTHING = torch.empty(0, dtype=torch.uint8)


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.bfloat16`` -> ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str, where: str) -> torch.dtype:
    """The torch dtype of that name; raises InputError where this torch has none."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise InputError(
            f"`{where}` has dtype `{name}`, which torch {torch.__version__} does not know",
            hint="load it with a newer torch, or export it without torch",
        )
    return found


def _tensor_bytes(tensor: torch.Tensor) -> list[Any]:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return [dtype_name(plain.dtype), list(plain.shape), raw]


DICTIONARIES = (dict, OrderedDict, Counter, defaultdict)
"""What comes back as it was."""


def like(value: Any, items: list[tuple[Any, Any]]) -> Any:
    """A dictionary of the kind of ``value`` with these items, and the versions it carries."""
    if isinstance(value, defaultdict):
        return defaultdict(value.default_factory, items)
    made: Any = Counter(dict(items)) if isinstance(value, Counter) else type(value)(items)
    if hasattr(value, "_metadata"):
        made._metadata = value._metadata
    return made


def special(value: Any) -> tuple[str, Any] | None:
    """Values of torch and numpy that may stand in a state dict, as (tag, plain value)."""
    if isinstance(value, torch.Size):
        return "size", list(value)
    if isinstance(value, torch.dtype):
        return "dtype", dtype_name(value)
    if isinstance(value, torch.device):
        return "device", str(value)
    if type(value) in (torch.Tensor, torch.nn.Parameter) and value.nbytes <= _TENSOR_BYTES_MAX:
        return "tensor", _tensor_bytes(value)
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return "number", [value.dtype.str, value.tobytes()]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return "array", [value.dtype.str, list(value.shape), np.ascontiguousarray(value).tobytes()]
    return None


def restore_special(tag: str, value: Any) -> Any:
    """The value that :func:`special` took apart; raises InputError for an unknown tag."""
    if tag == "size":
        return torch.Size(value)
    if tag == "dtype":
        return dtype_of(value, "a stored value")
    if tag == "device":
        return torch.device(value)
    if tag == "tensor":
        raw = torch.frombuffer(bytearray(value[2]), dtype=torch.uint8) if value[2] else _NOTHING
        return raw.view(dtype_of(value[0], "a stored value")).view(value[1])
    if tag == "number":
        return np.frombuffer(value[1], dtype=np.dtype(value[0]))[0]
    if tag == "array":
        return np.frombuffer(value[2], dtype=np.dtype(value[0])).reshape(value[1]).copy()
    raise InputError(f"a stored value of kind `{tag}` is not known here")
