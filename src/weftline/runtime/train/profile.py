"""One step under torch's profiler, summed into the parts that a plan speaks of."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from weftline.spec.serialize import write_text

__all__ = [
    "EXCHANGE", "HOST", "PIPELINE", "PROFILE_FILE", "REST", "TRACE_FILE", "part_of", "profiled",
]  # fmt: skip

PROFILE_FILE: Final = "profile.json"
TRACE_FILE: Final = "trace.json"
T = TypeVar("T")
EXCHANGE: Final = "exchange, waited for"
PIPELINE: Final = "pipeline neighbour, waited for"
HOST: Final = "between operators (host)"
REST: Final = "norms and activations"
_WAIT: Final = "weftline::pipeline_wait"
_PARTS: Final = (
    (PIPELINE, (_WAIT,)),
    (EXCHANGE, ("c10d::", "gloo:", "nccl:", "_c10d_functional", "wait_tensor",
                "record_param_comms", "FSDP::")),
    ("optimizer", ("Optimizer.", "adam", "_foreach")),
    ("loss", ("nll_loss", "cross_entropy", "log_softmax")),
    ("attention", ("scaled_dot_product", "flash_attention", "softmax")),
    ("matrix products", ("::mm", "::addmm", "::bmm", "::matmul", "::linear", "grouped_mm")),
)  # fmt: skip
"""Part -> words in the names of its operators; the first that fits counts."""


def part_of(name: str) -> str:
    """The part that an operator's time belongs to, by its name in torch."""
    for part, words in _PARTS:
        if any(word in name for word in words):
            return part
    return REST


def profiled(
    step: Callable[[], T], run: Path, number: int, *, ranks: int = 1, trace: bool = False
) -> T:
    """Run a step, and write this rank's seconds by part into the run's folder.

    Operators count the time of their own thread without what they call; what is left of the step is
    the host's, and where there are other ranks what it waited for them. ``trace`` also writes every
    event, for chrome://tracing or Perfetto.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _named_waits(), profile(activities=activities) as found:
        begin = time.perf_counter()
        done = step()
        wall = time.perf_counter() - begin
    parts: dict[str, float] = {}
    operators: dict[str, float] = {}
    for event in found.key_averages():
        spent = _seconds(event, cuda=cuda)
        parts[part_of(event.key)] = parts.get(part_of(event.key), 0.0) + spent
        operators[event.key] = spent
    left = max(0.0, wall - sum(parts.values()))
    name = EXCHANGE if ranks > 1 else HOST
    parts[name] = parts.get(name, 0.0) + left
    most = sorted(operators.items(), key=lambda row: -row[1])[:30]
    text = json.dumps({"step": number + 1, "parts_s": parts, "operators_s": dict(most)}, indent=1)
    write_text(text + "\n", run / PROFILE_FILE)
    if trace:
        found.export_chrome_trace(str(run / TRACE_FILE))
    return done


@contextlib.contextmanager
def _named_waits() -> Iterator[None]:
    """While inside, a pipeline's waits for its neighbours are events with a name of their own."""
    from torch.distributed.pipelining import schedules
    from torch.profiler import record_function

    theirs: Any = schedules._wait_batch_p2p

    def named(work: Any) -> None:
        with record_function(_WAIT):
            theirs(work)

    schedules._wait_batch_p2p = named
    try:
        yield
    finally:
        schedules._wait_batch_p2p = theirs


def _seconds(event: Any, *, cuda: bool) -> float:
    micro = event.self_device_time_total if cuda else event.self_cpu_time_total
    return float(micro) * 1e-6
