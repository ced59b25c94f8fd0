"""What pictures of a plan need beside its estimates, kept in the answer: none recomputes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Exchange", "LinkLoad", "LoadPoint", "Pipeline", "SpeedPoint", "StageMemory", "Swing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What one kind of communication takes in a step, hidden behind compute or not."""

    part: str
    """Its part of the step, as ``step_parts`` calls what shows of it."""
    axis: str
    """tp, cp, ep, pp or dp: whose groups exchange."""
    shown_s: float
    hidden_s: float
    """What runs beside compute and adds nothing to the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Bytes on a chip of one pipeline stage at its highest moment, by part; they add up."""

    stage: int
    moment: str
    """When that is: in a layer's backward, or at the loss."""
    parts: Mapping[str, float]

    @property
    def total_bytes(self) -> float:
        """All of it."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One pipeline of a step: what each stage computes of each micro-batch, and when it may.

    The order is 1F1B, interleaved where a stage holds several chunks (arXiv:2104.04473, section
    2.2), with backward split in two for a zero-bubble schedule (arXiv:2401.10241).
    """

    micro_batches: int
    chunks: int
    """Of one stage: virtual pipeline stages."""
    zero_bubble: bool
    forward_s: tuple[float, ...]
    """One chunk's forward pass of one micro-batch, a stage each."""
    backward_s: tuple[float, ...]
    """The same backward, what is computed again included."""
    send_s: float
    """From a chunk to the next one on another stage."""
    rest_s: Mapping[str, float]
    """What comes after the last micro-batch: part of the step -> seconds."""

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return len(self.forward_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLoad:
    """What the groups of one axis put on one level of the network in a step."""

    level: str
    """Of the cluster, or one axis of its torus."""
    axis: str
    collective: str
    ranks: int
    """In a group."""
    sent_bytes: float
    """A chip sends in one direction over its links of that level, a step."""
    busy_s: float
    """That over what the links carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """A fleet simulated at one rate."""

    rate_per_s: float
    """Requests that come to the whole fleet."""
    reached: Mapping[str, float]
    """Target (``p95 ttft``) -> seconds."""
    goodput_share: float
    """Share of the requests that keep every target."""
    meets: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPoint:
    """One configuration at one number of requests in flight, in closed form."""

    per_user: float
    """Tokens a second that one user sees after the first."""
    per_chip: float
    """Output tokens a second of all users, a chip."""
    said: str
    """Layout, number format, engine and requests in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swing:
    """What one driver does to the total between its low and its high end."""

    driver: str
    at: str
    low_usd: float
    high_usd: float
    basis: str
