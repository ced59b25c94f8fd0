"""Seconds from a kill to the first step done again, and whether a bit of any loss was lost.

    python bench/train_recovery.py [KILLS]

Two ranks of a 10M Llama on bytes of this project's licence, FSDP2; a random rank is killed
at random moments. Prints each time, their median and worst, beside the median step: on a
machine that others load, both grow alike.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from runs import VOCAB, byte_shards, layout, losses, own_text, recipe

from weftline.runtime.keep import inject
from weftline.runtime.run import run

SHAPE = {
    "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 6, "intermediate_size": 1024,
    "max_position_embeddings": 128, "tie_word_embeddings": False, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def main(kills: int) -> None:
    """Kill, measure, compare with the run that nobody disturbed."""
    rng = random.Random(1)  # noqa: S311  (which rank, and when)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = recipe("llama", byte_shards(root / "data", own_text()), layout(dp=2, zero=3),
                      config=SHAPE, steps=4 * kills + 6, checkpoint_every=2)  # fmt: skip
        took: list[float] = []
        killed: list[float] = []
        steps: list[float] = []

        def listen(event: dict[str, Any]) -> None:
            if event["kind"] != "step":
                return
            steps.append(event["end"] - event["begin"])
            if killed and event["generation"] == len(took) + 1:
                took.append(event["end"] - killed.pop())
            elif not killed and len(took) < kills and event["step"] >= 4 * len(took) + 3:
                time.sleep(rng.random() * 0.2)
                killed.append(time.time())
                inject.kill(root / "killed", rng.randrange(2))

        for name in ("killed", "whole"):
            (root / name).mkdir()
        outcome = run(made, root / "killed", say=listen)
        run(made, root / "whole", say=lambda _: None)
        same = losses(root / "killed") == losses(root / "whole")
        print(f"{made.parameters / 1e6:.1f}M parameters, 2 ranks, {outcome.shares.failures} kills")
        print(f"kill to first step done again: {[round(t, 2) for t in took]} s; "
              f"median {statistics.median(took):.2f}, worst {max(took):.2f}")  # fmt: skip
        print(f"median step {statistics.median(steps):.2f} s; losses bit-equal: {same}")
        shares = outcome.shares
        print(f"ledger adds up to {sum(shares.seconds.values()) / shares.wall_s:.6f} of wall; "
              f"goodput {shares.goodput:.1%}, forecast {shares.forecast:.1%}")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
