"""How much memory a model needs, and which chips hold it: the answer without time or price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weftline.spec.plan import Part, Rejection

NeedKind = Literal["train", "lora", "qlora", "serve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """The fewest chips of one accelerator, of those looked at, that hold a job."""

    accelerator: str
    chips: int
    layout: str
    least_bytes: float
    """On the fullest chip, at the least: activations computed again, one sequence at a time."""
    chip_bytes: float
    """Memory of one chip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one way to use a model takes."""

    kind: NeedKind
    how: str
    """In words: precision, optimizer, sequence, what is kept."""
    parts: tuple[Part, ...]
    """Of the whole job, as if one chip held it all; bytes."""
    kept_bytes: float
    """Activations where none are computed again, instead of the part that ``parts`` has."""
    host_bytes: float
    """In host memory beside it, where states are offloaded."""
    holdings: tuple[Holding, ...]
    """Fewest chips first."""
    without: tuple[Rejection, ...]

    @property
    def total_bytes(self) -> float:
        """All parts together, bytes."""
        return sum(p.value for p in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAnswer:
    """The needs of one model."""

    model: str
    parameters: int
    active_parameters: int
    seq_len: int
    sequences: int
    """Sequences of a micro-batch in training, at once in serving."""
    needs: tuple[Need, ...]
    kv_formats: tuple[Part, ...] = ()
    """Bytes of the KV cache of ``sequences`` sequences, by number format."""
    model_notes: tuple[str, ...] = ()
    """What has to be said of the model: parts of the file that are not counted, what it is taken
    as."""
