"""Linear layers for the few rows of decoding: our kernels where they are faster than torch's.

torch's fp32 products of 4 to 15 rows take as long on a CPU as those of 16 to 32, though decoding is
bound by reading weights. Which is faster is timed once a process, at a few numbers of rows.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import torch

from weftline.attention.kernels.build import library

__all__ = ["make_int8", "quicken"]

_ROWS: Final = (1, 4, 8, 16, 32)
"""Numbers of rows at which the two are timed; others go by the next above."""
_INT8_ROWS: Final = 32
"""Rows up to which bytes are read as they are; beyond, a weight is widened and torch multiplies."""
_GAIN: Final = 0.95
_KINDS: Final = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int8: "int8"}
Tensor = torch.Tensor


def _native(x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
    """fp32 ``x`` [rows, in] times ``weight`` [out, in], by the kernels."""
    out = torch.empty(len(x), len(weight))
    call = getattr(library("linear"), f"weftline_linear_{_KINDS[weight.dtype]}")
    at = (None if t is None else ctypes.c_void_p(t.data_ptr()) for t in (x, weight, scale, out))
    call(*at, len(x), x.shape[1], len(weight))
    return out


@cache
def _wins(dtype: torch.dtype, threads: int) -> frozenset[int]:  # noqa: ARG001  (timed for each)
    """The numbers of rows at which the kernels beat torch here, none without a compiler."""
    if library("linear") is None:
        return frozenset()
    weight = torch.ones(6144, 1024, dtype=dtype)
    found = set()
    for rows in _ROWS:
        x = torch.ones(rows, 1024)
        given = x.to(dtype)
        own = _best_s(lambda x=x: _native(x, weight, None))
        theirs = _best_s(lambda x=given: torch.nn.functional.linear(x, weight))
        if own < _GAIN * theirs:
            found.add(rows)
    return frozenset(found)


def _best_s(work: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def _bucket(rows: int) -> int:
    return next((n for n in _ROWS if rows <= n), 0)


class _Quick(torch.nn.Linear):
    """A linear layer that takes whichever product is faster for its number of rows."""

    def __init__(self, linear: torch.nn.Linear, wins: frozenset[int]) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.wins = wins

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]"""
        if _bucket(x.numel() // x.shape[-1]) not in self.wins:
            return torch.nn.functional.linear(x, self.weight, self.bias)
        rows = x.reshape(-1, x.shape[-1]).float().contiguous()
        out = _native(rows, self.weight, None).to(x.dtype)
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1)


class _Int8(torch.nn.Module):
    """A linear layer whose weight is a byte and whose rows have a scale each."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        self.weight = torch.nn.Parameter(
            torch.round(weight / scale[:, None]).to(torch.int8), requires_grad=False
        )
        self.scale = torch.nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]"""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) <= _INT8_ROWS and library("linear") is not None:
            out = _native(rows.float().contiguous(), self.weight, self.scale).to(x.dtype)
        else:
            out = rows @ (self.weight.to(x.dtype) * self.scale[:, None].to(x.dtype)).T
        out = out if self.bias is None else out + self.bias
        return out.reshape(*x.shape[:-1], -1)


def quicken(model: Any) -> str:
    """Put the kernels where they win into ``model``'s plain linear layers; what came of it."""
    head = model.get_output_embeddings()
    if head is None or head.weight.dtype not in _KINDS:
        return ""
    wins = _wins(head.weight.dtype, torch.get_num_threads())
    if wins:
        _replace(model, lambda linear: _Quick(linear, wins))
        most = ", ".join(str(rows) for rows in sorted(wins))
        return f"products of {most} rows by our kernels: faster than torch's here"
    return ""


def make_int8(model: Any) -> None:
    """Replace every linear layer inside the model's blocks, one at a time; the head stays."""
    head = model.get_output_embeddings()
    _replace(model, lambda linear: linear if linear is head else _Int8(linear))
    gc.collect()


def _replace(model: Any, by: Callable[[torch.nn.Linear], Any]) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, by(child))
