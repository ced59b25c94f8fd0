"""Networks inside networks: units of chips under a Clos, or any network times any other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import Grid, IntArray, Topology

__all__ = ["nested", "product"]

_NO_BASIS: Mapping[str, str] = {}


def nested(
    inner: Topology,
    units: int,
    out_bytes_per_s: float,
    latency_s: float,
    *,
    rails: bool = True,
    name: str | None = None,
    basis: Mapping[str, str] = _NO_BASIS,
) -> Topology:
    """``units`` copies of ``inner`` whose every chip also has a port to a non-blocking Clos.

    rank = unit * inner.ranks + place inside. With ``rails`` chips of one place share a switch and
    the rail switches meet in a spine that is as fast as all their ports; without, one switch holds
    every port. ``out_bytes_per_s`` is one chip's share of the network, one direction.
    """
    if units < 1:
        raise InputError(f"{units} units: at least 1 is needed")
    places = inner.ranks
    chips = units * places
    source, destination = _copies(inner, units, chips)
    chip = np.arange(chips, dtype=np.int64)
    first = chips + units * inner.switches
    hubs = places if rails and places > 1 else 1
    hub = first + chip % hubs if hubs > 1 else np.full(chips, first, dtype=np.int64)
    parts_source, parts_destination = [source, chip, hub], [destination, hub, chip]
    rates = [np.tile(inner.bandwidth_bytes_per_s, units), np.full(2 * chips, out_bytes_per_s)]
    inside = _alike_links(inner)
    base = 0 if inside is None else int(inside.max(initial=-1)) + 1
    classes = [
        np.zeros(0, np.int64) if inside is None else np.tile(inside, units),
        np.repeat([base, base + 1], chips),
    ]
    if hubs > 1:
        rail = first + np.arange(hubs, dtype=np.int64)
        spine = np.full(hubs, first + hubs, dtype=np.int64)
        parts_source += [rail, spine]
        parts_destination += [spine, rail]
        rates.append(np.full(2 * hubs, units * out_bytes_per_s))
        classes.append(np.repeat([base + 2, base + 3], hubs))
    outside = 2 * chips + (2 * hubs if hubs > 1 else 0)
    switches = units * inner.switches + hubs + (1 if hubs > 1 else 0)
    reducing = None
    if inner.reducing is not None:
        reducing = np.zeros(switches, dtype=np.bool_)
        reducing[: units * inner.switches] = np.tile(inner.reducing, units)
    # Names of axes would clash with classes of the outer links: a nest is no grid of its own.
    return Topology(
        name=name or f"{inner.name}/clos:{units}",
        ranks=chips,
        switches=switches,
        source=np.concatenate(parts_source),
        destination=np.concatenate(parts_destination),
        bandwidth_bytes_per_s=np.concatenate(rates).astype(np.float64),
        latency_s=np.concatenate(
            [np.tile(inner.latency_s, units), np.full(outside, latency_s / 2)]
        ),
        kind="nested",
        levels=(*inner.levels, chips),
        group=_nest_group(inner, units),
        link_class=None if inside is None else np.concatenate(classes),
        reducing=reducing,
        chips_forward=inner.chips_forward,
        basis={**inner.basis, **basis},
    )  # fmt: skip


def _copies(inner: Topology, units: int, chips: int) -> tuple[IntArray, IntArray]:
    """Links of ``units`` copies: chips numbered unit by unit, switches after all the chips."""
    unit = np.repeat(np.arange(units, dtype=np.int64), inner.links)

    def moved(node: IntArray) -> IntArray:
        node = np.tile(node, units)
        is_chip = node < inner.ranks
        return np.where(
            is_chip,
            node + unit * inner.ranks,
            chips + unit * inner.switches + node - inner.ranks,
        )

    return moved(inner.source), moved(inner.destination)


def _nest_group(inner: Topology, units: int) -> Grid | None:
    if inner.group is None or not inner.is_symmetric:
        return None
    shape = (units, *inner.group.shape)
    return Grid(shape=shape, wraps=(True,) * len(shape))


def _alike_links(topology: Topology) -> IntArray | None:
    """[links] classes that shifts of the group keep: both ways of a side of 2 are one class."""
    if topology.link_class is None or topology.grid is None:
        return topology.link_class
    found = topology.link_class.copy()
    for axis, side in enumerate(topology.grid.shape):
        if side == 2:
            found[found == 2 * axis + 1] = 2 * axis
    return found


def product(inner: Topology, outer: Topology, *, name: str | None = None) -> Topology:
    """``inner`` at every chip of ``outer``: chips of one place are joined as ``outer`` is.

    rank = unit * inner.ranks + place inside. Every place has links, and switches, of its own across
    units (rails); what goes to another place and unit is passed on by a chip that shares one.
    """
    units, places = outer.ranks, inner.ranks
    chips = units * places
    source, destination = _copies(inner, units, chips)
    place = np.repeat(np.arange(places, dtype=np.int64), outer.links)
    first = chips + units * inner.switches

    def moved(node: IntArray) -> IntArray:
        node = np.tile(node, places)
        return np.where(
            node < units, node * places + place, first + place * outer.switches + node - units
        )

    classes, inside, across = None, _alike_links(inner), _alike_links(outer)
    if inside is not None and across is not None:
        base = int(inside.max(initial=-1)) + 1
        classes = np.concatenate([np.tile(inside, units), np.tile(across + base, places)])
    symmetric = inner.is_symmetric and outer.is_symmetric
    group = None
    if symmetric and inner.group is not None and outer.group is not None:
        shape = (*outer.group.shape, *inner.group.shape)
        group = Grid(shape=shape, wraps=(True,) * len(shape))
    adds = [np.zeros(t.switches, np.bool_) if t.reducing is None else t.reducing
            for t in (inner, outer)]  # fmt: skip
    reducing = np.concatenate([np.tile(adds[0], units), np.tile(adds[1], places)])
    return Topology(
        name=name or f"{inner.name}/{outer.name}",
        ranks=chips,
        switches=units * inner.switches + places * outer.switches,
        source=np.concatenate([source, moved(outer.source)]),
        destination=np.concatenate([destination, moved(outer.destination)]),
        bandwidth_bytes_per_s=np.concatenate([
            np.tile(inner.bandwidth_bytes_per_s, units),
            np.tile(outer.bandwidth_bytes_per_s, places),
        ]),
        latency_s=np.concatenate(
            [np.tile(inner.latency_s, units), np.tile(outer.latency_s, places)]
        ),
        kind="nested",
        levels=(*inner.levels, chips),
        group=group,
        link_class=classes,
        reducing=reducing if reducing.any() else None,
        chips_forward=True,
        basis={**{f"inside.{k}": v for k, v in inner.basis.items()},
               **{f"across.{k}": v for k, v in outer.basis.items()}},
    )  # fmt: skip
