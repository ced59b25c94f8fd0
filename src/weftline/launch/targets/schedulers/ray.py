"""Ray: a driver that reserves a bundle a host and starts the ranks in them."""

from __future__ import annotations

import json
import shlex

from weftline.launch.environment import as_mapping, environment_of, resource_of
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.job import FABRIC, PORT, job_of, trainer_of

DRIVER = '''\
"""Starts the ranks of plan.json on a Ray cluster: one bundle a host, one actor a host.

Each actor runs its host's processes; weftline_place.py gives them the plan's ranks, by the names
of the nodes where hosts.txt has them, else by the order of the bundles.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

JOB = json.loads(r"""{job}""")
HERE = Path(__file__).resolve().parent
SHIPPED = {{name: (HERE / name).read_text() for name in JOB["files"]}}


@ray.remote(num_cpus=JOB["cpus"], resources=JOB["resources"], num_gpus=JOB["gpus"])
class Host:
    """One host of the job."""

    def address(self):
        """Where the ranks of the job meet."""
        return ray.util.get_node_ip_address()

    def run(self, slot, meet, restart):
        """Run this host's processes; exit code and last line of each."""
        folder = Path(tempfile.mkdtemp(prefix="weftline-"))
        for name, text in SHIPPED.items():
            (folder / name).write_text(text)
        labels = ray.get_runtime_context().get_node_labels()
        running = []
        for local in range(JOB["per_host"]):
            env = {{**os.environ, **JOB["environment"],
                   "WEFTLINE_HOST": labels.get("weftline-host", ray.util.get_node_ip_address()),
                   "WEFTLINE_LOCAL_RANK": str(local), "WEFTLINE_RENDEZVOUS": meet,
                   "WEFTLINE_RANK": str(slot * JOB["per_host"] + local),
                   "WEFTLINE_WORLD_SIZE": str(JOB["chips"]), "WEFTLINE_RESTART": str(restart)}}
            if "hosts.txt" in SHIPPED:
                env["WEFTLINE_HOSTS"] = "@hosts.txt"
            command = [sys.executable, "weftline_place.py", "plan.json", "--", *JOB["command"]]
            running.append(subprocess.Popen(command, cwd=folder, env=env, text=True,
                                            stderr=subprocess.PIPE))
        ended = []
        for process in running:
            said = process.communicate()[1].strip().splitlines()
            ended.append((process.returncode, said[-1] if said else ""))
        return ended


def main():
    """Reserve, start, wait; the first reason of a failure is the last line."""
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"))
    group = placement_group(JOB["bundles"], strategy=JOB["strategy"],
                            bundle_label_selector=JOB["labels"] or None)
    if not group.wait(timeout_seconds=float(os.environ.get("WEFTLINE_RAY_WAIT_S", "600"))):
        remove_placement_group(group)
        sys.exit(f"weftline: Ray has not {{len(JOB['bundles'])}} hosts with {{JOB['bundles'][0]}}")
    hosts = [Host.options(scheduling_strategy=PlacementGroupSchedulingStrategy(
        placement_group=group, placement_group_bundle_index=n)).remote()
        for n in range(len(JOB["bundles"]))]
    meet = f"{{ray.get(hosts[0].address.remote())}}:{port}"
    restart = int(os.environ.get("WEFTLINE_RESTART", "0"))
    ended = [one for host in ray.get([h.run.remote(n, meet, restart) for n, h in enumerate(hosts)])
             for one in host]
    remove_placement_group(group)
    wrong = [line for code, line in ended if code]
    sys.exit(wrong[0] if wrong else 0)


if __name__ == "__main__":
    main()
'''


def write(ask: Ask) -> Written:
    """``driver.py``, to be run where a Ray address is known."""
    job = job_of(ask)
    command, _ = trainer_of(ask)
    gpus = resource_of(ask) in ("nvidia.com/gpu", "amd.com/gpu") and ask.set("gpus") != "none"
    cpus = int(ask.set("cpus") or ask.per_host)
    bundle: dict[str, float] = {"CPU": cpus}
    other: dict[str, float] = {}
    if gpus:
        bundle["GPU"] = ask.per_host
    elif resource_of(ask) == "aws.amazon.com/neuron":
        other = {"neuron_cores": 2 * ask.per_host}
    elif resource_of(ask) == "google.com/tpu":
        other = {"TPU": ask.per_host}
    labels = [{"weftline-host": name} for name in ask.hosts]
    said = {
        "chips": ask.chips, "per_host": ask.per_host, "command": list(command), "cpus": cpus,
        "gpus": ask.per_host if gpus else 0, "resources": other,
        "bundles": [{**bundle, **other}] * ask.nodes, "labels": labels,
        # Two bundles on one host would put two planned hosts there.
        "strategy": "STRICT_SPREAD", "files": sorted(job.files),
        "environment": as_mapping(environment_of(ask)),
    }  # fmt: skip
    driver = DRIVER.format(job=json.dumps(said, indent=1), port=PORT)
    notes = [*job.notes]
    if ask.hosts:
        notes.append("start each node with its name: ray start --labels weftline-host=NAME")
    return Written(files={**job.files, "driver.py": driver}, start="python driver.py",
                   notes=tuple(notes))  # fmt: skip


def entrypoint(ask: Ask) -> str:
    """What a RayJob runs."""
    return shlex.join(["python", "driver.py"]) if ask.chips else ""


TARGET = Target(
    name="ray", title="Ray", kinds=("train",), version="2.60", date="2026-11-30",
    source="https://docs.ray.io/en/latest/ray-core/scheduling/placement-group.html",
    checked="run in tests", how="3 nodes in a network namespace: the plan's map rank by rank",
    maps=(
        Mapped(what="hosts, chips a host", where="bundles of a STRICT_SPREAD placement group"),
        Mapped(what="host names", where="bundle_label_selector on weftline-host"),
        Mapped(what="rank map", where="weftline_place.py in each actor's processes"),
        Mapped(what="fabric", where="environment of the processes"),
    ),
    cannot=("levels of a network above the host: labels can be asked for, distances cannot",),
    write=write,
    settings={"cpus": ("", "CPUs a host; one a chip if not given"),
              "gpus": ("", "none: nodes without GPUs"), **FABRIC},
)  # fmt: skip
