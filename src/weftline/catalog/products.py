"""Products: what a chip is sold in decides its network, not the chip.

The instance of a price row names its network, or a fact about that product alone does; where
neither does, the chip's usual figure counts. A B200 is sold with 400 Gbit/s a chip nearly
everywhere: 800 counts only where a product says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from weftline.catalog.accelerators import Accelerator
from weftline.catalog.prices import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductNetwork:
    """One chip's share of the network of a product, bytes/s one way, and what says so."""

    bytes_per_s: float
    basis: str


def network_of(acc: Accelerator, price: Price | None) -> ProductNetwork | None:
    """The network that comes with a price row; None where nothing is said of that product."""
    if price is None:
        return None
    product = f"{price.provider} {price.instance}"
    rate = price.network_bytes_per_s
    if rate is not None:
        return ProductNetwork(
            bytes_per_s=rate, basis=f"{product}: {price.network_gbps:,.6g} Gbit/s an instance"
        )
    scoped = [
        f for f in acc.facts("scale_out") if f.scope is not None and price.instance in f.scope
    ]
    if not scoped:
        return None
    fact = min(scoped, key=lambda f: f.si)
    return ProductNetwork(bytes_per_s=fact.si, basis=f"{product}: {fact.status} [{fact.source}]")
