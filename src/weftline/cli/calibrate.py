"""``weftline calibrate``: measure this machine, or learn from runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json
from weftline.runtime.server.options import EngineOptions

if TYPE_CHECKING:
    from weftline.runtime.measure.calibrate import Calibrated

KEPT_ENGINE = EngineOptions()
OPTION = Annotated[bool, Parameter(negative="")]


def calibrate(
    *,
    plan: Path | None = None,
    from_run: Path | None = None,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    reset: OPTION = False,
    accept_loud: OPTION = False,
    folder: Path | None = None,
    engine: Literal["own"] | None = None,
    model: Path | None = None,
    run: Annotated[EngineOptions, Parameter(name="*")] = KEPT_ENGINE,
    out: Path | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Measure this machine for `plan ... --on here`, or learn from measured runs of your own.

    Alone it times products, attention, exchanges, copies, the disk and text in a minute, and writes
    them to the user's catalogue. The machine must be quiet: others' work is not averaged away.

    Parameters
    ----------
    plan
        A plan for this machine: time its own operators and its layout with few layers.
    from_run
        Folder of a run on this machine: its plan takes what its steps took.
    from_
        CSV of your runs, with the columns of published runs: fit the constants anew.
    reset
        Forget your own fitted constants and go back to the shipped ones.
    accept_loud
        Keep figures of a loud machine, and say so wherever they are used.
    folder
        On the disk to measure; the temporary folder if not given.
    engine
        Time steps inside this engine instead, for `weftline bench serving --engine FILE`.
    model
        With --engine: the model's folder.
    out
        With --engine: the file to write.
    """
    from weftline.errors import InputError

    asked = [plan is not None, from_run is not None, from_ is not None, reset]
    if sum(asked) > 1:
        raise InputError("say one of --plan, --from-run, --from and --reset", where="calibrate")
    if engine is not None:
        return _engine(model, run, out, json=json, form=form)
    if from_ is not None:
        return _from_rows(from_, json=json, form=form)
    if reset:
        return _forget(json=json, form=form)
    return _machine(plan, from_run, accept_loud=accept_loud, folder=folder, json=json, form=form)


def _machine(
    plan: Path | None, run: Path | None, *, accept_loud: bool, folder: Path | None, json: Json,
    form: Format,
) -> int:  # fmt: skip
    """What is measured here goes to the user's catalogue."""
    from weftline.catalog.date import today
    from weftline.cli.status import status
    from weftline.report.machine import render_machine, render_measurement
    from weftline.runtime.measure.calibrate import calibrate_machine, calibrate_plan, remember
    from weftline.runtime.train.machine import this_machine

    day = today().isoformat()
    if run is not None:
        from weftline.runtime.compare import measured_run

        done: Calibrated = remember(measured_run(run, day))
    elif plan is not None:
        from weftline.runtime.train.asked import recipe_of
        from weftline.runtime.train.options import TrainOptions
        from weftline.spec.serialize import read_plan

        recipe = recipe_of(read_plan(plan), TrainOptions(), this_machine(), where=str(plan),
                           without_data=True)  # fmt: skip
        done = calibrate_plan(recipe, today=day, accept_loud=accept_loud, say=status.say)
    else:
        done = calibrate_machine(
            this_machine(), today=day, folder=folder, accept_loud=accept_loud, say=status.say
        )
    measured = done.measurement
    if measured is not None:
        show("measurement", done.measurement, lambda: render_measurement(measured, done.file),
             json=json,
             form=form)  # fmt: skip
    else:
        show(
            "machine",
            done.machine,
            lambda: render_machine(done.machine, done.file),
            json=json,
            form=form,
        )
    return 0


def _engine(
    model: Path | None, run: EngineOptions, out: Path | None, *, json: Json, form: Format
) -> int:
    """Seconds of the engine's steps, fitted."""
    from weftline.catalog.date import today
    from weftline.cli.status import status
    from weftline.errors import InputError
    from weftline.report.served import render_steps
    from weftline.runtime.server.calibrate import calibrate_engine
    from weftline.runtime.server.timing import write_steps

    if model is None:
        raise InputError("which model?", where="--model", hint="a Hugging Face folder")
    found = calibrate_engine(model, run, today().isoformat(), status.say)
    if out is not None:
        write_steps(found, out)
    show("engine-steps", found, lambda: render_steps(found), json=json, form=form)
    return 0


def _forget(*, json: Json, form: Format) -> int:
    from weftline.plan.calibrate.own_runs import forget_calibration

    gone = forget_calibration()
    removed = f"; removed {', '.join(gone)}" if gone else ""
    show("calibration-forgotten", {"removed": gone},
         lambda: f"The shipped calibration is in force{removed}.",
         json=json, form=form)  # fmt: skip
    return 0


def _from_rows(rows: Path, *, json: Json, form: Format) -> int:
    from weftline.plan.calibrate.own_runs import calibrate_from
    from weftline.report.text import wrapped

    done = calibrate_from(rows)
    for warning in done.warnings:
        print(f"note: {warning}", file=sys.stderr)
    for left in done.unpredicted:
        print(f"note: {left.id} left out: {left.reason}", file=sys.stderr)
    groups = ", ".join(f"{name} ({count})" for name, count in sorted(done.groups.items()))
    lines = wrapped(
        f"Fitted {done.rows} rows: mean error {done.before_mape_pct:.1f} % before, "
        f"{done.after_mape_pct:.1f} % after, each row left out of its own prediction"
    )
    lines += wrapped(f"groups: {groups}", hang="  ")
    lines += [f"written: {name}" for name in done.files]
    show("calibration", done, lambda: "\n".join(lines), json=json, form=form)
    return 0
