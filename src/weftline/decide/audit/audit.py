"""Every claim through its check, with chips that only the user knows laid over the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from weftline._version import __version__
from weftline.catalog import own_chips
from weftline.catalog.date import CATALOG_DATE
from weftline.catalog.own import chip_texts
from weftline.decide.audit import facts, money, physics
from weftline.decide.audit.terms import Finding, MissingChipError, Terms
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.spec.audit import Audit, Audited, Claim
from weftline.spec.parse import Collector

__all__ = ["CHECKS", "audit_claims"]

CHECKS: Final[Mapping[str, Callable[[Terms], Finding]]] = {
    "figures": facts.figures, "topology": facts.topology, "ratio": facts.ratio,
    "said": facts.said, "training_cost": money.training_cost, "token_cost": money.token_cost,
    "better_buy": money.better_buy, "collectives": physics.collectives,
    "checkpoint_time": physics.checkpoint_time, "idle_time": physics.idle_time,
    "failures": physics.failures, "bytes_fit": physics.bytes_fit,
    "decode_time": physics.decode_time, "saving": physics.saving, "trains_on": physics.trains_on,
    "gigawatts": physics.gigawatts,
}  # fmt: skip
"""Ways to test a claim, by their names in files."""


def audit_claims(
    claims: Sequence[Claim], *, hypothetical: Sequence[Mapping[str, Any]] = (),
    prices: Mapping[str, float] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Audit:  # fmt: skip
    """The claims with their verdicts.

    ``hypothetical`` are records of chips that nobody sells, as :mod:`weftline.catalog.own` reads
    them, ``prices`` their US dollars a chip-hour. Raises all mistakes of a user's claims at once.
    """
    say = progress or (lambda _: None)
    plain = Terms(
        values={}, where="", hypothetical=frozenset(str(r["id"]) for r in hypothetical),
        prices=prices or {}, described=chip_texts(hypothetical)[0],
    )  # fmt: skip
    get = Collector()
    found = []
    with own_chips(hypothetical):
        for claim in claims:
            say(f"{claim.id} {claim.metric}")
            done = get(lambda c=claim: _audited(c, plain))  # type: ignore[misc]
            found += [] if done is None else [done]
    get.raise_all()
    return Audit(weftline=__version__, catalog_date=CATALOG_DATE, audited=tuple(found),
                 hypothetical=tuple(sorted(plain.hypothetical)))  # fmt: skip


def _audited(claim: Claim, plain: Terms) -> Audited:
    terms = replace(plain, values=claim.terms, where=claim.where or claim.id)
    try:
        finding = CHECKS[claim.check](terms)
    except MissingChipError as missing:
        finding = Finding(
            verdict="undecidable", condition=f"no such chip: {missing.why}",
            missing=f"a chip `{missing.name}`; describe one with --hypothetical chip.yaml",
            command=f"weftline audit {claim.id} --hypothetical examples/audit/{missing.name}.yaml",
        )  # fmt: skip
    except NoFeasiblePlanError as error:
        finding = Finding(verdict="fails", condition=f"no plan: {error.what}")
    except InputError as error:
        error.where = error.where or terms.where
        raise
    return Audited(
        claim=claim, verdict=finding.verdict, condition=finding.condition, missing=finding.missing,
        value=finding.value, low=finding.low, high=finding.high, unit=finding.unit,
        command=finding.command, evidence=finding.evidence, disagree=finding.disagree,
    )  # fmt: skip
