"""Discrete-event simulation of a serving fleet: every request's times, from real traffic.

:func:`simulate_requests` runs one step-time surface on a table of requests, :func:`simulate` a
whole configuration: front end, replicas, routing, and a prefill pool with KV transfer where the
configuration is disaggregated. Deterministic: chance is in the traffic, which carries its seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.serve.engine.scheduler import Scheduler, scheduler
from weftline.spec import Routing, Traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from weftline.serve.engine.config import ServingConfig
    from weftline.serve.simulate.step import StepSurface

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

BINS: Final = 4096
BINS_A_SPAN: Final = 512
"""The timeline is cut so that the arrivals take this many bins; the rest is for the tail."""
MAX_PREFIX_STATES: Final = 200_000_000
"""Replicas x prefix blocks whose state is kept: 13 bytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Means over bins of time, summed over the replicas."""

    width_s: float
    busy: Floats
    """Replicas at work."""
    running: Floats
    """Requests in the batch."""
    waiting: Floats
    """Requests in the queue that no work has been done on yet."""
    kv_share: Floats
    """KV blocks held over all there are, while at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened to each request, [N], times in seconds from the start of the traffic.

    A request too long for the KV memory of a replica has NaN times and ``fits`` False.
    """

    arrived_s: Floats
    queued_s: Floats
    """When the engine's core first saw it: a step has to end before it looks."""
    scheduled_s: Floats
    first_token_s: Floats
    finished_s: Floats
    prefill_tokens: Ints
    decode_tokens: Ints
    thrown_out: Ints
    """Times it lost its KV to others and was computed again."""
    cached_tokens: Ints
    """Tokens found in the prefix cache instead of computed."""
    loaded_tokens: Ints
    """Of those, tokens whose KV came from a slower memory."""
    replica: Ints
    fits: NDArray[np.bool_]
    timeline: Timeline

    @property
    def ttft_s(self) -> Floats:
        """From arrival to the first token."""
        return self.first_token_s - self.arrived_s

    @property
    def e2e_s(self) -> Floats:
        """From arrival to the last token."""
        return self.finished_s - self.arrived_s

    @property
    def tpot_s(self) -> Floats:
        """Mean time between tokens after the first; NaN for answers of one token."""
        more = np.where(self.decode_tokens > 1, self.decode_tokens - 1, np.nan)
        return (self.finished_s - self.first_token_s) / more

    @property
    def queue_s(self) -> Floats:
        """From arrival to the start of work on the prompt."""
        return self.scheduled_s - self.arrived_s

    @property
    def engine_ttft_s(self) -> Floats:
        """As vLLM's core measures: from when it saw the request to the first token."""
        return self.first_token_s - self.queued_s

    @property
    def engine_e2e_s(self) -> Floats:
        """From when the core saw the request to the last token."""
        return self.finished_s - self.queued_s

    @property
    def end_s(self) -> float:
        """When the last token was given."""
        return float(np.nanmax(self.finished_s)) if bool(self.fits.any()) else 0.0


def simulate(
    config: ServingConfig, traffic: Traffic, *, replicas: int = 1,
    routing: Routing = "least-loaded", prefill_replicas: int | None = None,
) -> Outcome:  # fmt: skip
    """Simulate ``replicas`` replicas of one configuration on ``traffic``.

    A disaggregated configuration has its own numbers of prefill and decode workers; ``replicas``
    then counts such groups, whose workers are shared by all. Raises InputError(s).
    """
    from weftline.serve.simulate.step import prefill_surface, surface

    if config.prefill is None:
        found = surface(config)
        return _filled(found, config.chunk_tokens, simulate_requests(
            found, traffic.arrived_s, traffic.prefill_tokens, traffic.decode_tokens,
            max_seqs=config.max_batch, token_budget=config.chunk_tokens, engine=config.engine,
            replicas=replicas, routing=routing, caching=config.prefix_cache, traffic=traffic,
            hit=config.cache_hit, below=_below(config, found),
        ))  # fmt: skip
    if traffic.follows is not None:
        raise InputError(
            "sessions are not followed over pools of their own for prompts",
            hint="a replica that prefills and decodes, or a trace without sessions",
        )
    first = replace(traffic, decode_tokens=np.ones_like(traffic.decode_tokens))
    workers = prefill_replicas or config.prefill.workers * replicas
    before = prefill_surface(config)
    prefilled = _filled(before, config.chunk_tokens, simulate_requests(
        before, traffic.arrived_s, traffic.prefill_tokens, first.decode_tokens,
        max_seqs=config.prefill.max_batch, token_budget=config.chunk_tokens, engine=config.engine,
        replicas=workers, routing=routing, caching=config.prefix_cache, traffic=first,
        hit=config.cache_hit, below=_below(config, before),
    ))  # fmt: skip
    decode = surface(config)
    return _decode_side(
        prefilled, decode, traffic.decode_tokens, max_seqs=config.max_batch,
        token_budget=config.chunk_tokens, engine=config.engine,
        replicas=config.decode_workers * replicas, routing=routing,
        transfer_s_per_token=decode.kv_bytes_per_token / decode.kv_transfer_bytes_per_s,
    )  # fmt: skip


def _below(config: ServingConfig, surface: StepSurface) -> tuple[float, float]:
    """(tokens that the slower memory of a replica holds, seconds a token's KV takes from it)."""
    each = surface.kv_bytes_per_token
    if not config.offload_bytes or not each:
        return 0.0, 0.0
    held = config.offload_bytes / (each * config.tp * config.pp)
    return held, each / config.offload_bytes_per_s


def _filled(surface: StepSurface, chunk_tokens: int, done: Outcome) -> Outcome:
    """With what pipeline stages add to every first token: the last chunk passes all of them."""
    if surface.stages <= 1:
        return done
    fill_s = surface.fill_s(done.prefill_tokens.astype(np.float64), float(chunk_tokens))
    return replace(done, first_token_s=done.first_token_s + fill_s,
                   finished_s=done.finished_s + fill_s)  # fmt: skip


def simulate_requests(
    surface: Any, arrived_s: Floats, prefill_tokens: Ints, decode_tokens: Ints, *,
    max_seqs: int, token_budget: int, engine: str = "vllm", lag: int | None = None,
    replicas: int = 1, routing: Routing = "round-robin", caching: bool = False,
    traffic: Traffic | None = None, ready: bool = False, rules: Scheduler | None = None,
    hit: float = 0.0, below: tuple[float, float] = (0.0, 0.0),
) -> Outcome:  # fmt: skip
    """Simulate requests (in order of arrival) on replicas that all have ``surface``.

    ``surface`` is the engine room's StepSurface. ``traffic`` is needed for its prefix blocks only;
    ``lag`` overrides the engine's own (1 for a scheduler that does not run ahead); ``ready`` means
    that prompts come with their KV and the first token is already given; ``hit`` is the share of
    every prompt that needs no computing; ``below`` tokens that a slower memory holds of what the
    prefix cache pushes out, and seconds that one takes from there. Raises InputError.
    """
    from weftline.serve.simulate.core import run_all, run_turns
    from weftline.serve.simulate.tables import tables_of

    how = rules or scheduler(engine)
    values = surface.as_arrays()
    tab, record = tables_of(values)
    starts, ids, per_hash = _hashes(traffic if caching else None, arrived_s.size, how)
    _fill_rules(
        record, how, max_seqs=max_seqs, token_budget=token_budget, lag=lag or how.lag,
        capacity=int(float(values["kv_capacity_tokens"]) // how.block_tokens), ready=ready,
        caching=caching and float(record["capped_share"][0]) == 0.0, hash_tokens=per_hash,
        routing=routing, hit=0.0 if ready else hit,
        below=int(below[0] // per_hash), load_s=below[1],
        answers=traffic is not None and traffic.follows is not None,
    )  # fmt: skip
    front_s = 0.0 if ready else float(values.get("front_end_s", 0.0))
    requests = _requests(arrived_s + front_s, prefill_tokens, decode_tokens, starts)
    span = float(arrived_s[-1] - arrived_s[0]) if arrived_s.size else 0.0
    world = _empty_world(tab, record, requests, replicas, max(span / BINS_A_SPAN, 1e-3), ids)
    fits = _fits(record, requests)
    owner = np.full(int(ids.max(initial=0)) + 1, -1, np.int64)
    if traffic is None or traffic.follows is None or ready:
        run_all(world, owner, fits)
        return _outcome(world, arrived_s, fits)
    run_turns(world, owner, fits, *_turns(traffic, front_s))
    return _outcome(world, requests["arrived"] - front_s, fits)


def _turns(traffic: Traffic, front_s: float) -> tuple[Any, Any]:
    """An empty heap of arrivals, and what follows each request after how long."""
    from weftline.serve.simulate.core import DUE, TURN
    from weftline.serve.simulate.kv import NOWHERE

    n = traffic.requests
    turns = np.zeros(n, TURN)
    turns["next"], turns["first"] = NOWHERE, 1
    if traffic.follows is not None and traffic.wait_s is not None:
        later = np.flatnonzero(traffic.follows >= 0)
        turns["next"][traffic.follows[later]] = later
        turns["first"][later] = 0
        turns["wait"] = traffic.wait_s + front_s
    return np.zeros(n + 1, DUE), turns


def _decode_side(
    prefilled: Outcome, surface: Any, decode_tokens: Ints, *, transfer_s_per_token: float,
    **options: Any,
) -> Outcome:  # fmt: skip
    """Send the KV of what a prefill pool has finished to the decode pool, and go on there."""
    n = decode_tokens.size
    sent_s = prefilled.finished_s + prefilled.prefill_tokens * transfer_s_per_token
    more = prefilled.fits & (decode_tokens > 1)
    order = np.flatnonzero(more)[np.argsort(sent_s[more], kind="stable")]
    decoded = simulate_requests(
        surface, sent_s[order], prefilled.prefill_tokens[order], decode_tokens[order], ready=True,
        **options,
    )  # fmt: skip
    finished, thrown = prefilled.finished_s.copy(), prefilled.thrown_out.copy()
    finished[order] = decoded.finished_s
    thrown[order] += decoded.thrown_out
    fits = prefilled.fits.copy()
    fits[order] = decoded.fits
    first = np.where(fits, prefilled.first_token_s, np.nan)
    replica = np.full(n, -1, np.int64)
    replica[order] = decoded.replica
    return replace(
        prefilled, first_token_s=first, finished_s=np.where(fits, finished, np.nan),
        decode_tokens=decode_tokens, thrown_out=thrown, fits=fits, replica=replica,
        timeline=decoded.timeline,
    )  # fmt: skip


def _fill_rules(
    record: Any, how: Scheduler, *, max_seqs: int, token_budget: int, routing: Routing, lag: int,
    **values: Any,
) -> None:  # fmt: skip
    """Put what holds for every replica into a record of RULES."""
    from weftline.serve.simulate import core

    if max_seqs < 1 or token_budget < 1:
        raise InputError(
            f"a batch of {max_seqs} sequences and {token_budget} tokens an iteration: "
            "both must be at least 1"
        )
    codes = {
        "round-robin": core.ROUND_ROBIN, "least-loaded": core.LEAST_LOADED,
        "prefix-aware": core.PREFIX_AWARE,
    }  # fmt: skip
    values |= {
        "max_seqs": max_seqs, "budget": token_budget, "lag": lag, "mixed": how.mixed,
        "block": how.block_tokens, "whole": how.reserve == "whole",
        "prompts": how.prompts_per_step, "routing": codes[routing],
    }  # fmt: skip
    for name, value in values.items():
        record[name] = value


def _requests(arrived_s: Floats, prefill: Ints, decode: Ints, starts: Ints) -> Any:
    """Records of REQUEST that nothing has happened to."""
    from weftline.serve.simulate.kv import NOWHERE
    from weftline.serve.simulate.state import REQUEST

    found = np.zeros(arrived_s.size, REQUEST)
    found["arrived"], found["prefill"], found["decode"] = arrived_s, prefill, decode
    found["first_hash"], found["hashes"] = starts[:-1], np.diff(starts)
    for name in ("queued", "scheduled", "first", "finished"):
        found[name] = np.nan
    for name in ("next_wait", "replica"):
        found[name] = NOWHERE
    return found


def _hashes(traffic: Traffic | None, requests: int, how: Scheduler) -> tuple[Ints, Ints, int]:
    """Starts, ids and tokens of the prefix blocks; none where the traffic has none."""
    if traffic is None or traffic.hash_starts is None or traffic.hash_ids is None:
        return np.zeros(requests + 1, np.int64), np.zeros(0, np.int64), how.block_tokens
    size = traffic.hash_block_tokens
    if size % how.block_tokens:
        raise InputError(
            f"prefix blocks of {size} tokens are no multiple of the engine's KV blocks of "
            f"{how.block_tokens}"
        )
    return traffic.hash_starts, traffic.hash_ids, size


def _fits(record: Any, requests: Any) -> NDArray[np.bool_]:
    """Requests whose whole sequence a replica can hold."""
    rules = record[0]
    units = np.ceil((requests["prefill"] + requests["decode"] + rules["spec"]) / rules["block"])
    share = float(rules["capped_share"])
    if share > 0:
        cap = np.ceil(rules["cap_tokens"] / rules["block"])
        units = (1 - share) * units + share * np.minimum(units, cap)
    return np.asarray(units <= rules["capacity"])


def _empty_world(tab: Any, record: Any, requests: Any, replicas: int, width_s: float,
                 ids: Ints) -> Any:  # fmt: skip
    """All arrays of a simulation that has not begun."""
    from weftline.serve.simulate import state
    from weftline.serve.simulate.kv import NOWHERE, empty_pool

    rules = record[0]
    hashes = int(ids.max(initial=-1)) + 1
    if replicas * hashes > MAX_PREFIX_STATES:
        raise InputError(
            f"{hashes:,} prefix blocks on {replicas:,} replicas are too many to follow",
            hint="a shorter trace, fewer replicas, or no prefix cache",
        )
    seqs, capacity = int(rules["max_seqs"]), int(rules["capacity"])
    reps = np.zeros(replicas, state.REPLICA)
    reps["next_change"], reps["free"], reps["soonest"] = np.inf, capacity, state.NEVER
    for name in ("partial", "wait_head", "wait_tail"):
        reps[name] = NOWHERE
    pool = empty_pool(
        replicas if rules["caching"] else 1, capacity, seqs, ids, requests.size,
        int(rules["hash_tokens"] // rules["block"]),
    )  # fmt: skip
    return state.World(
        tab=tab, rules=record, reps=reps, reqs=requests, run=np.zeros((replicas, seqs), state.RUN),
        phases=np.zeros((replicas, int(rules["block"])), np.int64), pool=pool,
        chunks=np.zeros(seqs + 1, state.CHUNK), bins=np.zeros(BINS, state.BIN),
        width=np.array([width_s]), ended=np.zeros(requests.size + 1, np.int64),
    )  # fmt: skip


def queued_means(arrived_s: Floats, scheduled_s: Floats, width_s: float, bins: int) -> Floats:
    """Mean number of requests between arrival and start of work, [bins] of ``width_s`` seconds.

    A request without a start is left out.
    """
    edges_s = np.arange(bins + 1) * width_s
    started = ~np.isnan(scheduled_s)

    def since(times_s: Floats) -> Floats:
        """Seconds gone by since each of ``times_s``, summed, at every edge."""
        ordered = np.sort(times_s[started])
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        before = np.searchsorted(ordered, edges_s)
        return np.asarray(before * edges_s - sums[before])

    means = np.diff(since(arrived_s) - since(scheduled_s)) / width_s
    return np.asarray(np.maximum(0.0, means))


def _outcome(world: Any, arrived_s: Floats, fits: NDArray[np.bool_]) -> Outcome:
    requests, width_s = world.reqs, float(world.width[0])
    used = np.flatnonzero(world.bins["busy"])
    bins = world.bins[: int(used[-1]) + 1 if used.size else 1]
    blocks = int(world.rules["capacity"][0]) * len(world.reps) * width_s
    return Outcome(
        arrived_s=np.asarray(arrived_s, np.float64), fits=fits,
        queued_s=requests["queued"], scheduled_s=requests["scheduled"],
        first_token_s=requests["first"], finished_s=requests["finished"],
        prefill_tokens=requests["prefill"], decode_tokens=requests["decode"],
        thrown_out=requests["thrown_out"], cached_tokens=requests["cached"],
        loaded_tokens=requests["loaded"],
        replica=requests["replica"],
        timeline=Timeline(
            width_s=width_s, busy=bins["busy"] / width_s, running=bins["running"] / width_s,
            waiting=queued_means(requests["arrived"], requests["scheduled"], width_s, bins.size),
            kv_share=bins["blocks"] / max(blocks, 1),
        ),
    )  # fmt: skip
