"""Tori and NeuronLink: every link of a rank at once, hops over them, one call of the runtime."""

from __future__ import annotations

from weftline.fabric.facts import machine_facts
from weftline.fabric.predictor.constants import Constants
from weftline.fabric.predictor.machines import Machine, log2
from weftline.fabric.predictor.ways import Way, hop_out_s


def direct_ways(c: Constants, m: Machine, collective: str) -> list[Way]:
    """The one way: links at once inside a domain, then every rank with its peers beyond it."""
    per, n = m.per_domain, m.ranks
    passes = 2 if collective == "all-reduce" else 1
    share = 1.0
    if m.kind == "neuron":
        share = c.neuron_share
    elif m.is_line and max(m.shape, default=1) > 2:
        share = c.line_share
    rate = m.wire_bytes_per_s * share
    startup = 0.0
    if m.kind == "neuron":
        startup = c.neuron_old_call_s if m.version == (0,) else c.neuron_call_s
    sides = [s for s in m.shape if s > 1]
    far = sum(s - 1 if m.is_line else s // 2 for s in sides)
    if collective in ("send", "broadcast"):
        steps, moved = float(far or 1), 1.0
        if collective == "send":
            steps = 1.0
            rate /= max(1, sum(1 if s == 2 or m.is_line else 2 for s in sides))
    elif collective == "all-to-all":
        steps, moved = float(far or 1), _exchanged(m, per)
    else:
        steps, moved = float(passes * sum(s - 1 for s in sides)), passes * (per - 1) / per
    # A domain of one rank has no links: all it sends goes over the network.
    seconds_per_byte = moved / rate if per > 1 or m.network is None else 0.0
    hops, host = steps * m.hop_s, 0.0
    if m.network is not None:
        out_s = hop_out_s(c, m.network)
        hops += passes * log2(m.domains) * out_s
        host = passes * log2(m.domains) * m.network.host.hop_s
        nic = m.network.rate_bytes_per_s * c.nic_ring
        if collective == "all-to-all":
            seconds_per_byte = max(seconds_per_byte, (n - per) / n / nic)
        else:
            # Each rank takes its share of the buffer across: levels work one after the other.
            across = passes * (m.domains - 1) / m.domains / per if collective != "send" else 1.0
            seconds_per_byte = (0.0 if collective == "send" else seconds_per_byte) + across / nic
    found = [Way("links", startup, hops, 1 / seconds_per_byte, host_s=host)]
    if m.kind == "neuron" and steps > passes and m.version != (0,) and len(sides) > 1:
        # Small messages go straight to every rank, over as many links as lie between: the mesh
        # algorithm of newer runtimes, on chips with more links than a ring's.
        between = max(1.0, sum(s / 4 for s in sides))
        straight = hops - (steps - passes) * m.hop_s
        found.append(Way("mesh", startup, straight, 1 / (between * seconds_per_byte), host_s=host))
    return found


def _exchanged(m: Machine, per: int) -> float:
    """Bytes over the links of a rank a byte of an all-to-all: the busiest axis decides.

    Of k ranks along an axis a shortest way takes k/4 hops in the mean on a ring of two links, and
    k/4 of a rank's bytes cross the middle of a line's one.
    """
    rates = machine_facts()["axes_bytes_per_s"].get(m.chip) or [1.0] * len(m.shape)
    owned = m.axes_bytes_per_s or [
        rate * (1 if m.is_line or side <= 2 else 2)
        for side, rate in zip(m.shape, rates, strict=False)
    ]
    axes = [(side, rate) for side, rate in zip(m.shape, owned, strict=False) if side > 1]
    busiest = max((side / 4 / rate for side, rate in axes), default=0.0)
    total: float = sum(rate for _, rate in axes)
    return max(busiest * total, (per - 1) / per)
