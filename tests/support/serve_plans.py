"""Serving plans made by hand: exports read them, and a simulated one takes most of a minute."""

from __future__ import annotations

from collections.abc import Mapping

from weftline.spec import Estimate, ServePlan
from weftline.spec.serve_plan import Fleet, ServeDemand, ServeSearch, Target


def serve_plan(
    *, engine: str = "vllm", layout: Mapping[str, int] | None = None, weights: str = "fp8",
    kv: str = "bf16", replicas: int = 4, spares: int = 1, routing: str = "least-loaded",
) -> ServePlan:  # fmt: skip
    """Llama 3.1 70B at 20 requests/s on H100s, the fleet as given."""
    lay = dict(layout or {"tp": 4, "pp": 1, "dp": 1, "ep": 1})
    if lay.get("prefill_workers"):
        chips = (lay["prefill_workers"] + lay["decode_workers"]) * lay["tp"]
    else:
        chips = lay["tp"] * lay["pp"] * lay["dp"]
    rate = Estimate(value=24.0, unit="requests/s", low=12.0, high=40.0, basis="simulated")
    return ServePlan(
        weftline="0", catalog_date="2026-11-30",
        demand=ServeDemand(
            model="llama-3.1-70b", traffic="Poisson", rate_per_s=20.0, input_tokens=1000.0,
            output_tokens=300.0, cached_share=0.0, price_type="on-demand", region=None,
            targets=(Target(metric="ttft", percentile=50.0, limit_s=0.5),), requests=10, seed=0,
        ),
        parameters=70_553_706_496, active_parameters=70_553_706_496,
        fleet=Fleet(
            accelerator="h100-sxm", engine=engine, replicas=replicas, spares=spares,
            chips_per_replica=chips, layout=lay, weights=weights, experts=weights, kv=kv,
            max_batch=256, chunk_tokens=8192, prefix_cache=False, routing=routing,
        ),
        estimates={"rate_most": rate}, step_parts=(), memory_parts=(), price=None, why=(),
        flips=(), ranking=(), pareto=(), without_plan=(),
        search=ServeSearch(screened=1, chips=1, simulated=1, seconds=1.0),
        occupancy={"batch": 50.0, "waiting": 0.2},
    )  # fmt: skip
