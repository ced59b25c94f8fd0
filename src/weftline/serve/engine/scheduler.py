"""How an engine forms its iterations: what the simulation has to know of its scheduler.

Facts of the engines' own code and documentation, read or known on 2026-11-21:

- vLLM (v1): one batch a step; every running sequence gets its token first, then prompts in chunks
  up to the token budget; a prompt starts only if all of it finds room (``scheduler_reserve_full_
  isl``); when blocks run out the newest sequence is thrown out and computed again; since 0.14 the
  next step is scheduled while one runs (``async_scheduling``).
- SGLang: a batch is either prefill or decode, prefill goes first; the scheduler runs a step ahead
  (overlap); KV is counted in tokens.
- TensorRT-LLM: in-flight batching with chunked context; ``GUARANTEED_NO_EVICT`` takes the room of
  prompt and whole answer before a request starts; overlap scheduler.
- JetStream and Neuron (NxD Inference): a slot a sequence, a prompt at a time before the next
  decode step, room for the longest sequence from the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from weftline.errors import UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """What decides who is in the next iteration."""

    mixed: bool
    """Prompt chunks join the decode batch; False: an iteration is prefill or decode."""
    lag: Literal[1, 2]
    """1: a step is planned when the one before has ended; 2: when the one before that has."""
    block_tokens: int
    """Tokens of one KV block."""
    reserve: Literal["prompt", "whole"]
    """KV taken before a request starts: its prompt, or prompt and whole answer."""
    prompts_per_step: int
    """Prompts that may be worked on in one iteration; 0 for as many as the budget holds."""


SCHEDULERS: Final[Mapping[str, Scheduler]] = MappingProxyType({
    "vllm": Scheduler(mixed=True, lag=2, block_tokens=16, reserve="prompt", prompts_per_step=0),
    "sglang": Scheduler(mixed=False, lag=2, block_tokens=1, reserve="prompt", prompts_per_step=0),
    "trtllm": Scheduler(mixed=True, lag=2, block_tokens=32, reserve="whole", prompts_per_step=0),
    "jetstream": Scheduler(mixed=False, lag=1, block_tokens=1, reserve="whole", prompts_per_step=1),
    "neuron": Scheduler(mixed=False, lag=1, block_tokens=1, reserve="whole", prompts_per_step=1),
})  # fmt: skip


def scheduler(engine: str) -> Scheduler:
    """The scheduler of an engine. Raises UnknownNameError with the nearest names."""
    if engine not in SCHEDULERS:
        hint = f"one of {', '.join(SCHEDULERS)}"
        raise UnknownNameError("engine", engine, SCHEDULERS, hint=hint)
    return SCHEDULERS[engine]


def kernels_of(engine: str) -> dict[str, float]:
    """What of :class:`~weftline.serve.engine.parts.Iteration` says which kernels an engine runs.

    TensorRT-LLM joins all-reduces with the norm after them, and its kernels are its own.
    """
    own = float(engine == "trtllm")
    return {"fused": own, "own": own}


def answer_held(engine: str) -> float:
    """Share of an answer's cache a running sequence holds in the mean; half for unknown engines."""
    found = SCHEDULERS.get(engine)
    return 1.0 if found is not None and found.reserve == "whole" else 0.5
