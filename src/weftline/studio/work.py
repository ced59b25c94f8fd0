"""What a worker process is asked to do: plan, show, write as a page or files, compare, audit.

Every task takes and gives plain JSON, so that nothing but text crosses between processes. It runs
in an empty folder of its own, which holds the pasted config and no other file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from weftline.spec import Plan, ServePlan
from weftline.studio.question import Question, read_question
from weftline.units import format_count, format_usd

__all__ = ["OWN", "TASKS", "Say", "asked_in", "claims_on"]

Say = Callable[[str, float | None], None]
"""Shows a text and, where it is known, the share that is done."""
Fields = Mapping[str, Any]
AnyPlan = Plan | ServePlan
_PLAN: Final = Path("plan.json")
OWN: Final = "this-answer"
"""The claim that the answer itself is."""


def asked_in(query: str) -> Question:
    """The question of a URL."""
    return read_question(parse_qsl(query, max_num_fields=200))


def _keep_config(question: Question) -> None:
    if question.file_name:
        Path(question.file_name).write_text(question.config, encoding="utf-8")


def plan(asked: Fields, say: Say) -> dict[str, Any]:
    """Answer a question: the plan as JSON and as it is shown."""
    from weftline.spec.serialize import plan_to_json

    question = asked_in(asked["query"])
    _keep_config(question)
    found = _trained(question, say) if question.kind == "train" else _served(question, say)
    say("drawing", None)
    return {"plan": plan_to_json(found) + "\n", **_shown(found, asked["prefix"])}


def _trained(question: Question, say: Say) -> Plan:
    from weftline.plan import job_of, plan_train

    job = job_of(question.model_asked, *question.options())
    return plan_train(job, progress=say)


def _served(question: Question, say: Say) -> ServePlan:
    from weftline.serve.search.asked import serve_job_of
    from weftline.serve.search.plan import plan_serve

    fleet, traffic, serving = question.options()
    job = serve_job_of(question.model_asked, fleet, traffic, serving)
    return plan_serve(job, progress=lambda text: say(text, None))


def _shown(found: AnyPlan, prefix: str) -> dict[str, Any]:
    from weftline.report.page import fragment, page_of

    page = page_of(found, where="plan")
    piece = fragment(page, prefix=prefix, top=2)
    return {"headline": page.headline, "html": piece.html, "charts": list(piece.charts)}


def _read(text: str) -> AnyPlan:
    import json

    from weftline.spec.serialize import plan_from_json, serve_plan_from_json

    serves = json.loads(text).get("kind") == "serve"
    return serve_plan_from_json(text) if serves else plan_from_json(text)


def show(asked: Fields, _say: Say) -> dict[str, Any]:
    """A kept plan as it is shown."""
    return _shown(_read(asked["plan"]), asked["prefix"])


def page(asked: Fields, _say: Say) -> dict[str, Any]:
    """A kept plan as one self-contained file: what ``weftline report`` writes."""
    from weftline.report.page import document, page_of

    return {"html": document(page_of(_read(asked["plan"]), where="plan.json"))}


def compare(asked: Fields, _say: Say) -> dict[str, Any]:
    """Two kept plans beside each other: what ``weftline diff`` says, and both as they are shown."""
    from weftline.errors import InputError
    from weftline.report.difference import moved_row
    from weftline.spec.difference import difference

    first, second = _read(asked["first"]), _read(asked["second"])
    both = [_shown(first, f"{asked['prefix']}a-"), _shown(second, f"{asked['prefix']}b-")]
    try:
        found = difference(first, second)
    except InputError as error:
        return {"both": both, "why_not": error.what, "moved": [], "changed": []}
    changed = [(title, c.field.replace("_", " "), c.before, c.after)
               for title, rows in (("asked", found.asked), ("chosen", found.chosen))
               for c in rows]  # fmt: skip
    moved = [moved_row(m) for m in found.moved if m.before != m.after]
    return {"both": both, "why_not": "", "moved": moved, "changed": changed}


def export(asked: Fields, _say: Say) -> dict[str, Any]:
    """A kept plan as the launch files of a target: what ``weftline export`` writes."""
    import shlex

    from weftline.launch.export import MANIFEST, export_plan

    _keep_config(asked_in(asked["query"]))
    _PLAN.write_text(asked["plan"], encoding="utf-8")
    done = export_plan(
        _PLAN, asked["to"], name=asked.get("name", ""),
        command=shlex.split(asked.get("command", "")), image=asked.get("image", ""),
        hosts=tuple(asked.get("hosts", "").replace(",", " ").split()),
        settings=_settings(asked.get("set", "")),
    )  # fmt: skip
    written = done.written
    return {
        "name": done.name, "target": done.target.name, "start": written.start,
        "notes": list(written.notes), "programs": list(written.programs),
        "files": {**written.files, MANIFEST: done.manifest()},
    }  # fmt: skip


def _settings(text: str) -> dict[str, str]:
    """``partition=gpu slurm=24.05`` by name. Raises InputError."""
    from weftline.errors import InputError

    found = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InputError(f"`{word}` is no NAME=VALUE", where="--set")
        found[name] = value
    return found


def own_claim(found: AnyPlan, question: Question) -> dict[str, Any] | None:
    """The answer as a claim that ``weftline audit`` recomputes its own way; None without a price.

    Of a training plan: that its money buys its tokens on its chip in its time. Of a fleet: that a
    million of its output tokens costs what it says, under its limits.
    """
    if isinstance(found, Plan):
        if found.price is None or "cost" not in found.estimates:
            return None
        usd, seconds = found.estimates["cost"].value, found.estimates["train_time"].value
        return {
            "id": OWN, "check": "training_cost",
            "quote": f"{format_count(found.job.tokens)} tokens for {format_usd(usd)}",
            # Rounded up, so that rounding does not lose it the last chip.
            "model": found.job.model, "chip": found.cluster.accelerator,
            "usd": f"${usd * 1.005:.6g}", "time": f"{seconds!r}s", "tokens": found.job.tokens,
            "seq": found.job.seq_len, "price": f"${found.price.usd_per_chip_hour.value!r}",
        }  # fmt: skip
    each, hourly = (found.estimates.get(n) for n in ("cost_per_m_output", "cost_per_hour"))
    if each is None or hourly is None:
        return None
    fleet = found.fleet
    limits = {n: str(v) for n, v in question.values.items() if n in ("ttft", "tpot", "rate")}
    if "rate" in limits:
        limits["rate"] = f"{found.demand.rate_per_s:.6g}"
    return {
        "id": OWN, "check": "token_cost",
        "quote": f"{format_usd(each.value)} a million output tokens",
        "model": found.demand.model, "chip": fleet.accelerator, "usd": f"${each.value * 1.005:.6g}",
        "input": round(found.demand.input_tokens), "output": round(found.demand.output_tokens),
        "precision": fleet.weights, "price": f"${hourly.value / fleet.chips:.6g}", **limits,
    }  # fmt: skip


def claims_on(accelerator: str) -> tuple[dict[str, str], ...]:
    """Published claims that name an accelerator: id, quote and document."""
    from weftline.decide.audit import claims_of

    return tuple(
        {"id": claim.id, "quote": claim.quote, "document": claim.document}
        for claim in claims_of(None) if accelerator in _chips_of(claim.terms)
    )  # fmt: skip


def _chips_of(terms: Mapping[str, Any]) -> set[str]:
    held = [terms.get(key, ()) for key in ("chip", "than", "chips", "runs", "limits")]
    several = [names for names in held if isinstance(names, list | tuple | dict)]
    return {str(name) for names in several for name in names} | {
        name for name in held if isinstance(name, str)
    }


def audit(asked: Fields, say: Say) -> dict[str, Any]:
    """A published claim, or the answer itself as one, recomputed: what ``weftline audit`` says."""
    from dataclasses import asdict

    import yaml

    from weftline.decide.audit import audit_claims, claims_of
    from weftline.errors import InputError

    question = asked_in(asked["query"])
    _keep_config(question)
    name, text = asked["claim"], ""
    if name == OWN:
        claim = own_claim(_read(asked["plan"]), question)
        if claim is None:
            raise InputError("an answer without a price is no claim", where="audit")
        text = yaml.safe_dump({"claims": [claim]}, sort_keys=False)
        Path("claim.yaml").write_text(text, encoding="utf-8")
        name = "claim.yaml"
    found = audit_claims(claims_of(name), progress=lambda said: say(said, None))
    rows = [asdict(one) for one in found.audited]
    return {"audited": rows, "command": f"weftline audit {name}", "file": text}


def about(asked: Fields, _say: Say) -> dict[str, Any]:
    """What can be done with a kept plan: targets it can be exported to, claims on its chip."""
    from weftline.launch.registry import targets

    found = _read(asked["plan"])
    kind = "train" if isinstance(found, Plan) else "serve"
    chip = found.cluster.accelerator if isinstance(found, Plan) else found.fleet.accelerator
    fit = [
        {"name": t.name, "title": t.title, "settings": {k: list(v) for k, v in t.settings.items()}}
        for t in targets().values() if kind in t.kinds
    ]  # fmt: skip
    return {"targets": fit, "chip": chip, "claims": list(claims_on(chip)),
            "own": own_claim(found, asked_in(asked["query"])) is not None}  # fmt: skip


TASKS: Final[Mapping[str, Callable[[Fields, Say], dict[str, Any]]]] = {
    "plan": plan, "show": show, "page": page, "compare": compare, "export": export,
    "audit": audit, "about": about,
}  # fmt: skip
"""By the name that the pool sends."""
