"""``weftline simulate collective`` and ``simulate synthesize``: one collective on one network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.compiling import compiling_said
from weftline.cli.options import Format, Json
from weftline.cli.slow import slow_said

if TYPE_CHECKING:
    from weftline.fabric import Collective, Topology

What = Annotated[
    str,
    Parameter(help="all-reduce, reduce-scatter, all-gather, all-to-all, broadcast or send."),
]
Size = Annotated[str, Parameter(help="Bytes, as nccl-tests counts them: 1GB, 64MiB.")]
FailLinks = Annotated[int, Parameter(help="Take out so many random cables.")]
SlowLinks = Annotated[str | None, Parameter(help="Slow so many random cables: 3@50%.")]
Seed = Annotated[int, Parameter(help="Which cables.")]
Library = Annotated[
    str,
    Parameter(help="nccl, rccl, neuron, xla, oneccl, gloo; none: links alone; auto: the chips'."),
]
LibraryVersion = Annotated[str, Parameter(help="2.27, where its switch points depend on it.")]
HostPath = Annotated[
    str,
    Parameter(help="How NICs are driven: bypass (EFA, InfiniBand, RoCE), virtual, or tcp."),
]
Prove = Annotated[bool, Parameter(negative="", help="Prove the schedule even if it is large.")]
Everything = Annotated[
    bool,
    Parameter(name="--all", negative="",
              help="Time every algorithm, also those that cannot be much faster."),
]  # fmt: skip


def collective(
    what: What,
    size: Size,
    *,
    on: str,
    link: str | None = None,
    latency: str | None = None,
    algorithm: str = "auto",
    evaluator: str = "auto",
    vs: str | None = None,
    vs_link: str | None = None,
    vs_latency: str | None = None,
    fail_links: FailLinks = 0,
    slow_links: SlowLinks = None,
    seed: Seed = 0,
    root: int = 0,
    target: int = 1,
    prove: Prove = False,
    everything: Everything = False,
    library: Library = "auto",
    library_version: LibraryVersion = "",
    host: HostPath = "auto",
    json: Json = False,
    form: Format = "table",
) -> int:
    """Time of one collective on any network, and how far from the best possible.

    Parameters
    ----------
    on
        torus:8x8x16, mesh:4x4, switch:8/clos:128, tpu-v5p:4x4x8, h100-clos:1024, or a fabric file.
    link
        One direction of one link: 100GB/s; one for each axis or level: 128GB/s,64GB/s.
    latency
        From chip to chip, over one link or one switch: 1us; one for each axis or level.
    algorithm
        ring, bucket, hierarchical..., synthesized, or auto: the fastest at this size.
    evaluator
        closed-form, orbit, flow, steps, events, or auto: the cheapest exact one.
    vs
        A second network to compare with, with the same bandwidth out of each chip.
    vs_link
        Its link speed, if not that.
    vs_latency
        Its latency, if not the same.
    root
        Of a broadcast or send: the rank that has the buffer.
    target
        Of a send: the rank that gets it.
    """

    from weftline.fabric.answer import collective_answer
    from weftline.fabric.predictor.machines import known_library
    from weftline.report.collective import render_collective

    kind, nbytes, whole = _asked(what, size, on, link, latency, evaluator)
    network = _faulty(whole, fail_links, slow_links, seed)
    options: dict[str, Any] = {"how": evaluator, "root": root, "target": target, "prove": prove,
                               "everything": everything, "library": known_library(library),
                               "version": library_version}  # fmt: skip
    quicker = "--algorithm NAME times one, --evaluator closed-form or steps follows no message"
    with compiling_said(), slow_said(f"timing {network.ranks:,} chips", quicker):
        answer = collective_answer(
            network, kind, nbytes, algorithm=algorithm, host=host, whole=whole, **options
        )
        answer["seed"] = seed
        if vs is not None:
            other, assumed = _other(vs, vs_link, vs_latency, network)
            versus = collective_answer(other, kind, nbytes, **options)
            answer["versus"] = {**versus, "assumed": assumed}
    show("collective", answer, lambda: render_collective(answer), json=json, form=form)
    return 0


def synthesize(
    what: What,
    size: Size,
    *,
    on: str,
    link: str | None = None,
    latency: str | None = None,
    members: str | None = None,
    fail_links: FailLinks = 0,
    slow_links: SlowLinks = None,
    seed: Seed = 0,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Make a schedule for a network or a group of chips that no named algorithm fits.

    Parameters
    ----------
    on
        The network, as in `simulate collective`, or a fabric file.
    link
        One direction of one link: 100GB/s; one for each axis or level.
    latency
        From chip to chip, over one link or one switch: 1us.
    members
        Only these chips take part: 0,1,2,5 or 0-15; the others pass on.
    """

    from weftline.fabric.answer import synthesis_answer
    from weftline.fabric.synthesis import subgroup
    from weftline.report.collective import render_synthesis

    kind, nbytes, network = _asked(what, size, on, link, latency, "auto")
    network = _faulty(network, fail_links, slow_links, seed)
    if members is not None:
        network = subgroup(network, _members(members, network.ranks))
    with compiling_said():
        answer = {**synthesis_answer(network, kind, nbytes, seed=seed), "seed": seed}
    show("synthesis", answer, lambda: render_synthesis(answer), json=json, form=form)
    return 0


def _asked(
    what: str, size: str, on: str, link: str | None, latency: str | None, evaluator: str
) -> tuple[Collective, float, Topology]:
    """The collective, its bytes and the network; raises all mistakes at once."""
    from weftline.fabric import COLLECTIVES, parse_topology
    from weftline.fabric.evaluators.choice import EVALUATORS
    from weftline.spec.parse import Collector, choice
    from weftline.units import parse_bytes

    get = Collector()
    spoken = {c.replace("-", ""): c for c in COLLECTIVES}
    word = what.strip().lower().replace("_", "-")
    word = spoken.get(word.replace("-", ""), word)
    kind = get(lambda: choice(word, COLLECTIVES, "collective", where="COLLECTIVE"))
    nbytes = get(lambda: parse_bytes(size, where="SIZE"))
    network = get(lambda: parse_topology(on, link, latency, where="--on"))
    get(lambda: choice(evaluator, EVALUATORS, "evaluator", where="--evaluator"))
    get.raise_all()
    assert kind is not None  # noqa: S101  (`raise_all` has raised otherwise)
    assert nbytes is not None  # noqa: S101
    assert network is not None  # noqa: S101
    return kind, nbytes, network


def _faulty(network: Topology, fail: int, slow: str | None, seed: int) -> Topology:
    from weftline.errors import InputError
    from weftline.fabric import fail_links, slow_links
    from weftline.units import parse_fraction

    if seed < 0:
        raise InputError(f"a seed of {seed}", where="--seed", hint="a whole number from 0")
    try:
        if slow is not None:
            count, at, factor = slow.partition("@")
            if not at or not count.strip().isdigit():
                raise InputError(f"`{slow}` slows nothing", hint="how many and to what: 3@50%")
            network = slow_links(
                network, int(count), parse_fraction(factor, where="--slow-links"), seed
            )
        return fail_links(network, fail, seed)
    except InputError as error:
        error.where = error.where or ("--slow-links" if slow is not None else "--fail-links")
        raise


def _other(
    text: str, link: str | None, latency: str | None, first: Topology
) -> tuple[Topology, str]:
    """The network to compare with, and what was taken for what it does not say."""
    from weftline.errors import InputError
    from weftline.fabric import parse_topology
    from weftline.units import format_duration, format_rate

    try:
        return parse_topology(text, link, latency, where="--vs"), ""
    except InputError as error:
        if link is not None or "no link speed" not in error.what:
            raise
    egress = float(first.egress_bytes_per_s().max())
    delay = float(first.latency_s.max()) if first.links else 0.0
    if first.switches and not first.chips_forward:
        delay *= 2
    other = parse_topology(text, (egress,), latency if latency is not None else (delay,),
                           where="--vs")  # fmt: skip
    found = float(other.egress_bytes_per_s().max())
    if found > 0 and abs(found / egress - 1) > 1e-9:
        # Links of the other network share what a chip sends: as many as leave it.
        other = parse_topology(text, (egress * egress / found,), latency if latency is not None
                               else (delay,), where="--vs")  # fmt: skip
    assumed = (
        f"taken: {format_rate(egress)} out of each chip as on {first.name}"
        + ("" if latency is not None else f", {format_duration(delay)} latency")
        + "; --vs-link and --vs-latency set them"
    )
    return other, assumed


def _members(text: str, ranks: int) -> list[int]:
    """``0,1,4-7`` -> chips, each once."""
    from weftline.errors import InputError

    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InputError(
                f"`{part}` names no chips", where="--members", hint="write 0,1,2,5 or 0-15"
            )
        found += range(int(first), int(last if dash else first) + 1)
    outside = [c for c in found if c >= ranks]
    if outside:
        raise InputError(f"chip {outside[0]} is none of 0 .. {ranks - 1}", where="--members")
    if len(set(found)) != len(found):
        raise InputError("a chip is named twice", where="--members")
    return found
