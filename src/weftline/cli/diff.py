"""``weftline diff``: two plans beside each other, and whether one went too far."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json


def diff(
    first: Path,
    second: Path,
    *,
    fail_if: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative=())] = (),
    json: Json = False,
    form: Format = "table",
) -> int:
    """Two plans beside each other: what was asked, what was chosen, and what it gives.

    Exits with 4 where a limit of --fail-if is crossed.

    Parameters
    ----------
    first
        A file written by `weftline plan ... -o`.
    second
        Another of the same kind.
    fail_if
        Limits on the second: cost>5%,train_time>10% of change, or memory>7e10 as a value.
    """
    from weftline.errors import ThresholdCrossedError
    from weftline.report.difference import render_difference
    from weftline.spec.difference import difference, parse_limits
    from weftline.spec.serialize import read_any_answer

    found = difference(read_any_answer(first), read_any_answer(second))
    limits = parse_limits(fail_if, found)
    answer = asdict(found)
    for row, moved in zip(answer["moved"], found.moved, strict=True):
        row["share"] = moved.share
    show("difference", answer, lambda: render_difference(found), json=json, form=form)
    crossed = [
        f"{limit.text} ({moved.name} {'missing' if moved.share is None else f'{moved.share:+.1%}'})"
        for limit, moved in limits if limit.crossed(moved)
    ]  # fmt: skip
    if crossed:
        raise ThresholdCrossedError(f"crossed: {'; '.join(crossed)}", where="--fail-if")
    return 0
