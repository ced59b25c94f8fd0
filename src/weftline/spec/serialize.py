"""Plans as JSON files: written whole or not at all, read with every mistake named."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weftline.errors import InputError, InputErrors, InternalError
from weftline.spec.answers import kind_of
from weftline.spec.lifecycle import LIFECYCLE_FORMAT, Lifecycle
from weftline.spec.plan import PLAN_FORMATS_READ, Plan
from weftline.spec.serve_plan import SERVE_PLAN_FORMAT, ServePlan

MAX_PLAN_BYTES = 64 << 20
AnyPlan = Plan | ServePlan | Lifecycle


def plan_to_json(plan: AnyPlan) -> str:
    """The plan as indented JSON, keys in the order of the nouns."""
    text = json.dumps(asdict(plan), indent=1, allow_nan=False)
    # A list of numbers on one line: the chips of 16,384 ranks are no 16,384 lines.
    return re.sub(r"\[\n[\s\d,]+\]", lambda found: " ".join(found[0].split()), text)


def write_plan(plan: AnyPlan, path: Path) -> None:
    """Write atomically: a reader sees the old file or the whole new one. Raises InputError."""
    write_text(plan_to_json(plan) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Replace ``path`` with ``text`` in one step. Raises InputError where it cannot be written."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"cannot write there: {error.strerror}", where=str(path)) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise InputError(f"cannot write there: {error.strerror}", where=str(path)) from None


def read_plan(path: Path) -> Plan:
    """The training plan in ``path``.

    Raises InputError(s): no file, not JSON, not a plan, a plan for serving, another format.
    """
    return plan_from_json(_text_of(path), where=str(path))


def read_any_plan(path: Path) -> Plan | ServePlan:
    """The plan in ``path``, for training or serving. Raises InputError(s) as :func:`read_plan`."""
    found = read_any_answer(path)
    if isinstance(found, Lifecycle):
        raise InputError("a lifecycle, a plan to train or serve is needed", where=str(path))
    return found


def read_any_answer(path: Path) -> AnyPlan:
    """The plan or lifecycle in ``path``. Raises InputError(s) as :func:`read_plan`."""
    text = _text_of(path)
    raw = _parsed(text, str(path))
    if isinstance(raw, dict) and raw.get("kind") == "serve":
        return serve_plan_from_json(text, where=str(path))
    if isinstance(raw, dict) and raw.get("kind") == "lifecycle":
        if raw.get("format") != LIFECYCLE_FORMAT:
            raise InputError(
                f"lifecycle format {raw.get('format')} is not known, this version reads "
                f"{LIFECYCLE_FORMAT}",
                where=str(path), hint="make it again with this version",
            )  # fmt: skip
        found: Lifecycle = _validated(Lifecycle, raw, str(path))
        return found
    return plan_from_json(text, where=str(path))


def read_answer(path: Path) -> Plan | ServePlan | Lifecycle | dict[str, Any]:
    """What a command wrote with ``-o`` or printed with ``--json``: a plan, or plain fields.

    Raises InputError(s) as :func:`read_plan`, also for JSON that is no object or list.
    """
    raw = _parsed(_text_of(path), str(path))
    if isinstance(raw, list):
        return {"kind": kind_of(raw), "rows": raw}  # as lists were printed before they said a kind
    if not isinstance(raw, dict):
        raise InputError("no answer of weftline: it begins with {", where=str(path))
    if "format" in raw and ("layout" in raw or raw.get("kind") in ("serve", "lifecycle")):
        return read_any_answer(path)
    return raw


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise InputError("too large for a plan", where=str(path))
        return path.read_text(encoding="utf-8")
    except OSError as error:
        hint = "make one with `weftline plan train MODEL ... -o plan.json`"
        raise InputError(error.strerror or "cannot read", where=str(path), hint=hint) from None
    except UnicodeDecodeError:
        raise InputError("not a text file", where=str(path)) from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise InputError("not JSON", where=f"{where}:{line}") from None


def serve_plan_from_json(text: str, *, where: str = "plan") -> ServePlan:
    """Parse and check a serving plan. Raises InputError(s) that name each wrong field."""
    raw = _parsed(text, where)
    if not isinstance(raw, dict) or raw.get("kind") != "serve":
        hint = "`weftline plan serve MODEL ... -o plan.json` writes one"
        raise InputError("not a weftline plan for serving", where=where, hint=hint)
    if raw.get("format") != SERVE_PLAN_FORMAT:
        raise InputError(
            f"plan format {raw.get('format')} is not known, this version reads "
            f"{SERVE_PLAN_FORMAT}",
            where=where, hint="make the plan again with this version",
        )  # fmt: skip
    found: ServePlan = _validated(ServePlan, raw, where)
    return found


def plan_from_json(text: str, *, where: str = "plan") -> Plan:
    """Parse and check a training plan. Raises InputError(s) that name each wrong field."""
    raw = _parsed(text, where)
    if isinstance(raw, dict) and raw.get("kind") == "serve":
        raise InputError("a plan for serving, one for training is needed", where=where)
    if not isinstance(raw, dict) or "format" not in raw or "layout" not in raw:
        raise InputError("not a weftline plan", where=where,
                         hint="a plan has `format`, `job`, `layout`...")  # fmt: skip
    if raw["format"] not in PLAN_FORMATS_READ:
        known = " and ".join(map(str, PLAN_FORMATS_READ))
        raise InputError(
            f"plan format {raw['format']} is not known, this version reads {known}",
            where=where,
            hint="make the plan again with this version",
        )
    found: Plan = _validated(Plan, raw, where)
    _check_layout(found, where)
    return found


def _validated(kind: Any, raw: Any, where: str) -> Any:
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    adapter = TypeAdapter(with_config(ConfigDict(extra="forbid"))(kind))
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        wrong = [
            InputError(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}", where=where)
            for e in error.errors()[:20]
        ]
        raise (wrong[0] if len(wrong) == 1 else InputErrors(wrong)) from None
    except InternalError as error:  # an estimate outside its band: no plan of ours, an edited file
        raise InputError(error.what, where=where) from None


def _check_layout(plan: Plan, where: str) -> None:
    layout = plan.layout
    try:
        layout.check(
            chips=plan.cluster.chips,
            global_batch=plan.job.global_batch,
            layers=layout.pp * layout.vp,  # a plan does not repeat its model's depth
        )
    except InputErrors as several:
        placed = [InputError(f"layout: {e.what}", where=where, hint=e.hint) for e in several.errors]
        raise InputErrors(placed) from None
    except InputError as error:
        raise InputError(f"layout: {error.what}", where=where, hint=error.hint) from None
