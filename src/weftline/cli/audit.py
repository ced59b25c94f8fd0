"""``weftline audit``: published claims, recomputed."""

from __future__ import annotations

from weftline.cli.answer import show
from weftline.cli.compiling import compiling_said
from weftline.cli.options import Format, Json
from weftline.cli.status import status


def audit(
    claim: str | None = None,
    *,
    hypothetical: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Published claims recomputed: holds, fails, conditional or undecidable, and why.

    Parameters
    ----------
    claim
        C01 to C49, or a file of your own claims; all published ones if not given.
    hypothetical
        Files of chips that nobody sells, separated by commas; `inferentia3-as-told` stands for the
        catalogue's `inferentia3`.
    """
    from dataclasses import asdict

    from weftline.catalog.own import read_own_chips
    from weftline.decide.audit import audit_claims, claims_of
    from weftline.report.audit import audit_page, render_audit

    records, prices = read_own_chips(hypothetical, where="--hypothetical")
    asked = claims_of(claim)
    with compiling_said():
        found = audit_claims(asked, hypothetical=records, prices=prices, progress=status.say)
    if form == "markdown" and not json:
        print(audit_page(found), end="")
        return 0
    show("audit", asdict(found), lambda: render_audit(found), json=json, form=form, main="audited")
    return 0
