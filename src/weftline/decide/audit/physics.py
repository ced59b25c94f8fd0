"""Checks of time, bytes and power: collectives, checkpoints, failures, lower bounds, gigawatts."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

from weftline.catalog import pue
from weftline.cost import availability, checkpoint_interval_s
from weftline.cost.energy import HOST_FRACTION
from weftline.cost.goodput import FAILURES_PER_CHIP_DAY
from weftline.decide.audit.terms import Finding, Terms
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.fabric import COLLECTIVES, Collective, parse_topology
from weftline.fabric.answer import collective_answer
from weftline.model import load_model
from weftline.plan import job_of, plan_train
from weftline.spec.audit import Verdict
from weftline.spec.options import JobOptions
from weftline.spec.parse import choice
from weftline.units import (
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    parse_bytes,
    parse_count,
    parse_duration_s,
    parse_fraction,
    parse_rate_bytes_per_s,
)

__all__ = [
    "bytes_fit", "checkpoint_time", "collectives", "decode_time", "failures", "gigawatts",
    "idle_time", "saving", "trains_on",
]  # fmt: skip

DAY_S: Final = 86400.0
HOP_S: Final = 1e-6
"""Least latency of an exchange between chips, assumed; two a layer in tensor parallelism."""
NODE_CHIPS: Final = 8
ADVISE: Final = "weftline burst advise --state 14TB --nodes 1024 --stall 30min"
INCIDENTS: Final = 1.35
"""Recovery in thousands of seconds: the middle of the published 15 to 30 minutes."""


def collectives(terms: Terms) -> Finding:
    """One network against another in a collective: which is faster at which size, and by how much.

    ``least`` is the share of time that the claim saves; ``judge`` is time (at the sizes given, by
    default) or bandwidth, where both may send as much a chip.
    """
    first, second = terms.text("network"), terms.text("against")
    kind = choice(terms.text("collective", "all-reduce"), COLLECTIVES, "collective",
                  where=terms.where)  # fmt: skip
    sizes = [str(s) for s in terms.values.get("sizes", ("64KB", "1GB"))]
    link, other = terms.text("link", "50GB/s"), terms.text("other_link", "400GB/s")
    delay, other_delay = terms.text("latency", "1us"), terms.text("other_latency", "1us")
    least = terms.number("least", 0.0)
    told, saved = [], []
    for size in sizes:
        nbytes = parse_bytes(size, where=terms.where)
        times = [
            _time_s(name, speed, wait, kind, nbytes)
            for name, speed, wait in ((first, link, delay), (second, other, other_delay))
        ]
        saved.append(1 - times[0] / times[1])
        told.append(f"{size}: {first} {format_duration(times[0])}, {second} "
                    f"{format_duration(times[1])}")  # fmt: skip
    good = [s >= least for s in saved]
    verdict: Verdict = "holds" if all(good) else "conditional" if any(good) else "fails"
    span = f"{min(saved):+.0%} to {max(saved):+.0%} of time saved over these sizes"
    if terms.text("universal"):
        # Said of every case: one in which it is as fast is enough.
        as_fast = [s for s, v in zip(sizes, saved, strict=True) if v >= -0.05]
        verdict = "fails" if as_fast else "holds"
        slower = [s for s in sizes if s not in as_fast]
        span = (f"fails for {', '.join(as_fast) or 'no size'}, where bandwidth decides; holds for "
                f"{', '.join(slower) or 'none'}, where latency does")  # fmt: skip
    return Finding(
        verdict=verdict, value=saved[0], low=min(saved), high=max(saved),
        unit="share of time saved", evidence=tuple(told),
        condition=f"{span}; at {link} a link against {other}: bandwidth a chip must be stated",
        command=f"weftline simulate collective {kind} {sizes[0]} --on {first} --link {link} "
                f"--latency {delay} --vs {second} --vs-link {other} --vs-latency {other_delay}",
    )  # fmt: skip


@lru_cache(maxsize=64)
def _time_s(name: str, link: str, latency: str, kind: Collective, nbytes: float) -> float:
    """Seconds of the best algorithm there is on a network."""
    answer = collective_answer(parse_topology(name, link, latency), kind, nbytes)
    return float(answer["time_s"])


def checkpoint_time(terms: Terms) -> Finding:
    """``size`` in ``to`` instead of ``from``: the bandwidth each needs against what there is."""
    size = terms.read("size", parse_bytes)
    before, after = terms.read("from", parse_duration_s), terms.read("to", parse_duration_s)
    has = terms.read("available", parse_rate_bytes_per_s)
    need, slow = size / after, size / before
    enough = need <= has
    return Finding(
        verdict="holds" if enough else "fails", value=need / 1e9, low=need / 1e9, high=need / 1e9,
        unit="GB/s",
        condition=f"{format_bytes(size)} in {format_duration(after)} needs {format_rate(need)}, "
                  f"{terms.text('where_from')} gives {format_rate(has)}; the {format_rate(slow)} "
                  "of the baseline is slow",
        command=f"weftline burst advise --state {format_bytes(size).replace(' ', '')} --nodes 16",
    )  # fmt: skip


def _goodput(stall_s: float, chips: int, recovery_s: float, failures: float) -> float:
    mtbf = DAY_S / (failures * chips)
    return availability(stall_s, checkpoint_interval_s(stall_s, mtbf, recovery_s), mtbf, recovery_s)


def idle_time(terms: Terms) -> Finding:
    """Points of goodput that a shorter save is worth, each at its best interval, by cluster."""
    before, after = terms.read("from", parse_duration_s), terms.read("to", parse_duration_s)
    points = terms.read("points", parse_fraction)
    recovery = INCIDENTS * 1000
    told, gains = [], {}
    for nodes in (256, 512, 1024, 2048):
        chips = nodes * NODE_CHIPS
        old, new = (_goodput(s, chips, recovery, FAILURES_PER_CHIP_DAY) for s in (before, after))
        gains[nodes] = new - old
        told.append(f"{nodes:,} nodes: goodput {old:.1%} -> {new:.1%}")
    good = [n for n, g in gains.items() if g >= points * 0.95]
    verdict: Verdict = "holds" if len(good) == 4 else "conditional" if good else "fails"
    listed = ", ".join(f"{100 * g:.1f}" for g in gains.values())
    said = f"{listed} points at 256, 512, 1,024, 2,048 nodes of 8"
    if good and len(good) < 4:
        said += f"; reaches {points:.0%} from {good[0]:,} nodes on"
    return Finding(verdict=verdict, condition=said, value=100 * gains[1024], unit="points",
                   low=100 * min(gains.values()), high=100 * max(gains.values()),
                   evidence=tuple(told),
                   command=ADVISE)  # fmt: skip


def failures(terms: Terms) -> Finding:
    """What so many more failures cost in goodput."""
    chips = round(terms.number("chips"))
    more, stall = terms.number("more"), terms.read("stall", parse_duration_s)
    recovery = terms.read("recovery", parse_duration_s)
    a, b = (_goodput(stall, chips, recovery, FAILURES_PER_CHIP_DAY * f) for f in (1.0, more))
    return Finding(
        verdict="undecidable", value=100 * (a - b), low=100 * (a - b), high=100 * (a - b),
        unit="points", missing=terms.text("missing"),
        condition=f"if it were so: {chips:,} chips lose {100 * (a - b):.1f} points of goodput "
                  f"({a:.1%} -> {b:.1%})",
        command="weftline plan train llama-3.1-405b --tokens 1T --on h100 --chips 16384",
    )  # fmt: skip


def bytes_fit(terms: Terms) -> Finding:
    """``parameters`` at so many ``bytes`` each on ``chips``, or a stated size against the count."""
    parameters = terms.read("parameters", parse_count)
    each = [float(b) for b in terms.values.get("bytes", (2, 14))]
    if "chip" in terms.values:
        chip, count = terms.chip(), round(terms.number("chips"))
        memory = (chip.memory_bytes or 0.0) * count
        most = memory / max(each)
        verdict: Verdict = "fails" if most > 1.2 * parameters else "holds"
        return Finding(
            verdict=verdict, value=most / 1e9, low=memory / max(each) / 1e9,
            high=memory / min(each) / 1e9, unit="billion parameters",
            condition=f"{count} x {chip.id} hold {format_count(most)} parameters at "
                      f"{max(each):g} bytes each to train, {format_count(memory / min(each))} at "
                      f"{min(each):g}",
            command=f"weftline memory llama-3.1-405b --train --on {chip.id}",
        )  # fmt: skip
    low, high = (parse_bytes(str(s), where=terms.where) for s in terms.values["between"])
    sizes = {b: parameters * b for b in each}
    good = [b for b, size in sizes.items() if 0.95 * low <= size <= 1.05 * high]
    told = "; ".join(f"{b:g} bytes a parameter: {format_bytes(s)}" for b, s in sizes.items())
    found: Verdict = "holds" if len(good) == len(each) else "conditional" if good else "fails"
    return Finding(verdict=found, value=sizes[each[0]] / 1e12, low=min(sizes.values()) / 1e12,
                   high=max(sizes.values()) / 1e12, unit="TB",
                   condition=f"for {', '.join(f'{b:g}' for b in good) or 'no'} bytes; {told}",
                   command="weftline memory llama-3.1-405b --train")  # fmt: skip


def decode_time(terms: Terms) -> Finding:
    """Tokens one after another cannot come faster than weights are read: a bound below.

    Weights of one byte, over all chips of a replica of at most 64, and two exchanges a layer.
    """
    model = load_model(terms.text("model", "llama-3.1-70b"))
    tokens, limits = round(terms.number("tokens")), terms.values.get("limits")
    if not isinstance(limits, dict):
        raise InputError("`limits` is missing", where=terms.where, hint="{h100: 60ms}")
    layers = int(terms.number("layers", 80))
    told, good = [], []
    floors = []
    for name, limit in limits.items():
        chip = Terms(values={"chip": name}, where=terms.where).chip()
        wanted = parse_duration_s(str(limit), where=terms.where)
        count = min(64, chip.scale_up_domain or NODE_CHIPS)
        speed = chip.memory_bandwidth_bytes_per_s or math.inf
        floor = (tokens - 1) * (model.active_parameters / (count * speed) + 2 * layers * HOP_S)
        floors.append(floor)
        good += [name] if floor <= wanted else []
        told.append(f"{count} x {chip.id}: at least {format_duration(floor)}, "
                    f"{format_duration(wanted)} claimed")  # fmt: skip
    verdict: Verdict = "holds" if len(good) == len(limits) else "conditional" if good else "fails"
    return Finding(
        verdict=verdict, value=1000 * min(floors), low=1000 * min(floors), high=1000 * max(floors),
        unit="ms", evidence=tuple(told),
        condition="end to end; possible as the time to the first token" if verdict == "fails"
        else f"not excluded on {', '.join(good)}",
        command=f"weftline simulate serving {terms.text('model', 'llama-3.1-70b')} --on h100 "
                "--tp 8 --precision fp8 --rate 0.5/s --input 500 --output 128",
    )  # fmt: skip


def saving(terms: Terms) -> Finding:
    """A saving of training time by the network: at most what communication leaves exposed."""
    model, chip = terms.text("model", "llama-3.1-405b"), terms.chip()
    share = terms.read("share", parse_fraction)
    told, bounds = [], {}
    for chips in (256, 1024, 4096):
        options = JobOptions(
            tokens="1T", chip=terms.described, on=chip.id, chips=str(chips), price="$1/h"
        )
        try:
            plan = plan_train(job_of(model, options))
        except NoFeasiblePlanError as error:
            told.append(f"{chips:,} chips: {error.what}")
            continue
        step = plan.estimates["step_time"].value
        exposed = sum(p.value for p in plan.step_parts if "exposed" in p.name)
        bounds[chips] = exposed / step
        told.append(f"{chips:,} x {chip.id}: {exposed / step:.1%} of the step is exposed "
                    "communication")  # fmt: skip
    if not bounds:
        return Finding(verdict="undecidable", condition="; ".join(told), missing="a plan that fits")
    good = [n for n, b in bounds.items() if b >= share]
    verdict: Verdict = "conditional" if good else "fails"
    highest = max(bounds.values())
    return Finding(
        verdict=verdict, value=highest, low=min(bounds.values()), high=highest,
        unit="share of the step", evidence=tuple(told),
        condition=f"no network can save more than {highest:.0%} here"
        + (f"; only a free one saves {share:.0%} at {', '.join(f'{n:,}' for n in good)} chips"
           if good else f", {share:.0%} is claimed"),
        command=f"weftline plan train {model} --tokens 1T --on {chip.id} --chips 1024 --price $1/h",
    )  # fmt: skip


def trains_on(terms: Terms) -> Finding:
    """Whether a model that is said not to run on a chip has a plan there."""
    chip, model = terms.chip(), terms.text("model")
    options = JobOptions(
        tokens="1T",
        chip=terms.described,
        on=chip.id,
        chips=terms.text("chips", "256"),
        price="$1/h",
    )
    command = f"weftline plan train {model} --tokens 1T --on {chip.id} --chips {options.chips}"
    try:
        plan = plan_train(job_of(model, options))
    except NoFeasiblePlanError as error:
        return Finding(verdict="holds", condition=error.what, command=command)
    mfu = plan.estimates["mfu"]
    return Finding(
        verdict="fails", value=mfu.value, low=mfu.low, high=mfu.high, unit="MFU", command=command,
        condition=f"{model} has a plan on {chip.id} at {mfu.value:.0%} MFU; "
                  + terms.text("but", "the planner counts operators, not software that lacks"),
    )  # fmt: skip


def gigawatts(terms: Terms) -> Finding:
    """Chips and operations a second of a gigawatt, through design power, host share and PUE."""
    power = terms.number("gigawatts", 1.0) * 1e9
    factor = pue("aws").value
    told, counts = [], []
    for name in terms.values.get("chips", ("h100",)):
        chip = Terms(values={"chip": name}, where=terms.where,
                     hypothetical=terms.hypothetical).chip()  # fmt: skip
        watts = chip.tdp_w
        if watts is None:
            told.append(f"{chip.id}: its power is not public")
            continue
        count = power / (watts * (1 + HOST_FRACTION) * factor)
        counts.append(count)
        peak = (chip.peak_flops("bf16") or 0.0) * count
        told.append(f"{chip.id}: {count:,.0f} chips a gigawatt, {peak / 1e21:,.2f} ZFLOP/s bf16")
    return Finding(
        verdict="arithmetic", value=counts[0], low=min(counts), high=max(counts), unit="chips",
        evidence=tuple(told), command="weftline catalog show h100",
        condition=f"chips a GW = 1 GW / (chip W x {1 + HOST_FRACTION:g} host x {factor:g} PUE)",
    )  # fmt: skip
