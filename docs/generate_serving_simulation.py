"""Writes the tables of docs/serving-simulation.md anew; half a minute.

Run: python docs/generate_serving_simulation.py
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from weftline.serve.engine.config import ServingConfig
from weftline.serve.simulate.fleet import simulate_requests
from weftline.serve.simulate.prefix import prefix_use
from weftline.serve.simulate.step import surface
from weftline.serve.simulate.traffic import bundled

PAGE = Path(__file__).parent / "serving-simulation.md"
BEGIN, END = "<!-- table: {} -->\n", "<!-- end: {} -->\n"
REPLICAS = 6
CONFIG = ServingConfig(model="llama-3.1-8b", chip="h200-sxm", prefix_cache=True)


def ideal_table() -> str:
    """Hit rate of one cache of a size, over the whole trace."""
    use = prefix_use(bundled("mooncake-conversation"))
    lines = ["| cache, tokens | block uses found |", "|---:|---:|"]
    for size in (1e5, 3e5, 1e6, 3e6, 1e7, 3e7):
        lines.append(f"| {size:,.0f} | {use.hit_rate(int(size // use.block_tokens)):.1%} |")
    lines.append(f"| without end | {use.ideal_hit_rate:.1%} |")
    return "\n".join(lines) + "\n"


def fleet_table() -> str:
    """A fleet whose replicas hold so many tokens, by how requests are routed."""
    trace = bundled("mooncake-conversation")
    base = surface(CONFIG)
    lines = [
        "| KV a replica, tokens | routing | prompt tokens found | first token, median | p99 |",
        "|---:|---|---:|---:|---:|",
    ]
    for capacity in (0.3e6, base.kv_capacity_tokens, 3e6, 10e6):
        for routing, caching in (("least-loaded", False), ("least-loaded", True),
                                 ("prefix-aware", True)):  # fmt: skip
            found = simulate_requests(
                replace(base, kv_capacity_tokens=capacity), trace.arrived_s, trace.prefill_tokens,
                trace.decode_tokens, max_seqs=CONFIG.max_batch, token_budget=CONFIG.chunk_tokens,
                replicas=REPLICAS, routing=routing,  # type: ignore[arg-type]
                caching=caching, traffic=trace,
            )  # fmt: skip
            fits = found.fits
            share = found.cached_tokens[fits].sum() / found.prefill_tokens[fits].sum()
            middle, tail = np.percentile(found.ttft_s[fits], [50, 99])
            name = routing if caching else f"{routing}, no cache"
            lines.append(f"| {capacity:,.0f} | {name} | {share:.1%} | {middle:.2f} s | "
                         f"{tail:.2f} s |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Put each table between its marks."""
    page = PAGE.read_text(encoding="utf-8")
    for name, table in (("ideal", ideal_table()), ("fleet", fleet_table())):
        head, rest = page.split(BEGIN.format(name))
        tail = rest.split(END.format(name))[1]
        page = head + BEGIN.format(name) + table + END.format(name) + tail
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
