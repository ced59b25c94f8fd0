"""Whether a job still starts what its plan wants: so many hosts of so many processes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from weftline.launch.check.found import Finding

_TORCHRUN = re.compile(r"--nnodes[ =](\d+)\s+--nproc-per-node[ =](\d+)")


def counts_in(target: str, files: Mapping[str, str]) -> Iterator[Finding]:
    """Counts that differ from the plan beside them; nothing where no plan is."""
    text = files.get("plan.json") or _from_config_map(files)
    if text is None:
        return
    try:
        plan = json.loads(text)
        lay = plan["layout"]
        ranks = lay["tp"] * lay["cp"] * lay["dp"] * lay["pp"]
    except (ValueError, KeyError, TypeError):
        yield Finding(what="plan.json is no plan for training", where="plan.json")
        return
    for name, content in files.items():
        for number, line in enumerate(content.splitlines(), 1):
            found = _TORCHRUN.search(line)
            if found and int(found[1]) * int(found[2]) != ranks:
                what = f"{found[1]} x {found[2]} processes for the plan's {ranks} ranks"
                yield Finding(what=what, where=f"{name}:{number}")
    if target in ("slurm", "parallelcluster"):
        yield from _sbatch(files.get("job.sbatch", ""), ranks)
    if target == "jobset":
        yield from _jobset(files.get("job.yaml", ""), plan, ranks)


def _from_config_map(files: Mapping[str, str]) -> str | None:
    for name, text in files.items():
        if name.endswith((".yaml", ".yml")) and "kind: ConfigMap" in text:
            try:
                for one in yaml.safe_load_all(text):
                    if isinstance(one, dict) and one.get("kind") == "ConfigMap":
                        held = one.get("data", {}).get("plan.json")
                        return None if held is None else str(held)
            except yaml.YAMLError:
                return None
    return None


def _sbatch(text: str, ranks: int) -> Iterator[Finding]:
    nodes = re.search(r"^#SBATCH --nodes=(\d+)", text, re.MULTILINE)
    tasks = re.search(r"^#SBATCH --ntasks-per-node=(\d+)", text, re.MULTILINE)
    if nodes and tasks and int(nodes[1]) * int(tasks[1]) != ranks:
        yield Finding(what=f"{nodes[1]} x {tasks[1]} tasks for the plan's {ranks} ranks",
                      where="job.sbatch")  # fmt: skip


def _jobset(text: str, plan: Mapping[str, Any], ranks: int) -> Iterator[Finding]:
    per_host = min(plan["cluster"]["chips_per_host"], ranks)
    try:
        objects = [o for o in yaml.safe_load_all(text) if isinstance(o, dict)]
    except yaml.YAMLError:
        return
    for one in objects:
        if one.get("kind") != "JobSet":
            continue
        for job in one.get("spec", {}).get("replicatedJobs", ()):
            pods = job.get("template", {}).get("spec", {}).get("parallelism")
            if isinstance(pods, int) and pods * per_host != ranks:
                yield Finding(what=f"{pods} pods of {per_host} chips for the plan's {ranks} ranks",
                              where="job.yaml")  # fmt: skip
