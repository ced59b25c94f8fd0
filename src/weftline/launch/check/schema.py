"""Kubernetes objects against their CRD: a strict JSON schema, and the CEL rules inside it.

A bare JSON Schema check accepts a misspelt field, because a CRD leaves ``additionalProperties``
open and the API server prunes. So: no other properties where ``properties`` stand, unless the
schema preserves unknown fields; integer-or-string where it says so; ``nullable`` as it means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from weftline.launch.check.found import Document, Finding, Path, dotted

Schema = dict[str, Any]


@cache
def schemas() -> dict[tuple[str, str], Schema]:
    """(apiVersion, kind) -> strict schema, of every CRD in ``data/crd``."""
    found = {}
    for entry in sorted(files("weftline.launch").joinpath("data/crd").iterdir(), key=str):
        crd = json.loads(entry.read_text("utf-8"))
        spec = crd["spec"]
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = _strict(version["schema"]["openAPIV3Schema"], top=True)
    return found


def _strict(schema: Schema, *, top: bool = False) -> Schema:
    made: Schema = dict(schema)
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in made:
        made["properties"] = {n: _strict(s) for n, s in made["properties"].items()}
        open_ = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
        if not open_:
            made["additionalProperties"] = False
        if top:
            made["properties"]["metadata"] = {"type": "object"}
    for name in ("items", "additionalProperties"):
        if isinstance(made.get(name), dict):
            made[name] = _strict(made[name])
    if made.pop("nullable", False) and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


def schema_findings(document: Document, schema: Schema) -> Iterator[Finding]:
    """Where the document breaks the schema."""
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(document.value):
        path = tuple(error.absolute_path)
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            yield from _unknown(document, path, error.instance, error.schema)
            continue
        yield Finding(what=f"{dotted(path)}: {error.message[:200]}", where=document.where(path))


def _unknown(
    document: Document, path: Path, value: Mapping[str, Any], schema: Schema
) -> Iterator[Finding]:
    from weftline.errors import nearest_names

    known = schema.get("properties", {})
    for name in value:
        if name not in known:
            near = nearest_names(str(name), known, 1)
            yield Finding(what=f"unknown field `{dotted((*path, name))}`",
                          where=document.where((*path, name)),
                          hint=f"did you mean `{near[0]}`?" if near else "")  # fmt: skip


def rule_findings(document: Document, schema: Schema) -> tuple[list[Finding], int, int]:
    """(broken CEL rules, rules that were run, rules that were not: they compare with a past state
    or call what this CEL has not)."""
    found: list[Finding] = []
    ran = skipped = 0
    for path, value, rule in _rules(document.value, schema, ()):
        if "oldSelf" in rule["rule"]:
            skipped += 1
            continue
        kept = _evaluated(rule["rule"], value)
        if kept is None:
            skipped += 1
            continue
        ran += 1
        if not kept:
            found.append(Finding(what=f"{dotted(path)}: {rule.get('message', rule['rule'])}",
                                 where=document.where(path)))  # fmt: skip
    return found, ran, skipped


def _evaluated(rule: str, value: Any) -> bool | None:
    from cel import Context, evaluate

    try:
        return bool(evaluate(rule, Context({"self": value})))
    except (ValueError, TypeError, RuntimeError, KeyError):
        return None


def _rules(value: Any, schema: Schema, path: Path) -> Iterator[tuple[Path, Any, Mapping[str, Any]]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path, value, rule
    if isinstance(value, dict):
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(inner, dict):
                yield from _rules(part, inner, (*path, name))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, part in enumerate(value):
            yield from _rules(part, schema["items"], (*path, number))
