"""Facts: chips, fabrics, prices, storage, energy; each with its unit, status, source and date."""

from typing import TYPE_CHECKING

from weftline._lazy import lazily
from weftline.catalog._lookup import accelerator
from weftline.catalog._read import accelerators, shipped_accelerators, sources, user_data_dir
from weftline.catalog.accelerators import Accelerator
from weftline.catalog.confirmed import unconfirmed_of, unconfirmed_share, unconfirmed_words
from weftline.catalog.fabrics import Fabric, closed_forms, fabric, fabrics, nccl_constants_us
from weftline.catalog.facts import Choice, Fact, Source
from weftline.catalog.findings import Finding
from weftline.catalog.offers import (
    PriceChoice,
    best_price,
    list_words,
    offers_to_take,
    sold_only_as,
    ways_to_pay,
)
from weftline.catalog.own import own_chips
from weftline.catalog.prices import Price, prices
from weftline.catalog.products import ProductNetwork, network_of
from weftline.catalog.surroundings import (
    Egress,
    Embodied,
    EnergyPrice,
    GridIntensity,
    LlmApiPrice,
    Pue,
    StorageTier,
    claims,
    cpus,
    egress,
    embodied,
    embodied_lifespan_years,
    energy_price,
    grid_intensity,
    llm_api_prices,
    measured_serving,
    policy,
    pue,
    reliability,
    storage_tiers,
)

if TYPE_CHECKING:
    from weftline.catalog.online import refresh
    from weftline.catalog.validation import KnownFault, known_faults, validate

__all__ = [
    "Accelerator",
    "Choice",
    "Egress",
    "Embodied",
    "EnergyPrice",
    "Fabric",
    "Fact",
    "Finding",
    "GridIntensity",
    "KnownFault",
    "LlmApiPrice",
    "Price",
    "PriceChoice",
    "ProductNetwork",
    "Pue",
    "Source",
    "StorageTier",
    "accelerator",
    "accelerators",
    "best_price",
    "claims",
    "closed_forms",
    "cpus",
    "egress",
    "embodied",
    "embodied_lifespan_years",
    "energy_price",
    "fabric",
    "fabrics",
    "grid_intensity",
    "known_faults",
    "list_words",
    "llm_api_prices",
    "measured_serving",
    "nccl_constants_us",
    "network_of",
    "offers_to_take",
    "own_chips",
    "policy",
    "prices",
    "pue",
    "refresh",
    "reliability",
    "shipped_accelerators",
    "sold_only_as",
    "sources",
    "storage_tiers",
    "unconfirmed_of",
    "unconfirmed_share",
    "unconfirmed_words",
    "user_data_dir",
    "validate",
    "ways_to_pay",
]

__getattr__ = lazily(__name__)
