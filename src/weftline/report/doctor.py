"""What weftline finds on this machine: versions, data, optional parts."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import dataclass
from typing import Literal

from weftline._version import __version__
from weftline.errors import WeftlineError
from weftline.report.text import page, wrapped

Status = Literal["ok", "missing", "broken"]
_NAME, _STATUS = 13, 9
_HANG = " " * (_NAME + _STATUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at; ``hint`` says what to do if it is not ok."""

    name: str
    status: Status
    detail: str
    hint: str = ""


_PACKAGES: tuple[tuple[str, bool, str], ...] = (
    ("numpy", True, "arrays"),
    ("scipy", True, "calibration"),
    ("pydantic", True, "reading plans"),
    ("cyclopts", True, "the command line"),
    ("torch", False, "running training: pip install 'weftline[run]'"),
    ("boto3", False, "refreshing AWS prices: pip install 'weftline[prices]'"),
)


def examine() -> tuple[Check, ...]:
    """Look at Python, packages and the shipped data; no network, no accelerator needed."""
    found = [
        Check(name="weftline", status="ok", detail=__version__),
        Check(
            name="python",
            status="ok" if sys.version_info >= (3, 11) else "broken",
            detail=platform.python_version(),
            hint="Python 3.11 or newer is needed",
        ),
        Check(name="cpu", status="ok", detail=f"{os.cpu_count() or 1} cores, {platform.machine()}"),
    ]
    found += [_package(name, needed, use) for name, needed, use in _PACKAGES]
    return (*found, _catalog(), _models(), _constants())


def _package(name: str, needed: bool, use: str) -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name=name, status="broken" if needed else "missing", detail="not installed",
                     hint=use)  # fmt: skip
    return Check(name=name, status="ok", detail=version)


def _catalog() -> Check:
    from weftline.catalog import accelerators, fabrics, prices

    try:
        detail = (
            f"{len(accelerators())} accelerators, {len(fabrics())} fabrics, {len(prices())} prices"
        )
    except (WeftlineError, OSError, ValueError) as error:
        return Check(name="catalogue", status="broken", detail=str(error), hint="reinstall")
    return Check(name="catalogue", status="ok", detail=detail)


def _models() -> Check:
    from weftline.model import bundled_models, load_model

    names = bundled_models()
    try:
        load_model("llama-3.1-70b")
    except WeftlineError as error:
        return Check(name="models", status="broken", detail=str(error), hint="reinstall")
    return Check(name="models", status="ok", detail=f"{len(names)} bundled")


def _constants() -> Check:
    # The calibration file is plan's own; report may not import plan, so its size is read as data.
    from importlib import resources

    pools = 0
    rows = 0
    try:
        folder = resources.files("weftline").joinpath("plan/data")
        for file in folder.iterdir():
            if file.name.startswith("calibration_"):
                pools += 1
                rows += len(json.loads(file.read_text("utf-8"))["rows"])
    except (OSError, ValueError, KeyError) as error:
        return Check(name="calibration", status="broken", detail=str(error), hint="reinstall")
    if not rows:
        return Check(name="calibration", status="broken", detail="no rows", hint="reinstall")
    return Check(name="calibration", status="ok", detail=f"{rows} measured rows in {pools} pools")


def render_doctor(checks: tuple[Check, ...]) -> str:
    """The findings, the verdict first."""
    broken = [c for c in checks if c.status == "broken"]
    missing = [c for c in checks if c.status == "missing"]
    if broken:
        first = f"Broken: {', '.join(c.name for c in broken)}"
    elif missing:
        first = f"Ready; optional parts missing: {', '.join(c.name for c in missing)}"
    else:
        first = "Ready."
    lines = [first, ""]
    for c in checks:
        detail = c.detail if c.status == "ok" or not c.hint else f"{c.detail}: {c.hint}"
        lines += wrapped(f"{c.name:<{_NAME}}{c.status:<{_STATUS}}{detail}", hang=_HANG)
    return page(lines)
