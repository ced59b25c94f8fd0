"""Questions as people write them: the one place where an option has its name, default and help.

The command line flattens these, and :func:`job_of` and its like turn them into the nouns. Values
are text with units (``2T``, ``30days``, ``$2.50/h``); the readers name the option of every mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "FleetOptions", "JobOptions", "MemoryOptions", "ReplicaOptions",
    "ServingOptions", "TrafficOptions", "Where", "as_option",
]  # fmt: skip

Where = Callable[[str], str]
"""From the name of a field to the place where a person wrote it."""


def as_option(name: str) -> str:
    """``max_chips`` -> ``--max-chips``."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What to train, beside the model; becomes a :class:`~weftline.spec.Job`.

    Parameters
    ----------
    tokens
        Tokens of the whole run: 2T, 300B.
    seq
        Tokens a sequence; 8192 or the model's limit if not given.
    global_batch
        Sequences a step; by model size if not given.
    on
        Accelerators, separated by commas, or all; cpu, edge or desktop for all that are used so.
    chips
        Exactly so many chips.
    max_chips
        At most so many chips; 1024 if neither is given.
    budget
        Most the run may cost: $2.5M.
    deadline
        Longest it may take: 30days.
    price
        on-demand, spot, reserved, capacity-block, any (the cheapest way to pay), your own: $2.50/h
        a chip, or several: h100=2.1,b200=4 US dollars a chip-hour.
    discount
        Off list prices: 20%, or by seller: aws=20%,nebius=10%.
    region
        Only prices of this region.
    objective
        cost, time, energy, cost-time (their product), or chips: the fewest that hold it.
    precision
        Of the matrix products: bf16, fp8, fp4, fp32.
    framework
        megatron-core, torchtitan, maxtext, neuronx... or auto: each maker's own.
    optimizer
        adamw, adamw-bf16 (its moments in bf16), adamw-pure-bf16 (all in bf16, no master weights),
        adafactor or muon.
    offload
        Keep optimizer states in host memory.
    overlap
        Hide communication behind compute where the framework can.
    recipe
        A release of the framework, flags of one, or both: megatron-bridge-26.02,
        overlap_tp=off,graphs=on,dispatch=node. If not given, the newest that is known.
    tune
        full, lora (adapters beside frozen weights) or qlora (beside frozen 4-bit weights).
    rank
        Rank of the adapters.
    freeze
        Parts that full training leaves as they are, separated by commas: embeddings, attention,
        mlp, experts.
    policy
        Attention in the place of the model's full one: window=4096,sinks=4, topk=12.5%,block=128,
        or a policy.yaml (docs/attention.md).
    layout
        Parts of the layout to hold: tp=8,pp=2, zero=3, micro_batch=1, recompute=full...
    allow_long
        Take a sequence longer than the model's config allows.
    chip
        Files of chips of your own, separated by commas.
    chip_set
        Figures to change: h100-sxm.memory=96GB,h100-sxm.price=2.1, and how its hosts drive their
        NICs: h100-sxm.host=tcp (or virtual, bypass).
    """

    tokens: str
    seq: str | None = None
    global_batch: str | None = None
    on: str = "all"
    chips: str | None = None
    max_chips: str | None = None
    budget: str | None = None
    deadline: str | None = None
    price: str = "on-demand"
    discount: str | None = None
    region: str | None = None
    objective: str = "cost-time"
    precision: str = "bf16"
    framework: str = "auto"
    optimizer: str = "adamw"
    offload: bool = False
    overlap: bool = True
    recipe: str | None = None
    tune: str = "full"
    rank: str = "16"
    freeze: str | None = None
    policy: str | None = None
    layout: str | None = None
    allow_long: bool = False
    chip: str | None = None
    chip_set: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """What a fleet has to keep, and what may be tried.

    Parameters
    ----------
    ttft
        Time to the first token at most, of the requests that --within names: 500ms.
    tpot
        Time a token after the first at most: 40ms.
    e2e
        Time to the last token at most: 20s.
    within
        Share of requests that must keep all of these limits.
    p99
        Further limits for all but one request in a hundred: ttft=1s,tpot=60ms.
    headroom
        Share of the fleet's steady-state throughput that must stay free.
    on
        Accelerators, separated by commas, or all; cpu, edge or desktop for all that are used so.
    engine
        vllm, sglang, trtllm, jetstream, neuron, several, or all.
    precision
        Number formats of weights that may be used: bf16,fp8,int8,int4,nvfp4,mxfp4. If not given,
        the config's own where its weights are quantised, and bf16; else bf16,fp8.
    price
        on-demand, spot, reserved, capacity-block, several, all, any (the cheapest way to pay), your
        own: $2.50/h a chip, or several: h100=2.1,b200=4 US dollars a chip-hour.
    discount
        Off list prices: 20%, or by seller: aws=20%,nebius=10%.
    region
        Only prices of this region.
    max_chips
        At most so many chips, spares not counted: 64, or of each kind: h200=16,l40s=8.
    mix
        Try fleets of two chips behind one router too, each with its share of the requests.
    prefill_on
        Other accelerators that workers for prompts may have, while those of --on decode. With
        --disaggregated.
    layout
        Degrees of a replica to hold: tp=8,pp=2,dp=1,ep=8.
    max_batch
        Sequences that may run at once in a replica; the engine's own if not given.
    disaggregated
        Try fleets with workers of their own for prompts, too.
    daily
        The rate is a day's peak, so many times its mean (2), or as a CSV file of the day's rates
        says: what autoscaling costs beside the fixed fleet.
    replica_start
        Until a new replica serves: 3min; worked out from the weights if not given.
    batch
        Requests that wait to be done, in place of a rate: 10M. With --deadline.
    deadline
        When the batch is to be done at the latest: 8h.
    chip
        Files of chips of your own, separated by commas.
    chip_set
        Figures to change: h100-sxm.memory=96GB,h100-sxm.price=2.1, and how its hosts drive their
        NICs: h100-sxm.host=tcp (or virtual, bypass).
    """

    ttft: str | None = None
    tpot: str | None = None
    e2e: str | None = None
    within: str = "95%"
    p99: str | None = None
    headroom: str = "20%"
    on: str = "all"
    engine: str = "all"
    precision: str | None = None
    price: str = "on-demand"
    discount: str | None = None
    region: str | None = None
    max_chips: str | None = None
    mix: bool = False
    prefill_on: str | None = None
    layout: str | None = None
    max_batch: str | None = None
    disaggregated: bool = False
    daily: str | None = None
    replica_start: str | None = None
    batch: str | None = None
    deadline: str | None = None
    chip: str | None = None
    chip_set: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOptions:
    """What requests come.

    Parameters
    ----------
    rate
        Requests a second: 12/s, 700/min, 1M/day. With --trace, the trace at that mean rate.
    trace
        azure-2023-conv, azure-2023-code, mooncake-conversation, or a CSV or JSONL file.
    input
        Tokens of a prompt, on average; without --trace.
    output
        Tokens of an answer, on average; without --trace.
    burstiness
        Squared coefficient of variation of the gaps between requests; 1 is Poisson.
    spread
        Sigma of log-normal prompt and answer lengths; 0 makes them equal.
    seed
        Of the requests drawn.
    turns
        Requests of a session, each with the answers before it in its prompt; 1 for no sessions.
    tool_delay
        From the end of an answer to the session's next request, on average: 5s.
    grow
        Tokens of new text in every later request of a session.
    shared_prefix
        Tokens at the start of the first prompt that all sessions share.
    """

    rate: str | None = None
    trace: str | None = None
    input: str = "2000"
    output: str = "400"
    burstiness: float = 1.0
    spread: float = 0.0
    seed: int = 0
    turns: int = 1
    tool_delay: str = "5s"
    grow: str = "1000"
    shared_prefix: str = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How the model is served, whatever the layout.

    Parameters
    ----------
    kv
        Number format of the KV cache: bf16, fp8, int8.
    engine_version
        Release of the one engine: 0.10.1; a recent one if not given. Those of before December 2025
        have slower host paths and kernels.
    prefix_cache
        Keep the KV of prompts; a trace with hashes says what it finds.
    cache_hit
        Share of every prompt's tokens that such a cache finds, where no trace says it: 80%.
    kv_offload
        Memory of a replica that keeps what the prefix cache pushes out: 500GB (of the host),
        nvme:4TB, 500GB@25GB/s with the rate to a chip.
    lora
        Adapters of one base model, their rank, and those a replica holds at once: 200:16:32.
    speculate
        Draft tokens ahead: mtp:3, or mtp:3:0.8 with the chance that each is kept.
    policy
        Attention in the place of the model's full one: window=4096,sinks=4,kv=free,
        topk=12.5%,block=128, or a policy.yaml (docs/attention.md).
    routing
        round-robin, least-loaded or prefix-aware.
    """

    kv: str = "bf16"
    engine_version: str = ""
    prefix_cache: bool = False
    cache_hit: str | None = None
    kv_offload: str | None = None
    lora: str | None = None
    speculate: str | None = None
    policy: str | None = None
    routing: str = "least-loaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredServer:
    """How a measured server was started, where per-request timings do not tell it.

    Parameters
    ----------
    chip
        Per-request timings: the machine, where the file's name does not tell.
    model
        Per-request timings: the model.
    engine
        Per-request timings: the engine.
    engine_version
        Per-request timings: its version, such as 0.19.0; a recent one if not given.
    precision
        Per-request timings: number format of the weights.
    tp
        Per-request timings: chips that share every layer.
    dp
        Per-request timings: attention data-parallel ranks, each with a scheduler of its own.
    ep
        Per-request timings: ways experts are spread.
    max_seqs
        Per-request timings: sequences that may run at once in one engine (of each rank).
    """

    chip: str | None = None
    model: str | None = None
    engine: str = "vllm"
    engine_version: str = ""
    precision: str = "bf16"
    tp: int = 1
    dp: int = 1
    ep: int = 1
    max_seqs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaOptions:
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
    prefill_on
        With those, their accelerator; that of the others if not given.
    decode_workers
        With those, workers that decode, a group.
    beside
        Replicas of a second kind behind the same router: on=l40s,tp=4,replicas=2; what is not said
        is as of the first.
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
    prefill_on: str | None = None
    decode_workers: int = 1
    beside: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """What a model is to be used for, where memory alone is asked; without any of the four, all.

    Parameters
    ----------
    train
        Training every weight.
    lora
        Adapters beside frozen weights.
    qlora
        Adapters beside frozen 4-bit weights.
    serve
        Serving: weights and the KV cache.
    on
        Accelerators, separated by commas, or all; cpu, edge or desktop for all that are used so.
    seq
        Tokens a sequence; 4096 or the model's limit if not given.
    batch
        Sequences of a micro-batch in training, at once in serving.
    optimizer
        adamw, adamw-bf16, adamw-pure-bf16, adafactor or muon.
    framework
        megatron-core, torchtitan, maxtext, neuronx... or auto: each maker's own.
    precision
        Of the matrix products in training: bf16, fp8, fp4, fp32.
    offload
        Keep optimizer states in host memory.
    rank
        Rank of the adapters.
    weights
        Number formats of served weights, the first that a chip has: bf16,fp8,int8,int4... The
        config's own where its weights are quantised, then bf16, if not given.
    kv
        Number format of the KV cache: bf16, fp8, int8.
    allow_long
        Take a sequence longer than the model's config allows.
    chip
        Files of chips of your own, separated by commas.
    chip_set
        Figures to change: h100-sxm.memory=96GB.
    """

    train: bool = False
    lora: bool = False
    qlora: bool = False
    serve: bool = False
    on: str = "all"
    seq: str | None = None
    batch: str = "1"
    optimizer: str = "adamw"
    framework: str = "auto"
    precision: str = "bf16"
    offload: bool = False
    rank: str = "16"
    weights: str | None = None
    kv: str = "bf16"
    allow_long: bool = False
    chip: str | None = None
    chip_set: str | None = None
