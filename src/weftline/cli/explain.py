"""``weftline explain``: where time, memory and money of a plan go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def explain(plan: Path, *, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Where the time, memory and money of a plan go, and what each number rests on.

    Parameters
    ----------
    plan
        A file written by `weftline plan ... -o`.
    json
        Print the plan as JSON.
    """
    from weftline.report.plan import render_explanation
    from weftline.spec.serialize import plan_to_json, read_plan

    found = read_plan(plan)
    print(plan_to_json(found) if json else render_explanation(found))
    return 0
