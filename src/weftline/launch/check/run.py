"""Every file of an export against what knows it: schemas, rules, parsers, and the plan itself."""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import yaml

from weftline.errors import InputError, nearest_names
from weftline.launch.check.flags import flag_findings, known
from weftline.launch.check.found import Document, Finding, read_yaml
from weftline.launch.check.objects import object_findings
from weftline.launch.check.schema import rule_findings, schema_findings, schemas
from weftline.launch.check.skypilot import key_findings, parser_findings
from weftline.launch.check.slurm import option_findings, sbatch_findings

__all__ = ["Finding", "Report", "check_files", "check_folder"]

KUBERNETES = "1.37"


@dataclass(slots=True)
class Report:
    """What was held against what."""

    target: str
    documents: int = 0
    findings: list[Finding] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def check_folder(folder: Path) -> Report:
    """The exported job in ``folder``, as it stands now. Raises InputError where there is none."""
    from weftline.launch.export import read_manifest

    manifest = read_manifest(folder)
    names = manifest["sha256"]
    found = {}
    for name in names if isinstance(names, dict) else ():
        try:
            found[name] = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{name} is gone or no text", where=str(folder)) from None
    return report_of(str(manifest["target"]), found)


def check_files(target: str, files: Mapping[str, str]) -> list[Finding]:
    """Every mistake in the files of one export."""
    return report_of(target, files).findings


SCHEMAS: Final = {
    "hyperpod.json": ("hyperpod_v1_1.json", "HyperPod's PyTorch job, schema v1_1"),
    "job-definition.json": ("aws_batch_job.json", "AWS Batch's RegisterJobDefinition, its model"),
}
"""JSON file of an export -> the schema that knows it, and what to call the check."""


def report_of(target: str, files: Mapping[str, str]) -> Report:
    """Hold every file against what knows its kind. Raises InputError without the libraries."""
    if find_spec("jsonschema") is None or find_spec("cel") is None:
        raise InputError("jsonschema and common-expression-language are not installed",
                         where="--check", hint="pip install 'weftline[export]'")  # fmt: skip
    report = Report(target=target)
    for name, text in files.items():
        suffix = name.rpartition(".")[2]
        if suffix in ("yaml", "yml"):
            _yaml_file(report, name, text)
        elif suffix == "json":
            _json_file(report, name, text)
        elif suffix == "py":
            _python_file(report, name, text)
        elif suffix == "sh":
            _shell_file(report, name, text)
        elif suffix == "sbatch":
            report.documents += 1
            report.findings += option_findings(name, text)
            _note(report, "#SBATCH options, Slurm 22.05 to 25.11 (frozen list)")
            wrong, why = sbatch_findings(name, text)
            report.findings += wrong
            (report.skipped if why else report.checks).append(why or "sbatch --test-only")
            _shell_file(report, name, text)
        if suffix in ("sh", "sbatch", "args"):
            wrong, looked = flag_findings(name, text)
            report.findings += wrong
            if looked:
                _note(report, f"flags of commands in {name} (frozen lists)")
    report.findings += _against_plan(report.target, files)
    return report


def _note(report: Report, check: str) -> None:
    if check not in report.checks:
        report.checks.append(check)


def _yaml_file(report: Report, name: str, text: str) -> None:
    try:
        documents = list(read_yaml(name, text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        report.findings.append(Finding(what=f"no YAML: {getattr(error, 'problem', error)}",
                                       where=where))  # fmt: skip
        return
    report.documents += len(documents)
    for document in documents:
        for path, part in document.texts():
            wrong, looked = flag_findings(name, part, document.where(path))
            report.findings += wrong
            if looked:
                _note(report, f"flags of commands in {name} (frozen lists)")
        if report.target == "skypilot" and name == "task.yaml":
            report.findings += key_findings(document)
            wrong, why = parser_findings(name, text)
            report.findings += wrong
            (report.skipped if why else report.checks).append(why or "sky.Task.from_yaml")
        elif isinstance(document.value, dict) and "apiVersion" in document.value:
            _object(report, document)


def _object(report: Report, document: Document) -> None:
    key = (str(document.value.get("apiVersion")), document.kind)
    report.findings += object_findings(document)
    schema = schemas().get(key)
    if schema is not None:
        report.findings += schema_findings(document, schema)
        broken, ran, skipped = rule_findings(document, schema)
        report.findings += broken
        _note(
            report,
            f"{document.kind} {key[0]}: CRD schema, {ran} CEL rules"
            + (f" ({skipped} compare with a past state or cannot run here)" if skipped else ""),
        )
        for value in _pod_specs(document.value):
            _kubernetes(
                report,
                document,
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "of-template"},
                    "spec": value,
                },
            )
    elif "." not in key[0].split("/")[0] or key[0].split("/")[0].endswith(".k8s.io") or (
            key[0].split("/")[0] in ("apps", "batch", "autoscaling")):  # fmt: skip
        _kubernetes(report, document, document.value)
    elif not any(kind == document.kind and api.split("/")[0] == key[0].split("/")[0]
                 for api, kind in schemas()):  # fmt: skip
        report.skipped.append(f"{document.kind} {key[0]}: no schema of it here")
    else:
        report.findings.append(Finding(what=f"{key[0]} has no {document.kind}",
                                       where=document.where(("apiVersion",))))  # fmt: skip


def _pod_specs(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod spec inside an object."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        else:
            for part in value.values():
                yield from _pod_specs(part)
    elif isinstance(value, list):
        for part in value:
            yield from _pod_specs(part)


def _kubernetes(report: Report, document: Document, value: dict[str, Any]) -> None:
    if find_spec("kubernetes_validate") is None:
        if "kubernetes-validate is not installed here" not in report.skipped:
            report.skipped.append("kubernetes-validate is not installed here")
        return
    import kubernetes_validate

    try:
        kubernetes_validate.validate(value, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        place = ".".join(map(str, error.path)) or document.kind
        report.findings.append(
            Finding(
                what=f"Kubernetes {KUBERNETES}: {place}: {str(error.message)[:200]}",
                where=document.file,
            )
        )
    except kubernetes_validate.SchemaNotFoundError:
        report.findings.append(Finding(what=f"Kubernetes {KUBERNETES} has no {value['kind']} "
                                       f"{value['apiVersion']}",
                                       where=document.where(("apiVersion",))))  # fmt: skip
    _note(report, f"kubernetes-validate {KUBERNETES}, strict")


def _json_file(report: Report, name: str, text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError as error:
        report.findings.append(
            Finding(what="no JSON", where=f"{name}:{getattr(error, 'lineno', 1)}")
        )
        return
    if name not in SCHEMAS:
        return
    from jsonschema import Draft202012Validator

    report.documents += 1
    file, what = SCHEMAS[name]
    raw = package_files("weftline.launch").joinpath(f"data/{file}").read_text("utf-8")
    # HyperPod's published schema says "float" for a number.
    schema = json.loads(raw.replace('"type": "float"', '"type": "number"'))
    for wrong in Draft202012Validator(schema).iter_errors(value):
        hint = ""
        if wrong.validator == "additionalProperties":
            names = wrong.schema["properties"]
            near = [n for w in set(wrong.instance) - set(names) for n in nearest_names(w, names, 1)]
            hint = f"did you mean `{near[0]}`?" if near else ""
        place = ".".join(map(str, wrong.absolute_path)) or "the job"
        report.findings.append(Finding(what=f"{place}: {wrong.message[:200]}", where=name,
                                       hint=hint))  # fmt: skip
    _note(report, what)


def _python_file(report: Report, name: str, text: str) -> None:
    report.documents += 1
    try:
        ast.parse(text)
    except SyntaxError as error:
        report.findings.append(Finding(what=f"no Python: {error.msg}",
                                       where=f"{name}:{error.lineno}"))  # fmt: skip


def _shell_file(report: Report, name: str, text: str) -> None:
    report.documents += not name.endswith(".sbatch")
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True,  # noqa: S607
                          check=False)  # fmt: skip
    if done.returncode:
        line = done.stderr.strip().splitlines()[0]
        number = line.split("line ")[1].split(":")[0] if "line " in line else "1"
        report.findings.append(Finding(what=f"no shell script: {line.rpartition(': ')[2]}",
                                       where=f"{name}:{number}"))  # fmt: skip
    _note(report, "bash -n")


def _against_plan(target: str, files: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the files still start as many processes as the plan has ranks."""
    from weftline.launch.check.counts import counts_in

    yield from counts_in(target, files)


def frozen_versions() -> dict[str, str]:
    """Engine -> version of its frozen flags."""
    return {e: str(known(e)["version"]) for e in ("vllm", "sglang", "torchtitan", "megatron",
                                                  "maxtext", "slurm")}  # fmt: skip
