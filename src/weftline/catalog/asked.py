"""Names of the catalogue as people write them: accelerators and regions, every mistake at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from weftline.catalog._lookup import accelerator
from weftline.catalog.accelerators import Accelerator
from weftline.catalog.prices import prices
from weftline.errors import InputError, UnknownNameError
from weftline.spec.parse import Collector

__all__ = ["check_region", "named_accelerators", "parse_accelerators"]

NO_REGION: Final = frozenset({"*", "unstated"})
"""What stands in the place of a region where a list names none."""


def check_region(region: str | None) -> None:
    """Raise UnknownNameError for a region that no price is known of."""
    known = {p.region for p in prices()} - NO_REGION
    if region is not None and region not in known:
        hint = "`weftline catalog list prices` shows where prices are known"
        raise UnknownNameError("region", region, sorted(known), where="--region", hint=hint)


def parse_accelerators(on: str) -> tuple[str, ...]:
    """``h100,mi300x`` as catalogue names, nothing for ``all``. Raises all unknown names."""
    if on.strip().lower() == "all":
        return ()
    names = [name.strip() for name in on.split(",") if name.strip()]
    if not names:
        raise InputError("no accelerator is named", where="--on", hint="--on h100,mi300x or all")
    get = Collector(where="--on")
    found = [get(lambda name=name: accelerator(name).id) for name in names]  # type: ignore[misc]
    get.raise_all()
    return tuple(id_ for id_ in found if id_ is not None)


def named_accelerators(names: Sequence[str]) -> tuple[Accelerator, ...]:
    """The chips to compare, each once, in the order asked. Raises all unknown names."""
    get = Collector()
    found = [get(lambda name=name: accelerator(name)) for name in names]  # type: ignore[misc]
    get.raise_all()
    once = {a.id: a for a in found if a is not None}
    if len(once) < 2:
        hint = "`weftline catalog compare h100 b200 mi355x`"
        raise InputError("two or more chips are compared", where="CHIP", hint=hint)
    return tuple(once.values())
