"""An imported cluster in the terminal: what it is, how it is joined, what its speeds rest on."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_rate


def render_import(said: dict[str, Any]) -> str:
    """The summary of ``weftline import --json``."""
    cluster, network = said["cluster"], said["network"]
    lines: list[str] = []
    if cluster is not None:
        lines += wrapped(f"{cluster['hosts']} hosts, {cluster['kind']} ({said['read_as']})")
        rows = [
            (f"tier {i}", str(t["switches"]), _span(t["hosts_least"], t["hosts_most"]))
            for i, t in enumerate(cluster["tiers"])
        ]
        if rows:
            lines += ["", *table(("", "switches", "hosts below each"), rows, right=frozenset({1}))]
        if cluster["domains"]:
            lines += wrapped(f"{cluster['domains']} scale-up domains of up to "
                             f"{cluster['domain_hosts_most']} hosts")  # fmt: skip
        for name, shape in cluster["shapes"].items():
            lines.append(f"{name}: {'x'.join(map(str, shape))}")
        for what, count in cluster["left_out"].items():
            lines += wrapped(f"left out: {count} {what}")
        for note in cluster["notes"]:
            lines += wrapped(note)
    else:
        lines.append(f"a network of links ({said['read_as']})")
    if network is None:
        lines += [
            "",
            *wrapped("The file states no link speeds; --chip NAME joins the catalogue's."),
        ]
        return page(lines)
    least, most = network["egress_bytes_per_s_least"], network["egress_bytes_per_s_most"]
    sends = format_rate(most) if least == most else f"{format_rate(least)} to {format_rate(most)}"
    lines += ["", *wrapped(f"{network['chips']} chips, {network['switches']} switches, "
                           f"{network['links']} links; a chip sends {sends}")]  # fmt: skip
    speeds = [
        (format_rate(float(rate)), str(count))
        for rate, count in network["link_bytes_per_s"].items()
    ]
    lines += ["", *table(("link, one way", "links"), speeds, right=frozenset({0, 1}))]
    if network["parts"] > 1:
        lines += ["", f"{network['parts']} parts cannot reach each other"]
    if network["basis"]:
        lines += [""]
        for name, basis in network["basis"].items():
            lines += wrapped(f"{name}: {basis}", hang="  ")
    if said["written"]:
        lines += ["", f"written to {said['written']}"]
    return page(lines)


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"
