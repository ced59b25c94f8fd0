"""What the trainers share: the model's config, flags as a file, a script for one process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from weftline.errors import WeftlineError
from weftline.launch.environment import as_shell, environment_of
from weftline.launch.nouns import Ask, Written

_ENV = "source job.env"


def config_of(ask: Ask) -> Mapping[str, Any]:
    """The model's config.json, its text part where it has several; empty where it is not here."""
    from weftline.model.load import config_path

    try:
        found: dict[str, Any] = json.loads(config_path(ask.train.job.model).read_text("utf-8"))
    except (WeftlineError, OSError, ValueError):
        return {}
    text = found.get("text_config")
    return text if isinstance(text, dict) else found


def flags_text(flags: Iterable[tuple[str, ...]]) -> str:
    """One flag a line."""
    return "".join(" ".join(flag) + "\n" for flag in flags)


def one_script(
    ask: Ask, name: str, flags: str, line: str, notes: tuple[str, ...]
) -> Written:  # fmt: skip
    """The flags, the environment, and a script that runs one process with both."""
    script = (
        f"#!/bin/bash\n# One process of the job, placed already.\nset -eu\nsource job.env\n{line}\n"
    )
    files = {name: flags, "job.env": as_shell(environment_of(ask)), "train.sh": script}
    return Written(files=files, start="./train.sh", notes=notes, programs=("train.sh",))
