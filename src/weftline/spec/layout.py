"""How a job is cut over chips: degrees, batch, memory savings. Names as in Megatron-LM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, Literal, get_args

from weftline.errors import InputError, InputErrors

Recompute = Literal["none", "selective", "full"]
Axis = Literal["tp", "cp", "dp", "pp"]
Schedule = Literal["1f1b", "interleaved", "zero-bubble"]

RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")
DEFAULT_ORDER: tuple[Axis, ...] = ("tp", "cp", "dp", "pp")
PIPELINE_INSIDE: tuple[Axis, ...] = ("tp", "cp", "pp", "dp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way to run a job on ``tp * cp * dp * pp`` chips.

    ``ep`` splits the experts over ranks taken from ``tp * cp * dp`` (parallel folding: experts are
    not tensor-parallel), so it does not multiply the chip count. ``order`` lists the axes from the
    innermost (neighbouring ranks) to the outermost.
    """

    tp: int = 1
    cp: int = 1
    dp: int = 1
    pp: int = 1
    ep: int = 1
    vp: int = 1
    """Virtual pipeline stages a rank holds (interleaved 1F1B); 1 is plain 1F1B."""
    micro_batch: int = 1
    """Sequences of one micro-batch on one data-parallel rank."""
    num_micro_batches: int = 1
    """Micro-batches one data-parallel rank runs in a step."""
    zero: int = 1
    """ZeRO stage: 0 splits nothing, 1 optimizer states, 2 also gradients, 3 also weights (FSDP)."""
    recompute: Recompute = "none"
    recompute_layers: int = 0
    """Layers of a stage computed again where ``recompute`` is full (Megatron's block method)."""
    etp: int = 1
    """Tensor parallelism inside an expert: 1, or tp."""
    shard: int = 0
    """Ranks over which ZeRO splits: 0 for all of cp * dp, fewer under HSDP."""
    schedule: Schedule = "1f1b"
    context: Literal["ring", "ulysses"] = "ring"
    """Context parallelism: keys and values go round, or heads are exchanged."""
    order: tuple[Axis, ...] = DEFAULT_ORDER

    @property
    def chips(self) -> int:
        """Chips the layout uses."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def global_batch(self) -> int:
        """Sequences a step."""
        return self.dp * self.micro_batch * self.num_micro_batches

    def stride(self, axis: Axis) -> int:
        """Distance in ranks between neighbours along ``axis``."""
        inner = self.order[: self.order.index(axis)]
        return math.prod(getattr(self, a) for a in inner)

    def coordinates(self, rank: int) -> dict[str, int]:
        """Index of ``rank`` along tp, cp, dp, pp and ep. Raises IndexError outside the layout."""
        if not 0 <= rank < self.chips:
            raise IndexError(f"rank {rank} is outside 0..{self.chips - 1}")
        found: dict[str, int] = {a: rank // self.stride(a) % getattr(self, a) for a in self.order}
        within_stage = found["tp"] + self.tp * (found["cp"] + self.cp * found["dp"])
        return {**found, "ep": within_stage // self.etp % self.ep}

    def short(self) -> str:
        """``TP8 PP16 DP128``: only degrees above one, ``single chip`` if there are none."""
        parts = [
            f"{name.upper()}{getattr(self, name)}"
            for name in ("tp", "cp", "pp", "vp", "ep", "dp")
            if getattr(self, name) > 1
        ]
        return " ".join(parts) or "single chip"

    def check(self, *, chips: int, global_batch: int, layers: int) -> None:
        """Raise InputErrors with every reason why this layout cannot run the job."""
        wrong: list[InputError] = []
        degrees = " * ".join(f"{a}={getattr(self, a)}" for a in ("tp", "cp", "dp", "pp"))
        for name in ("tp", "cp", "dp", "pp", "ep", "etp", "vp", "micro_batch", "num_micro_batches"):
            if getattr(self, name) < 1:
                wrong.append(InputError(f"{name} is {getattr(self, name)}: at least 1 is needed"))
        if wrong:
            raise InputErrors(wrong)
        if self.chips != chips:
            hint = f"{chips} chips have the divisors {_divisors_text(chips)}"
            wrong.append(InputError(f"{degrees} = {self.chips}, not {chips} chips", hint=hint))
        if self.global_batch != global_batch:
            wrong.append(
                InputError(
                    f"dp={self.dp} * micro-batch {self.micro_batch} * {self.num_micro_batches} "
                    f"micro-batches = {self.global_batch}, not the global batch {global_batch}",
                    hint="dp * micro-batch must divide the global batch",
                )
            )
        # Embedding and loss may each count as a layer, so the ends can hold one less.
        if self.pp * self.vp > layers + 2:
            wrong.append(
                InputError(f"pp={self.pp} * vp={self.vp} stages for {layers} layers",
                           hint="a stage holds at least one layer")
            )  # fmt: skip
        if self.vp > 1 and self.pp < 2:
            wrong.append(InputError(f"vp={self.vp} without pipeline stages", hint="set pp above 1"))
        if self.etp not in (1, self.tp):
            wrong.append(InputError(f"etp={self.etp} is neither 1 nor tp={self.tp}"))
        if self.shard and (self.cp * self.dp) % self.shard:
            wrong.append(
                InputError(f"shard={self.shard} does not divide cp * dp = {self.cp * self.dp}")
            )
        if (self.schedule == "interleaved") != (self.vp > 1):
            wrong.append(InputError(f"schedule {self.schedule} with vp={self.vp}"))
        if (self.tp * self.cp * self.dp) % (self.ep * self.etp):
            wrong.append(
                InputError(f"ep * etp = {self.ep * self.etp} does not divide tp * cp * dp = "
                           f"{self.tp * self.cp * self.dp}")
            )  # fmt: skip
        if self.zero not in (0, 1, 2, 3):
            wrong.append(InputError(f"zero={self.zero}: ZeRO has stages 0, 1, 2 and 3"))
        if sorted(self.order) != sorted(DEFAULT_ORDER):
            wrong.append(InputError(f"order {self.order} must name tp, cp, dp and pp once each"))
        if wrong:
            raise wrong[0] if len(wrong) == 1 else InputErrors(wrong)


PARTS: Final[Mapping[str, Sequence[str] | None]] = {
    f.name: {"recompute": RECOMPUTES, "schedule": get_args(Schedule),
             "context": ("ring", "ulysses")}.get(f.name)
    for f in fields(Layout) if f.name != "order"
}  # fmt: skip
"""Parts of a layout that a user can hold or turn: the words of one that is a word, else None."""
MAY_BE_ZERO: Final = frozenset({"zero", "shard", "recompute_layers"})
"""Of those that are numbers, the ones that need not be 1 or more."""


def _divisors_text(n: int) -> str:
    small = [d for d in range(1, min(n, 1024) + 1) if n % d == 0]
    return ", ".join(map(str, small[:12])) + (", ..." if len(small) > 12 or n > 1024 else "")
