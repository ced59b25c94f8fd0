"""``weftline policy``: a plan held against rules before it runs, and records of decisions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json

app = App(
    name="policy", help="Hold a plan against rules with sources and dates; sign the decision.",
    help_format="plaintext",
)  # fmt: skip
Rules = Annotated[Path | None, Parameter(help="Rules of your organisation, in YAML.")]


@app.command
def check(
    plan: Path,
    *,
    declare: Path | None = None,
    rules: Rules = None,
    on: str | None = None,
    key: Path | None = None,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write the record to this file.")
    ] = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Every rule on a plan: pass, notify, undecided (with what is missing) or refuse.

    Exits with 4 where a rule refuses or cannot be decided. Not legal advice.

    Parameters
    ----------
    plan
        A file written by `weftline plan ... -o`.
    declare
        What the plan does not know, in YAML: where, who, markets, prior_flop, revenue, use,
        acceptable_use, die_area, data_class.
    on
        The day to decide on: 2027-01-01; today if not given.
    key
        A private Ed25519 key in PEM, to sign the record with.
    """
    from dataclasses import asdict

    from weftline.catalog.date import today
    from weftline.decide.policy import decide, read_declared, rules_of, signed
    from weftline.decide.policy.record import record_of, spelled
    from weftline.decide.policy.rules import day_of
    from weftline.errors import InputError, ThresholdCrossedError
    from weftline.report.decision import render_decision
    from weftline.spec.parse import Collector
    from weftline.spec.serialize import read_any_plan, write_text

    if key is not None and output is None:
        raise InputError("a signed record needs a file", where="--key", hint="-o record.json")
    get = Collector()
    found = get(lambda: read_any_plan(plan))
    known, said = get(lambda: rules_of(rules)), get(lambda: read_declared(declare))
    day = get(lambda: day_of(on, today()))
    get.raise_all()
    if found is None or known is None or said is None or day is None:
        raise AssertionError("the collector raises before this")
    decision = decide(found, known, said, day=day)
    if output is not None:
        data = signed(decision, key) if key is not None else spelled(record_of(decision))
        write_text(data.decode("ascii"), output)
        print(f"record written to {output}", file=sys.stderr)
    show("policy", asdict(decision), lambda: render_decision(decision), json=json, form=form,
         main="rulings")  # fmt: skip
    stopped = [r.rule for r in decision.rulings if r.outcome in ("refuse", "undecided")]
    if stopped:
        raise ThresholdCrossedError(f"{decision.outcome}: {', '.join(stopped)}", where="policy")
    return 0


@app.command
def verify(
    record: Path, *, key: Path, plan: Path | None = None, json: Json = False,
    form: Format = "table",
) -> int:  # fmt: skip
    """Whether a record is what the key's owner signed, to the byte. Exits with 4 where it is not.

    Parameters
    ----------
    record
        A file written by `weftline policy check --key ... -o`.
    key
        The public Ed25519 key in PEM.
    plan
        The plan that it should be about.
    """
    import hashlib

    from weftline.decide.policy import verify as verified
    from weftline.errors import InputError, ThresholdCrossedError

    try:
        data = record.read_bytes()
        of = None if plan is None else hashlib.sha256(plan.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(error.strerror or "cannot read", where=str(error.filename)) from None
    decision = verified(data, key)
    if of is not None and decision["plan_sha256"] != of:
        raise ThresholdCrossedError("the record is about another plan", where="--plan")
    text = (f"signed and unchanged: {decision['outcome']} on {decision['decided_on']}, rules of "
            f"{decision['rules_version']}")  # fmt: skip
    show("policy-verified", decision, lambda: text, json=json, form=form, main="rulings")
    return 0


@app.command(name="rules")
def listed(*, rules: Rules = None, json: Json = False, form: Format = "table") -> int:
    """The rules there are: what each says, from which source, read on which day."""
    from dataclasses import asdict

    from weftline.decide.policy import rules_of
    from weftline.report.decision import render_rules

    found = [asdict(r) for r in rules_of(rules)]
    show("rules", found, lambda: render_rules(found), json=json, form=form)
    return 0
