"""Questions to the rooms that decide, as people write them: as in :mod:`weftline.spec.options`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CodesignOptions", "SpotOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesignOptions:
    """What to vary around a model, for which chips, at which worth.

    Parameters
    ----------
    vary
        Knobs with commas between, each with values of its own if need be:
        window=full+4096+1024/6 (each sixth layer full), heads=32:8+64:2, experts=dense+8:2,
        state=none+75%:128 (share of the layers that keep a Mamba-2 state, and its size).
    on
        Accelerators, separated by commas.
    quality
        What all designs are worth: parameters, active, effective (the root of all x active), or
        your own loss law: 1.69+406.4/params**0.34+410.7/tokens**0.28.
    tokens
        Tokens of the training run: 2T.
    served
        Tokens served over the model's life, prompts and answers; as many as it is trained on if
        not given.
    sizes
        Layers over those of the model, for iso-cost curves: 0.5,1,2.
    max_chips
        Of the training run, at most.
    seq
        Tokens a sequence of training.
    precision
        Of the matrix products of training: bf16, fp8.
    price
        on-demand, spot, reserved, capacity-block, any (the cheapest way to pay), or your own.
    region
        Only prices of this region.
    discount
        Off list prices: 20%, or by seller: aws=20%,nebius=10%.
    rate
        Requests a second that a fleet serves; many, so that whole replicas hardly count.
    input
        Tokens of a prompt.
    output
        Tokens of an answer.
    ttft
        Time to the first token at most.
    tpot
        Time a token after the first at most.
    """

    vary: str
    on: str
    quality: str = "parameters"
    tokens: str = "2T"
    served: str | None = None
    sizes: str = "1"
    max_chips: str = "256"
    seq: str | None = None
    precision: str = "bf16"
    price: str = "any"
    region: str | None = None
    discount: str | None = None
    rate: str = "40/s"
    input: str = "2000"
    output: str = "400"
    ttft: str = "2s"
    tpot: str = "60ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotOptions:
    """A job with a deadline on chips that may be taken away.

    Parameters
    ----------
    work
        How long the job runs undisturbed: 60h.
    deadline
        When it has to be done, from now: 4days.
    spot
        Price of a spot chip: $1.20/h.
    on_demand
        Price of a chip that nobody takes back: $3.90/h.
    chips
        How many the job takes at once.
    start
        Work that is lost whenever chips are started or changed: 15min.
    step
        The time between two looks at what is there.
    up
        How long spot chips stay, on average.
    down
        How long they are gone, on average.
    trace
        A CSV file with a row a step, 0 or 1 in its last column, in place of --up and --down.
    runs
        Traces that are tried.
    seed
        Of the traces.
    """

    work: str
    deadline: str
    spot: str
    on_demand: str
    chips: str = "8"
    start: str = "15min"
    step: str = "1h"
    up: str = "20h"
    down: str = "10h"
    trace: str | None = None
    runs: str = "300"
    seed: int = 0
