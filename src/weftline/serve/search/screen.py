"""Screening: the closed form over every chip, engine, number format, layout and batch at once.

For each layout the closed form is asked at a ladder of requests in flight. The most that still
keeps the targets (with a margin for percentiles, which only the simulation knows) gives the rate
of one replica, and so the replicas and the dollars of a fleet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from weftline.catalog import Accelerator, accelerator, accelerators
from weftline.errors import InputError, WeftlineError
from weftline.serve.engine.config import PoolConfig, ServingConfig
from weftline.serve.search.lacking import lacking, short_of
from weftline.serve.search.speeds import front_of, speed_points
from weftline.spec import ServeDemand, ServeSpace, Target
from weftline.spec.drawn import SpeedPoint

if TYPE_CHECKING:
    from weftline.serve.engine.closed_form import Constants, Load

IN_FLIGHT: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768,
                    1024)  # fmt: skip
POOLS: Final = ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1))
"""Prefill and decode workers of a disaggregated group that are tried."""
MAX_REPLICA_CHIPS: Final = 64
TAIL_TTFT: Final = 1.5
TAIL_TPOT: Final = 1.1
"""Margin of the screen for percentiles of 90 and more: assumed, the simulation decides."""
KEPT_A_CHIP: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One configuration as the closed form sees it at its best load."""

    config: ServingConfig
    weights: str
    """Number formats as the model's checkpoints have them: of the matrix products..."""
    experts: str
    """...and of routed experts."""
    ttft_s: float
    tpot_s: float
    rate_per_s: float
    """Requests a second of one replica (of one group, where disaggregated)."""
    in_flight: float
    batch: float
    worst: float
    """Largest of target reached over target asked, margins included: at most 1 where it meets."""

    @property
    def group_chips(self) -> int:
        """Chips of one replica or group."""
        return self.config.chips

    def replicas(self, rate_per_s: float) -> int:
        """Replicas for a rate, by the closed form."""
        return max(1, math.ceil(rate_per_s / self.rate_per_s - 1e-9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """What the closed form found."""

    meeting: dict[str, list[Option]]
    """By chip: configurations that meet the targets, cheapest first in chips a request."""
    nearest: dict[str, Option]
    """By chip: the configuration that comes closest, whether it meets them or not."""
    reasons: dict[str, str]
    """By chip: why nothing could be asked of it."""
    evaluated: int
    speeds: Mapping[str, tuple[SpeedPoint, ...]]
    """By chip: the front of speed of a user and output of a chip, targets or not."""


def chips_of(space: ServeSpace) -> tuple[Accelerator, ...]:
    """The accelerators to try: those named, else every one that can be had for a data centre."""
    if space.chips:
        return tuple(accelerator(name) for name in space.chips)
    return tuple(a for a in accelerators().values() if a.rentable)


@cache
def _is_moe(model: str) -> bool:
    from weftline.model import load_model

    return load_model(model).is_moe


def layouts_of(model: str, chip: Accelerator, space: ServeSpace) -> list[dict[str, int]]:
    """Degrees of one replica on ``chip``, by powers of two within its scale-up domain; those that
    ``space`` holds as they are held."""
    host = chip.chips_per_host or (1 if chip.use == "cpu" else 8)
    domain = max(1, min(chip.scale_up_domain or host, MAX_REPLICA_CHIPS))
    widest = max(domain if chip.scale_up_bytes_per_s else host, 1)
    limit = min(space.max_replica_chips, MAX_REPLICA_CHIPS)
    held = space.layout
    powers = [1 << k for k in range(7)]
    tps = [held["tp"]] if "tp" in held else [p for p in powers if p <= min(widest, 16)]
    found = []
    for tp in tps:
        for pp in [held["pp"]] if "pp" in held else (1, 2, 4) if chip.use != "cpu" else (1,):
            if pp > 1 and tp < min(widest, 8) and "pp" not in held:
                continue
            usual = powers if _is_moe(model) else [1]
            for dp in [held["dp"]] if "dp" in held else usual:
                if tp * dp > max(widest, host) or tp * dp * pp > limit or (dp > 1 and pp > 1):
                    continue
                experts = {1, tp * dp} if _is_moe(model) else {1}
                if "ep" in held:
                    experts = {held["ep"]} if (tp * dp) % held["ep"] == 0 else set()
                found += [{"tp": tp, "pp": pp, "dp": dp, "ep": ep} for ep in sorted(experts)]
    return [] if held and _clash(model, held) else found


def _clash(model: str, held: Mapping[str, int]) -> str:
    """Why a model cannot be cut as it is held, whatever the chip; empty where it can."""
    heads, layers, experts = _cuts(model)
    if heads % held.get("tp", 1):
        return f"tp={held['tp']} does not divide {heads} attention heads"
    if held.get("pp", 1) > layers:
        return f"pp={held['pp']} stages for {layers} layers"
    ep = held.get("ep", 1)
    if ep > 1 and (not experts or experts % ep):
        return f"ep={ep} does not divide {experts} experts"
    return ""


@cache
def _cuts(model: str) -> tuple[int, int, int]:
    """(attention heads, of the layer with the fewest; layers; routed experts)."""
    from weftline.model import load_model

    found = load_model(model)
    heads = [op.attention.heads for op in found.operators if op.attention is not None]
    return min(heads, default=found.hidden // 64), len(found.layers), found.experts


def screen(
    model: str, demand: ServeDemand, space: ServeSpace,
    tails: Mapping[float, float] | None = None, *, headroom: float = 0.0,
) -> Screened:  # fmt: skip
    """Ask the closed form about everything in ``space``. Raises what a name of the user's raises.

    ``tails`` are prompt tokens by percentile, where prompts differ: a first-token target of that
    percentile must hold for a prompt of that length alone.
    Errors of one chip (weights that fit nowhere, formats it lacks) become its reason.
    """
    meeting: dict[str, list[Option]] = {}
    nearest: dict[str, Option] = {}
    reasons: dict[str, str] = {}
    speeds: dict[str, tuple[SpeedPoint, ...]] = {}
    evaluated = 0
    for chip in chips_of(space):
        options: list[Option] = []
        points: list[SpeedPoint] = []
        said = ""
        for engines, weights in _by_format(engines_and_formats(chip, space)):
            try:
                if not layouts_of(model, chip, space):
                    degrees = ", ".join(f"{k}={v}" for k, v in space.layout.items())
                    why = _clash(model, space.layout) or "more chips than it can have"
                    raise InputError(f"no replica has {degrees}: {why}")
                found, front, count = _ask(
                    model, chip, engines, weights, demand, space, tails or {}, headroom
                )
            except WeftlineError as error:
                said = said or error.what
                continue
            options += found
            points += front
            evaluated += count
        if not options:
            ways = engines_and_formats(chip, space)
            layouts = layouts_of(model, chip, space)
            reasons[chip.id] = said or (
                short_of(model, chip, ways, layouts, space.kv) if ways and layouts
                else lacking(chip, space)
            )  # fmt: skip
            continue
        speeds[chip.id] = front_of(points)
        nearest[chip.id] = min(options, key=lambda o: (o.worst, o.group_chips))
        fit = [o for o in options if o.worst <= 1.0]
        fit.sort(key=lambda o: (o.group_chips * o.replicas(demand.rate_per_s), o.ttft_s))
        if fit:
            meeting[chip.id] = _varied(fit)
    return Screened(meeting=meeting, nearest=nearest, reasons=reasons, evaluated=evaluated,
                    speeds=speeds)  # fmt: skip


def _varied(options: Sequence[Option]) -> list[Option]:
    """The first few that differ in size or number format: the best engine of each."""
    kept: dict[str, dict[tuple[Any, ...], Option]] = {}
    for o in options:
        own = kept.setdefault(o.config.prefill_chip, {})
        if len(own) < KEPT_A_CHIP:
            own.setdefault((o.group_chips, o.weights, o.config.prefill is None), o)
    return [o for own in kept.values() for o in own.values()]


def _by_format(ways: Sequence[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """Engines that take a number format, for each of them: they are asked in one go."""
    found: dict[str, list[str]] = {}
    for engine, weights in ways:
        found.setdefault(weights, []).append(engine)
    return [(engines, weights) for weights, engines in found.items()]


def engines_and_formats(chip: Accelerator, space: ServeSpace) -> list[tuple[str, str]]:
    """Engines of ``space`` that run on ``chip``, with each number format both can take."""
    from weftline.serve.engine.engines import PROFILES, runs_format, serves_policy

    found = []
    for profile in PROFILES.values():
        if chip.stack not in profile.vendors:
            continue
        if space.engines and profile.name not in space.engines:
            continue
        if not serves_policy(profile.name, space.policy):
            continue
        found += [(profile.name, f) for f in space.formats
                  if f in profile.formats and runs_format(chip, f)]  # fmt: skip
    return found


def _ask(
    model: str, chip: Accelerator, engines: Sequence[str], weights: str, demand: ServeDemand,
    space: ServeSpace, tails: Mapping[float, float], headroom: float,
) -> tuple[list[Option], list[SpeedPoint], int]:  # fmt: skip
    """The best load of every layout on one chip in one number format, under each engine; and what
    each gives its users and its chips at any load."""
    from weftline.serve.engine.closed_form import compile_load, solve
    from weftline.serve.engine.parts import setting_for

    layouts = layouts_of(model, chip, space)
    found: list[Option] = []
    points: list[SpeedPoint] = []
    count = 0
    # A cached prefix is not computed: the prompt the closed form sees is what is left of it.
    computed = max(1.0, demand.input_tokens * (1.0 - demand.cached_share))
    for pool in _pools(model, space, weights):
        configs = [_config(model, chip, engine, weights, lay, pool, space)
                   for engine in engines for lay in layouts if pool.takes(engine)]  # fmt: skip
        if not configs:
            continue
        setting = setting_for(configs[0])
        ahead = setting_for(configs[0].prefilling()) if pool.chip else None
        flights = np.tile(IN_FLIGHT, len(configs)) * pool.decoding
        load = _load_of(configs, computed, flights, demand)
        compiled, constants = compile_load(setting, load, ahead), _constants_of(configs)
        answer = solve(compiled, constants)
        rate = answer.output_tokens_per_s * load.chips / max(1.0, demand.output_tokens)
        worst = _worst(demand.targets, answer.ttft_s, answer.tpot_s, demand.output_tokens)
        for target in demand.targets:
            tail = tails.get(target.percentile, 0.0)
            if target.metric == "ttft" and tail > 1.2 * computed:
                alone = _load_of(configs, tail, np.full(len(load), float(pool.decoding)), demand)
                reached = solve(compile_load(setting, alone, ahead), constants).ttft_s
                worst = np.maximum(worst, reached / target.limit_s)
        worst = np.where(compiled.fits & np.isfinite(worst), worst, np.inf)
        count += len(load)
        points += speed_points(
            [c for c in configs for _ in IN_FLIGHT], load.concurrency, answer.tpot_s,
            np.where(compiled.fits, answer.output_tokens_per_s, 0.0), setting.gemm_dtype,
        )  # fmt: skip
        for k, config in enumerate(configs):
            at = slice(k * len(IN_FLIGHT), (k + 1) * len(IN_FLIGHT))
            if not np.isfinite(worst[at]).any():
                continue
            good = np.flatnonzero(worst[at] <= 1.0)
            j = int(good[np.argmax(rate[at][good])]) if good.size else int(np.argmin(worst[at]))
            i = at.start + j
            # No load is kept up for ever that leaves less than the headroom of the most there is.
            sustained = float(np.max(np.where(np.isfinite(worst[at]), rate[at], 0.0)))
            found.append(Option(
                config=config, weights=setting.gemm_dtype, experts=setting.moe_dtype,
                ttft_s=float(answer.ttft_s[i]), tpot_s=float(answer.tpot_s[i]),
                rate_per_s=min(float(rate[i]), (1.0 - headroom) * sustained),
                in_flight=float(load.concurrency[i]), batch=float(answer.batch[i]),
                worst=float(worst[i]),
            ))  # fmt: skip
    return found, points, count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """Workers of one group: for prompts, and to decode; none for prompts where both are one."""

    prefilling: int = 0
    decoding: int = 1
    chip: Accelerator | None = None
    """Of the workers for prompts, where it is not that of the others."""
    layout: Mapping[str, int] | None = None
    """Theirs; that of the others if None."""

    def takes(self, engine: str) -> bool:
        """Whether an engine runs on the chip for prompts too."""
        from weftline.serve.engine.engines import profile

        return self.chip is None or self.chip.stack in profile(engine).vendors


def _pools(model: str, space: ServeSpace, weights: str) -> list[_Pool]:
    """No workers for prompts; those of the chip itself; those of other chips, by tensor
    parallelism alone: a prompt gains nothing from attention ranks of its own."""
    from weftline.serve.engine.engines import runs_format

    found = [_Pool()]
    if not space.disaggregated:
        return found
    found += [_Pool(prefilling=p, decoding=d) for p, d in POOLS]
    for name in space.prefill_chips:
        chip = accelerator(name)
        if not runs_format(chip, weights):
            continue
        ways = [
            lay
            for lay in layouts_of(model, chip, replace(space, layout={}))
            if lay["pp"] == lay["dp"] == lay["ep"] == 1 and lay["tp"] <= _MOST_PROMPT_TP
        ]
        found += [_Pool(prefilling=p, decoding=d, chip=chip, layout=lay)
                  for p, d in POOLS for lay in ways]  # fmt: skip
    return found


_MOST_PROMPT_TP: Final = 8
"""Chips that share a prompt at most, where they are of another kind."""


def _load_of(configs: Sequence[ServingConfig], input_tokens: float, concurrency: Any,
             demand: ServeDemand) -> Load:  # fmt: skip
    """Every configuration at every number of requests in flight."""
    from weftline.serve.engine.closed_form import Load
    from weftline.serve.engine.scheduler import answer_held, kernels_of

    def column(values: Sequence[float]) -> Any:
        return np.repeat(np.asarray(values, dtype=np.float64), len(IN_FLIGHT))

    first = configs[0]
    ahead = first.prefilling()
    side = {} if ahead.chip == first.chip else {
        "prefill_tp": float(ahead.tp), "prefill_pp": 1.0, "prefill_dp": 1.0, "prefill_ep": 1.0,
        "prefill_moe_tp": float(ahead.tp),
    }  # fmt: skip
    return Load.of(
        input_tokens=input_tokens, output_tokens=max(1.0, demand.output_tokens),
        concurrency=concurrency, workers=float(first.decode_workers),
        prefill_workers=float(first.prefill.workers if first.prefill else 0),
        queries=1.0 + (first.spec_tokens if first.spec_method != "none" else 0),
        max_batch=column([c.max_batch for c in configs]),
        answer_held=column([answer_held(c.engine) for c in configs]),
        **{k: column([kernels_of(c.engine)[k] for c in configs]) for k in ("fused", "own")},
        iteration_tokens=column([c.chunk_tokens for c in configs]),
        tp=column([c.tp for c in configs]), pp=column([c.pp for c in configs]),
        dp=column([c.dp for c in configs]), ep=column([c.ep for c in configs]), **side,
    )  # fmt: skip


def _constants_of(configs: Sequence[ServingConfig]) -> Constants:
    """The constants of every configuration at every number of requests in flight."""
    from dataclasses import fields

    from weftline.serve.calibrate.shipped import constants_for_all
    from weftline.serve.engine.closed_form import Constants

    found = constants_for_all(configs)
    return Constants(**{
        f.name: np.repeat(getattr(found, f.name), len(IN_FLIGHT), axis=0) for f in fields(Constants)
    })  # fmt: skip


def _config(model: str, chip: Accelerator, engine: str, weights: str, layout: dict[str, int],
            pool: _Pool, space: ServeSpace) -> ServingConfig:  # fmt: skip
    from weftline.serve.engine.adapters import adapters_of, batch_of
    from weftline.serve.engine.config import HOST_BYTES_PER_S
    from weftline.serve.engine.engines import profile

    adapters = adapters_of(space.lora)
    prefill = None
    if pool.prefilling:
        lay = pool.layout or layout
        prefill = PoolConfig(workers=pool.prefilling, chip=pool.chip.id if pool.chip else "",
                             tp=lay["tp"], pp=lay["pp"], dp=lay["dp"], ep=lay["ep"],
                             moe_tp=lay["tp"] * lay["dp"] // lay["ep"], max_batch=8)  # fmt: skip
    return ServingConfig(
        model=model, chip=chip.id, engine=engine, engine_version=space.engine_version,
        gemm_dtype=weights, kv_dtype=space.kv,
        max_batch=batch_of(space.max_batch or profile(engine).max_batch * layout["dp"],
                           adapters, layout["dp"]),
        adapters=adapters, offload_bytes=space.offload_bytes,
        offload_bytes_per_s=space.offload_bytes_per_s or HOST_BYTES_PER_S,
        chunk_tokens=profile(engine).chunk_tokens,
        prefix_cache=space.prefix_cache, cache_hit=space.cache_hit,
        policy=space.policy,
        spec_method=space.spec_method, spec_tokens=space.spec_tokens,  # type: ignore[arg-type]
        spec_acceptance=space.spec_acceptance, prefill=prefill, decode_workers=pool.decoding,
        tp=layout["tp"], pp=layout["pp"], dp=layout["dp"], ep=layout["ep"],
    )  # fmt: skip


def _worst(targets: Sequence[Target], ttft_s: Any, tpot_s: Any, output_tokens: float) -> Any:
    """Largest of reached over asked; metrics in closed form are means."""
    found = np.zeros_like(ttft_s)
    for t in targets:
        tail = t.percentile >= 90
        first = ttft_s * (TAIL_TTFT if tail else 1.0)
        each = tpot_s * (TAIL_TPOT if tail else 1.0)
        reached = {"ttft": first, "tpot": each, "e2e": first + each * (output_tokens - 1)}
        found = np.maximum(found, reached[t.metric] / t.limit_s)
    return found
