"""What the serving engines share: the model's name, the replica's degrees, the fleet's numbers."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from weftline.launch.environment import as_shell, environment_of
from weftline.launch.nouns import Ask, Written
from weftline.spec import ServePlan

Flags = list[tuple[str, ...]]
WordsOf = Callable[[Ask, str, dict[str, int]], tuple[list[str], tuple[str, ...]]]

SETTINGS: Final = {"model": ("", "what the engine loads: a Hub id or a path")}
METRICS: Final = {
    "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    "sglang": ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    "trtllm": ("trtllm_num_requests_running", "trtllm_num_requests_waiting"),
}
"""Requests that run and that wait in one replica, by engine, as Prometheus sees them. vLLM
docs/usage/metrics.md, SGLang docs/references/production_metrics.md; TensorRT-LLM's own server
(1.0) exports iteration statistics under names that its version decides."""


def model_of(ask: Ask) -> str:
    """What the engine loads."""
    if ask.set("model"):
        return ask.set("model")
    from weftline.model.load import bundled_index

    found = bundled_index().get(ask.serve.demand.model)
    return (found.hf_id if found is not None else None) or ask.serve.demand.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """The plan's numbers for a router and an autoscaler."""

    replicas: int
    most: int
    rate_per_replica: float
    """Requests a second that one replica takes within the targets."""
    running: int
    """Requests that run in a replica at that rate: above it, another replica is due."""
    waiting: float
    routing: str


def scaling_of(ask: Ask) -> tuple[Scaling, tuple[str, ...]]:
    """From the fleet's most rate and its batch at the planned rate (Little: both go together).

    The batch that the simulation saw at ``rate_per_s`` is scaled to ``rate_most``, and held under
    ``max_batch``. Without those estimates the planned rate itself is the threshold.
    """
    plan: ServePlan = ask.serve
    most_rate = plan.estimates.get("rate_most")
    planned = plan.demand.rate_per_s / plan.fleet.replicas
    per_replica = most_rate.value / plan.fleet.replicas if most_rate is not None else planned
    batch = plan.occupancy.get("batch", 0.0)
    scaled = batch * per_replica / planned if planned else batch
    running = max(1, min(plan.fleet.max_batch, math.floor(scaled) or plan.fleet.max_batch))
    notes = []
    if not batch:
        notes.append("the plan has no simulated batch: the scaling threshold is max_batch")
    most = plan.fleet.replicas + plan.fleet.spares
    if ask.set("max_replicas"):
        most = int(ask.set("max_replicas"))
    elif not plan.fleet.spares:
        notes.append("the plan has no spare replicas: the autoscaler may not go beyond what is "
                     "planned; --set max_replicas=N lets it")  # fmt: skip
    return Scaling(
        replicas=plan.fleet.replicas, most=max(most, plan.fleet.replicas),
        rate_per_replica=per_replica, running=running, waiting=plan.occupancy.get("waiting", 0.0),
        routing=plan.fleet.routing,
    ), tuple(notes)  # fmt: skip


def scaling_json(ask: Ask) -> tuple[str, tuple[str, ...]]:
    """The same for an autoscaler or router of one's own."""
    scaling, notes = scaling_of(ask)
    plan = ask.serve
    running, waiting = METRICS.get(plan.fleet.engine, ("", ""))
    said: dict[str, Any] = {
        "replicas": scaling.replicas, "max_replicas": scaling.most,
        "requests_per_s_a_replica_at_most": round(scaling.rate_per_replica, 4),
        "scale_up_above_running_requests_a_replica": scaling.running,
        "mean_waiting_requests": round(scaling.waiting, 4),
        "routing": scaling.routing, "metric_running": running, "metric_waiting": waiting,
        "targets": [t.short() for t in plan.demand.targets],
        "basis": plan.estimates["rate_most"].basis if "rate_most" in plan.estimates else "planned",
    }  # fmt: skip
    return json.dumps(said, indent=1) + "\n", notes


def planned_settings(ask: Ask, flags: Flags) -> tuple[Flags, tuple[str, ...]]:
    """``flags`` with the settings that the fleet was simulated with, as the plan names them for its
    engine, and what of them is no flag: variables of the environment."""
    said = {name: (name, value) if value else (name,) for name, value in ask.serve.launch.items()}
    there = [said.get(f[0], f) for f in flags]
    more = [flag for name, flag in said.items()
            if name.startswith("--") and name not in {f[0] for f in flags}]  # fmt: skip
    return there + more, tuple(
        f"set {flag[0]}={flag[-1]} where it starts"
        for flag in said.values()
        if flag[0][0].isupper()
    )


def pools_of(ask: Ask) -> tuple[tuple[str, dict[str, int], int], ...]:
    """(role, degrees, workers) of each kind of worker: one, or prefill and decode."""
    fleet = ask.serve.fleet
    lay = fleet.layout
    if not lay.get("prefill_workers"):
        return (("", dict(lay), fleet.replicas),)
    prefill = {n.removeprefix("prefill_"): v for n, v in lay.items()
               if n.startswith("prefill_") and n != "prefill_workers"}  # fmt: skip
    decode = {n.removeprefix("decode_"): v for n, v in lay.items()
              if n.startswith("decode_") and n != "decode_workers"}  # fmt: skip
    plain = {n: v for n, v in lay.items() if "_" not in n}
    return (
        ("prefill", {**plain, **prefill}, lay["prefill_workers"] * fleet.replicas),
        ("decode", {**plain, **decode}, lay.get("decode_workers", 1) * fleet.replicas),
    )


def scripts_of(ask: Ask, words_of: WordsOf, address: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """A command a role, and what it cannot say. One over several hosts takes the host's number and
    the first one's address (its option is ``address``) as its first two arguments."""
    commands: dict[str, str] = {}
    notes: list[str] = []
    for role, degrees, workers in pools_of(ask):
        words, said = words_of(ask, role, degrees)
        chips = degrees.get("tp", 1) * degrees.get("pp", 1) * degrees.get("dp", 1)
        several = chips > ask.per_host
        if several:
            hosts = str(-(-chips // ask.per_host))
            words += ["--nnodes", hosts, "--node-rank", '"$1"', address, '"$2"']
        commands[role] = "exec " + shell([*words, '"${@:3}"' if several else '"$@"'])
        notes += [*said, *([f"{role}: {workers} workers"] if role else [])]
    return commands, tuple(dict.fromkeys(notes))


def serve_folder(
    ask: Ask, engine: str, commands: dict[str, str], notes: tuple[str, ...]
) -> Written:
    """One script a role, the environment, and the numbers for router and autoscaler."""
    numbers, more = scaling_json(ask)
    if ask.serve.fleet.engine != engine:
        more = (f"the plan's times and limits are of {ask.serve.fleet.engine}: plan again with "
                f"--engine {engine} to know what this one gives", *more)  # fmt: skip
    files = {"job.env": as_shell(environment_of(ask)), "scaling.json": numbers}
    programs = []
    for role, line in commands.items():
        name = f"serve{'-' + role if role else ''}.sh"
        files[name] = f'#!/bin/bash\nset -eu\ncd "$(dirname "$0")"\nsource job.env\n{line}\n'
        programs.append(name)
    said = (
        f"{ask.serve.fleet.replicas} replicas: run it on each; scaling.json has the router's part"
    )
    return Written(files=files, start=f"./{programs[0]}", notes=(*notes, *more, said),
                   programs=tuple(programs))  # fmt: skip


def shell(words: list[str]) -> str:
    """A command over several lines, a flag on each."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word if word.startswith(("$", '"$')) else shlex.quote(word))
    return " \\\n  ".join(" ".join(line) for line in lines if line)
