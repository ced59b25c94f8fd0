"""How much a training step slows down while a checkpoint is being written, over many saves.

A PyTorch model trains on all cores. Blocks of steps without a save and blocks whose first step
begins with one alternate, so that a drift of the machine falls on both; a block is long enough for
its save to be durable before it ends. Slow-down: what a block with a save takes longer than the
block without beside it, the stall taken out, over the steps that the writing overlapped (at least
the one it falls in); and with the stall, over all steps.

Run: python bench/burst_step_slowdown.py --dir FOLDER [--saves 50] [--layers 8] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))


def trainer(layers: int, width: int, batch: int) -> Any:
    """A function that makes one step, and the whole state as NumPy views."""
    import torch

    torch.manual_seed(0)
    blocks = [m for _ in range(layers) for m in (torch.nn.Linear(width, width), torch.nn.GELU())]
    model = torch.nn.Sequential(*blocks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    data = torch.randn(batch, width)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(data).square().mean().backward()
        optimizer.step()

    step()
    state = {f"model.{n}": p.detach().numpy() for n, p in model.named_parameters()}
    for n, p in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            state[f"optimizer.{n}.{key}"] = optimizer.state[p][key].numpy()
    return step, state


def main() -> None:
    """Alternate blocks, print the slow-down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", default=".")
    parser.add_argument("--saves", type=int, default=50)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=640)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    import torch

    from weftline.burst import Options, Retention, Store
    from weftline.units import format_bytes, format_duration

    torch.set_num_threads(args.threads)
    step, state = trainer(args.layers, args.width, args.batch)
    nbytes = sum(a.nbytes for a in state.values())
    plain: list[float] = []
    saved: list[float] = []
    stalls: list[float] = []
    durable: list[float] = []
    with tempfile.TemporaryDirectory(prefix="burst-slowdown-", dir=args.dir) as folder:
        options = Options(retention=Retention(last=1))
        with Store.open(f"{folder}/store", options=options) as store:
            store.reserve(nbytes)
            for i in range(4):
                store.save(state, i, wait=True)
                step()
            step_s, save_s = _probe(step), store.save(state, 4, wait=True).durable_s
            store.wait()
            steps = max(1, math.ceil(1.25 * save_s / step_s))
            for i in range(args.saves):
                for with_save in (False, True) if i % 2 else (True, False):
                    start_s = time.perf_counter()
                    handle = store.save(state, 5 + i) if with_save else None
                    for _ in range(steps):
                        step()
                    (saved if with_save else plain).append(time.perf_counter() - start_s)
                    if handle is not None:
                        stalls.append(handle.stall_s + handle.queue_wait_s)
                        durable.append(handle.wait().durable_s)
                        store.wait()  # what is freed after a commit falls on no other block
    step_s = statistics.median(plain) / steps
    # What a save costs beyond its stall, over the steps it overlaps: at least the one it falls in.
    overlapped_s = [max(step_s, min(d, s)) for d, s in zip(durable, saved, strict=True)]
    extra_s = [s - p - stall for s, p, stall in zip(saved, plain, stalls, strict=True)]
    ratios = [e / o for e, o in zip(extra_s, overlapped_s, strict=True)]
    of_block = [(s - p) / p for s, p in zip(saved, plain, strict=True)]
    found = {
        "state_bytes": nbytes, "threads": args.threads, "saves": args.saves,
        "steps_a_block": steps, "step_s": step_s,
        "stall_s": statistics.median(stalls), "durable_s": statistics.median(durable),
        "slowdown_while_writing": statistics.median(ratios),
        "slowdown_while_writing_mean": sum(extra_s) / sum(overlapped_s),
        "slowdown_of_all_steps_with_stall": statistics.median(of_block),
        "slowdown_of_all_steps_with_stall_mean": sum(saved) / sum(plain) - 1,
        "quartiles_while_writing": statistics.quantiles(ratios, n=4),
    }  # fmt: skip
    print(
        f"{format_bytes(nbytes)} of state, step {format_duration(found['step_s'])} on "
        f"{args.threads} threads, {args.saves} saves: stall {format_duration(found['stall_s'])}, "
        f"durable after {format_duration(found['durable_s'])}"
    )
    print(
        f"while a save is written steps are {found['slowdown_while_writing']:+.1%} slower (median; "
        f"mean {found['slowdown_while_writing_mean']:+.1%}); with one save in {steps} steps, stall "
        f"and all, training is {found['slowdown_of_all_steps_with_stall']:+.1%} slower (median)"
    )
    print(json.dumps(found))


def _probe(step: Any) -> float:
    start_s = time.perf_counter()
    for _ in range(3):
        step()
    return (time.perf_counter() - start_s) / 3


if __name__ == "__main__":
    main()
