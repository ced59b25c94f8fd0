"""One step under torch's profiler, summed into the parts that a plan speaks of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from weftline.spec.serialize import write_text

__all__ = ["PROFILE_FILE", "part_of", "profiled"]

PROFILE_FILE: Final = "profile.json"
T = TypeVar("T")
_PARTS: Final = (
    ("exchange, waited for", ("c10d::", "gloo:", "nccl:", "_c10d_functional", "wait_tensor",
                              "record_param_comms", "FSDP::")),
    ("attention", ("scaled_dot_product", "flash_attention", "softmax")),
    ("matrix products", ("::mm", "::addmm", "::bmm", "::matmul", "::linear", "grouped_mm")),
    ("optimizer", ("Optimizer.", "adam", "_foreach")),
    ("loss", ("nll_loss", "cross_entropy", "log_softmax")),
)  # fmt: skip
REST: Final = "norms, activations and the rest"


def part_of(name: str) -> str:
    """The part that an operator's time belongs to, by its name in torch."""
    for part, words in (_PARTS[0], _PARTS[3], _PARTS[4], *_PARTS[1:3]):
        if any(word in name for word in words):
            return part
    return REST


def profiled(step: Callable[[], T], run: Path, number: int) -> T:
    """Run a step, and write this rank's seconds by part into the run's folder.

    Operators count the time of their own thread without what they call.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        done = step()
    parts: dict[str, float] = {}
    operators: dict[str, float] = {}
    for event in found.key_averages():
        spent = _seconds(event, cuda=cuda)
        parts[part_of(event.key)] = parts.get(part_of(event.key), 0.0) + spent
        operators[event.key] = spent
    most = sorted(operators.items(), key=lambda row: -row[1])[:30]
    text = json.dumps({"step": number + 1, "parts_s": parts, "operators_s": dict(most)}, indent=1)
    write_text(text + "\n", run / PROFILE_FILE)
    return done


def _seconds(event: Any, *, cuda: bool) -> float:
    micro = event.self_device_time_total if cuda else event.self_cpu_time_total
    return float(micro) * 1e-6
