"""``weftline doctor``: what works on this machine and what is missing."""

from __future__ import annotations

from weftline.cli.options import Json


def doctor(*, json: Json = False) -> int:
    """What works on this machine, what is missing, and what each missing thing is for."""
    from weftline.report.doctor import examine, render_doctor, to_json

    findings = examine()
    print(to_json(findings) if json else render_doctor(findings))
    return 0 if all(f.status != "broken" for f in findings) else 1
