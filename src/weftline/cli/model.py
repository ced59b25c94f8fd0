"""``weftline model``: what a model holds, counted here and by transformers' own code."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from weftline.cli.answer import show
from weftline.cli.options import Format, Json

app = App(name="model", help="What a model holds: parameters, counted exactly.")


@app.command
def count(config: Path, *, json: Json = False, form: Format = "table") -> int:
    """Count a config.json with transformers' own model, on the meta device: no weight is made.

    Needs torch and transformers. Counts every type that transformers can build, also those that
    weftline cannot plan; where it can, both counts are shown.

    Parameters
    ----------
    config
        A config.json, the directory that holds one, or the name of a bundled model.
    """
    from dataclasses import asdict

    from weftline.errors import InputError
    from weftline.model import load_model
    from weftline.model.load import config_path
    from weftline.report.models import render_count
    from weftline.runtime import count_on_meta

    answer = asdict(count_on_meta(config_path(config)))
    try:
        model = load_model(str(config))
        answer |= {"planned_parameters": model.parameters, "model_notes": list(model.remarks)}
    except InputError as error:
        answer |= {"planned_parameters": None, "model_notes": [str(error).splitlines()[0]]}
    show("model-count", answer, lambda: render_count(answer), json=json, form=form)
    return 0
