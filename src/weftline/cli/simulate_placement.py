"""``weftline simulate placement``: a job's axes on a network, by cost and beside the habits."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json


def placement(
    *,
    on: str,
    axes: str,
    traffic: Annotated[list[str], Parameter(consume_multiple=True, negative="")],
    link: str | None = None,
    latency: str | None = None,
    measure: Literal["links", "rings"] = "links",
    chips_per_node: int | None = None,
    usable: int | None = None,
    segment: int | None = None,
    together: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Where each rank of a job goes on a network, and what the usual orders would cost.

    On a torus or mesh axes are cut over its sides. Behind switches it is decided which ranks
    share a host, a rack and a rail, and what is spare in a rack.

    Parameters
    ----------
    on
        The network: torus:8x8x16, tpu-v5p:4x4x8, h100-clos:64, gb200-clos:144, or a file
        of `weftline import`.
    axes
        Parallel axes and sizes, outermost first: pp=2,dp=8,tp=4.
    traffic
        What an axis sends in a step: tp:all-reduce:64MB:128 is 128 all-reduces of
        64 MB; several may follow; axes together are joined by +, dp+cp.
    link
        Speed one way of one link: 100GB/s, one value or one an axis.
    latency
        Of one link: 1us.
    chips_per_node
        Chips of a host behind switches; as the network's chip has them if not given.
    usable
        Hosts of each rack (scale-up domain) that the job may take: 16 of NVL72's 18.
    segment
        Keep every so many hosts of the job in one rack: Slurm's --segment, Kueue's
        podset slice.
    together
        Axes whose groups must not leave a rack: tp,ep.
    measure
        What the collectives are: over all links of the part an axis spans, or rings
        in rank order.
    """

    from weftline.fabric.parse import parse_topology
    from weftline.fabric.placement import AxisTraffic, compare
    from weftline.fabric.placement.packed_answer import packed_answer
    from weftline.report.placement import render_packed, render_placement
    from weftline.spec.parse import Collector

    collect = Collector()
    sizes = collect(lambda: _axes(axes))
    entries = [collect(lambda t=text: _traffic(t)) for text in traffic]  # type: ignore[misc]
    topology = collect(lambda: parse_topology(on, link=link, latency=latency, where="--on"))
    collect.raise_all()
    if sizes is None or topology is None:
        return 2
    calls = [e for e in entries if isinstance(e, AxisTraffic)]
    if topology.grid is None:
        said = packed_answer(
            sizes, topology, calls, chips_per_host=chips_per_node, usable_hosts=usable,
            segment_hosts=segment,
            together=[] if together is None else [w.strip() for w in together.split(",")],
        )  # fmt: skip
        show("packing", said, lambda: render_packed(said), json=json, form=form)
        return 0
    found = compare(sizes, topology, calls, measure)
    found["network"] = topology.name
    show("placement", found, lambda: render_placement(found), json=json, form=form)
    return 0


def _axes(text: str) -> dict[str, int]:
    from weftline.errors import InputError

    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if not name or not size.isdigit() or int(size) < 1 or name in sizes:
            raise InputError(f"`{part.strip()}` is no axis and size", where="--axes",
                             hint="outermost first, each once: pp=2,dp=8,tp=4")  # fmt: skip
        sizes[name] = int(size)
    return sizes


def _traffic(text: str) -> object:
    from weftline.errors import InputError
    from weftline.fabric.placement import AxisTraffic
    from weftline.units import parse_bytes, parse_count

    parts = text.split(":")
    if len(parts) not in (3, 4):
        raise InputError(f"`{text}` is no traffic", where="--traffic",
                         hint="axis:collective:bytes:count, tp:all-reduce:64MB:128")  # fmt: skip
    try:
        return AxisTraffic(
            axes=tuple(parts[0].split("+")),
            collective=parts[1].lower().replace("_", "-"),  # type: ignore[arg-type]
            size_bytes=parse_bytes(parts[2]),
            count=parse_count(parts[3]) if len(parts) == 4 else 1,
        )
    except InputError as error:
        error.where = error.where or "--traffic"
        raise
