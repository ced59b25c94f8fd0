"""``weftline simulate serving``: one configuration under real or drawn traffic."""

from __future__ import annotations

import json as json_module
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from weftline.cli.compiling import compiling_said
from weftline.cli.options import Json
from weftline.cli.serving_options import (
    KEPT_SERVING,
    KEPT_TRAFFIC,
    ServingOptions,
    TrafficOptions,
)
from weftline.spec.parse import Collector, choice

if TYPE_CHECKING:
    from weftline.serve.engine.config import ServingConfig


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutOptions:
    """One replica, or one group of prefill and decode workers.

    Parameters
    ----------
    on
        The accelerator.
    engine
        vllm, sglang, trtllm, jetstream or neuron.
    tp
        Chips that share every layer.
    pp
        Pipeline stages.
    dp
        Attention data-parallel ranks of a replica.
    ep
        Ways experts are spread.
    precision
        Number format of the weights: bf16, fp8, int8, int4, nvfp4, mxfp4.
    max_batch
        Sequences that may run at once in a replica; the engine's own if not given.
    chunk_tokens
        Tokens of one iteration; the engine's own if not given.
    prefill_workers
        Workers of their own for prompts, a group; 0 for none.
    decode_workers
        With those, workers that decode, a group.
    """

    on: str = "h100"
    engine: str = "vllm"
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    precision: str = "bf16"
    max_batch: str | None = None
    chunk_tokens: str | None = None
    prefill_workers: int = 0
    decode_workers: int = 1


KEPT_LAYOUT = LayoutOptions()
"""What holds where nothing is said."""


def serving(
    model: str,
    *,
    layout: LayoutOptions = KEPT_LAYOUT,
    replicas: int = 1,
    traffic: TrafficOptions = KEPT_TRAFFIC,
    requests: str | None = None,
    peak: float = 1.0,
    serving: ServingOptions = KEPT_SERVING,
    json: Json = False,
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
    from weftline.serve.simulate.fleet import ROUTINGS, simulate
    from weftline.serve.simulate.summary import summary

    get = Collector()
    played = get(lambda: traffic.make(requests=requests, peak=peak))
    config = get(lambda: _config(model, layout, serving))
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
        "head": f"{replicas} x {config.chips} {config.chip}: {model}, {config.engine}, "
                f"{config.gemm_dtype}, tp {config.tp}, pp {config.pp}, dp {config.dp}, "
                f"ep {config.ep}, {way}",
        "traffic": f"{played.name}: {played.requests:,} requests at {played.rate_per_s:.4g}/s, "
                   f"{played.prefill_tokens.mean():,.0f} + {played.decode_tokens.mean():,.0f} "
                   f"tokens{drawn}",
        "model": model, "chip": config.chip, "engine": config.engine, "replicas": replicas,
        "chips": replicas * config.chips, "seed": played.seed, "wall_s": wall_s,
        **summary(outcome, workers=replicas * config.decode_workers),
    }  # fmt: skip
    print(json_module.dumps(answer, indent=1) if json else render_simulation(answer))
    return 0


def _config(model: str, layout: LayoutOptions, serving: ServingOptions) -> ServingConfig:
    """The configuration that the options describe. Raises all mistakes at once."""
    from weftline.catalog import accelerator, accelerators
    from weftline.cli.serving_options import parse_speculation, parse_window
    from weftline.errors import InputError
    from weftline.model import load_model
    from weftline.operators import chip_of
    from weftline.serve.engine.config import DTYPES, KV_DTYPES, PoolConfig, ServingConfig
    from weftline.serve.engine.engines import PROFILES, profile, require_formats
    from weftline.serve.search.screen import require_units
    from weftline.units import parse_count

    def count(text: str | None, where: str) -> int | None:
        return get(lambda: None if text is None else parse_count(text, where=where))

    get = Collector()
    get(lambda: load_model(model))
    chip = get(lambda: chip_of(layout.on))
    name = get(lambda: choice(layout.engine, tuple(PROFILES), "engine", where="--engine"))
    weights = get(lambda: choice(layout.precision, DTYPES, "number format", where="--precision"))
    cache = get(lambda: choice(serving.kv, KV_DTYPES, "KV cache format", where="--kv"))
    seats = count(layout.max_batch, "--max-batch")
    budget = count(layout.chunk_tokens, "--chunk-tokens")
    method, drafted, kept = get(lambda: parse_speculation(serving.speculate)) or ("none", 0, 0.7)
    tokens, sinks = get(lambda: parse_window(serving.window)) or (None, 0)
    for degree in ("tp", "pp", "dp", "ep", "decode_workers"):
        if getattr(layout, degree) < 1:
            where = "--" + degree.replace("_", "-")
            get.errors.append(InputError("must be at least 1", where=where))
    if layout.prefill_workers < 0:
        get.errors.append(InputError("cannot be negative", where="--prefill-workers"))
    get.raise_all()
    if chip is None or name is None or weights is None or cache is None:
        raise AssertionError("the collector raises before this")
    require_formats(name, chip.vendor, chip.name, (weights,))
    if chip.name in accelerators():
        require_units(accelerator(chip.name), (weights,))
    degrees = {d: getattr(layout, d) for d in ("tp", "pp", "dp", "ep")}
    pool = None
    if layout.prefill_workers:
        ways = max(1, layout.tp * layout.dp // layout.ep)
        pool = PoolConfig(workers=layout.prefill_workers, moe_tp=ways, max_batch=8, **degrees)
    return ServingConfig(
        model=model, chip=chip.name, engine=name, gemm_dtype=weights, kv_dtype=cache,
        max_batch=seats or profile(name).max_batch * layout.dp,
        chunk_tokens=budget or profile(name).chunk_tokens, prefix_cache=serving.prefix_cache,
        spec_method=method, spec_tokens=drafted,  # type: ignore[arg-type]
        spec_acceptance=kept, window=tokens, sinks=sinks, prefill=pool,
        decode_workers=layout.decode_workers if pool else 1, **degrees,
    )  # fmt: skip
