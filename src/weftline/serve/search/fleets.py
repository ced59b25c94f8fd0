"""From a configuration to the fleet that a plan keeps: replicas, spares, layout, formats."""

from __future__ import annotations

from weftline.serve.search.economics import spares_of
from weftline.serve.search.screen import Option
from weftline.spec import Fleet, Routing

__all__ = ["fleet_of"]


def fleet_of(option: Option, replicas: int, routing: Routing) -> Fleet:
    """The fleet as the plan keeps it."""
    c = option.config
    layout = {"tp": c.tp, "pp": c.pp, "dp": c.dp, "ep": c.ep}
    if c.prefill is not None:
        layout |= {
            "prefill_workers": c.prefill.workers, "prefill_tp": c.prefill.tp,
            "prefill_dp": c.prefill.dp, "prefill_ep": c.prefill.ep,
            "decode_workers": c.decode_workers,
        }  # fmt: skip
    apart = c.prefill_chip != c.chip
    return Fleet(
        prefill_accelerator=c.prefill_chip if apart else "",
        accelerator=c.chip, engine=c.engine, replicas=replicas,
        spares=spares_of(replicas, option.group_chips), chips_per_replica=option.group_chips,
        layout=layout, weights=option.weights, experts=option.experts,
        kv=c.kv_dtype,
        max_batch=c.max_batch, chunk_tokens=c.chunk_tokens, prefix_cache=c.prefix_cache,
        routing=routing,
    )  # fmt: skip
