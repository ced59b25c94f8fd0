"""Which process group a run takes, and what it asks of our own."""

from __future__ import annotations

from typing import Literal

from weftline.errors import InputError
from weftline.fabric import ALGORITHMS, Topology, parse_topology
from weftline.runtime.train.machine import Machine
from weftline.runtime.train.options import TrainOptions
from weftline.runtime.train.recipe import Recipe

__all__ = ["backend_of", "load_group", "own_group", "usual"]

Backend = Literal["gloo", "nccl", "weftline"]


def usual(kind: str) -> Backend:
    """What ``auto`` takes: NCCL on GPUs (``kind`` cuda), our own group on CPUs."""
    return "nccl" if kind == "cuda" else "weftline"


def backend_of(asked: TrainOptions, machine: Machine) -> Backend:
    """The usual one, or as asked. Raises InputError."""
    taken = usual(machine.kind) if asked.backend == "auto" else asked.backend
    if (taken == "nccl") != (machine.kind == "cuda"):
        raise InputError(
            f"`{taken}` is not for {machine.about}", where="--backend",
            hint="nccl is for GPUs, gloo and weftline are for CPUs",
        )  # fmt: skip
    said = {"--algorithm": asked.algorithm, "--network": asked.network}
    for name, value in said.items():
        if value is not None and taken != "weftline":
            raise InputError(f"`{taken}` takes no {name[2:]}", where=name,
                             hint="--backend weftline executes schedules and emulates")  # fmt: skip
    if asked.algorithm is not None and asked.algorithm not in ("auto", *ALGORITHMS):
        raise InputError(f"no algorithm `{asked.algorithm}`", where="--algorithm",
                         hint=f"auto, {', '.join(ALGORITHMS)}")  # fmt: skip
    network_of(asked.network, asked.link, asked.latency)
    return taken


def network_of(text: str | None, link: str | None, latency: str | None) -> Topology | None:
    """The network to emulate. Raises InputError."""
    if not text:
        if link or latency:
            raise InputError("a rate or latency of no network", where="--link",
                             hint="--network torus:2x2 names one")  # fmt: skip
        return None
    return parse_topology(text, link or None, latency or None, where="--network")


def load_group(recipe: Recipe) -> None:
    """Compile what a run's group runs, so that the ranks forked from this process have it."""
    if recipe.backend == "weftline" and recipe.layout.chips > 1:
        from weftline.runtime.group.group import prepare

        prepare()


def own_group(recipe: Recipe) -> None:
    """Make our process group known to torch, as this recipe wants it. Raises InputError."""
    from weftline.runtime.group.group import register
    from weftline.runtime.group.options import GroupOptions, configure

    network = network_of(recipe.network, recipe.link, recipe.latency)
    if network is not None and network.ranks != recipe.layout.chips:
        raise InputError(
            f"`{network.name}` has {network.ranks} chips, the run {recipe.layout.chips} ranks",
            where="--network", hint="one chip a rank",
        )  # fmt: skip
    register()
    configure(GroupOptions(algorithm=recipe.algorithm or None, network=network))
