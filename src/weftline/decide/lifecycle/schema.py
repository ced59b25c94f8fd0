"""JSON Schema of lifecycle files, for editors, from the same classes that read them."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from weftline.decide.lifecycle.fields import (
    JOB_FIELDS,
    STAGES,
    BandFields,
    LeaveFields,
    LifeFields,
    PlaceFields,
    PortableFields,
)
from weftline.decide.lifecycle.read import OBJECTIVES, fields_of
from weftline.spec.job_file import explained_fields

__all__ = ["life_schema"]

_TEXT: dict[str, Any] = {"anyOf": [
    {"type": ["string", "number"]},
    {"type": "array", "items": {"type": ["string", "number"]}},
    {"type": "object"},
]}  # fmt: skip
_WORDS = {
    "objective": list(OBJECTIVES), "place": ["best", "one"], "core": ["graviton", "epyc", "xeon"],
    "tier": ["gold", "hyperscaler", "silver"],
}  # fmt: skip


def life_schema() -> dict[str, Any]:
    """JSON Schema (2020-12): every field with its text and default."""
    head = _object(LifeFields, "a lifecycle")
    leave = _object(LeaveFields, "what leaving a place costs")
    leave["properties"]["portable"] = _object(PortableFields, "a model made to run anywhere")
    head["properties"] |= {
        "kind": {"const": "lifecycle"},
        "bands": _object(BandFields, "what nobody knows"), "leave": leave,
        "places": {"type": "array", "items": _object(PlaceFields, "a place")},
        "stages": {"type": "array", "minItems": 1,
                   "items": {"oneOf": [_stage(kind) for kind in STAGES]}},
    }  # fmt: skip
    head["required"] = [*head["required"], "stages"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "weftline lifecycle", **head}  # fmt: skip


def _stage(kind: str) -> dict[str, Any]:
    found = _object(STAGES[kind], f"a stage: {kind}", kind)
    found["properties"] |= {"kind": {"const": kind}, "name": {"type": "string"}}
    found["required"] = ["kind", *found["required"]]
    return found


def _object(own: type, title: str, kind: str = "") -> dict[str, Any]:
    said = dict(explained_fields(own))
    for group in JOB_FIELDS.get(kind, ((), frozenset()))[0]:
        said = {**dict(explained_fields(group)), **said}
    properties: dict[str, Any] = {}
    needed = []
    ours = {f.name for f in fields(own)}
    for f in fields_of(own, kind):
        form: dict[str, Any] = {"type": "boolean"} if f.type == "bool" else dict(_TEXT)
        if f.name in _WORDS and f.name in ours and not (f.name == "tier" and kind):
            form = {"enum": _WORDS[f.name]}
        properties[f.name] = {"description": said[f.name], **form}
        if f.default is MISSING:
            needed.append(f.name)
        elif f.default is not None:
            properties[f.name]["default"] = f.default
    pattern = {n.replace("_", "-"): held for n, held in properties.items() if "_" in n}
    return {"title": title, "type": "object", "additionalProperties": False, "required": needed,
            "properties": properties | pattern}  # fmt: skip
