"""``weftline train``: a plan, run as it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json
from weftline.runtime.train.options import TrainOptions

if TYPE_CHECKING:
    from weftline.runtime.train.recipe import Recipe
    from weftline.spec import Plan

KEPT = TrainOptions()
"""What holds where nothing is said."""


def train(
    plan: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("run"),
    asked: Annotated[TrainOptions, Parameter(name="*")] = KEPT,
    resume: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    tensorboard: Annotated[bool, Parameter(negative="")] = False,
    prepare_only: Annotated[bool, Parameter(negative="")] = False,
    policy_record: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Train a plan's model as the plan says, and come back from what breaks.

    Parameters
    ----------
    plan
        A file written by `weftline plan train ... -o`.
    output
        Folder of the run: records, checkpoints, logs.
    resume
        Go on from the newest checkpoint in the folder.
    dry_run
        One step of rank 0 without the cluster: sizes, memory, group orders.
    tensorboard
        Also write event files for TensorBoard.
    prepare_only
        Write the recipe that a launcher's ranks read, and start nothing.
    policy_record
        Only with a signed decision that lets this plan go: record.json,public.pem.
    """
    from weftline.decide.policy import let_go
    from weftline.errors import InputError
    from weftline.report.training import render_outcome
    from weftline.spec.serialize import read_plan

    let_go(policy_record, plan)
    found = read_plan(plan)
    if dry_run:
        from weftline.report.training import render_dry_run
        from weftline.runtime.dry_run import dry_run as try_out

        answer = try_out(found, asked, where=str(plan))
        show("dry-run", answer, lambda: render_dry_run(answer), json=json, form=form)
        return 0
    recipe = _recipe(found, asked, str(plan))
    if not resume and (output / "recipe.json").exists():
        raise InputError("a run is in this folder already", where=str(output),
                         hint="--resume goes on with it; -o takes another")  # fmt: skip
    _folder(output, found, recipe, tensorboard=tensorboard)
    for note in recipe.notes:
        print(f"note: {note}", file=sys.stderr)
    if prepare_only:
        print(f"python -m weftline.runtime.train.worker {output}")
        return 0
    from weftline.cli.live import Live
    from weftline.runtime.run import run

    outcome = run(recipe, output, say=Live(recipe))
    show("run", outcome, lambda: render_outcome(outcome, str(output)), json=json, form=form)
    return 0


def _recipe(plan: Plan, asked: TrainOptions, where: str) -> Recipe:
    from weftline.runtime.train.asked import recipe_of
    from weftline.runtime.train.machine import this_machine

    return recipe_of(plan, asked, this_machine(), where=where)


def _folder(output: Path, plan: Plan, recipe: Recipe, *, tensorboard: bool) -> None:
    """Make the run's folder: nothing before this was written. Raises InputError."""
    from weftline.errors import InputError
    from weftline.runtime.train.recipe import write_recipe
    from weftline.spec.serialize import write_plan

    try:
        output.mkdir(parents=True, exist_ok=True)
        if tensorboard:
            (output / "tensorboard").mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write there: {error.strerror}", where=str(output)) from None
    write_plan(plan, output / "plan.json")
    write_recipe(recipe, output)
