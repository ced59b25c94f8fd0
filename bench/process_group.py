"""Our process group beside gloo, in one run: collectives, any schedule, FSDP2 and TP steps.

    python bench/process_group.py [collectives | schedules | training | emulation] [REPEATS]

Medians in microseconds with gloo's over ours; rounds of both take turns, so that a machine whose
speed drifts slows both alike. ``shared`` sums gradients that live in the group's memory. Beside
those of 64 MiB stands how fast they move bytes, as a share of plain copies that all ranks make at
once in the same rounds, and the most they could be over gloo at that speed.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
import torch.distributed as dist

from weftline.runtime.group.group import prepare, register
from weftline.runtime.group.options import GroupOptions, configure

SIZES = {"1 KB": 256, "1 MiB": 1 << 18, "64 MiB": 1 << 24}
"""Elements of fp32."""
SCHEDULES = {2: ("ring", "direct", "halving-doubling", "double-binary-tree"),
             4: ("ring", "bidirectional-ring", "bucket", "swing", "halving-doubling",
                 "double-binary-tree", "direct")}  # fmt: skip


def moved(name: str, n: int) -> float:
    """Bytes that each of ``n`` ranks reads and writes, over those of the whole buffer."""
    return {
        "staged": 4 * (n - 1) / n + 1 + 2 / n,  # put, sum to two places, read the others' sums
        "shared": 2.0,  # a part of all is read, and written to all
        "all-gather": 2 + 2 / n,
        "reduce-scatter": 2 * (n - 1) / n + 1 + 1 / n,
    }[name]


def timed(call: Callable[[], Any], group: Any, count: int) -> float:
    """Seconds of one of ``count`` calls, all ranks having begun together."""
    dist.barrier(group=group)
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count


def compared(
    calls: dict[str, tuple[Callable[[], Any], Any]], count: int, repeats: int
) -> dict[str, float]:
    """Medians over rounds in which all take turns."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for call, group in calls.values():
        timed(call, group, 1)
    for _ in range(repeats):
        for name, (call, group) in calls.items():
            took[name].append(timed(call, group, count))
    return {name: statistics.median(values) for name, values in took.items()}


def show(rank: int, what: str, found: dict[str, float], world: int = 0) -> None:
    """One line; the first entry is gloo's. With ``world`` also beside copies."""
    if rank:
        return
    base, copy = found["gloo"], found.get("copy")
    text = f"gloo {base * 1e6:9,.0f}"
    for name, s in found.items():
        if name in ("gloo", "copy"):
            continue
        text += f"  {name} {s * 1e6:9,.0f} ({base / s:.1f}x"
        if copy is not None:
            kind = what.split(maxsplit=1)[0] if name == "ours" else name
            least = copy / 2 * moved(kind, world)
            text += f", {least / s:.0%} of a copy's speed, at which {base / least:.1f}x"
        text += ")"
    print(f"  {what:22s} {text}", flush=True)


def collectives(rank: int, world: int, repeats: int, gloo: Any, ours: Any) -> None:
    """All-reduce staged and shared, all-gather, reduce-scatter."""
    for name, n in SIZES.items():
        count = 200 if n < 1 << 12 else 10 if n < 1 << 20 else 1
        large = n >= 1 << 24
        x, y, shared = torch.ones(n), torch.ones(n), torch.ones(n)
        if not ours.share(shared):
            raise SystemExit("no room in /dev/shm")
        beside = {"copy": (lambda x=x, y=y: y.copy_(x), ours)} if large else {}
        many = world if large else 0
        show(rank, f"all-reduce {name}", compared({
            "gloo": (lambda x=x: dist.all_reduce(x, group=gloo), gloo),
            "staged": (lambda x=x: dist.all_reduce(x, group=ours), ours),
            "shared": (lambda s=shared: dist.all_reduce(s, group=ours), ours), **beside,
        }, count, repeats), many)  # fmt: skip
        whole, part = torch.ones(n), torch.ones(n // world)
        show(rank, f"all-gather {name}", compared({
            "gloo": (lambda w=whole, p=part: dist.all_gather_single(w, p, group=gloo), gloo),
            "ours": (lambda w=whole, p=part: dist.all_gather_single(w, p, group=ours), ours),
            **beside,
        }, count, repeats), many)  # fmt: skip
        show(rank, f"reduce-scatter {name}", compared({
            "gloo": (lambda w=whole, p=part: dist.reduce_scatter_single(p, w, group=gloo), gloo),
            "ours": (lambda w=whole, p=part: dist.reduce_scatter_single(p, w, group=ours), ours),
            **beside,
        }, count, repeats), many)  # fmt: skip


def schedules(rank: int, world: int, repeats: int, gloo: Any, _ours: Any) -> None:
    """Every family's all-reduce of 64 MiB as a program."""
    x = torch.ones(SIZES["64 MiB"])
    groups = {}
    for name in SCHEDULES[world]:
        configure(GroupOptions(algorithm=name))
        groups[name] = dist.new_group(backend="weftline")
    configure(GroupOptions())
    calls = {"gloo": (lambda: dist.all_reduce(x, group=gloo), gloo)}
    calls |= {n: (lambda g=g: dist.all_reduce(x, group=g), g) for n, g in groups.items()}
    found = compared(calls, 1, repeats)
    for name in groups:
        show(rank, f"all-reduce 64 MiB {name}", {"gloo": found["gloo"], "ours": found[name]})


def emulation(repeats: int) -> None:
    """An emulated torus and Clos: measured beside simulated, and their ratio beside its own."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from group_ranks import met, together

    from weftline.fabric import evaluate, parse_topology
    from weftline.runtime.group.collectives import scheduled

    def work(store: Any, rank: int, ranks: int, form: str) -> list[float]:
        group = met(store, rank, ranks, network=parse_topology(form, "10MB/s", "200us"))
        x, took = torch.ones(size // 4), []
        program = group.program("all-reduce", size)
        for _ in range(repeats + 1):
            group.barrier()
            begin = time.perf_counter()
            group.run(program, x.data_ptr(), x.data_ptr(), x.numel(), 4, 0)
            took.append(time.perf_counter() - begin)
        return took[1:]

    size = 4 << 20
    for pair in (("torus:2x2", "clos:4,leaf=2,oversubscription=2"),
                 ("torus:2x4", "clos:8,leaf=4,oversubscription=2")):  # fmt: skip
        both = []
        for form in pair:
            topology = parse_topology(form, "10MB/s", "200us")
            made = scheduled(topology, "all-reduce", size)
            simulated = evaluate(topology, made, size).time_s
            with tempfile.TemporaryDirectory() as folder:
                found = together(topology.ranks, Path(folder), work, form)
            measured = statistics.median(max(each) for each in zip(*found, strict=True))
            both.append((simulated, measured))
            print(
                f"  {form:34s} {made.algorithm:14s} simulated {simulated * 1e3:6.1f} ms, "
                f"measured {measured * 1e3:6.1f} ms ({measured / simulated:.3f})",
                flush=True,
            )
        wanted, got = both[1][0] / both[0][0], both[1][1] / both[0][1]
        print(f"  Clos over torus: simulated {wanted:.3f}, measured {got:.3f} "
              f"({got / wanted - 1:+.1%})", flush=True)  # fmt: skip


def one(rank: int, world: int, port: int, what: str, repeats: int) -> None:
    """A rank."""
    torch.set_num_threads(1)
    register()
    store = dist.TCPStore("127.0.0.1", port, None, False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world,
                            timeout=timedelta(seconds=120))  # fmt: skip
    gloo, ours = dist.group.WORLD, dist.new_group(backend="weftline")
    if rank == 0:
        print(f"{world} processes on {os.cpu_count()} cores, us a call", flush=True)
    {"collectives": collectives, "schedules": schedules}[what](rank, world, repeats, gloo, ours)
    dist.destroy_process_group()


def ranks(world: int, what: str, repeats: int) -> None:
    """Fork them, and wait."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    made = [get_context("fork").Process(target=one, args=(r, world, store.port, what, repeats))
            for r in range(world)]  # fmt: skip
    for process in made:
        process.start()
    for process in made:
        process.join()


def training(repeats: int) -> None:
    """Tokens a second of FSDP2 and TP on two processes, runs of the two backends taking turns."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from runs import byte_shards, layout, own_text, recipe, trained

    from weftline.runtime.record import read_steps

    shape = {
        "model_type": "llama", "vocab_size": 256, "hidden_size": 256, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 704,
        "max_position_embeddings": 128, "tie_word_embeddings": False, "pad_token_id": None,
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    kinds = {"FSDP2": {"dp": 2, "zero": 3}, "TP": {"tp": 2}, "DDP": {"dp": 2}}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = byte_shards(root / "data", own_text())
        for name, parts in kinds.items():
            speeds: dict[str, list[float]] = {"gloo": [], "weftline": []}
            for turn in range(repeats):
                for backend, found in speeds.items():
                    run = root / f"{name}{turn}{backend}"
                    trained(recipe("llama", data, layout(**parts), config=shape, backend=backend,
                                   steps=12, sequence_parallel=False), run)  # fmt: skip
                    steps = [r.step_s for r in read_steps(run)][2:]
                    found.append(8 * 64 / statistics.median(steps))
            gloo, ours = (statistics.median(v) for v in speeds.values())
            print(f"  {name:6s} x2 gloo {gloo:7,.0f} tokens/s  ours {ours:7,.0f} "
                  f"({ours / gloo:.2f}x)", flush=True)  # fmt: skip


if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 else "collectives"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    prepare()
    if asked in ("training", "emulation"):
        {"training": training, "emulation": emulation}[asked](rounds)
    else:
        for many in (2, 4):
            ranks(many, asked, rounds)
