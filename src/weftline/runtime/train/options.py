"""How a plan is run here, as a user says it; what is not said is as in the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["TrainOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How a plan is run here; what is not said is as in the plan."""

    data: Path | None = None
    """Folder that `weftline prepare` wrote."""
    model: Path | None = None
    """Train this config.json (or its folder) in place of the plan's model."""
    weights: Path | None = None
    """Folder of weights to begin with: fine-tuning."""
    emulate: bool = False
    """Run a plan for other chips on this machine, in its own kind of layout."""
    small: bool = False
    """With --emulate: the plan's kind of model, made small."""
    nproc: int | None = None
    """Processes; the plan's chips if not given."""
    steps: int | None = None
    """Optimizer steps; all of the plan's tokens if not given."""
    seq: int | None = None
    """Tokens a sequence."""
    micro_batch: int | None = None
    """Sequences of a micro-batch."""
    global_batch: int | None = None
    """Sequences a step."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the products; auto measures on CPUs which is faster."""
    backend: Literal["auto", "gloo", "nccl", "weftline"] = "auto"
    """Process group: NCCL on GPUs, our own on CPUs, or as said."""
    algorithm: str | None = None
    """Execute this schedule of `weftline simulate collective` (weftline's group)."""
    network: str | None = None
    """Impose this network's rates and latencies on all ranks (weftline's group): torus:2x2."""
    link: str | None = None
    """Rate of a link of the network: 100MB/s."""
    latency: str | None = None
    """Latency of a link of the network: 200us."""
    lr: float = 3e-4
    """Highest learning rate."""
    warmup: int = 0
    """Steps until it is reached."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate after that."""
    weight_decay: float = 0.1
    """Of matrices."""
    clip: float = 1.0
    """Largest norm of the gradients; 0 leaves them."""
    seed: int = 0
    """Of the weights and of the batches."""
    sequence_parallel: bool = True
    """With tp: split the sequence between the blocks."""
    compile: bool = False
    """Compile each layer."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; a tenth of the run if not given."""
    keep: int = 2
    """Checkpoints kept."""
    profile: int | None = None
    """Profile this step for `weftline compare`; the fifth if not given, 0 for none."""
    trace: bool = False
    """Also write every event of that step, for Perfetto or chrome://tracing."""
