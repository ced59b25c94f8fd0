"""Seconds from a kill to the first step done again, and whether a bit of any loss was lost.

    python bench/train_recovery.py [KILLS] [--seed N] [LAYOUT ...]

Two ranks of a 10.8M Llama on bytes of this project's licence, about KILLS (25) a layout over fsdp
and pp: a random rank is killed at moments of a Poisson process, once in eight steps' time, also
while the last kill is recovered from. Prints each time, median and worst, beside the median step:
on a machine that others load, both grow alike. Ends with 1 where a loss differs, the ledger does
not add up, or goodput lies more than five points from the forecast.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from runs import VOCAB, byte_shards, layout, own_text, recipe

from weftline.errors import InputError
from weftline.runtime.keep import inject
from weftline.runtime.record import read_steps
from weftline.runtime.run import run

SHAPE = {
    "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 6, "intermediate_size": 1024,
    "max_position_embeddings": 128, "tie_word_embeddings": False, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


LAYOUTS: dict[str, dict[str, Any]] = {"fsdp": {"dp": 2, "zero": 3}, "pp": {"pp": 2}}
GAP_STEPS = 8
"""Mean time from one kill to the next, in steps."""
STEPS_A_KILL = 5
"""What is done for good between two kills, about: how many steps to ask for."""
IN_A_ROW = 2
"""Kills that may meet a restart before a step is taken: more, and the run gives up by rule."""


class Drill:
    """Hears a run, and kills a rank of it now and then."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)  # noqa: S311  (which rank, and when)
        self.took: list[float] = []
        self.steps: list[float] = []
        self.seen: list[str] = []
        self.open: list[float] = []
        """Moments of kills after which no step has been taken."""
        self.kills = 0
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._strikes)

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the run."""
        if event["kind"] in ("death", "hang", "nan"):
            self.seen.append(event.get("how") or event.get("why") or "nan")
        if event["kind"] == "end":
            self.over.set()
        if event["kind"] != "step":
            return
        self.steps.append(event["end"] - event["begin"])
        with self.lock:
            self.took += [event["end"] - at for at in self.open if event["begin"] > at]
            self.open = [at for at in self.open if event["begin"] <= at]
        if len(self.steps) == 2:
            self.thread.start()

    def _strikes(self) -> None:
        while not self.over.wait(
            self.rng.expovariate(1 / (GAP_STEPS * statistics.median(self.steps)))
        ):
            with self.lock:
                if len(self.open) > IN_A_ROW:
                    continue
                try:
                    inject.kill(self.folder, self.rng.randrange(2))
                except InputError:  # just now there is no such process: the moment passes
                    continue
                self.open.append(time.time())
                self.kills += 1


def drill(name: str, kills: int, seed: int, root: Path, data: Path) -> bool:
    """Kill, measure, compare with the run that nobody disturbed; whether all is as it should be."""
    made = recipe("llama", data, layout(**LAYOUTS[name]), config=SHAPE,
                  steps=STEPS_A_KILL * kills, checkpoint_every=2)  # fmt: skip
    hit, whole = root / f"{name}-killed", root / f"{name}-whole"
    for folder in (hit, whole):
        folder.mkdir()
    hears = Drill(hit, seed)
    outcome = run(made, hit, say=hears)
    run(made, whole, say=lambda _: None)
    here, there = ({r.step: r.loss for r in read_steps(f)} for f in (hit, whole))
    other = [step for step in there if here.get(step) != there[step]]
    same = here == there
    shares = outcome.shares
    print(f"{name}: {made.parameters / 1e6:.1f}M parameters, 2 ranks, seed {seed}, "
          f"{hears.kills} kills in {made.steps} steps; "
          f"seen: {dict(Counter(hears.seen))}")  # fmt: skip
    print(f"kill to first step done again: {[round(t, 2) for t in hears.took]} s; "
          f"median {statistics.median(hears.took):.2f}, worst {max(hears.took):.2f}")  # fmt: skip
    print(f"median step {statistics.median(hears.steps):.2f} s; losses bit-equal: {same}"
          + (f"; other at {other[:10]}" if other else ""))  # fmt: skip
    adds = sum(shares.seconds.values()) / shares.wall_s
    forecast = shares.forecast or 0.0
    print(f"ledger adds up to {adds:.6f} of wall; "
          f"goodput {shares.goodput:.1%}, forecast {forecast:.1%}", flush=True)  # fmt: skip
    print("  " + ", ".join(f"{k} {v:.1f} s" for k, v in shares.seconds.items()), flush=True)
    return same and abs(adds - 1) < 1e-6 and abs(shares.goodput - forecast) < 0.05


def main() -> int:
    """Every layout asked for."""
    asks = argparse.ArgumentParser(description="a random rank killed again and again")
    asks.add_argument("kills", nargs="?", type=int, default=25)
    asks.add_argument("--seed", type=int, default=1)
    asks.add_argument("layouts", nargs="*", default=list(LAYOUTS))
    asked = asks.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        data = byte_shards(Path(folder) / "data", own_text())
        done = [drill(name, asked.kills, asked.seed, Path(folder), data) for name in asked.layouts]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
