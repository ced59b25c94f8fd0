"""``weftline simulate serving``: one configuration under real or drawn traffic."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.compiling import compiling_said
from weftline.cli.options import KEPT_SERVING, KEPT_TRAFFIC, Format, Json, Serving, Traffic
from weftline.spec.options import ReplicaOptions

KEPT_REPLICA = ReplicaOptions()
"""What holds where nothing is said."""


def serving(
    model: str,
    *,
    layout: Annotated[ReplicaOptions, Parameter(name="*")] = KEPT_REPLICA,
    replicas: int = 1,
    traffic: Traffic = KEPT_TRAFFIC,
    requests: str | None = None,
    peak: float = 1.0,
    serving: Serving = KEPT_SERVING,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Every request's times on so many replicas of one configuration.

    Parameters
    ----------
    model
        Bundled name, or a config.json.
    replicas
        Replicas; groups of workers where prompts have their own.
    requests
        How many; 2,000 of drawn ones, all of a trace, which is repeated for more.
    peak
        Peak over mean of a rate that swings over the run (or a day): 1 to 2.
    """
    from weftline.errors import InputError
    from weftline.report.serving import render_simulation
    from weftline.report.text import model_label
    from weftline.serve.calibrate.bands import band_of
    from weftline.serve.simulate.asked import config_of, traffic_of
    from weftline.serve.simulate.capacity import found_capacity_per_s
    from weftline.serve.simulate.fleet import simulate
    from weftline.serve.simulate.summary import summary
    from weftline.spec import ROUTINGS
    from weftline.spec.parse import Collector, choice
    from weftline.units import format_number

    get = Collector()
    played = get(lambda: traffic_of(traffic, requests=requests, peak=peak))
    config = get(lambda: config_of(model, layout, serving))
    way = get(lambda: choice(serving.routing, ROUTINGS, "routing", where="--routing"))
    if replicas < 1:
        get.errors.append(InputError("at least one replica is needed", where="--replicas"))
    get.raise_all()
    if played is None or config is None or way is None:
        raise AssertionError("the collector raises before this")
    began = time.perf_counter()
    with compiling_said():
        outcome = simulate(config, played, replicas=replicas, routing=way)
    wall_s = time.perf_counter() - began
    drawn = "" if played.seed is None else f", seed {played.seed}"
    answer = {
        "head": f"{replicas} x {config.chips} {config.chip}: {model_label(model)}, "
                f"{config.engine}, "
                f"{config.gemm_dtype}, tp {config.tp}, pp {config.pp}, dp {config.dp}, "
                f"ep {config.ep}, {way}",
        "traffic": f"{played.name}: {played.requests:,} requests at "
                   f"{format_number(played.rate_per_s, 4)}/s, "
                   f"{played.prefill_tokens.mean():,.0f} + {played.decode_tokens.mean():,.0f} "
                   f"tokens{drawn}",
        "model": model, "chip": config.chip, "engine": config.engine, "replicas": replicas,
        "chips": replicas * config.chips, "seed": played.seed, "wall_s": wall_s,
        "bands": {
            f"{metric}_s": asdict(band_of(config, metric)) for metric in ("ttft", "tpot", "e2e")
        },
        **summary(outcome, workers=replicas * config.decode_workers,
                  capacity_per_s=replicas * found_capacity_per_s(config, played, outcome)),
    }  # fmt: skip
    show("serving-simulation", answer, lambda: render_simulation(answer), json=json, form=form)
    return 0
