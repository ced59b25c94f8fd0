"""``weftline score``: predictions against measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json
from weftline.spec.options import MeasuredServer

KEPT_SERVER = MeasuredServer()
"""What holds where nothing is said."""
app = App(name="score", help="Hold predictions against measurements.", help_format="plaintext")


@app.command
def training(
    rows: Path,
    *,
    held_out: Annotated[bool, Parameter(negative="")] = False,
    by: Literal["random", "source", "framework", "version", "accelerator", "model"] = "random",
    folds: int = 5,
    seeds: int = 3,
    max_mape: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Predicted and measured step time of every run in a CSV file.

    Runs the shipped calibration has seen are predicted with themselves left
    out; with --held-out everything is fitted again on some rows and scored
    on the others.

    Parameters
    ----------
    rows
        CSV with the columns of published runs or of vTrain's ground truth.
    held_out
        Fit on some rows of the file, score the rest, until each was left out.
    by
        With --held-out: leave out random rows, or whole sources (papers and
        repositories), frameworks, versions of one, accelerators or models.
    folds
        With --held-out: parts the rows are cut into.
    seeds
        With --held-out: how many random cuts, seeds 0, 1, ...
    max_mape
        Exit with 4 if the mean error is above this: 12%.
    """

    from weftline.cli.progress import progress
    from weftline.errors import InputError, ThresholdCrossedError
    from weftline.plan.calibrate.rows import read_rows
    from weftline.plan.calibrate.score import GROUPS, score_held_out, score_rows, score_to_dict
    from weftline.report.score import render_score
    from weftline.units import parse_fraction

    limit = None if max_mape is None else 100 * parse_fraction(max_mape, where="--max-mape")
    if folds < 2 or seeds < 1:
        raise InputError("--folds needs at least 2, --seeds at least 1", where="--folds, --seeds")
    known, left = read_rows(rows)
    if held_out:
        group = GROUPS.get(by)
        score = score_held_out(
            known, left, folds=folds, seeds=range(1 if group else seeds), by=group,
            progress=progress(),
        )  # fmt: skip
    else:
        score = score_rows(known, left)
    found = score_to_dict(score)
    show("training-score", found, lambda: render_score(found), json=json, form=form)
    mape = found["summary"]["mape_pct"]
    if limit is not None and mape is not None and mape > limit:
        raise ThresholdCrossedError(f"mean error {mape:.2f} % is above {limit:g} %")
    return 0


@app.command
def memory(
    rows: Path,
    *,
    max_mape: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Counted memory of runs against logged peaks and what chips hold.

    Nothing of the count is fitted to runs. Layouts that a row states are
    asked of the planner as a user would hold them: those it refuses, or
    counts above a chip's memory, are said.

    Parameters
    ----------
    rows
        CSV with the columns of published runs or of vTrain's ground truth.
    max_mape
        Exit with 4 if the mean error on logged peaks is above this: 12%.
    """

    from weftline.errors import ThresholdCrossedError
    from weftline.plan.calibrate.rows import read_rows
    from weftline.plan.search.memory_score import score_memory, score_memory_to_dict
    from weftline.report.memory_score import render_memory_score
    from weftline.units import parse_fraction

    limit = None if max_mape is None else 100 * parse_fraction(max_mape, where="--max-mape")
    known, _ = read_rows(rows)
    found = score_memory_to_dict(score_memory(known))
    show("memory-score", found, lambda: render_memory_score(found), json=json, form=form)
    mape = found["summary"]["mape_pct"]
    if limit is not None and mape is not None and mape > limit:
        raise ThresholdCrossedError(f"mean error {mape:.2f} % is above {limit:g} %")
    return 0


@app.command
def collectives(
    rows: Path,
    *,
    held_out: Annotated[bool, Parameter(negative="")] = False,
    max_median: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Predicted and measured time of every collective in a CSV file.

    Parameters
    ----------
    rows
        CSV with the columns of fabric/data/collectives_measured.csv.
    held_out
        Fit on the file's own rows, each machine left out whole in turn.
    max_median
        Exit with 4 if the median error is above this: 10%.
    """

    from weftline.errors import ThresholdCrossedError
    from weftline.fabric.predictor.score import read_collectives, score_collectives
    from weftline.report.collective_score import render_collective_score
    from weftline.units import parse_fraction

    limit = None if max_median is None else 100 * parse_fraction(max_median, where="--max-median")
    known, left = read_collectives(rows)
    if held_out:
        from weftline.fabric.predictor.fit import score_left_out

        found = score_left_out(known, left)
    else:
        found = score_collectives(known, left)
    show("collective-score", found, lambda: render_collective_score(found), json=json, form=form)
    median = found["summary"]["median_pct"]
    if limit is not None and median is not None and median > limit:
        raise ThresholdCrossedError(f"median error {median:.2f} % is above {limit:g} %")
    return 0


@app.command
def serving(
    rows: Path,
    *,
    held_out: Annotated[bool, Parameter(negative="")] = False,
    by: Literal["run", "harness", "model", "chip", "random"] = "run",
    seed: int = 0,
    server: Annotated[MeasuredServer, Parameter(name="*")] = KEPT_SERVER,
    max_median: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Predicted and measured first-token time, time per token and throughput.

    Rows the shipped calibration has seen are predicted with themselves left
    out; with --held-out everything is fitted again without whole runs (model,
    chip and engine), harnesses, models, chips or random parts, and scored on them.

    Parameters
    ----------
    rows
        CSV with the columns of silicon rows, of published rows, or of
        per-request timings (`request_id`, `arrived_at`, ...).
    held_out
        Fit again on some rows of the file, score the rest, until each was left out.
    by
        With --held-out: leave out whole runs, whole harnesses, whole models (siblings
        together), whole chips or random parts.
    seed
        With --by random: how the parts are cut.
    max_median
        Exit with 4 if the median error of time per token is above this: 10%.
    """

    from weftline.errors import ThresholdCrossedError
    from weftline.report.serving_score import render_serving_score
    from weftline.serve.score_requests import first_line
    from weftline.units import parse_fraction

    limit = None if max_median is None else 100 * parse_fraction(max_median, where="--max-median")
    head = "" if rows.suffix == ".gz" else first_line(rows)
    if "request_id" in head:
        from weftline.serve.score_requests import score_requests

        found = score_requests(rows, server)
    else:
        from weftline.serve.calibrate.rows import read_rows
        from weftline.serve.score import score_held_out, score_rows

        known, left = read_rows(rows)
        found = (
            score_held_out(known, left, by=by, seed=seed) if held_out else score_rows(known, left)
        )
    show("serving-score", found, lambda: render_serving_score(found), json=json, form=form)
    median = found["summary"]["tpot"]["median_pct"]
    if limit is not None and median is not None and median > limit:
        raise ThresholdCrossedError(
            f"median error of time per token {median:.2f} % is above {limit:g} %"
        )
    return 0
