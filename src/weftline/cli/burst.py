"""``weftline burst``: save, look at, check, restore, keep and export checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from weftline.cli.burst_shared import (
    Flag,
    Folder,
    From,
    Many,
    Step,
    notes,
    out,
    plain,
    reading,
    share,
    sources,
)
from weftline.cli.burst_tier import advise, bench, doctor, drain, peer
from weftline.cli.options import Format, Json
from weftline.errors import InputError

app = App(
    name="burst",
    help="Checkpoints: from memory through a log on local disk to an object store.",
    help_format="plaintext",
)


@app.command
def save(
    store: Path,
    *files: Path,
    step: int | None = None,
    compress: Literal["zstd", "planes"] | None = None,
    dedup: Flag = False,
    writer: str = "w0",
    json: Json = False,
    form: Format = "table",
) -> int:
    """Save tensor files as one checkpoint, committed when this returns.

    Parameters
    ----------
    store
        Folder of the store; made if it is new or empty.
    files
        .safetensors and .npz files, or folders of them.
    step
        Number of the checkpoint; by default one more than the newest.
    compress
        Lossless: zstd, or planes (bytes of equal significance, then zstd).
    dedup
        Store equal pieces once.
    writer
        Name of this process's log; processes that save at once need their own.
    """
    from weftline.burst import Options, Store
    from weftline.burst.formats.tensorfiles import read_state
    from weftline.report.burst import render_saved

    state, metadata = read_state(files)
    options = Options(compress=compress, dedup=dedup)
    with Store.open(store, writer=writer, options=options) as opened:
        if step is None:
            step = opened.next_step()
        extra = {"metadata": metadata} if metadata else {}
        handle = opened.save(state, step, extra=extra, wait=True)
        notes(opened)
        data = {
            "store": opened.root, "step": step, "tensors": len(state), "stall_s": handle.stall_s,
            "durable_s": handle.durable_s, "raw_bytes": handle.raw_bytes,
            "stored_bytes": handle.stored_bytes, "committed": handle.committed,
        }  # fmt: skip
    return out("burst-save", data, render_saved, json=json, form=form)


@app.command(name="import")
def import_(
    store: Path,
    checkpoint: Path,
    *,
    step: int | None = None,
    writer: str = "w0",
    json: Json = False,
    form: Format = "table",
) -> int:
    """Save a checkpoint of another tool in a store; no code in it is run.

    Needs PyTorch, and memory for the whole state.

    Parameters
    ----------
    store
        Folder of the store; made if it is new or empty.
    checkpoint
        A folder of torch.distributed.checkpoint, a torch.save file, or safetensors: a file, or a
        folder with an index.
    step
        Number of the checkpoint; by default one more than the newest.
    writer
        Name of this process's log; processes that save at once need their own.
    """
    from weftline.burst import Store
    from weftline.report.burst import render_imported

    try:
        from weftline.burst.frameworks.foreign import import_into
    except ImportError as error:
        raise InputError(
            "PyTorch is not installed", where="burst import", hint="pip install weftline[run]"
        ) from error
    with Store.open(store, writer=writer) as opened:
        handle, kind = import_into(opened, checkpoint, step)
        notes(opened)
        data = {
            "store": opened.root, "step": handle.step, "of": kind, "from": str(checkpoint),
            "raw_bytes": handle.raw_bytes, "stored_bytes": handle.stored_bytes,
        }  # fmt: skip
    return out("burst-import", data, render_imported, json=json, form=form)


@app.command(name="ls")
def ls(store: str, *, json: Json = False, form: Format = "table") -> int:
    """List the checkpoints of a store, an object store or a peer.

    Parameters
    ----------
    store
        Folder of a store, or s3://bucket/prefix, gs://, az://, file:///, peer://host:port.
    """
    from dataclasses import asdict

    from weftline.burst.commit.commits import info_of
    from weftline.burst.nodes.cluster import commits_at
    from weftline.report.burst import render_list

    damaged: list[dict[str, Any]] = []
    if "://" in store:
        found = [asdict(info_of(c)) for c in commits_at(store)]
    else:
        with reading(store) as opened:
            found = [asdict(c) for c in opened.checkpoints()]
            damaged = [{"step": d.step, "what": d.what, "file": d.file} for d in opened.damaged()]
            notes(opened)
    data = {"where": store, "checkpoints": found, "damaged": damaged}
    return out("burst-list", data, render_list, json=json, form=form)


@app.command
def show(store: Folder, *, step: Step = None, json: Json = False, form: Format = "table") -> int:
    """Show a checkpoint and the tensors in it."""
    from weftline.report.burst import render_checkpoint

    with reading(store) as opened:
        step = opened.read_commit(step).step
        info = next(c for c in opened.checkpoints() if c.step == step)
        loaded = opened.load(step, names=[])
        tensors = [
            {"name": name, "dtype": t.dtype, "shape": list(t.shape), "bytes": t.nbytes,
             "blocks": len(t.parts)}
            for name, t in sorted(opened.tensors(step).items())
        ]  # fmt: skip
        data = {
            "where": opened.root, "step": step, "world": info.world, "raw_bytes": info.raw_bytes,
            "stored_bytes": info.stored_bytes, "created_unix_s": info.created_unix_s,
            "pinned": list(info.pinned), "extra": plain(loaded.extra), "tensors": tensors,
        }  # fmt: skip
    return out("burst-checkpoint", data, render_checkpoint, json=json, form=form)


@app.command
def verify(
    store: Folder,
    *,
    step: int | None = None,
    from_: From = (),
    repair: Flag = False,
    writer: str = "w0",
    json: Json = False,
    form: Format = "table",
) -> int:
    """Read everything and check every byte; exits with 1 where there is damage.

    Parameters
    ----------
    step
        Only this checkpoint; all by default.
    from_
        Where copies are (peer://host:port, s3://bucket/prefix); can be given more than once.
    repair
        Mend what can be mended, from what is whole here and from the copies.
    writer
        With --repair: whose log is mended.
    """
    from dataclasses import asdict

    from weftline.burst import Store
    from weftline.burst.care.repair import repair_store
    from weftline.report.burst import render_findings

    opened = Store.open(
        store, create=False, read_only=not repair, writer=writer, sources=sources(from_)
    )  # fmt: skip
    with opened:
        found = repair_store(opened, step) if repair else opened.verify(step)
        notes(opened)
        steps = [step] if step is not None else [c.step for c in opened.checkpoints()]
        data = {"where": opened.root, "steps": steps, "findings": [asdict(f) for f in found]}
    out("burst-verify", data, render_findings, json=json, form=form)
    return 1 if any(not f.mended for f in found) else 0


@app.command
def restore(
    store: str,
    to: Path,
    *,
    step: Step = None,
    only: Many = (),
    from_: From = (),
    no_verify: Flag = False,
    allow_older: Flag = False,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Write a checkpoint's tensors into one file.

    Parameters
    ----------
    store
        Folder of the store; or peer://, s3://, ... where no local copy is left. With --from these
        are searched together: each node has shares of its own and copies of others'.
    to
        A .safetensors or .npz file; it must not exist.
    only
        Names to restore, as patterns (model.*); can be given more than once.
    from_
        Where copies of damaged or missing records are; can be given more than once.
    no_verify
        Skip the checksums.
    allow_older
        Where the newest checkpoint is damaged, take the one before it.
    """
    import time

    from weftline.burst import Store
    from weftline.burst.formats.export import select
    from weftline.burst.formats.imports import load_from
    from weftline.burst.formats.tensorfiles import check_target, write_state
    from weftline.burst.nodes.cluster import choose_from
    from weftline.report.burst import render_restored

    check_target(to)
    start_s = time.perf_counter()
    if "://" in store:
        if allow_older:
            raise InputError(
                "a folder alone is searched for an older checkpoint", where="--allow-older",
                hint=f"`weftline burst ls {store}` lists them: name one with --step",
            )  # fmt: skip
        choice, near = choose_from([store, *from_], step)
        for passed, lost in choice.passed_over:
            print(f"note: step {passed} is not whole: ranks {list(lost)} are lost", file=sys.stderr)
        loaded = load_from(
            near, choice.commit, verify=not no_verify,
            select=(lambda names: select(names, only)) if only else None,
        )  # fmt: skip
    else:
        with Store.open(store, create=False, read_only=True, sources=sources(from_)) as opened:
            if step is None and not allow_older:
                step = opened.read_commit().step
            known = opened.read_commit(step, allow_older=allow_older).step
            names = select(opened.tensors(known), only) if only else None
            loaded = opened.load(step, names, verify=not no_verify, allow_older=allow_older)
            notes(opened)
    write_state(to, loaded)
    data = {
        "step": loaded.step, "to": str(to), "tensors": len(loaded), "verified": not no_verify,
        "bytes": sum(a.nbytes for a in loaded.values()), "repaired": len(loaded.repaired),
        "elapsed_s": time.perf_counter() - start_s,
    }  # fmt: skip
    return out("burst-restore", data, render_restored, json=json, form=form)


@app.command
def gc(
    store: Folder,
    *,
    last: int | None = None,
    every: int | None = None,
    drop: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (),
    writer: str = "w0",
    json: Json = False,
    form: Format = "table",
) -> int:
    """Drop checkpoints, free their space, and compact what is left.

    Pinned checkpoints and the newest always stay.

    Parameters
    ----------
    last
        Keep this many of the newest.
    every
        Keep those whose step is a multiple of this.
    drop
        Drop these steps.
    writer
        Whose log is collected.
    """
    from dataclasses import asdict

    from weftline.burst import Retention, Store
    from weftline.report.burst import render_gc

    retention = Retention(last=last, every=every)
    with Store.open(store, create=False, writer=writer) as opened:
        report = opened.gc(retention, drop=drop)
        notes(opened)
        data = {**asdict(report), "kept": [c.step for c in opened.checkpoints()]}
    return out("burst-gc", data, render_gc, json=json, form=form)


@app.command
def pin(
    store: Folder,
    step: int,
    *,
    owner: str = "user",
    release: Flag = False,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Keep a checkpoint whatever retention says, or let go of it.

    Parameters
    ----------
    step
        Which checkpoint.
    owner
        Under whose name; it stays while anybody holds it.
    release
        Let go instead.
    """
    with reading(store) as opened:
        opened.read_commit(step)
        if release:
            opened.unpin(step, owner)
        else:
            opened.pin(step, owner)
        info = next(c for c in opened.checkpoints() if c.step == step)
    data = {"step": step, "pinned": list(info.pinned)}
    who = f"pinned by {', '.join(info.pinned)}" if info.pinned else "not pinned"
    return out("burst-hold", data, lambda _: f"Checkpoint {step} is {who}.", json=json, form=form)


@app.command
def export(
    store: Folder,
    to: Path,
    *,
    step: Step = None,
    only: Many = (),
    strip: str = "",
    shard: str = "5GB",
    companions: Path | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Write safetensors files in Hugging Face's layout.

    Parameters
    ----------
    to
        Folder to write to; an export that is there is not overwritten.
    only
        Names to export, as patterns (model.*); can be given more than once.
    strip
        Take this off the front of names (model.).
    shard
        Size of a file, before a new one is begun.
    companions
        Folder whose config and tokenizer files are copied along.
    """
    from dataclasses import asdict

    from weftline.burst.formats.export import export as export_to
    from weftline.report.burst import render_export
    from weftline.units import parse_bytes

    size = int(parse_bytes(shard, where="--shard"))
    with reading(store) as opened:
        done = export_to(
            opened, to, step=step, only=only, strip=strip, shard_bytes=size,
            companions=companions, progress=share("exporting"),
        )  # fmt: skip
        notes(opened)
    return out("burst-export", asdict(done), render_export, json=json, form=form)


for _command in (drain, peer, bench, doctor, advise):
    app.command(_command)
