"""One collective on one network, answered whole: time, bandwidths, bound, proof, load of the links.

Where the chips are known the time is the predictor's, what the library reaches on them; the
schedule, its proof and the load of the links are those of the best schedule at link rate. On other
networks, and where an evaluator or an algorithm that no library has is asked for, the time is the
schedule's. The answer is a plain dict, the same that ``--json`` prints: SI units, last in names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from weftline.fabric.algorithms import AnySchedule, algorithms_for
from weftline.fabric.bounds import Bound, bound
from weftline.fabric.checker import check, check_orbit
from weftline.fabric.choice import Choice, choose
from weftline.fabric.evaluators import algorithm_bandwidth, bus_bandwidth
from weftline.fabric.graph import FloatArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.predictor.machines import Machine
from weftline.fabric.predictor.networks import machine_of
from weftline.fabric.predictor.predict import CollectivePrediction, calibration
from weftline.fabric.schedule import Collective, Schedule
from weftline.fabric.synthesis import synthesize

__all__ = ["collective_answer", "network_facts", "proof_of", "synthesis_answer"]

PROOF_WORDS: Final = 400_000_000
"""Words of sets moved while a schedule is proved unasked: about a second or two."""


LIBRARY_ALGORITHMS: Final = {"ring": "ring", "double-binary-tree": "tree", "nvls": "nvls"}
"""Algorithms by name that a library has too, and what it calls them."""


def collective_answer(
    topology: Topology,
    collective: Collective,
    size_bytes: float,
    *,
    algorithm: str = "auto",
    how: str = "auto",
    root: int = 0,
    target: int = 1,
    prove: bool = False,
    everything: bool = False,
    library: str = "auto",
    version: str = "",
    host: str = "auto",
    whole: Topology | None = None,
) -> dict[str, Any]:
    """Time and certificate of a collective; ``prove`` checks schedules of any size.

    ``library`` none answers with the schedule's time at link rate. ``whole`` is the network before
    links failed: what they cost at link rate, they cost the library. Raises what ``choose``,
    ``check`` and ``machine_of`` raise.
    """
    asked: dict[str, Any] = {"how": how, "root": root, "target": target}
    choice = choose(topology, collective, size_bytes, algorithm, **asked, everything=everything)
    least = choice.least or bound(
        topology, collective, size_bytes, root=root, target=target if collective == "send" else None
    )
    machine = None
    if how == "auto" and (algorithm == "auto" or algorithm in LIBRARY_ALGORITHMS):
        machine = machine_of(whole or topology, library=library, version=version, host=host)
    if machine is not None and collective == "send":
        machine = _pair(whole or topology, machine, root, target)
    said, slowed, why = None, 1.0, "faults"
    if machine is not None:
        said = calibration().predict(
            machine, collective, size_bytes, algorithm=LIBRARY_ALGORITHMS.get(algorithm, "auto")
        )
        if whole is not None and topology.failed:
            before = choose(whole, collective, size_bytes, algorithm, **asked).timing.time_s
            slowed = max(1.0, choice.timing.time_s / before) if before > 0 else 1.0
        elif collective == "all-to-all":
            slowed, why = crowded(topology, choice.timing.link_load_bytes), "oversubscribed uplinks"
    timed = _timed(topology, choice, size_bytes)
    if machine is not None and said is not None:
        timed |= _predicted(machine, said, collective, size_bytes, slowed, why)
    return {
        "collective": collective,
        "size_bytes": size_bytes,
        "network": network_facts(topology),
        **timed,
        "link_rate_s": choice.timing.time_s,
        **_against(least, timed["time_s"]),
        "proof": proof_of(choice.schedule, topology, always=prove),
        "considered": [
            {"algorithm": c.algorithm, "time_s": c.time_s, "reason": c.reason}
            for c in choice.candidates
        ],
        "links": link_load(topology, choice.timing.link_load_bytes, choice.timing.time_s),
    }


def crowded(topology: Topology, load_bytes: FloatArray) -> float:
    """How much longer the busiest link between switches takes than the busiest one of a chip.

    No order of the messages of an all-to-all avoids uplinks that carry less than what is below
    them; the rows that the predictor was fitted on are from networks without such.
    """
    if not topology.switches:
        return 1.0
    busy_s = load_bytes / topology.bandwidth_bytes_per_s
    ends = (topology.source < topology.ranks) | (topology.destination < topology.ranks)
    chips_s = float(busy_s[ends].max(initial=0.0))
    return max(1.0, float(busy_s.max(initial=0.0)) / chips_s) if chips_s > 0 else 1.0


def _pair(topology: Topology, machine: Machine, root: int, target: int) -> Machine | None:
    """The two ranks of a send; None on a torus, where the way between them decides."""
    if topology.grid is not None:
        return None
    apart = machine.domains > 1 and root // machine.per_domain != target // machine.per_domain
    domains = 2 if apart else 1
    wire = machine.wire_bytes_per_s
    if machine.kind == "full-mesh":
        wire /= max(machine.per_domain - 1, 1)
    return replace(machine, ranks=2, domains=domains, wire_bytes_per_s=wire,
                   network=machine.network if apart else None)  # fmt: skip


def _predicted(
    machine: Machine,
    said: CollectivePrediction,
    collective: Collective,
    size_bytes: float,
    slowed: float,
    why: str,
) -> dict[str, Any]:
    """What the predictor says in place of the schedule's time, and how it comes about."""
    time_s = said.time_s * slowed
    parts = {name: seconds * slowed for name, seconds in said.parts.items()}
    network = machine.network
    return {
        "time_s": time_s,
        "time_low_s": said.low_s * slowed,
        "time_high_s": said.high_s * slowed,
        "algbw_bytes_per_s": algorithm_bandwidth(size_bytes, time_s),
        "busbw_bytes_per_s": bus_bandwidth(collective, machine.ranks, size_bytes, time_s),
        "library": {
            "name": machine.library,
            "version": ".".join(map(str, machine.version)) or None,
            "way": said.algorithm,
            "parts": parts,
            "domains": machine.domains,
            "ranks_per_domain": machine.per_domain,
            "across": None if network is None else network.name,
            "host": None if network is None else {
                "path": network.host.path, "hop_s": network.host.hop_s,
                "rate_share": network.host.rate_share, "source": network.host.source,
            },
            "basis": said.basis,
            "assumed": said.assumed or None,
            "slowed_by": slowed,
            "slowed_why": None if slowed <= 1 else why,
        },
    }  # fmt: skip


def network_facts(topology: Topology) -> dict[str, Any]:
    """What a reader needs to know of a network: its form, size, faults, and what speeds rest on."""
    grid = topology.grid
    speeds = np.unique(topology.bandwidth_bytes_per_s)[::-1]
    return {
        "name": topology.name,
        "kind": topology.kind,
        "chips": topology.ranks,
        "switches": topology.switches,
        "links": topology.links,
        "shape": None if grid is None else list(grid.shape),
        "wraps": None if grid is None else list(grid.wraps),
        "failed_or_slowed_links": len(topology.failed),
        "link_bytes_per_s": [float(s) for s in speeds],
        "basis": dict(topology.basis),
    }


def _timed(topology: Topology, choice: Choice, size_bytes: float) -> dict[str, Any]:
    timing, made = choice.timing, choice.schedule
    busiest = timing.busiest_link
    link = None
    if busiest >= 0:
        link = {
            "from": topology.label(int(topology.source[busiest])),
            "to": topology.label(int(topology.destination[busiest])),
            "load_bytes": float(timing.link_load_bytes[busiest]),
            "bandwidth_bytes_per_s": float(topology.bandwidth_bytes_per_s[busiest]),
            "busy_share": timing.busiest_share,
        }
    return {
        "algorithm": made.algorithm,
        "pieces": choice.pieces,
        "steps": timing.steps,
        "time_s": timing.time_s,
        "time_low_s": timing.low_s,
        "time_high_s": timing.high_s,
        "algbw_bytes_per_s": algorithm_bandwidth(size_bytes, timing.time_s),
        "busbw_bytes_per_s": bus_bandwidth(
            made.collective, topology.ranks, size_bytes, timing.time_s
        ),
        "evaluator": timing.evaluator,
        "exact": timing.exact,
        "note": timing.note,
        "busiest_link": link,
        "library": None,
    }


def _against(least: Bound, time_s: float) -> dict[str, Any]:
    return {
        "bound": {
            "time_s": least.time_s,
            "bandwidth_s": least.bandwidth_s,
            "latency_s": least.latency_s,
            "name": least.name,
            "certificate": least.certificate,
            "two_phase_s": least.two_phase_s,
        },
        "bound_share": least.time_s / time_s if time_s > 0 else 1.0,
    }


def proof_of(made: AnySchedule, topology: Topology, *, always: bool = False) -> dict[str, Any]:
    """Proof of a schedule, if that is quick or asked for: {"proved", "how"}.

    Raises InputError where the schedule is wrong.
    """
    words = -(-made.ranks // 64)
    if isinstance(made, OrbitSchedule):
        moved = 2 * made.ranks * len(made.colour_share)
        how = "one chunk of every colour followed, the others by symmetry"
        if made.displacement is not None:
            moved, words = len(made.came) if made.came is not None else 0, 1
            how = "everything one rank sends followed, the others by symmetry"
    else:
        moved = int(made.chunk_count.sum())
        how = "every chunk followed"
    if not always and moved * words > PROOF_WORDS:
        return {"proved": False, "how": "too large to follow unasked"}
    if isinstance(made, OrbitSchedule):
        check_orbit(made, topology)
    else:
        check(made, topology)
    return {"proved": True, "how": how}


def link_load(topology: Topology, load_bytes: FloatArray, time_s: float) -> dict[str, Any]:
    """How busy links are: shares of the time by class of links, and a map of a grid's chips.

    ``map``: [chips] share of the time that the busiest link leaving each chip is busy, in rank
    order; None off a grid. A chip without a working link has 0.
    """
    if time_s <= 0:
        return {"classes": [], "map": None}
    busy = load_bytes / topology.bandwidth_bytes_per_s / time_s
    classes = []
    for name, members in _classes(topology):
        if len(members):
            here = busy[members]
            classes.append({
                "links": name, "count": len(members), "least_share": float(here.min()),
                "mean_share": float(here.mean()), "most_share": float(here.max()),
            })  # fmt: skip
    chart = None
    if topology.grid is not None:
        most = np.zeros(topology.nodes)
        np.maximum.at(most, topology.source, busy)
        chart = [float(v) for v in most[: topology.ranks]]
    return {"classes": classes, "map": chart}


def _classes(topology: Topology) -> list[tuple[str, np.ndarray[Any, np.dtype[np.int64]]]]:
    """(name, links) of the links that a reader tells apart."""
    everything = np.arange(topology.links)
    if topology.grid is not None and topology.link_class is not None:
        found = []
        for number in range(2 * len(topology.grid.shape)):
            way = "down" if number % 2 else "up"
            found.append((f"axis {number // 2} {way}",
                          np.flatnonzero(topology.link_class == number)))  # fmt: skip
        return found
    chips = topology.ranks
    leaves, enters = topology.source < chips, topology.destination < chips
    names = {
        "chip to chip": leaves & enters, "chip to switch": leaves & ~enters,
        "switch to chip": ~leaves & enters, "switch to switch": ~leaves & ~enters,
    }  # fmt: skip
    found = []
    for name, members in names.items():
        inside = everything[members]
        speeds = np.unique(topology.bandwidth_bytes_per_s[inside])
        for speed in speeds[::-1] if len(speeds) <= 3 else []:
            same = inside[topology.bandwidth_bytes_per_s[inside] == speed]
            found.append((f"{name}, {speed / 1e9:.4g} GB/s", same))
        if len(speeds) > 3:
            found.append((name, inside))
    return found


def synthesis_answer(
    topology: Topology, collective: Collective, size_bytes: float, *, root: int = 0, seed: int = 0
) -> dict[str, Any]:
    """A synthesized schedule, proved: its time, its certified gap, and the best named algorithm.

    Raises what ``synthesize`` and ``check`` raise.
    """
    found = synthesize(topology, collective, size_bytes, root=root, seed=seed)
    made, timing = found.schedule, found.timing
    named = None
    if algorithms_for(topology, collective):
        best = choose(topology, collective, size_bytes, root=root, own=False)
        named = {"algorithm": best.schedule.algorithm, "pieces": best.pieces,
                 "time_s": best.timing.time_s}  # fmt: skip
    rows = made.rows if isinstance(made, Schedule) else made.flat_rows
    return {
        "collective": collective,
        "size_bytes": size_bytes,
        "network": network_facts(topology),
        **_timed(topology, Choice(schedule=made, timing=timing, candidates=()), size_bytes),
        "link_rate_s": timing.time_s,
        **_against(found.bound, timing.time_s),
        "method": found.method,
        "ratio_to_bound": found.ratio_to_bound,
        "rows": rows,
        "proof": proof_of(made, topology, always=True),
        "named": named,
        "links": link_load(topology, timing.link_load_bytes, timing.time_s),
        "seed": seed,
    }
