"""``weftline simulate serving``: one configuration under real or drawn traffic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.compiling import compiling_said
from weftline.cli.options import KEPT_SERVING, KEPT_TRAFFIC, Format, Json, Serving, Traffic
from weftline.spec.options import ReplicaOptions

if TYPE_CHECKING:
    from weftline.serve.engine.config import ServingConfig
    from weftline.serve.simulate.mixed import Part
    from weftline.spec import Traffic as Requests

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
    from weftline.serve.calibrate.bands import band_of
    from weftline.serve.simulate.asked import beside_of, config_of, traffic_of
    from weftline.serve.simulate.capacity import capacity_per_s, found_capacity_per_s
    from weftline.serve.simulate.mixed import Part, simulate_parts
    from weftline.serve.simulate.summary import summary
    from weftline.spec import ROUTINGS
    from weftline.spec.parse import Collector, choice

    get = Collector()
    played = get(lambda: traffic_of(traffic, requests=requests, peak=peak))
    config = get(lambda: config_of(model, layout, serving))
    second = get(lambda: beside_of(layout))
    other = get(lambda: None if second is None else config_of(model, second[0], serving))
    way = get(lambda: choice(serving.routing, ROUTINGS, "routing", where="--routing"))
    if replicas < 1:
        get.errors.append(InputError("at least one replica is needed", where="--replicas"))
    get.raise_all()
    if played is None or config is None or way is None:
        raise AssertionError("the collector raises before this")
    kinds = [(config, replicas)]
    if other is not None and second is not None:
        kinds.append((other, second[1]))
    began = time.perf_counter()
    with compiling_said():
        # The router's shares follow what each kind works off; of one kind there is no share.
        parts = [Part(config=c, replicas=n, each_per_s=capacity_per_s(c, played) if other else 1.0)
                 for c, n in kinds]  # fmt: skip
        outcome = simulate_parts(parts, played, routing=way)
    wall_s = time.perf_counter() - began
    answer = {
        **_asked(model, parts, played, way),
        "seed": played.seed, "wall_s": wall_s,
        "bands": {
            f"{metric}_s": asdict(band_of(config, metric)) for metric in ("ttft", "tpot", "e2e")
        },
        **summary(outcome, workers=sum(p.workers for p in parts),
                  capacity_per_s=sum(
                      p.replicas * found_capacity_per_s(p.config, played, outcome) for p in parts
                  )),
    }  # fmt: skip
    show("serving-simulation", answer, lambda: render_simulation(answer), json=json, form=form)
    return 0


def _asked(model: str, parts: Sequence[Part], played: Requests, way: str) -> dict[str, Any]:
    """What was simulated, in words and by name."""
    from weftline.report.text import model_label
    from weftline.serve.simulate.mixed import shares_of
    from weftline.units import format_number

    first, *others = parts
    shares, config = shares_of(parts), first.config
    beside = "".join(
        f"; beside it {_kind(p.config, p.replicas)}, {p.config.engine}, {_degrees(p.config)}, for "
        f"{share:.0%} of the requests" for p, share in zip(others, shares[1:], strict=True)
    )  # fmt: skip
    drawn = "" if played.seed is None else f", seed {played.seed}"
    return {
        "head": f"{_kind(config, first.replicas)}: {model_label(model)}, {config.engine}, "
                f"{_degrees(config)}, {way}{beside}",
        "traffic": f"{played.name}: {played.requests:,} requests at "
                   f"{format_number(played.rate_per_s, 4)}/s, "
                   f"{played.prefill_tokens.mean():,.0f} + {played.decode_tokens.mean():,.0f} "
                   f"tokens{drawn}",
        "model": model, "chip": config.chip, "engine": config.engine, "replicas": first.replicas,
        "chips": sum(p.replicas * p.config.chips for p in parts),
        "parts": [{"chip": p.config.chip, "engine": p.config.engine, "replicas": p.replicas,
                   "chips": p.replicas * p.config.chips, "share": share}
                  for p, share in zip(parts, shares, strict=True)],
    }  # fmt: skip


def _kind(config: ServingConfig, replicas: int) -> str:
    """``2 x 4 h200-sxm``; ``1 x 6 b200 > h200-sxm`` where prompts have another chip."""
    ahead = "" if config.prefill_chip == config.chip else f"{config.prefill_chip} > "
    return f"{replicas} x {config.chips} {ahead}{config.chip}"


def _degrees(c: ServingConfig) -> str:
    return f"{c.gemm_dtype}, tp {c.tp}, pp {c.pp}, dp {c.dp}, ep {c.ep}"
