"""Google TPU: a queued resource, the run on every host, and the mesh in the plan's order."""

from __future__ import annotations

import json

from weftline.errors import InputError
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.job import job_of, trainer_of

# Our chip -> (accelerator type's family, TensorCores a chip in its name).
FAMILIES = {"tpu-v4": ("v4", 2), "tpu-v5p": ("v5p", 2), "tpu-v5e": ("v5litepod", 1),
            "tpu-v6e": ("v6e", 1), "tpu7x": ("tpu7x", 1)}  # fmt: skip
_RUNTIMES = {"v4": "tpu-ubuntu2204-base", "v5p": "v2-alpha-tpuv5",
             "v5litepod": "v2-alpha-tpuv5-lite", "v6e": "v2-alpha-tpuv6e",
             "tpu7x": "v2-alpha-tpu7-ubuntu2404"}  # fmt: skip
MESH = '''\
"""Devices of the plan, for jax.sharding.Mesh: the plan's map, not JAX's own order."""

import json
from pathlib import Path

import numpy as np

PLAN = json.loads((Path(__file__).parent / "mesh.json").read_text())


def devices():
    """The devices as [{axes}] in the plan's order, by coordinate where the map is a torus."""
    import jax

    found = jax.devices()
    if PLAN["coordinates"] is not None:
        at = {{tuple(d.coords): d for d in found}}
        found = [at[tuple(c)] for c in PLAN["coordinates"]]
    return np.array(found).reshape(PLAN["shape"])


def mesh():
    """A jax.sharding.Mesh with the plan's axes, outermost first."""
    import jax

    return jax.sharding.Mesh(devices(), PLAN["axes"])
'''


def mesh_json(ask: Ask) -> str:
    """Axes (outermost first), their sizes, and where the map is a torus the coordinate of each."""
    plan = ask.train
    lay = plan.layout
    axes = [a for a in reversed(lay.order) if getattr(lay, a) > 1] or ["dp"]
    coordinates = None
    found = plan.rank_map
    if found is not None and not found.tiers and len(found.shape) <= 3:
        # JAX's coords are (x, y, z); ours are row-major with the last axis fastest.
        fill = (0,) * (3 - len(found.shape))
        coordinates = [[*reversed(found.coordinate(r)), *fill] for r in range(lay.chips)]
    return json.dumps({"axes": axes, "shape": [getattr(lay, a) for a in axes],
                       "coordinates": coordinates}) + "\n"  # fmt: skip


def write(ask: Ask) -> Written:
    """``create.sh``, ``run.sh``, ``mesh.py``. Raises InputError for other chips."""
    plan = ask.train
    if ask.accelerator not in FAMILIES:
        raise InputError(f"a queued resource is of TPUs, the plan is for {ask.accelerator}",
                         where="--to")  # fmt: skip
    family, cores = FAMILIES[ask.accelerator]
    job = job_of(ask)
    command, _ = trainer_of(ask)
    spot = " \\\n  --spot" if plan.job.price_type == "spot" else ""
    shape = ""
    if plan.cluster.levels and len(plan.cluster.levels[0].shape) == 3:
        shape = "x".join(map(str, plan.cluster.levels[0].shape))
    kind = (f"--type {family} --topology {shape}" if shape and family in ("v4", "v5p", "tpu7x")
            else f"--accelerator-type {family}-{ask.chips * cores}")  # fmt: skip
    create = (
        "#!/bin/bash\nset -eu\ngcloud compute tpus queued-resources create "
        f'{ask.name} --node-id {ask.name} \\\n  --zone "${{1:?ZONE}}" {kind} \\\n'
        f"  --runtime-version {ask.set('runtime') or _RUNTIMES[family]}{spot}\n"
    )
    import shlex

    run = (
        "#!/bin/bash\nset -eu\n"
        f"gcloud compute tpus tpu-vm scp --recurse . {ask.name}:job --zone \"${{1:?ZONE}}\" "
        f"--worker all\ngcloud compute tpus tpu-vm ssh {ask.name} --zone \"$1\" --worker all "
        f"--command {shlex.quote('cd job && source job.env && ' + shlex.join(command))}\n"
    )  # fmt: skip
    notes = [*job.notes, "one process a host: JAX finds its peers itself, so place.py is not run; "
             "mesh.py keeps the plan's order"]  # fmt: skip
    if ask.hosts:
        notes.append("a queued resource chooses the hosts: their names cannot be given")
    files = {"create.sh": create, "run.sh": run, "mesh.py": MESH.format(axes="axes"),
             "mesh.json": mesh_json(ask), "plan.json": ask.text,
             "job.env": job.files["job.env"]}  # fmt: skip
    return Written(files=files, start="./create.sh ZONE && ./run.sh ZONE", notes=tuple(notes),
                   programs=("create.sh", "run.sh"))  # fmt: skip


TARGET = Target(
    name="tpu", title="TPU queued resource", kinds=("train",), version="gcloud of 2026-11",
    date="2026-11-30", source="https://cloud.google.com/tpu/docs/queued-resources",
    checked="not checked", how="text; no parser of it runs here",
    maps=(
        Mapped(what="chips, topology", where="--accelerator-type or --type and --topology"),
        Mapped(what="rank map", where="mesh.py: devices by coordinate for jax.sharding.Mesh"),
        Mapped(what="spot", where="--spot"),
        Mapped(what="fabric", where="job.env (LIBTPU_INIT_ARGS)"),
    ),
    cannot=("host names", "a price or a limit on it"),
    write=write, settings={"runtime": ("", "TPU software version"), "slices": ("1", "")},
)  # fmt: skip
