"""A plan file and a target become a folder that starts the job; it appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from weftline._version import __version__
from weftline.errors import InputError
from weftline.launch.nouns import NAME, Ask, Target, Written, settings_of
from weftline.launch.registry import target_of
from weftline.spec import Plan, ServePlan
from weftline.spec.serialize import read_any_plan

MANIFEST: Final = "export.json"
EXPORT_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written for which target."""

    target: Target
    name: str
    written: Written

    def manifest(self) -> str:
        """What `--check` reads beside the files: target, settings' outcome, sums of the files."""
        sums = {name: hashlib.sha256(text.encode()).hexdigest()
                for name, text in self.written.files.items()}  # fmt: skip
        return json.dumps({
            "format": EXPORT_FORMAT, "weftline": __version__, "target": self.target.name,
            "written_for": self.target.version, "name": self.name, "start": self.written.start,
            "notes": list(self.written.notes), "sha256": sums,
        }, indent=1) + "\n"  # fmt: skip


def export_plan(
    plan: Path, to: str, *, name: str = "", command: Sequence[str] = (), image: str = "",
    hosts: Sequence[str] = (), settings: Mapping[str, str] | None = None,
) -> Exported:  # fmt: skip
    """The files of one target for the plan in ``plan``.

    Raises InputError(s): no plan, an unknown target or setting, hosts that do not fit, a plan of
    the other kind, something that the target has no words for and that may not be left out.
    """
    target = target_of(to)
    found = read_any_plan(plan)
    kind = "train" if isinstance(found, Plan) else "serve"
    if kind not in target.kinds:
        from weftline.launch.registry import targets

        fit = ", ".join(t.name for t in targets().values() if kind in t.kinds)
        raise InputError(f"{target.title} takes plans for {target.kinds[0]}ing, not for {kind}ing"
                         .replace("serveing", "serving"), where="--to",
                         hint=f"for this plan: {fit}")  # fmt: skip
    ask = Ask(
        plan=found, text=plan.read_text(encoding="utf-8"), name=name or _name_of(found),
        command=tuple(command), image=image, hosts=tuple(hosts),
        settings=settings_of(target, settings or {}),
    )  # fmt: skip
    if NAME.fullmatch(ask.name) is None:
        raise InputError(f"`{ask.name}` cannot name a job", where="--name",
                         hint="small letters, digits and dashes, 40 at most")  # fmt: skip
    if ask.hosts and (len(ask.hosts) != ask.nodes or len(set(ask.hosts)) != ask.nodes):
        raise InputError(f"{len(set(ask.hosts))} different host names for the {ask.nodes} hosts "
                         "of the plan", where="--hosts")  # fmt: skip
    written = target.write(ask)
    if isinstance(found, ServePlan):
        written = replace(written, notes=(*written.notes, *_two_chips(found)))
    return Exported(target=target, name=ask.name, written=written)


def _two_chips(plan: ServePlan) -> tuple[str, ...]:
    """What is to be said where prompts have chips of their own; raises InputError for a fleet of
    two kinds of replicas, for whose router no target here has words."""
    fleet, rate = plan.fleet, plan.demand.rate_per_s
    if fleet.beside is not None:
        each = " and ".join(f"`--on {f.accelerator} --rate {f.share * rate:.4g}/s`"
                            for f in (fleet, fleet.beside))  # fmt: skip
        raise InputError(
            f"a fleet of two kinds of replicas ({fleet.name}): one kind is written at a time",
            where="--to", hint=f"plan and export each with its share of the rate, {each}, and give "
            f"the router weights of {fleet.share:.0%} and {fleet.beside.share:.0%}",
        )  # fmt: skip
    if not fleet.prefill_accelerator:
        return ()
    return (f"workers for prompts are planned on {fleet.prefill_accelerator}, those that decode on "
            f"{fleet.accelerator}: no node is selected by its chip here, so add your cluster's "
            "labels to each role",)  # fmt: skip


def _name_of(plan: object) -> str:
    model = plan.job.model if isinstance(plan, Plan) else plan.demand.model  # type: ignore[attr-defined]
    words = "".join(c if c.isalnum() else "-" for c in Path(model).stem.lower())
    return f"w-{words}"[:36].strip("-")


def write_folder(exported: Exported, folder: Path) -> None:
    """Write to ``folder``: a new one, an empty one or an earlier export. Raises InputError."""
    if folder.exists() and not (folder.is_dir() and (
            (folder / MANIFEST).exists() or not any(folder.iterdir()))):  # fmt: skip
        raise InputError("there is something else already", where=str(folder),
                         hint="name a new folder")  # fmt: skip
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"cannot write there: {error.strerror}", where=str(folder)) from None
    try:
        made.chmod(0o755)
        for name, text in {**exported.written.files, MANIFEST: exported.manifest()}.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755 if name in exported.written.programs else 0o644)
        _swap(made, folder)
    except OSError as error:
        raise InputError(f"cannot write there: {error.strerror}", where=str(folder)) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _swap(made: Path, folder: Path) -> None:
    """Put ``made`` where ``folder`` is; what was there goes only after."""
    if not folder.exists():
        made.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.rename(old / "was")
    try:
        made.rename(folder)
    except OSError:
        os.rename(old / "was", folder)  # noqa: PTH104  (back as it was)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, object]:
    """What an exported folder says of itself. Raises InputError."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if found["format"] != EXPORT_FORMAT:
            raise InputError(f"export format {found['format']} is not known", where=str(folder))
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            "no exported job",
            where=str(folder),
            hint="`weftline export plan.json --to slurm -o DIR` writes one",
        ) from None
