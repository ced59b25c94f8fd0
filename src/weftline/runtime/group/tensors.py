"""torch's tensors as the group takes them: dense, on the CPU, of numbers that it adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
import torch.distributed as dist

from weftline.runtime.group.sums import KINDS

__all__ = [
    "NAME",
    "Dense",
    "Denses",
    "adds",
    "as_numbers",
    "fold_of",
    "listed",
    "on_cpu",
    "refused",
    "same_size",
    "split",
]  # fmt: skip

NAME: Final = "weftline"
_FOLDS: Final[dict[Any, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    dist.ReduceOp.MAX: torch.maximum,
    dist.ReduceOp.MIN: torch.minimum,
    dist.ReduceOp.PRODUCT: torch.mul,
    dist.ReduceOp.BAND: torch.bitwise_and,
    dist.ReduceOp.BOR: torch.bitwise_or,
    dist.ReduceOp.BXOR: torch.bitwise_xor,
}


def adds(kind: str) -> bool:
    return kind in ("all-reduce", "reduce-scatter")


class Dense:
    """A tensor to write to: itself, or a dense copy that is copied back."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.dense = tensor if tensor.is_contiguous() else tensor.contiguous()

    def __enter__(self) -> torch.Tensor:
        return self.dense

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None and self.dense is not self.tensor:
            self.tensor.copy_(self.dense)


class Denses:
    """Several."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self.all = [Dense(t) for t in tensors]

    def __enter__(self) -> list[torch.Tensor]:
        return [d.dense for d in self.all]

    def __exit__(self, kind: Any, *_: Any) -> None:
        for dense in self.all:
            dense.__exit__(kind)


def listed(tensors: Any) -> list[torch.Tensor]:
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]


def split(tensor: torch.Tensor, sizes: Any, many: int) -> list[torch.Tensor]:
    """Rows for or from each rank."""
    rows = list(sizes) or [tensor.shape[0] // many] * many
    if sum(rows) != tensor.shape[0]:
        raise ValueError(f"an all-to-all of {tensor.shape[0]} rows in parts of {rows}")
    return list(tensor.split(rows))


def same_size(whole: torch.Tensor, part: torch.Tensor, many: int, what: str) -> None:
    if whole.numel() != many * part.numel() or whole.dtype != part.dtype:
        raise ValueError(
            f"{what} over {many} ranks: {whole.numel()} elements of {whole.dtype} beside parts of "
            f"{part.numel()} of {part.dtype}"
        )


def on_cpu(tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu":
        raise refused(f"a tensor on {tensor.device}", "NCCL is for GPUs: `--backend nccl`")


def fold_of(op: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
    """How torch folds what is not a sum; None for sums. Raises NotImplementedError."""
    # torch's enumeration says False to its own wrapper, so the wrapper is asked.
    if op == dist.ReduceOp.SUM or op == dist.ReduceOp.AVG:  # noqa: PLR1714
        return None
    for known, fold in _FOLDS.items():
        if op == known:
            return fold
    raise refused(f"reduction {op}", "sum, avg, product, min, max, band, bor, bxor")


def as_numbers(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A view of a dense tensor as numbers that the kernel adds. Raises NotImplementedError."""
    on_cpu(tensor)
    found = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if found.dtype == torch.bool:
        found = found.view(torch.uint8)
    kind = KINDS.get(str(found.dtype).removeprefix("torch."))
    if kind is None:
        raise refused(f"a sum of {tensor.dtype}", f"these are added: {', '.join(KINDS)}")
    return found, kind


def refused(what: str, instead: str) -> NotImplementedError:
    return NotImplementedError(f"process group `{NAME}` does not serve {what}; {instead}")
