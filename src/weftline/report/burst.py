"""Checkpoints in the terminal, from the same plain values that ``--json`` prints."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_bytes, format_duration, format_rate

__all__ = [
    "render_advice",
    "render_bench",
    "render_checkpoint",
    "render_drain",
    "render_export",
    "render_file_system",
    "render_findings",
    "render_gc",
    "render_imported",
    "render_list",
    "render_restored",
    "render_saved",
]

Data = Mapping[str, Any]
FINDINGS_SHOWN = 20


def render_saved(data: Data) -> str:
    """One save: that it is committed first, then what it cost."""
    lines = [
        f"Committed checkpoint {data['step']} in {data['store']}: "
        f"{format_bytes(data['raw_bytes'])} in {data['tensors']} tensors"
    ]
    rate = format_rate(data["raw_bytes"] / data["durable_s"]) if data["durable_s"] > 0 else "-"
    lines += wrapped(
        f"stall {format_duration(data['stall_s'])} (copied into new memory), durable after "
        f"{format_duration(data['durable_s'])} ({rate}), {_stored(data)}",
        indent="  ", hang="  ",
    )  # fmt: skip
    return page(lines)


def render_imported(data: Data) -> str:
    """What came in, from what kind of checkpoint."""
    return page(
        wrapped(
            f"Committed checkpoint {data['step']} in {data['store']} from {data['from']} "
            f"({data['of']}): {format_bytes(data['raw_bytes'])}, {_stored(data)}",
            hang="  ",
        )
    )


def _stored(data: Data) -> str:
    stored, raw = data["stored_bytes"], data["raw_bytes"]
    share = f" ({stored / raw:.0%} of the state)" if raw else ""
    return f"{format_bytes(stored)} written{share}"


def render_list(data: Data) -> str:
    """Checkpoints of a store or a target, oldest commit first."""
    found = data["checkpoints"]
    spoilt = [f"damaged: {_which(d)}: {d['what']} ({d['file']})" for d in data.get("damaged", ())]
    if not found:
        return (
            page([*spoilt, f"No checkpoints in {data['where']} that can be read."])
            if spoilt
            else f"No checkpoints in {data['where']}."
        )
    rows = [
        (str(c["step"]), _when(c["created_unix_s"]), str(c["world"]), format_bytes(c["raw_bytes"]),
         format_bytes(c["stored_bytes"]), ", ".join(c.get("pinned", ())))
        for c in found
    ]  # fmt: skip
    head = (
        f"{len(found)} checkpoint{'s' if len(found) > 1 else ''} in {data['where']}, "
        f"the newest {'that can be read' if spoilt else 'commit'} is step {found[-1]['step']}"
    )
    names = ("step", "committed", "ranks", "state", "written", "pinned by")
    return page([*spoilt, head, "", *table(names, rows, right=frozenset({0, 2, 3, 4}))])


def _which(damaged: Data) -> str:
    return "a commit record" if damaged["step"] is None else f"step {damaged['step']}"


def render_checkpoint(data: Data) -> str:
    """One checkpoint and its tensors."""
    tensors = data["tensors"]
    lines = wrapped(
        f"Checkpoint {data['step']} of {data['where']}: {len(tensors)} tensors, "
        f"{format_bytes(data['raw_bytes'])} from {data['world']} ranks, committed "
        f"{_when(data['created_unix_s'])}"
    )
    if data["pinned"]:
        lines.append(f"  pinned by {', '.join(data['pinned'])}")
    if data["extra"]:
        lines += wrapped(f"extra: {data['extra']}", indent="  ", hang="  ")
    rows = [
        (t["dtype"], "x".join(map(str, t["shape"])) or "scalar", str(t["blocks"]),
         format_bytes(t["bytes"]), t["name"])
        for t in tensors
    ]  # fmt: skip
    names = ("dtype", "shape", "blocks", "size", "tensor")
    return page([*lines, "", *table(names, rows, right=frozenset({1, 2, 3}))])


def render_findings(data: Data) -> str:
    """What verification found, the verdict first."""
    found = data["findings"]
    steps = ", ".join(map(str, data["steps"])) or "none"
    if not found:
        return page(
            wrapped(f"Sound: every byte of {data['where']} is as it was written (steps {steps})")
        )
    mended = sum(f["mended"] for f in found)
    lines = wrapped(
        f"DAMAGED: {len(found)} findings in {data['where']}"
        + (f", {mended} of them mended" if mended else "")
    )
    for f in found[:FINDINGS_SHOWN]:
        at = "" if f["offset_bytes"] is None else f" at byte {f['offset_bytes']:,}"
        of = "" if f["step"] is None else f"step {f['step']}"
        of += f", `{f['tensor']}`" if f["tensor"] else ""
        text = f"{of}: {f['what']}" if of else f["what"]
        end = "; mended" if f["mended"] else ""
        lines += wrapped(f"{text}; {f['file']}{at}{end}", indent="  ", hang="  ")
    if len(found) > FINDINGS_SHOWN:
        lines.append(f"  and {len(found) - FINDINGS_SHOWN} more (--json lists all)")
    return page(lines)


def render_restored(data: Data) -> str:
    """What was read back and where it went."""
    lines = wrapped(
        f"Restored checkpoint {data['step']} to {data['to']}: {data['tensors']} tensors, "
        f"{format_bytes(data['bytes'])} in {format_duration(data['elapsed_s'])}, "
        + ("every byte checked" if data["verified"] else "NOT checked (--no-verify)")
    )
    if data["repaired"]:
        lines.append(f"  {data['repaired']} damaged records came from another copy")
    return page(lines)


def render_drain(data: Data) -> str:
    """What was drained, and what is durable there."""
    lines = []
    for d in data["drained"]:
        state = (
            "durable"
            if d["durable"]
            else f"NOT yet durable, ranks {d['missing_ranks']} are missing"
        )
        rate = format_rate(d["sent_bytes"] / d["elapsed_s"]) if d["elapsed_s"] > 0 else "-"
        lines += wrapped(
            f"Checkpoint {d['step']} at {data['target']}: {state}; {format_bytes(d['sent_bytes'])} "
            f"sent in {d['packs']} packs ({rate}), {format_bytes(d['reused_bytes'])} was there",
            hang="  ",
        )
    if not lines:
        lines = wrapped(f"Nothing to drain: {data['target']} has every checkpoint")
    if data["pruned"]:
        lines.append(f"Pruned there: steps {', '.join(map(str, data['pruned']))}")
    return page(lines)


def render_gc(data: Data) -> str:
    """What garbage collection let go."""
    dropped = ", ".join(map(str, data["dropped"])) or "none"
    kept = ", ".join(map(str, data["kept"])) or "none"
    return page(
        wrapped(
            f"Dropped checkpoints: {dropped}; kept: {kept}; {data['freed_segments']} segments "
            f"free to be written again, {format_bytes(data['moved_bytes'])} moved, "
            f"{format_bytes(data['returned_bytes'])} given back to the disk",
            hang="  ",
        )
    )


def render_export(data: Data) -> str:
    """What an export wrote."""
    head = (
        f"Exported checkpoint {data['step']}: {data['tensors']} tensors, "
        f"{format_bytes(data['total_bytes'])}"
    )
    return page([head, *(f"  {name}" for name in data["files"])])


def render_bench(data: Data) -> str:
    """Stall and throughput as ratios to what this memory and this disk can do."""
    lines = wrapped(
        f"{data['folder']}: {format_bytes(data['state_bytes'])} of state, best of "
        f"{data['rounds']} rounds; ratios are to this machine's own limits, in the same run"
    )
    rows = [
        ("stall of a save", format_duration(data["stall_s"]),
         f"{data['stall_ratio']:.2f} x one memory copy ({format_duration(data['copy_s'])})"),
        ("durable", format_rate(data["durable_bytes_per_s"]),
         f"{data['durable_ratio']:.0%} of raw writes ({format_rate(data['raw_write'])})"),
        ("load, checked", format_rate(data["load_bytes_per_s"]),
         f"{data['load_ratio']:.0%} of raw reads ({format_rate(data['raw_read'])})"),
    ]  # fmt: skip
    lines += ["", *table(("", "here", "against"), rows)]
    lines += [f"note: {n}" for n in data["notices"]]
    return page(lines)


def render_file_system(data: Data) -> str:
    """Whether a store can be written there, then what was tried."""
    verdict = "a store can be written here" if data["fit"] else "write no store here"
    lines = wrapped(f"{data['folder']} ({data['of']}): {verdict}")
    rows = [
        (c["name"], "yes" if c["works"] else ("NO" if c["needed"] else "no"), c["says"])
        for c in data["checks"]
    ]
    lines += ["", *table(("", "works", ""), rows)]
    if data["shared"]:
        lines += wrapped(
            "note: other machines may see this folder; their locks are not tried here", hang="  "
        )
    return page(lines)


def render_advice(data: Data) -> str:
    """The interval first, then burst beside blocking saves, then what it rests on."""
    burst, blocking = data["burst"], data["blocking"]
    plan = burst["schedule"]
    gain = plan["goodput"] - blocking["schedule"]["goodput"]
    lines = wrapped(
        f"Save every {format_duration(plan['interval_s'])}: {plan['goodput']:.1%} of the time "
        f"makes progress; a {blocking['name']} every "
        f"{format_duration(blocking['schedule']['interval_s'])} leaves "
        f"{blocking['schedule']['goodput']:.1%}"
    )
    lines += wrapped(
        f"{gain:+.1%} of {data['job']['nodes']:,} nodes is the work of "
        f"{data['gained_nodes']:,.0f} nodes",
        indent="  ",
    )
    rows = [_advice_row(c) for c in (burst, blocking, *data["others"])]
    names = ("", "stall", "durable", "interval", "lost/fail", "recovery", "goodput")
    lines += ["", *table(names, rows, right=frozenset(range(1, 7)))]
    lines += ["", *_advice_basis(data)]
    return page(lines)


def _advice_row(case: Data) -> tuple[str, ...]:
    plan = case["schedule"]
    durable_s = case["copy_s"] + case["persist_s"]
    return (
        case["name"].replace("blocking save at", "blocking,"),
        format_duration(case["copy_s"]),
        format_duration(durable_s),
        format_duration(plan["interval_s"]),
        format_duration(plan["lost_per_failure_s"][0]),
        format_duration(case["recovery_s"]),
        f"{plan['goodput']:.1%}",
    )


def _advice_basis(data: Data) -> list[str]:
    job, burst = data["job"], data["burst"]
    plan = burst["schedule"]
    peer, basis = job["peer_bytes_per_s"], job["basis"]

    def rate(field: str) -> str:
        return f"{format_rate(job[field])} ({basis.get(field, 'assumed')})"

    copies = ""
    if peer:
        nodes = "node's" if job["copies"] == 1 else "nodes'"
        copies = f", then into {job['copies']} other {nodes} memory at {rate('peer_bytes_per_s')}"
    times = {"stall_s": "stall", "persist_s": "time until committed", "restore_s": "local restore"}
    given = [f"{what} {format_duration(job[k])}" for k, what in times.items() if job[k] is not None]
    lines = ["What it rests on"]
    texts = [
        f"a failure every {format_duration(data['mtbf_s'])} ({data['mtbf_basis']})",
        f"{format_bytes(job['state_bytes'] / job['nodes'])} a node, staged at "
        f"{rate('staging_bytes_per_s')}, written to NVMe at {rate('nvme_write_bytes_per_s')}"
        f"{copies}; read back at {rate('nvme_read_bytes_per_s')}",
        *([f"instead of these, given: {', '.join(given)}"] if given else []),
        f"{job['node_share']:.0%} of failures take a node's disk and memory with them "
        f"({basis.get('node_share', 'assumed')})",
        f"{data['local_share']:.0%} of failures are answered from there, the rest from the object "
        f"store, which has a checkpoint every {format_duration(plan['level_intervals_s'][1])}, "
        f"{format_duration(burst['drained_s'])} after its save, at "
        f"{rate('store_bytes_per_s')}",
        f"training runs {job['slowdown_share']:.0%} slower while a save is written "
        f"({basis.get('slowdown_share', 'assumed')})",
        f"restart without reading: {format_duration(job['restart_s'])}, the same for both "
        f"({basis.get('restart_s', 'assumed')})",
        "known forms, from the stall alone: "
        + ", ".join(f"{k} {format_duration(v)}" for k, v in data["forms_s"].items()),
    ]
    if plan["persist_bound"]:
        texts.append("the interval is as short as writing a save allows")
    for text in texts:
        lines += wrapped(text, indent="  ", hang="  ")
    return lines


def _when(unix_s: float) -> str:
    moment = datetime.datetime.fromtimestamp(unix_s, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
