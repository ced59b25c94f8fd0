"""What a cluster says of itself: hosts, the switches above them, domains, rings and tori.

Every reader of a scheduler's or a cloud's file makes a Description, every writer takes one; speeds
are not part of it, the catalogue's are joined later (``joined``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from weftline.errors import InputError, InputErrors

Kind = Literal["tree", "block", "ring", "torus3d", "flat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine of the cluster."""

    name: str
    path: tuple[str, ...] = ()
    """Switches above it, the leaf first."""
    domain: str | None = None
    """Machines of one domain share a scale-up network (NVLink domain, UltraServer, cube)."""
    point: tuple[int, ...] | None = None
    """Where it lies in its torus or ring, first coordinate as the file gives it (x of x, y, z)."""
    group: str | None = None
    """Name of its ring or torus."""
    instance_type: str | None = None
    chip: str | None = None
    """Accelerator of the catalogue, where the file says which it has."""
    chips: int | None = None
    """How many of them."""
    network_bytes_per_s: float | None = None
    """One chip's share of the machine's network, one way, where its type says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A cluster as one file describes it. Host names are unique; raises InputError otherwise."""

    format: str
    kind: Kind
    hosts: tuple[Host, ...]
    name: str = "cluster"
    block_sizes: tuple[int, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of each ring or torus its sides."""
    empty_switches: Mapping[str, str | None] = field(default_factory=dict)
    """Switches without hosts below them -> their parent: kept so that a file round-trips."""
    fabric: str | None = None
    """Named fabric that each of ``slices`` is, where the file says so (TPU slices)."""
    slices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Group -> sides of its torus in chips."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What the file has and the network has not -> how many."""
    notes: tuple[str, ...] = ()
    """What a reader of the answer must know of the file."""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for host in self.hosts:
            if host.name in seen:
                raise InputError(f"host `{host.name}` stands twice", hint="host names are unique")
            seen.add(host.name)

    @property
    def says_chips(self) -> bool:
        """Whether the file says what every host has."""
        return bool(self.hosts) and all(h.chip is not None for h in self.hosts)

    @property
    def parents(self) -> dict[str, str | None]:
        """Switch -> the switch above it, None for a root; raises InputError where two disagree."""
        found: dict[str, str | None] = {}
        for host in self.hosts:
            for below, above in zip(host.path, (*host.path[1:], None), strict=False):
                if below in found and found[below] != above:
                    raise InputError(
                        f"switch `{below}` lies below `{found[below]}` and below `{above}`",
                        hint="a tree needs one way up from each switch",
                    )
                found[below] = above
        return found

    @property
    def domains(self) -> dict[str, list[str]]:
        """Scale-up domain -> its hosts."""
        found: dict[str, list[str]] = {}
        for host in self.hosts:
            if host.domain is not None:
                found.setdefault(host.domain, []).append(host.name)
        return found


def tree_description(
    format_name: str,
    parents: Mapping[str, str | None],
    hosts_of: Mapping[str, Sequence[str]],
    *,
    where: str,
    lines: Mapping[str, int] | None = None,
    name: str = "cluster",
) -> Description:
    """Switches with their parents and hosts -> a Description; all mistakes at once.

    Raises InputErrors for a switch that lies below itself and for a host below two switches.
    """
    at = lines or {}
    errors = _cycles(parents, where, at)
    raise_all(errors)
    hosts: list[Host] = []
    seen: dict[str, str] = {}
    for leaf, members in hosts_of.items():
        path = [leaf]
        while (above := parents.get(path[-1])) is not None:
            path.append(above)
        for member in members:
            if member in seen:
                errors.append(
                    InputError(
                        f"host `{member}` lies below `{seen[member]}` and below `{leaf}`",
                        where=f"{where}:{at.get(leaf, 1)}",
                        hint="a host has one leaf switch",
                    )
                )
                continue
            seen[member] = leaf
            hosts.append(Host(name=member, path=tuple(path)))
    raise_all(errors)
    used = {s for h in hosts for s in h.path}
    spare = {s: p for s, p in parents.items() if s not in used}
    return Description(
        format=format_name, kind="tree", hosts=tuple(hosts), name=name, empty_switches=spare
    )


def _cycles(
    parents: Mapping[str, str | None], where: str, lines: Mapping[str, int]
) -> list[InputError]:
    """An error for every circle of switches, with the whole way round."""
    errors: list[InputError] = []
    done: set[str] = set()
    for first in parents:
        way: list[str] = []
        at: str | None = first
        while at is not None and at not in done and at not in way:
            way.append(at)
            at = parents.get(at)
        if at is not None and at in way:
            circle = [*way[way.index(at) :], at]
            errors.append(
                InputError(
                    f"switches in a cycle: {' below '.join(circle)}",
                    where=f"{where}:{lines.get(at, 1)}", hint="a tree has one root",
                )
            )  # fmt: skip
        done.update(way)
    return errors


def raise_all(errors: Sequence[InputError]) -> None:
    """Raise what was collected, if anything was."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InputErrors(errors)
