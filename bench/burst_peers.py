"""Stall, durable writes, checked loads and memory of a checkpoint, beside its peers and the disk.

One run, one folder, the same tensors for all. Every contender runs in processes of its own (one, or
two with half of the state each); in every round it saves, waits until all of it is on disk (fsync),
and loads cold (page cache dropped) and warm; and in the same round and process the disk is written
and read raw (O_DIRECT, a file whose blocks exist, eight of 8 MiB in flight, synced), and the state
copied in memory by one thread a process, before and after: a disk with burst credit slows down as a
round goes on, and memory is shared with other guests. Ratios are medians of ratios within a round.
The stall is the time until training may go on: for asynchronous savers the call, for others the
whole save. Memory is the growth of the peak resident set over the saves, in states. burst and DCP
load into given tensors, burst-new and the others make new ones, as they do: then the first touch of
memory counts too.

Peers that are not installed are left out with a note; `--python` names an interpreter that has
torchsnapshot and orbax-checkpoint.

Run: python bench/burst_peers.py --dir FOLDER [--size 1GB] [--rounds 5] [--processes 1 2]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTENDERS = (
    "burst", "burst-new", "burst-dcp-async", "burst-save", "torch.save", "safetensors", "dcp",
    "dcp-4-threads", "dcp-async", "dcp-async-cached", "dcp-async-process", "torchsnapshot", "orbax",
)  # fmt: skip
SRC = Path(__file__).parents[1] / "src"
CHILD_TIMEOUT_S = 1800


# --- one contender in one process -----------------------------------------------------------------


def fsync_tree(folder: Path) -> None:
    """Everything under a folder on disk: what savers that do not sync themselves leave to do."""
    for path in [*sorted(folder.rglob("*")), folder]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class Contender:
    """Saves and loads; ``save`` returns the seconds of stall, ``wait`` ends when all is durable."""

    def __init__(self, folder: Path, state: dict[str, Any], rank: int, world: int) -> None:
        self.folder, self.state, self.rank, self.world = folder, state, rank, world

    def path(self, step: int) -> Path:
        """Where one checkpoint of this rank goes."""
        return self.folder / f"step-{step}-{self.rank}"

    def wait(self) -> None:
        """Until the last save is durable."""

    def settle(self) -> None:
        """Until nothing of it works in the background any more."""

    def drop(self, step: int) -> None:
        """Remove a checkpoint, as retention would."""
        shutil.rmtree(self.path(step), ignore_errors=True)
        self.path(step).unlink(missing_ok=True)

    def close(self) -> None:
        """The end."""


class Burst(Contender):
    """This project's store; ranks commit together."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        from weftline.burst import Options, Store

        self.arrays = {n: t.numpy() for n, t in self.state.items()}
        self.store = Store.open(
            self.folder / "store", writer=f"r{self.rank}", options=Options(max_in_flight=1)
        )
        self.store.reserve(sum(a.nbytes for a in self.arrays.values()))
        self.handle: Any = None

    def save(self, step: int) -> float:
        """The call."""
        start_s = time.perf_counter()
        self.handle = self.store.save(
            self.arrays, step, rank=self.rank, world=self.world, attempt=f"bench-{step}"
        )
        return time.perf_counter() - start_s

    def wait(self) -> None:
        """Durable here, and committed by rank 0 once all are."""
        step = self.handle.wait().step
        if self.world > 1:
            if self.rank == 0:
                self.store.commit(step, world=self.world, attempt=f"bench-{step}")
            barrier()

    def settle(self) -> None:
        """Upkeep after the commit."""
        self.store.wait()

    def load(self, step: int) -> None:
        """Into the tensors given."""
        self.store.load(step, into=self.arrays, ranks=[self.rank], names=list(self.arrays))

    def drop(self, step: int) -> None:
        """Its segments are written again."""
        if self.rank == 0:
            self.store.gc(drop=[step])
        barrier()
        if self.rank:
            self.store.gc()

    def close(self) -> None:
        """Close the store."""
        self.store.close()


class BurstNew(Burst):
    """The same, loading into new memory."""

    def load(self, step: int) -> None:
        """New arrays."""
        self.store.load(step, ranks=[self.rank])


class TorchSave(Contender):
    """torch.save to one file, then fsync."""

    def save(self, step: int) -> float:
        """All of it is stall."""
        import torch

        start_s = time.perf_counter()
        with self.path(step).open("wb") as file:
            torch.save(self.state, file)
            file.flush()
            os.fsync(file.fileno())
        return time.perf_counter() - start_s

    def load(self, step: int) -> None:
        """New tensors."""
        import torch

        torch.load(self.path(step), weights_only=True)


class Safetensors(Contender):
    """safetensors.torch.save_file, then fsync."""

    def save(self, step: int) -> float:
        """All of it is stall."""
        from safetensors.torch import save_file

        start_s = time.perf_counter()
        save_file(self.state, self.path(step))
        fd = os.open(self.path(step), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        return time.perf_counter() - start_s

    def load(self, step: int) -> None:
        """New tensors; cloned, since the file is only mapped otherwise."""
        from safetensors.torch import load_file

        {n: t.clone() for n, t in load_file(self.path(step)).items()}


class Dcp(Contender):
    """torch.distributed.checkpoint, which syncs its files."""

    threads = 1
    process: str | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Names differ between ranks, so that each rank's share is its own, as under FSDP.
        self.named = {f"{self.rank}.{n}": t for n, t in self.state.items()}
        self.future: Any = None

    def path(self, step: int) -> Path:
        """One folder for all ranks."""
        return self.folder / f"step-{step}"

    def save(self, step: int) -> float:
        """The whole save, or the call."""
        import torch.distributed.checkpoint as dcp

        writer = dcp.FileSystemWriter(self.path(step), thread_count=self.threads)
        start_s = time.perf_counter()
        if self.process is None:
            dcp.save(self.named, storage_writer=writer, no_dist=self.world == 1)
        else:
            from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

            how = (
                AsyncCheckpointerType.PROCESS
                if self.process == "process"
                else AsyncCheckpointerType.THREAD
            )
            self.future = dcp.async_save(
                self.named, storage_writer=writer, async_checkpointer_type=how
            )
        return time.perf_counter() - start_s

    def wait(self) -> None:
        """The future."""
        if self.future is not None:
            getattr(self.future, "upload_completion", self.future).result()

    def load(self, step: int) -> None:
        """Into the tensors given."""
        import torch.distributed.checkpoint as dcp

        reader = dcp.FileSystemReader(self.path(step))
        dcp.load(self.named, storage_reader=reader, no_dist=self.world == 1)

    def drop(self, step: int) -> None:
        """Once, by rank 0."""
        barrier()
        if self.rank == 0:
            super().drop(step)


class DcpThreads(Dcp):
    """Four threads."""

    threads = 4


class DcpAsync(Dcp):
    """async_save in a thread."""

    process = "thread"


class DcpAsyncCached(DcpAsync):
    """The same at its best: a stager that keeps its memory, and four threads to write."""

    threads = 4
    stager: Any = None

    def save(self, step: int) -> float:
        """The call, and the staging that torch may leave to a thread of its own."""
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        if self.stager is None:
            self.stager = DefaultStager(StagingOptions(False, True, False, False))
        writer = dcp.FileSystemWriter(self.path(step), thread_count=self.threads)
        start_s = time.perf_counter()
        self.future = dcp.async_save(self.named, storage_writer=writer, async_stager=self.stager)
        if hasattr(self.future, "staging_completion"):
            self.future.staging_completion.result()
        return time.perf_counter() - start_s


class BurstDcp(Dcp):
    """``dcp.async_save`` with this project's writer: what users of torch's own API call."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        from weftline.burst.pytorch import BurstStorageWriter

        self.writer = BurstStorageWriter(self.folder / "store")

    def save(self, step: int) -> float:
        """The call."""
        import torch.distributed.checkpoint as dcp

        start_s = time.perf_counter()
        self.future = dcp.async_save(
            self.named, storage_writer=self.writer,
            checkpoint_id=self.folder / f"store/step-{step}",
        )  # fmt: skip
        return time.perf_counter() - start_s

    def settle(self) -> None:
        """Upkeep after the commit."""
        self.writer.store().wait()

    def load(self, step: int) -> None:
        """Into the tensors given."""
        import torch.distributed.checkpoint as dcp

        from weftline.burst.pytorch import BurstStorageReader

        reader = BurstStorageReader(self.folder / "store", step=step)
        dcp.load(self.named, storage_reader=reader, no_dist=self.world == 1)
        reader.close()

    def drop(self, step: int) -> None:
        """Its segments are written again."""
        barrier()
        if self.rank == 0:
            self.writer.store().gc(drop=[step])
        barrier()
        if self.rank:
            self.writer.store().gc()

    def close(self) -> None:
        """Close the store."""
        self.writer.close()


class BurstSave(BurstDcp):
    """``burst.pytorch.save(..., wait=False)``, by all ranks where there are several."""

    handle: Any = None

    def save(self, step: int) -> float:
        """The call."""
        from weftline.burst import pytorch

        store = self.writer.store()
        start_s = time.perf_counter()
        self.handle = pytorch.save(self.named, store, step=step, wait=False)
        return time.perf_counter() - start_s

    def wait(self) -> None:
        """Durable and committed."""
        self.handle.wait()


class DcpAsyncProcess(Dcp):
    """async_save in a process."""

    process = "process"


class TorchSnapshot(Contender):
    """torchsnapshot.Snapshot.take, then fsync."""

    def path(self, step: int) -> Path:
        """One folder for all ranks."""
        return self.folder / f"step-{step}"

    def drop(self, step: int) -> None:
        """Once, by rank 0."""
        barrier()
        if self.rank == 0:
            super().drop(step)

    def save(self, step: int) -> float:
        """All of it is stall."""
        from torchsnapshot import Snapshot, StateDict

        start_s = time.perf_counter()
        Snapshot.take(str(self.path(step)), {"state": StateDict(**self.state)})
        fsync_tree(self.path(step))
        return time.perf_counter() - start_s

    def load(self, step: int) -> None:
        """Into the tensors given."""
        from torchsnapshot import Snapshot, StateDict

        Snapshot(str(self.path(step))).restore({"state": StateDict(**self.state)})


class Orbax(Contender):
    """orbax.checkpoint's PyTreeCheckpointer over NumPy arrays, then fsync."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        import orbax.checkpoint as orbax

        self.saver = orbax.PyTreeCheckpointer()
        self.arrays = {n: t.numpy() for n, t in self.state.items()}

    def save(self, step: int) -> float:
        """All of it is stall."""
        start_s = time.perf_counter()
        self.saver.save(self.path(step).absolute(), self.arrays)
        fsync_tree(self.path(step))
        return time.perf_counter() - start_s

    def load(self, step: int) -> None:
        """New arrays."""
        self.saver.restore(self.path(step).absolute())


CLASSES: dict[str, Callable[..., Any]] = dict(
    zip(
        CONTENDERS,
        (Burst, BurstNew, BurstDcp, BurstSave, TorchSave, Safetensors, Dcp, DcpThreads, DcpAsync,
         DcpAsyncCached, DcpAsyncProcess, TorchSnapshot, Orbax),
        strict=True,
    )
)  # fmt: skip


def barrier() -> None:
    """All processes of a run, where there are several."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def resident_bytes(field: str) -> int:
    """A line of this process's status: ``VmRSS`` now, ``VmHWM`` the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(field)).split()[1]) * 1024


def child(args: argparse.Namespace) -> None:
    """One process of one contender: rounds of save, raw, load; prints one JSON line."""
    sys.path.insert(0, str(SRC))
    import torch
    import torch.distributed as dist

    from weftline.burst.advise.bench import RawDisk, copy_s, forget, random_state, touched_like

    folder = Path(args.dir)
    torch.manual_seed(0)
    if args.world > 1 or "async" in args.child:
        store = dist.FileStore(str(folder / "rendezvous"), args.world)
        dist.init_process_group("gloo", store=store, rank=args.rank, world_size=args.world)
    arrays = random_state(args.bytes // args.world, seed=args.rank)
    nbytes = sum(a.nbytes for a in arrays.values())
    state = {n: torch.from_numpy(a) for n, a in arrays.items()}
    raw = RawDisk(str(folder), nbytes, name=f"raw-{args.rank}")
    copied = {n: touched_like(a) for n, a in arrays.items()}
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    contender = CLASSES[args.child](folder, state, args.rank, args.world)
    rounds: list[dict[str, float]] = []
    for step in range(args.rounds + 2):
        if step == 2:
            rounds.clear()  # the first ones make files and find memory
        barrier()
        found: dict[str, float] = {}
        raw_before_s = nbytes / raw.write()
        barrier()
        copy_before_s = copy_s(arrays, copied)
        barrier()
        start_s = time.perf_counter()
        found["stall_s"] = contender.save(step)
        contender.wait()
        found["durable_s"] = time.perf_counter() - start_s
        peak = resident_bytes("VmHWM")
        contender.settle()
        barrier()  # a copy beside another's disk writes would be slower than one beside its copy
        found["copy_s"] = (copy_before_s + copy_s(arrays, copied)) / 2
        barrier()
        found["raw_write_s"] = (raw_before_s + nbytes / raw.write()) / 2
        barrier()
        raw_before_s = nbytes / raw.read()
        forget(str(folder))
        barrier()
        for name in ("cold_s", "warm_s"):
            start_s = time.perf_counter()
            contender.load(step)
            found[name] = time.perf_counter() - start_s
            barrier()
        found["raw_read_s"] = (raw_before_s + nbytes / raw.read()) / 2
        barrier()
        if step == 0:
            memory = (peak - before) / nbytes
        contender.drop(step)
        rounds.append(found)
    contender.close()
    raw.close()
    intact = all(torch.equal(state[n], torch.from_numpy(a)) for n, a in arrays.items())
    answer = {"rounds": rounds, "memory_states": memory, "intact": intact, "bytes": nbytes}
    (folder / f"answer-{args.rank}.json").write_text(json.dumps(answer))
    if dist.is_initialized():
        dist.destroy_process_group()


# --- the whole run --------------------------------------------------------------------------------


def run_contender(name: str, world: int, args: argparse.Namespace) -> list[dict[str, Any]] | str:
    """What each process of a contender measured, or why it could not."""
    folder = tempfile.mkdtemp(prefix="burst-peers-", dir=args.dir)
    python = args.python if name in ("torchsnapshot", "orbax") else sys.executable
    command = [
        python, __file__, "--dir", folder, "--child", name, "--world", str(world),
        "--bytes", str(args.bytes), "--rounds", str(args.rounds),
    ]  # fmt: skip
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PLATFORMS": "cpu",
    }
    try:
        running = [
            subprocess.Popen(
                [*command, "--rank", str(r)], env=env, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True,
            )
            for r in range(world)
        ]  # fmt: skip
        try:
            errors = [p.communicate(timeout=CHILD_TIMEOUT_S)[1] for p in running]
        except subprocess.TimeoutExpired:
            return f"not done after {CHILD_TIMEOUT_S} s"
        finally:
            for p in running:
                p.kill()
        answers = [Path(folder) / f"answer-{r}.json" for r in range(world)]
        if any(p.returncode for p in running) or not all(a.exists() for a in answers):
            lines = [line for e in errors for line in e.strip().splitlines()]
            return next((x for x in reversed(lines) if "Error" in x), "it failed")[:160]
        return [json.loads(a.read_text()) for a in answers]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def summary(answers: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over rounds of what the slowest process took, and of ratios within a round."""
    total = sum(a["bytes"] for a in answers)
    rounds = [
        {key: max(a["rounds"][i][key] for a in answers) for key in answers[0]["rounds"][0]}
        for i in range(len(answers[0]["rounds"]))
    ]

    def median(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(value(r) for r in rounds)

    return {
        "stall_s": median(lambda r: r["stall_s"]),
        "stall_copies": median(lambda r: r["stall_s"] / r["copy_s"]),
        "durable_bytes_per_s": median(lambda r: total / r["durable_s"]),
        "durable_of_raw": median(lambda r: r["raw_write_s"] / r["durable_s"]),
        "cold_load_s": median(lambda r: r["cold_s"]),
        "cold_load_of_raw": median(lambda r: r["raw_read_s"] / r["cold_s"]),
        "warm_load_s": median(lambda r: r["warm_s"]),
        "raw_write_bytes_per_s": median(lambda r: total / r["raw_write_s"]),
        "raw_read_bytes_per_s": median(lambda r: total / r["raw_read_s"]),
        "memory_states": max(a["memory_states"] for a in answers),
    }


def show(world: int, found: dict[str, dict[str, float]]) -> None:
    """One table, then the ratios that were asked for."""
    print(f"\n{world} process{'es' if world > 1 else ''}")
    print("contender           stall s  copies  durable GB/s  of raw  cold load s  of raw  "
          "warm s  memory")  # fmt: skip
    for name, f in found.items():
        print(
            f"{name:18} {f['stall_s']:8.3f} {f['stall_copies']:7.2f} "
            f"{f['durable_bytes_per_s'] / 1e9:13.3f} {f['durable_of_raw']:7.2f} "
            f"{f['cold_load_s']:12.3f} {f['cold_load_of_raw']:7.2f} {f['warm_load_s']:7.3f} "
            f"{f['memory_states']:7.2f}"
        )
    ours = found.get("burst")
    if ours is None:
        return
    print(f"raw disk: {ours['raw_write_bytes_per_s'] / 1e9:.2f} GB/s written, "
          f"{ours['raw_read_bytes_per_s'] / 1e9:.2f} read")  # fmt: skip
    for name, f in found.items():
        if name != "burst":
            print(
                f"burst / {name}: stall {ours['stall_s'] / f['stall_s']:.3f} (1/"
                f"{f['stall_s'] / ours['stall_s']:.1f}), durable throughput "
                f"{ours['durable_bytes_per_s'] / f['durable_bytes_per_s']:.2f} x, cold load "
                f"{f['cold_load_s'] / ours['cold_load_s']:.2f} x as fast"
            )


def show_growth(every: dict[str, Any], worlds: list[int]) -> None:
    """How the stall of the same state grows with the ranks that save it together."""
    one = every.get("1 processes", {})
    for world in worlds:
        for name, found in every[f"{world} processes"].items():
            if world > 1 and name in one:
                print(f"{name}: {world} ranks stall {found['stall_s'] / one[name]['stall_s']:.2f} "
                      "times as long as one with all of the state")  # fmt: skip


def main() -> None:
    """Run every contender with every number of processes, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", default=".")
    parser.add_argument("--size", default="1GB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--child")
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    sys.path.insert(0, str(SRC))
    from weftline.units import parse_bytes

    args.bytes = int(parse_bytes(args.size))
    every: dict[str, Any] = {"size_bytes": args.bytes, "rounds": args.rounds}
    for world in args.processes:
        found: dict[str, dict[str, float]] = {}
        for name in args.only:
            if name == "orbax" and world > 1:
                print("note: orbax is left out with several processes: it needs JAX's own",
                      file=sys.stderr)  # fmt: skip
                continue
            answers = run_contender(name, world, args)
            if isinstance(answers, str):
                print(f"note: {name} left out: {answers}", file=sys.stderr)
            elif not all(a["intact"] for a in answers):
                print(f"note: {name} GAVE BACK OTHER DATA", file=sys.stderr)
            else:
                found[name] = summary(answers)
        show(world, found)
        every[f"{world} processes"] = found
    show_growth(every, args.processes)
    print(json.dumps(every))


if __name__ == "__main__":
    main()
