"""Step time and memory of layouts on this machine, predicted from measurements, beside the runs.

    python bench/predict_here.py interleaved [NAME ...]      operators beside steps, in turn
    python bench/predict_here.py forecast FILE [NAME ...]    operators of all, written to FILE
    python bench/predict_here.py runs FILE [NAME ...]        then real runs, beside that file
    python bench/predict_here.py memory [NAME ...]           memory alone, which no load disturbs

Twelve layouts of two models (Llama 13.8M, Qwen3 8.4M) on one, two and four processes. Interleaved:
the plan's operators, its layout with few layers, and its whole step, in turn, medians of each.
Forecast: as ``weftline calibrate --plan`` and, later, ``weftline train``; errors stand plain and
scaled by a reference product that was timed beside both. A loud machine is named.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from runs import own_text

from weftline.runtime.compare import measured_run
from weftline.runtime.data.prepare import prepare
from weftline.runtime.measure.calibrate import measure_plan, memory_of, ranks_found
from weftline.runtime.measure.forecast import forecast
from weftline.runtime.measure.loud import Noise
from weftline.runtime.measure.work import measuring
from weftline.runtime.record import read_steps
from weftline.runtime.run import run
from weftline.runtime.train import models
from weftline.runtime.train.recipe import Recipe, write_recipe
from weftline.spec import Layout

LLAMA = {
    "model_type": "llama", "vocab_size": 4096, "hidden_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 6, "intermediate_size": 1024,
    "max_position_embeddings": 512, "tie_word_embeddings": False, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
QWEN = LLAMA | {
    "model_type": "qwen3", "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 768,
}  # fmt: skip
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (LLAMA, {}),
    "llama, recomputed": (LLAMA, {"recompute": "full"}),
    "llama ddp x2": (LLAMA, {"dp": 2}),
    "llama fsdp x2": (LLAMA, {"dp": 2, "zero": 3}),
    "llama tp x2": (LLAMA, {"tp": 2}),
    "llama pp x2": (LLAMA, {"pp": 2}),
    "llama cp x2": (LLAMA, {"cp": 2}),
    "qwen": (QWEN, {}),
    "qwen zero-bubble x2": (QWEN, {"pp": 2, "schedule": "zero-bubble"}),
    "qwen fsdp x4": (QWEN, {"dp": 4, "zero": 3}),
    "qwen fsdp x tp, 2 x 2": (QWEN, {"dp": 2, "tp": 2, "zero": 3}),
    "qwen ddp x pp, 2 x 2": (QWEN, {"dp": 2, "pp": 2}),
}
SECONDS = float(os.environ.get("SECONDS_EACH", "20"))


def recipe_of(name: str, data: Path | None = None) -> Recipe:
    """Eight sequences of 128 tokens a step, two a micro-batch, one thread a rank."""
    fields, parts = LAYOUTS[name]
    layout = Layout(**({"zero": 0, "micro_batch": 2} | parts
                       | {"num_micro_batches": 4 // parts.get("dp", 1)}))  # fmt: skip
    module = models.build(models.config_of(fields), attention="eager")
    count = sum(math.prod(p.shape) for p in module.parameters())
    return Recipe(
        model=name, config=fields, parameters=count, flops_per_token=6.0 * count, layout=layout,
        seq_len=128, steps=16, checkpoint_every=0, data=str(data or ""), profile_step=0,
        threads=1, sequence_parallel=layout.tp > 1,
    )  # fmt: skip


def interleaved(names: list[str]) -> None:
    """Predicted and measured in the same rounds."""
    errors = []
    for name in names:
        recipe, noise = recipe_of(name), Noise()
        found = ranks_found(recipe, measuring(SECONDS, deep=True))
        predicted = sum(forecast(recipe, found).values())
        steps = [[r["step"] for r in rank["rows"]["deep"]] for rank in found]
        measured = max(float(np.median(s)) for s in steps)
        errors.append(predicted / measured - 1)
        loud = noise.judge(found[0]["rows"]["reference"]).reasons
        print(f"{name:<24} {predicted:7.3f} {measured:7.3f} s {errors[-1]:+7.1%}  "
              f"{len(steps[0])} rounds  {'; '.join(loud)}", flush=True)  # fmt: skip
    print(f"MAPE {np.mean(np.abs(errors)):.1%} of {len(errors)}, bias {np.mean(errors):+.1%}")


def memory(names: list[str]) -> None:
    """Bytes of the fullest rank as predicted, and what a run has held that saves on its way."""
    errors = []
    with tempfile.TemporaryDirectory() as folder:
        data = tokens_in(Path(folder))
        for name in names:
            recipe = replace(recipe_of(name, data), steps=6, checkpoint_every=3)
            predicted = memory_of(recipe)
            place = Path(folder) / name
            place.mkdir()
            run(recipe, place, say=lambda _: None)
            measured = max(r.memory_peak_bytes for r in read_steps(place))
            errors.append(predicted / measured - 1)
            print(f"{name:<24} {predicted / 1e6:6.0f} {measured / 1e6:6.0f} MB {errors[-1]:+.1%}",
                  flush=True)  # fmt: skip
    print(f"MAPE {np.mean(np.abs(errors)):.1%} of {len(errors)}, "
          f"worst {max(np.abs(errors)):.1%}")  # fmt: skip


def tokens_in(folder: Path) -> Path:
    """A small real text as tokens."""
    text = folder / "text.txt"
    text.write_bytes(own_text())
    prepare([str(text)], folder / "data", vocab=512)
    return folder / "data"


def forecasts(file: Path, names: list[str]) -> None:
    """What the operators say, kept for later."""
    kept = json.loads(file.read_text()) if file.is_file() else {}
    today = datetime.now(UTC).date().isoformat()
    for name in names:
        found = measure_plan(recipe_of(name), today=today, seconds=SECONDS)
        kept[name] = asdict(found) | {"step_s": found.step_s}
        file.write_text(json.dumps(kept, indent=1))
        print(f"{name:<24} {found.step_s:7.3f} s  {'; '.join(found.loud)}", flush=True)


def runs(file: Path, names: list[str]) -> None:
    """Real runs beside what was forecast."""
    kept = json.loads(file.read_text())
    plain, scaled, held = [], [], []
    quiet: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        data = tokens_in(Path(folder))
        for name in names:
            made, place = recipe_of(name, data), Path(folder) / name
            place.mkdir()
            write_recipe(made, place)
            run(made, place, say=lambda _: None)
            seen, said = measured_run(place, ""), kept[name]
            ratio = (seen.reference_s or 1.0) / said["reference_s"]
            plain.append(said["step_s"] / seen.step_s - 1)
            scaled.append(said["step_s"] * ratio / seen.step_s - 1)
            held.append(said["memory_bytes"] / seen.memory_bytes - 1)
            quiet += [] if said["loud"] else scaled[-1:]
            print(f"{name:<24} {said['step_s']:7.3f} {seen.step_s:7.3f} s {plain[-1]:+7.1%}, "
                  f"scaled {scaled[-1]:+7.1%}; memory {said['memory_bytes'] / 1e6:.0f} "
                  f"{seen.memory_bytes / 1e6:.0f} MB {held[-1]:+.1%}", flush=True)  # fmt: skip
    # `weftline calibrate` keeps the quiet ones alone, unless it is told otherwise.
    rows = [("step", plain), ("scaled", scaled), ("memory", held)]
    for what, errors in [*rows, *([("scaled, calibrated in quiet", quiet)] if quiet else [])]:
        print(f"{what}: MAPE {np.mean(np.abs(errors)):.1%} of {len(errors)}, "
              f"bias {np.mean(errors):+.1%}, worst {max(np.abs(errors)):.1%}")  # fmt: skip


if __name__ == "__main__":
    kind, *rest = sys.argv[1:] or ["interleaved"]
    if kind in ("interleaved", "memory"):
        {"interleaved": interleaved, "memory": memory}[kind](rest or list(LAYOUTS))
    else:
        {"forecast": forecasts, "runs": runs}[kind](Path(rest[0]), rest[1:] or list(LAYOUTS))
