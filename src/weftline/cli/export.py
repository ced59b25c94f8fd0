"""``weftline export``: a plan written for the engine that is to run it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from weftline.cli.answer import form_of, show
from weftline.cli.options import Format, Json


def export(
    plan: Path,
    *,
    to: str | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    check: Annotated[bool, Parameter(negative="")] = False,
    name: str = "",
    command: str = "",
    image: str = "",
    hosts: str = "",
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    policy_record: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """A plan written as the launch files of an engine, its ranks placed as planned.

    Parameters
    ----------
    plan
        A file written by `weftline plan ... -o`; with --check alone, a folder written
        by this command.
    to
        torchrun, slurm, mpi, ray, jobset, kuberay, hyperpod, skypilot, tpu, aws-batch,
        parallelcluster, dstack; torchtitan, megatron, megatron-bridge, maxtext, neuronx;
        vllm, sglang, trtllm, lws, kserve, llm-d, dynamo.
    output
        Folder to write: whole or not at all. Without it the files are listed.
    check
        Hold the files against the target's own parser or schema.
    name
        Name of the job; made from the model if not given.
    command
        What every process runs; the trainer of the plan's framework if not given.
    image
        Container image, where the target needs one.
    hosts
        Names of the planned hosts in the plan's order, with commas between, or a file
        with one a line.
    set_
        What the target asks for beside the plan: --set partition=gpu --set slurm=24.05.
    policy_record
        Only with a signed decision that lets this plan go: record.json,public.pem.
    """
    import shlex

    from weftline.errors import InputError

    if plan.is_dir():
        if to is not None or not check:
            raise InputError("a folder can only be checked", where=str(plan), hint="--check alone")
        return _checked(plan, json=json, form=form)
    if to is None:
        raise InputError("no target", where="--to", hint="`weftline export --help` lists them")
    from weftline.decide.policy import let_go
    from weftline.launch.export import export_plan, write_folder

    let_go(policy_record, plan)
    done = export_plan(plan, to, name=name, command=shlex.split(command), image=image,
                       hosts=_hosts(hosts), settings=_settings(set_ or []))  # fmt: skip
    found = []
    if check:
        from weftline.launch.check import check_files

        found = check_files(done.target.name, done.written.files)
    asked = form_of(form, json=json)
    said = _said(done, found, check=check, output=output)
    if found:
        raise _wrong(found)
    if output is not None:
        write_folder(done, output)
    if asked != "table":
        show("export", said, str, json=json, form=form)
        return 0
    from weftline.report.launch import render_export

    print(render_export(said))
    if output is None:
        print("-o DIR writes them", file=sys.stderr)
    return 0


def _said(done: Any, found: Any, *, check: bool, output: Path | None) -> dict[str, Any]:
    """What was written, as plain fields."""
    return {
        "target": done.target.name, "written_for": done.target.version, "name": done.name,
        "files": sorted(done.written.files), "start": done.written.start,
        "notes": list(done.written.notes), "checked": done.target.checked if check else None,
        "findings": [f"{f.where}: {f.what}" for f in found],
        "folder": None if output is None else str(output),
    }  # fmt: skip


def _checked(folder: Path, *, json: bool, form: Format) -> int:
    from weftline.launch.check import check_folder
    from weftline.report.launch import render_check

    report = check_folder(folder)
    if report.findings:
        raise _wrong(report.findings)
    said = {"target": report.target, "documents": report.documents, "checks": list(report.checks),
            "skipped": list(report.skipped)}  # fmt: skip
    show("export-check", said, lambda: render_check(said), json=json, form=form)
    return 0


def _wrong(found: object) -> Exception:
    from weftline.errors import InputError, InputErrors

    errors = [InputError(f.what, where=f.where, hint=f.hint or None) for f in found]  # type: ignore[attr-defined]
    return errors[0] if len(errors) == 1 else InputErrors(errors)


def _hosts(text: str) -> list[str]:
    from weftline.errors import InputError

    path = Path(text) if text else None
    if path is not None and "," not in text and path.exists():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise InputError("cannot read the host names", where=str(path)) from None
    return [name for name in text.replace(",", " ").split() if name]


def _settings(words: list[str]) -> dict[str, str]:
    from weftline.errors import InputError

    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InputError(f"`{word}` is no NAME=VALUE", where="--set")
        found[name] = value
    return found
