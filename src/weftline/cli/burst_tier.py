"""``weftline burst``: drain to other places, serve a peer, measure, and advise."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from weftline.cli.burst_shared import Flag, Folder, Step, notes, out, reading, share
from weftline.cli.options import Form, Format, Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from weftline.burst.remote.drain import Drainer
    from weftline.burst.store import Store


def drain(
    store: Folder,
    *,
    to: str,
    step: Step = None,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    watch: Flag = False,
    bandwidth: str | None = None,
    check: Literal["etag", "read", "length"] = "etag",
    keep_last: int | None = None,
    metrics_port: int | None = None,
    metrics_file: Path | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Send checkpoints to an object store or a peer; durable there when this says so.

    Goes on where it was cut off. Credentials come from the environment.

    Parameters
    ----------
    to
        s3://bucket/prefix, gs://, az://, file:///folder or peer://host:port.
    all_
        Every checkpoint that is not there yet, oldest first.
    watch
        Go on with new checkpoints as they are committed, until interrupted.
    bandwidth
        Upper limit of the uploads: 500MB/s.
    check
        What proves an upload: the server's digest (or a read-back where it has none), always a
        read-back, or the length alone.
    keep_last
        Afterwards keep only this many of the newest there.
    metrics_port
        With --watch: serve Prometheus metrics on 127.0.0.1 at this port.
    metrics_file
        Write Prometheus metrics to this file.
    """
    from dataclasses import asdict

    from weftline.burst.remote.checkpoints import open_objects
    from weftline.burst.remote.drain import Drainer
    from weftline.errors import InputError
    from weftline.report.burst import render_drain
    from weftline.units import parse_rate_bytes_per_s

    if step is not None and (all_ or watch):
        raise InputError("--step goes with neither --all nor --watch", where="burst drain")
    if keep_last is not None and keep_last < 1:
        raise InputError("at least one must stay", where="--keep-last")
    rate = None if bandwidth is None else parse_rate_bytes_per_s(bandwidth, where="--bandwidth")
    target = open_objects(to, bandwidth_bytes_per_s=rate, verify=check)
    with reading(store) as opened:
        drainer = Drainer(opened, target)
        if watch:
            _watch(opened, drainer, metrics_port, metrics_file)
            return 0
        steps = [c.step for c in drainer.pending()] if all_ else [step]
        done = [drainer.drain(s, progress=share("draining")) for s in steps]
        pruned: list[int] = []
        if keep_last is not None:
            pruned = _prune(drainer, keep_last)
        notes(opened)
        if metrics_file is not None:
            from weftline.burst.advise.metrics import collect, write_textfile

            write_textfile(metrics_file, collect(opened, [drainer]))
    data = {"target": target.url, "drained": [asdict(d) for d in done], "pruned": pruned}
    out("burst-drain", data, render_drain, json=json, form=form)
    return 0 if all(d.durable for d in done) else 1


def _watch(
    store: Store, drainer: Drainer, metrics_port: int | None, metrics_file: Path | None
) -> None:
    """Drain in the background and say what happens, until interrupted."""
    import time
    from contextlib import nullcontext

    from weftline.burst.advise.metrics import MetricsServer, collect, write_textfile

    def samples() -> Any:
        return collect(store, [drainer])

    server = nullcontext() if metrics_port is None else MetricsServer(samples, port=metrics_port)
    drainer.start(poll_s=2.0)
    said: tuple[int | None, str | None] = (None, None)
    with server as endpoint:
        if endpoint is not None:
            print(f"metrics at {endpoint.url}", file=sys.stderr)
        try:
            while True:
                status = drainer.status
                now = (status.newest_durable_step, status.last_error)
                if now != said:
                    said = now
                    print(_status_line(drainer), file=sys.stderr, flush=True)
                if metrics_file is not None:
                    write_textfile(metrics_file, samples())
                time.sleep(1.0)
        finally:
            drainer.stop()


def _status_line(drainer: Drainer) -> str:
    status = drainer.status
    newest = "nothing" if status.newest_durable_step is None else status.newest_durable_step
    line = f"durable at {drainer.objects.url}: {newest}; {status.queued} waiting"
    return f"{line}; last try failed: {status.last_error}" if status.last_error else line


def _prune(drainer: Drainer, keep_last: int) -> list[int]:
    from weftline.burst.remote.checkpoints import checkpoints_of

    steps = [c.step for c in checkpoints_of(drainer.objects)]
    return [c.step for c in drainer.prune(steps[-keep_last:])]


def peer(
    folder: Path,
    *,
    bind: str = "127.0.0.1",
    port: int = 7401,
    capacity: str | None = None,
    store: Path | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Serve this node to others: keep copies of their shares, and let them read its own.

    Runs until interrupted. Those who know WEFTLINE_BURST_SECRET may write, read and delete.
    Nothing is encrypted.

    Parameters
    ----------
    folder
        Where copies are kept: a folder in /dev/shm for memory, or local NVMe.
    store
        This node's own store, for nodes that restore; it need not be there yet.
    bind
        Address to listen on; only this machine by default.
    port
        Port to listen on; 0 for any free one.
    capacity
        Refuse what would take the folder beyond this size: 2TB.
    """
    import threading

    from weftline.burst.nodes.server import NodeServer
    from weftline.errors import InputError
    from weftline.units import parse_bytes

    size = None if capacity is None else int(parse_bytes(capacity, where="--capacity"))
    try:
        server = NodeServer(folder, store=store, host=bind, port=port, capacity_bytes=size)
    except OSError as error:
        raise InputError(
            f"cannot listen on {bind}:{port}: {error.strerror or error}", where="--bind, --port",
            hint="name another port, or an address of this machine",
        ) from error  # fmt: skip
    data = {
        "url": server.url, "folder": server.folder, "used_bytes": server.used_bytes,
        "store": None if store is None else str(store),
    }  # fmt: skip
    out("burst-serve", data, lambda d: f"Serving {d['folder']} at {d['url']}", json=json, form=form)
    sys.stdout.flush()
    with server:
        threading.Event().wait()
    return 0


def bench(
    folder: Path,
    *,
    size: str = "1GB",
    rounds: int = 3,
    seed: int = 0,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Measure stall, durable writes and checked loads in a folder, against what its disk can do.

    Writes and removes a few times the size in a folder of its own there.

    Parameters
    ----------
    folder
        A folder on the disk in question.
    size
        Size of the state.
    rounds
        The best of so many.
    seed
        Of the random tensors.
    """
    from weftline.burst.advise.bench import measure
    from weftline.cli.progress import progress
    from weftline.errors import InputError
    from weftline.report.burst import render_bench
    from weftline.units import parse_bytes

    if rounds < 1:
        raise InputError("at least one round is needed", where="--rounds")
    nbytes = int(parse_bytes(size, where="--size"))
    data = measure(folder, nbytes, rounds=rounds, seed=seed, progress=progress())
    return out("burst-bench", data, render_bench, json=json, form=form)


def doctor(folder: Path, *, json: Json = False, form: Format = "table") -> int:
    """Try out whether a folder's file system keeps what a store relies on.

    Exits with 1 where a store should not be written.

    Parameters
    ----------
    folder
        Where the store is or will be; a few small files are made there and removed.
    """
    from dataclasses import asdict

    from weftline.burst.advise.filesystem import probe
    from weftline.report.burst import render_file_system

    found = probe(folder)
    plain = asdict(found)
    data = {"of": plain.pop("kind"), **plain, "fit": found.fit}
    out("file-system", data, render_file_system, json=json, form=form)
    return 0 if found.fit else 1


def advise(
    *,
    state: str,
    nodes: int,
    mtbf: str | None = None,
    measured: Path | None = None,
    staging: str | None = None,
    nvme_write: str | None = None,
    nvme_read: str | None = None,
    peer: str | None = None,
    copies: int = 1,
    object_store: str | None = None,
    shared: str | None = None,
    restart: str | None = None,
    local_share: str | None = None,
    node_share: str | None = None,
    slowdown: str | None = None,
    stall: str | None = None,
    persist: str | None = None,
    restore: str | None = None,
    interval: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """How often to save, and what saving and failures will cost a job, beside a blocking save.

    Parameters
    ----------
    state
        All that a checkpoint holds, counted once: 14TB.
    nodes
        Nodes that share it.
    mtbf
        Time between failures of the whole job; by default from a published rate a node.
    measured
        What `burst bench FOLDER --json` has answered here: staging and NVMe as they were measured.
    staging
        A node's copy from its devices into host memory; 80GB/s is assumed.
    nvme_write
        A node's NVMe, writing; 4GB/s is assumed.
    nvme_read
        A node's NVMe, reading; 6GB/s is assumed.
    peer
        A node's link to those that keep copies in memory, `none` without copies; 10GB/s is assumed.
    copies
        How many other nodes keep a copy of a share.
    object_store
        The object store, from all nodes together; 100GB/s is assumed.
    shared
        The shared file system that the blocking save writes to; 100GB/s is assumed.
    restart
        From a failure until processes run, before they read; 5min is assumed.
    local_share
        Failures that leave every share on NVMe or in memory; 95% with copies is assumed.
    node_share
        Failures that take a node's disk and memory with them; 50% is assumed.
    slowdown
        How much slower training runs while a save is written; 5% is assumed.
    stall
        Measured stall, instead of --staging.
    persist
        Measured time until a save is committed, instead of --nvme-write and --peer.
    restore
        Measured time of a local restore, instead of --nvme-read.
    interval
        Judge this interval instead of looking for the best.
    """
    rates = {
        "staging": staging, "nvme_write": nvme_write, "nvme_read": nvme_read,
        "store": object_store, "shared": shared, "peer": None if peer == "none" else peer,
    }  # fmt: skip
    times = {
        "mtbf": mtbf, "restart": restart, "stall": stall, "persist": persist, "restore": restore,
        "interval": interval,
    }  # fmt: skip
    shares = {"local_share": local_share, "slowdown_share": slowdown, "node_share": node_share}
    figures = _figures(_parsed(state, rates, times, shares), measured, copies=peer != "none")
    return _advise({"nodes": nodes, "copies": copies, **figures}, json=json, form=form)


def _advise(figures: dict[str, Any], *, json: bool, form: Form) -> int:
    from dataclasses import asdict

    from weftline.burst.advise.advice import Job, advise
    from weftline.report.burst import render_advice

    answer = advise(Job(**figures))
    data = {**asdict(answer), "gained_nodes": answer.gained_nodes}
    return out("burst-advice", data, render_advice, json=json, form=form)


def _figures(typed: dict[str, Any], measured: Path | None, *, copies: bool) -> dict[str, Any]:
    """Fields of a job that are given or measured here, and which are which."""
    from weftline.burst.advise.advice import measured_figures

    given = {k: v for k, v in typed.items() if v is not None}
    figures: dict[str, Any] = {} if copies else {"peer_bytes_per_s": None}
    basis = dict.fromkeys(given, "given")
    if measured is not None:
        found, what = measured_figures(_json_of(measured), where=str(measured))
        figures |= {k: v for k, v in found.items() if k not in given}
        basis = dict.fromkeys(found, what) | basis
    return {**figures, **given, "basis": basis}


def _json_of(file: Path) -> Any:
    """What a JSON file holds."""
    from json import loads

    from weftline.errors import InputError

    try:
        return loads(file.read_text())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except ValueError as error:
        raise InputError(f"this is not JSON: {error}", where=str(file)) from None


def _parsed(
    state: str,
    rates: dict[str, str | None],
    times: dict[str, str | None],
    shares: dict[str, str | None],
) -> dict[str, Any]:
    """Fields of a job from what was typed, all mistakes at once."""
    from weftline.spec.parse import Collector
    from weftline.units import parse_bytes, parse_duration_s, parse_fraction, parse_rate_bytes_per_s

    kinds: list[tuple[str, dict[str, str | None], Callable[..., float]]] = [
        ("_bytes_per_s", rates, parse_rate_bytes_per_s),
        ("_s", times, parse_duration_s),
        ("", shares, parse_fraction),
        ("_bytes", {"state": state}, parse_bytes),
    ]
    options = {"store": "object-store", "slowdown_share": "slowdown"}
    collect = Collector()
    found: dict[str, Any] = {}
    for unit, texts, parse in kinds:
        for name, text in texts.items():
            where = f"--{options.get(name, name).replace('_', '-')}"
            value = None if text is None else collect(partial(parse, text, where=where))
            found[name + unit] = value
    collect.raise_all()
    return found
