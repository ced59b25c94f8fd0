"""``weftline doctor``: what works on this machine and what is missing."""

from __future__ import annotations

from weftline.cli.answer import show
from weftline.cli.options import Format, Json


def doctor(*, json: Json = False, form: Format = "table") -> int:
    """What works on this machine, what is missing, and what each missing thing is for."""
    from dataclasses import asdict

    from weftline.report.doctor import examine, render_doctor

    findings = examine()
    data = [asdict(f) for f in findings]
    show("doctor", data, lambda: render_doctor(findings), json=json, form=form)
    return 0 if all(f.status != "broken" for f in findings) else 1
