"""A SkyPilot task: by ``sky.Task.from_yaml`` where SkyPilot is installed, else by its keys."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from weftline.errors import nearest_names
from weftline.launch.check.found import Document, Finding

# sky/utils/schemas.py, get_task_schema and get_resources_schema, 0.14.1; read 2026-11-30.
TASK: Final = frozenset({
    "name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup", "run",
    "config", "service", "pool", "event_callback", "inputs", "outputs", "estimated",
    "experimental", "volumes", "volume_mounts", "file_mounts_mapping", "api_server",
})  # fmt: skip
RESOURCES: Final = frozenset({
    "infra", "cloud", "region", "zone", "instance_type", "cpus", "memory", "accelerators",
    "accelerator_args", "use_spot", "job_recovery", "spot_recovery", "disk_size", "disk_tier",
    "local_disk", "network_tier", "ports", "labels", "image_id", "any_of", "ordered", "autostop",
    "priority", "priority_class", "volumes", "max_hourly_cost", "_cluster_config_overrides",
    "_docker_login_config", "_docker_username_for_runpod", "_is_image_managed",
    "_requires_fuse", "_no_missing_accel_warnings",
})  # fmt: skip
_CODE: Final = (
    "import sys, sky\ntry:\n    sky.Task.from_yaml(sys.argv[1])\n"
    "except Exception as error:\n    sys.stderr.write(str(error).splitlines()[0])\n"
    "    sys.exit(3)\n"
)


def key_findings(document: Document) -> Iterator[Finding]:
    """Keys that SkyPilot does not know, and tiers that it has not."""
    value = document.value
    if not isinstance(value, dict):
        yield Finding(what="a task is a mapping", where=document.file)
        return
    yield from _unknown(document, (), value, TASK)
    resources = value.get("resources", {})
    if not isinstance(resources, dict):
        yield Finding(what="resources is a mapping", where=document.where(("resources",)))
        return
    yield from _unknown(document, ("resources",), resources, RESOURCES)
    for n, one in enumerate(resources.get("any_of", ())):
        yield from _unknown(document, ("resources", "any_of", n), one, RESOURCES)
    for path, tier in [(("resources", "network_tier"), resources.get("network_tier"))]:
        if tier not in (None, "standard", "best"):
            yield Finding(what=f"network tier `{tier}` is neither standard nor best",
                          where=document.where(path))  # fmt: skip
    nodes = value.get("num_nodes", 1)
    if not isinstance(nodes, int) or nodes < 1:
        yield Finding(what=f"num_nodes is `{nodes}`", where=document.where(("num_nodes",)))


def _unknown(
    document: Document, path: tuple[str | int, ...], value: object, words: frozenset[str]
) -> Iterator[Finding]:
    for name in value if isinstance(value, dict) else ():
        if name not in words:
            near = nearest_names(str(name), words, 1)
            yield Finding(what=f"SkyPilot knows no `{name}`", where=document.where((*path, name)),
                          hint=f"did you mean `{near[0]}`?" if near else "")  # fmt: skip


def python_of_skypilot() -> str:
    """The interpreter that has SkyPilot: this one, or WEFTLINE_SKYPILOT_PYTHON; empty if none."""
    own = os.environ.get("WEFTLINE_SKYPILOT_PYTHON", "")
    return own or (sys.executable if find_spec("sky") is not None else "")


def parser_findings(file: str, text: str) -> tuple[list[Finding], str]:
    """(what SkyPilot's own parser refuses, why it was not asked; one of both is empty)."""
    python = python_of_skypilot()
    if not python:
        return [], "sky.Task.from_yaml: SkyPilot is not installed here"
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder, "task.yaml")
        task.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run(  # noqa: S603  (an interpreter of the user's own)
                [python, "-c", _CODE, str(task)], capture_output=True, text=True, timeout=120,
                cwd=folder, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return [], "sky.Task.from_yaml: no answer"
    if done.returncode == 3:
        line = done.stderr.strip().splitlines()
        return [Finding(what=f"SkyPilot refuses it: {line[-1] if line else '?'}", where=file)], ""
    return [], "" if done.returncode == 0 else "sky.Task.from_yaml: SkyPilot does not start here"
