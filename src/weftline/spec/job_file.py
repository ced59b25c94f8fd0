"""A question as a file: every option is a field, in YAML or JSON, and back.

A field is named as its option (``global_batch`` or ``global-batch``) and written as on the command
line. A list stands for a text with commas (``on: [h100, mi300x]``), a mapping for one of pairs
(``layout: {tp: 8, pp: 2}``); chips of one's own may stand in the file itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from weftline.errors import InputError, UnknownNameError
from weftline.spec.job import OBJECTIVES, PRECISIONS, TUNES
from weftline.spec.located import Located, read_located
from weftline.spec.options import FleetOptions, JobOptions, ServingOptions, TrafficOptions
from weftline.spec.parse import Collector
from weftline.spec.serve_job import ROUTINGS

__all__ = [
    "JobFile", "JobKind", "explained_fields", "field_text", "job_schema", "job_text", "job_values",
    "read_job_file",
]  # fmt: skip

JobKind = Literal["train", "serve"]
OPTIONS: Final[Mapping[JobKind, tuple[type, ...]]] = {
    "train": (JobOptions,), "serve": (FleetOptions, TrafficOptions, ServingOptions),
}  # fmt: skip
_OF_MODEL: Final = ("model", "as")
"""Fields beside the options: which model, and how a file of unknown type is to be taken."""
SCHEMA_FILE: Final = Path(__file__).with_name("job.schema.json")
"""The schema as it ships, for editors."""
_WORDS: Final = {
    "objective": OBJECTIVES, "precision": PRECISIONS, "tune": TUNES, "routing": ROUTINGS,
}  # fmt: skip
"""Fields whose values an editor can offer; serving takes several precisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """What a file asks for: values as the command line has them, and where each stands."""

    path: str
    kind: JobKind
    values: Mapping[str, str | bool]
    """By field, ``model`` among them; only what the file gives."""
    lines: Mapping[str, int]

    def place(self, field: str) -> str:
        """``job.yaml:6``, where a field stands."""
        return f"{self.path}:{self.lines[field]}"


def _fields(kind: JobKind) -> dict[str, Field[Any]]:
    return {f.name: f for options in OPTIONS[kind] for f in fields(options)}


def read_job_file(
    path: str, kind: JobKind, *, where: str = "--job"
) -> tuple[JobFile, list[InputError]]:
    """(a job file of ``kind``, what is wrong with its form, each with file and line).

    An unknown field, a value that cannot be one, a job of the other kind are left out of the job:
    what the other values mean is checked where options are, so that a reader hears of all at once.
    Raises InputError where the file cannot be read as fields at all.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"`{path}`: {getattr(error, 'strerror', None) or 'not a text file'}",
            where=where,
            hint=f"`weftline plan {kind} MODEL ... --write-job {path}` writes one",
        ) from None
    root = read_located(text, path)
    if not isinstance(root.value, dict) or not root.value:
        raise InputError("a job is a mapping of fields", where=f"{path}:1",
                         hint="model: llama-3.1-8b, tokens: 1T, on: [h100]")  # fmt: skip
    get = Collector()
    known = _fields(kind)
    values: dict[str, str | bool] = {}
    lines: dict[str, int] = {}
    for key, held in root.value.items():
        name, place = key.replace("-", "_"), f"{path}:{held.line}"
        if name in lines:
            get.errors.append(InputError(f"`{key}` stands twice", where=place))
        elif name == "kind":
            get(lambda h=held, p=place: _check_kind(h, kind, p))  # type: ignore[misc]
        elif name not in (*_OF_MODEL, *known):
            get.errors.append(_unknown(key, kind, place))
        else:
            lines[name] = held.line
            flag = name in known and known[name].type == "bool"
            value = get(lambda h=held, f=flag, p=place: field_text(h, flag=f, where=p))  # type: ignore[misc]
            if value is not None:
                values[name] = value
    return JobFile(path=path, kind=kind, values=values, lines=lines), get.errors


def _check_kind(held: Located, kind: JobKind, where: str) -> None:
    if held.value not in get_args(JobKind):
        raise UnknownNameError("kind of job", str(held.value), get_args(JobKind), where=where,
                               hint="train or serve")  # fmt: skip
    if held.value != kind:
        raise InputError(f"a job to {held.value}", where=where,
                         hint=f"give it to `weftline plan {held.value}`")  # fmt: skip


def _unknown(key: str, kind: JobKind, where: str) -> InputError:
    names = ("kind", *_OF_MODEL, *_fields(kind))
    other: JobKind = "serve" if kind == "train" else "train"
    if key.replace("-", "_") in _fields(other):
        return InputError(f"`{key}` is a field of a job to {other}", where=where,
                          hint=f"this is one to {kind}")  # fmt: skip
    hint = "`weftline plan schema` has all fields"
    return UnknownNameError("field", key, names, where=where, hint=hint)


def field_text(held: Located, *, flag: bool, where: str) -> str | bool:
    """A value of a file as the command line has it. Raises InputError where it can be none."""
    plain = held.plain()
    if flag:
        if not isinstance(plain, bool):
            raise InputError(f"`{plain}`: true or false is needed", where=where)
        return plain
    if isinstance(plain, bool) or plain is None:
        said = "nothing" if plain is None else str(plain).lower()
        raise InputError(f"a text or a number is needed, not {said}", where=where)
    return _as_text(plain, where)


def _as_text(plain: Any, where: str) -> str:
    """A value as the command line has it: commas between items, ``=`` in pairs."""
    if isinstance(plain, dict):
        nested = any(isinstance(v, dict | list) for v in plain.values()) or "id" in plain
        if nested:
            return json.dumps(plain, default=str)
        return ",".join(f"{k}={v}" for k, v in plain.items())
    if isinstance(plain, list):
        if any(isinstance(item, dict | list) for item in plain):
            return json.dumps(plain, default=str)
        return ",".join(_as_text(item, where) for item in plain)
    return f"{plain}"


def job_values(kind: JobKind, model: str, *options: Any) -> dict[str, str | bool | float]:
    """A question as fields: the model, and every option that is not as it stands unasked."""
    given: dict[str, Any] = {"kind": kind, "model": model}
    if model.startswith("as="):
        given["as"], _, given["model"] = model.removeprefix("as=").partition(":")
    for group in options:
        for f in fields(group):
            value = getattr(group, f.name)
            if value is not None and value != f.default:
                given[f.name] = value
    return given


def job_text(values: Mapping[str, Any]) -> str:
    """Fields as a YAML file."""
    import yaml

    plain = {k: _as_written(v) for k, v in values.items()}
    text: str = yaml.safe_dump(
        plain, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=False
    )
    return text


def _as_written(value: Any) -> Any:
    """A value as a person would write it: numbers bare, own chips as they are."""
    if isinstance(value, str) and re.fullmatch(r"[1-9]\d*", value):
        return int(value)
    if isinstance(value, str) and value.startswith(("[{", "{")):
        return json.loads(value)
    return value


def explained_fields(options: type) -> Iterator[tuple[str, str]]:
    """Field -> its text, from the docstring that explains the options."""
    name = ""
    said: list[str] = []
    for line in (options.__doc__ or "").partition("----------")[2].splitlines():
        words = line.strip()
        if line.startswith("    ") and not line.startswith("     ") and words:
            if name:
                yield name, " ".join(said)
            name, said = words, []
        elif words:
            said.append(words)
    if name:
        yield name, " ".join(said)


def job_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a job file, for editors: every field with its text and default."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "weftline job",
        "description": "A question to `weftline plan train --job` or `weftline plan serve --job`.",
        "oneOf": [_schema_of(kind) for kind in OPTIONS],
    }


def _schema_of(kind: JobKind) -> dict[str, Any]:
    text = {"anyOf": [
        {"type": ["string", "number"]},
        {"type": "array", "items": {"type": ["string", "number", "object"]}},
        {"type": "object"},
    ]}  # fmt: skip
    properties: dict[str, Any] = {
        "kind": {"const": kind, "description": f"A job to {kind}."},
        "model": {"type": "string",
                  "description": "Bundled name, config.json, or gpt:layers=96,hidden=12288,..."},
        "as": {"type": "string",
               "description": "Take a config.json of unknown type as a plain stack: llama."},
    }  # fmt: skip
    needed = ["model"]
    for options in OPTIONS[kind]:
        said = dict(explained_fields(options))
        for f in fields(options):
            form: dict[str, Any] = {"type": "boolean"} if f.type == "bool" else dict(text)
            if f.name in _WORDS and not (kind == "serve" and f.name == "precision"):
                form = {"enum": list(_WORDS[f.name])}
            properties[f.name] = {"description": said[f.name], **form}
            if f.default is MISSING:
                needed.append(f.name)
            elif f.default is not None:
                properties[f.name]["default"] = f.default
    pattern = {name.replace("_", "-"): held for name, held in properties.items() if "_" in name}
    return {
        "title": f"a job to {kind}", "type": "object", "additionalProperties": False,
        "required": ["kind", *needed], "properties": properties | pattern,
    }  # fmt: skip
