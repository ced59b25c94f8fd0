"""``weftline doctor``: what works on this machine and what is missing."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def doctor(*, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """What works on this machine, what is missing, and what each missing thing is for.

    Parameters
    ----------
    json
        Print the findings as JSON.
    """
    from weftline.report.doctor import examine, render_doctor, to_json

    findings = examine()
    print(to_json(findings) if json else render_doctor(findings))
    return 0 if all(f.status != "broken" for f in findings) else 1
