"""A lifecycle file as people write it: its fields, their defaults, and what each is.

Values are text with units, as on the command line. The reader, the schema and the docs follow from
these classes; a stage that trains or serves takes the fields of a job file beside its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from weftline.spec.options import FleetOptions, JobOptions, ServingOptions, TrafficOptions

__all__ = [
    "JOB_FIELDS", "STAGES", "BandFields", "LeaveFields", "LifeFields", "PlaceFields",
    "PortableFields",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeFields:
    """A lifecycle.

    Parameters
    ----------
    model
        Bundled name, config.json, or gpt:layers=96,hidden=12288,...
    on
        Chips that stages may run on, each at its best price: [trainium2, tpu-v6e, h100].
    price
        Ways to pay, the first that a chip is sold in counts: [on-demand, capacity-block].
    region
        Only prices of this region.
    discount
        Off list prices: 20%, or by seller: aws=20%,nebius=10%.
    start
        First month: 2027-01.
    objective
        What the placing makes least: cost, energy, carbon.
    place
        best (each stage where the sum is least) or one (all stages at one place).
    samples
        Of the Monte Carlo.
    seed
        Of the Monte Carlo.
    """

    model: str
    on: str | None = None
    price: str = "on-demand,capacity-block,reserved,spot"
    region: str | None = None
    discount: str | None = None
    start: str = "2027-01"
    objective: str = "cost"
    place: str = "best"
    samples: str = "10000"
    seed: str = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceFields:
    """Where stages may run: a chip at a seller, and what a cluster costs there beside chips.

    What is not given is that of the seller's kind (gold, hyperscaler, silver).

    Parameters
    ----------
    name
        What to call it.
    chip
        The accelerator.
    price
        Your own: $2.50/h a chip; else ways to pay.
    seller
        Whose storage, egress and overheads count; of a list price its seller.
    region
        Only prices of this region.
    tier
        gold, hyperscaler or silver.
    goodput_loss
        Share of a rented cluster's time lost to failures: 2%. Stages that are planned have theirs
        from the plan.
    support
        Share of the bill that support costs: 5%.
    setup_idle
        How long the cluster stands idle at first: 14days.
    setup_staff
        Cost of people to set it up: $66667.
    debugging
        Cost of people a month while chips are rented: $16667.
    storage
        Cost a month beside stages that store: $1500.
    network
        Cost a month of networking beside the chips' own: $80.
    cpu_nodes
        Cost a month of machines without chips: $3300.
    control_plane
        Cost a month: $500.
    """

    name: str
    chip: str
    price: str | None = None
    seller: str | None = None
    region: str | None = None
    tier: str | None = None
    goodput_loss: str | None = None
    support: str | None = None
    setup_idle: str | None = None
    setup_staff: str | None = None
    debugging: str | None = None
    storage: str | None = None
    network: str | None = None
    cpu_nodes: str | None = None
    control_plane: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BandFields:
    """5th and 95th percentile of what nobody knows, as factors: 0.8..1.3.

    Parameters
    ----------
    price
        Of every list price; your own prices have no band.
    failures
        Of the failure rate.
    demand
        Of the tokens that are served.
    preprocess
        Of bytes a second a core.
    people
        Of set-up and debugging.
    """

    price: str = "0.75..1.5"
    failures: str = "0.62..1.71"
    demand: str = "0.5..2"
    preprocess: str = "0.5..2"
    people: str = "0.5..2"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortableFields:
    """A model of the same worth that is made to run anywhere, held beside the life's own.

    Parameters
    ----------
    model
        Bundled name, config.json, or gpt:layers=96,hidden=12288,...
    retune
        Hours of people to tune it for the other chip.
    parallel
        Months in which both places are paid.
    lost
        Share of the other chip's speed that is missing until it is tuned.
    """

    model: str
    retune: str = "500"
    parallel: str = "1"
    lost: str = "5%"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveFields:
    """What binds a served model to a place, and what leaving it costs; months are of serving.

    Parameters
    ----------
    origin
        The place where stages of many months run (serve, finetune, rent); the cheapest for them if
        not given.
    to
        Places to leave for; all others if not given.
    month
        The first month in which one may leave: 0 is at once.
    contract
        Months that the chips are signed for at the origin, from the start of serving.
    owed
        Share of the chips' bill that is paid to the contract's end all the same.
    parallel
        Months in which both places are paid.
    retune
        Hours of people to tune the model for the other chip.
    people
        Cost of an hour of people: $100.
    lost
        Share of the other chip's speed that is missing until it is tuned.
    tuning
        Months until it is tuned.
    egress
        Cost to move what is kept and the weights, in place of the price list: $20000.
    """

    origin: str | None = None
    to: str | None = None
    month: str = "0"
    contract: str = "0"
    owed: str = "100%"
    parallel: str = "2"
    retune: str = "2000"
    people: str = "$100"
    lost: str = "15%"
    tuning: str = "3"
    egress: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessFields:
    """Text turned into shards of tokens, on CPU cores.

    Parameters
    ----------
    tokens
        Tokens that come out: 15T.
    text_bytes
        Bytes of text a token.
    raw
        Bytes that are filtered for one that is kept.
    core
        graviton, epyc or xeon.
    cores
        How many work at once.
    tokenise
        Bytes a second a core.
    filter
        Bytes a second a core, of the raw text.
    shard
        Bytes a second a core.
    core_price
        Your own: $0.04/h a core.
    at
        Seller where the text lies: its egress is paid where training is elsewhere.
    """

    tokens: str
    text_bytes: str = "3.9"
    raw: str = "5"
    core: str = "graviton"
    cores: str = "1024"
    tokenise: str = "2.4MB/s"
    filter: str = "18MB/s"
    shard: str = "103MB/s"
    core_price: str | None = None
    at: str = "aws"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainFields:
    """A training run; beside these every field of a job to train.

    Parameters
    ----------
    on
        Only these chips, of those that the life may use.
    """

    on: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateFields:
    """Checkpoints tried on benchmarks, on the chips that train.

    Parameters
    ----------
    times
        Evaluations in all.
    tokens
        Tokens of one: 50M.
    of
        The stage that trains; the first one if not given.
    """

    times: str
    tokens: str
    of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneFields:
    """Fine-tuning runs, spread over the months of serving; beside these a job to train's fields.

    Parameters
    ----------
    times
        Runs in all: 24.
    per_month
        In place of times: runs a month of serving.
    on
        Only these chips, of those that the life may use.
    """

    times: str | None = None
    per_month: str | None = None
    on: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutsFields:
    """Reinforcement learning: answers generated by a fleet, then trained on.

    Parameters
    ----------
    tokens
        Tokens that are generated: 200B.
    tokens_per_s
        So fast at least; sets the fleet: 500k.
    input
        Tokens of a prompt.
    output
        Tokens of an answer.
    on
        Only these chips, of those that the life may use.
    """

    tokens: str
    tokens_per_s: str = "200k"
    input: str = "500"
    output: str = "2000"
    on: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFields:
    """Bytes kept: checkpoints, data sets, logs.

    Parameters
    ----------
    size
        Bytes: 60TB. Or of a stage, below.
    of
        A stage that trains (its checkpoints) or preprocesses (its tokens).
    copies
        How many are kept.
    months
        How long; to the end of the life if not given.
    tier
        Of the catalogue, aws.s3.standard; the object store of the place if not given.
    """

    size: str | None = None
    of: str | None = None
    copies: str = "1"
    months: str | None = None
    tier: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeFields:
    """Serving over years; beside these the fields of a job to serve, but its rate.

    Parameters
    ----------
    tokens_per_day
        Prompt and answer tokens of a mean day of the first month: 2B.
    months
        How long.
    growth
        Of the traffic, a year: 50%.
    peak
        The busiest hour over the mean: what the fleet is sized for.
    autoscale
        Pay for the replicas of each hour of a daily curve (a sine up to the peak), not for the
        peak's all day.
    answer_bytes
        Bytes that leave for a token of answer.
    on
        Only these chips, of those that the life may use.
    """

    tokens_per_day: str
    months: str = "36"
    growth: str = "0%"
    peak: str = "1.5"
    autoscale: bool = False
    answer_bytes: str = "6"
    on: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RentFields:
    """A cluster rented for a time, whatever runs on it.

    Parameters
    ----------
    chips
        How many.
    months
        How long.
    restarts
        false where what runs there goes on past failures, as replicas of a fleet do.
    """

    chips: str
    months: str
    restarts: bool = True


STAGES: Final[dict[str, type]] = {
    "preprocess": PreprocessFields, "train": TrainFields, "evaluate": EvaluateFields,
    "finetune": FinetuneFields, "rollouts": RolloutsFields, "store": StoreFields,
    "serve": ServeFields, "rent": RentFields,
}  # fmt: skip
"""Kinds of stage."""
_OURS: Final = frozenset({"on", "price", "region", "discount", "chip", "chip_set"})
"""Fields of jobs that the life itself decides."""
JOB_FIELDS: Final[dict[str, tuple[tuple[type, ...], frozenset[str]]]] = {
    "train": ((JobOptions,), _OURS), "finetune": ((JobOptions,), _OURS),
    "serve": ((FleetOptions, TrafficOptions, ServingOptions), _OURS | {"rate", "trace"}),
    "rollouts": ((FleetOptions, ServingOptions), _OURS | {"ttft", "tpot", "e2e", "p99"}),
}  # fmt: skip
"""Kind -> (whose fields it takes, which of them it does not)."""
