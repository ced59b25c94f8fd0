"""Every target by name."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from weftline.errors import UnknownNameError
from weftline.launch.nouns import Target

_PLACES: Final = (
    "schedulers.torchrun", "schedulers.slurm", "schedulers.mpi", "schedulers.ray",
    "kubernetes.jobset", "kubernetes.kuberay", "kubernetes.hyperpod", "kubernetes.lws",
    "kubernetes.kserve", "kubernetes.llmd", "kubernetes.dynamo",
    "engines.vllm", "engines.sglang", "engines.trtllm",
    "trainers.torchtitan", "trainers.megatron", "trainers.bridge", "trainers.maxtext",
    "trainers.neuronx",
    "clouds.skypilot", "clouds.tpu", "clouds.batch", "clouds.parallelcluster", "clouds.dstack",
)  # fmt: skip


def targets() -> dict[str, Target]:
    """Target by name, in the order of the documentation."""
    found = [import_module(f"weftline.launch.targets.{place}").TARGET for place in _PLACES]
    return {target.name: target for target in found}


def target_of(name: str) -> Target:
    """The target called ``name``. Raises UnknownNameError."""
    known = targets()
    if name not in known:
        raise UnknownNameError("target", name, known, where="--to",
                               hint=f"known: {', '.join(known)}.")  # fmt: skip
    return known[name]
