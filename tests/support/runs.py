"""Small runs for tests: real text as bytes, tiny random models, all ranks under the supervisor."""

from __future__ import annotations

import hashlib
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from weftline.runtime.keep.supervise import Outcome
from weftline.runtime.record import read_steps
from weftline.runtime.run import run
from weftline.runtime.train import models
from weftline.runtime.train.recipe import Recipe
from weftline.spec import Layout

SEQUENCE = 64
SEQUENCES = 8
"""A step, whatever the layout."""
VOCAB = 256


def byte_shards(folder: Path, text: bytes, *, cuts: tuple[int, ...] = (1 << 13,)) -> Path:
    """A folder of tokens that are the bytes of ``text``, in shards cut at ``cuts``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    edges = (0, *cuts, len(text))
    for number, (a, b) in enumerate(pairwise(edges)):
        data = np.frombuffer(text[a:b], np.uint8).astype("<u2").tobytes()
        (folder / f"shard-{number}.bin").write_bytes(data)
        rows.append({"file": f"shard-{number}.bin", "tokens": b - a, "bytes": len(data),
                     "sha256": hashlib.sha256(data).hexdigest()})  # fmt: skip
    index = {"format": 1, "dtype": "uint16", "vocab": VOCAB, "tokenizer": "none",
             "tokenizer_sha256": "0" * 64, "tokens": len(text), "shards": rows}  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def own_text() -> bytes:
    """Real text that is at hand wherever the tests are, and stays as it is."""
    return (Path(__file__).parents[2] / "LICENSE").read_bytes()


def config(kind: str) -> dict[str, Any]:
    """A tiny model of a family."""
    fields: dict[str, Any] = {
        "model_type": kind, "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "intermediate_size": 128, "max_position_embeddings": 128, "tie_word_embeddings": False,
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    more: dict[str, dict[str, Any]] = {
        "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        "gemma": {"tie_word_embeddings": True},
        "mistral": {"sliding_window": 24},
    }
    return fields | more.get(kind, {})


def layout(**parts: Any) -> Layout:
    """A layout of ``SEQUENCES`` sequences a step, without ZeRO if not said."""
    made = {"micro_batch": 2, "zero": 0, **parts}
    made["num_micro_batches"] = SEQUENCES // made["micro_batch"] // made.get("dp", 1)
    return Layout(**made)


def recipe(kind: str, data: Path, cut: Layout, **more: Any) -> Recipe:
    """A recipe of ten steps."""
    fields = more.pop("config", None) or config(kind)
    module = models.build(models.config_of(fields), attention="eager")
    count = sum(math.prod(p.shape) for p in module.parameters())
    kept: dict[str, Any] = {
        "steps": 10,
        "backend": "weftline",
        "learning_rate": 1e-3,
        "checkpoint_every": 0,
        **more,
    }
    return Recipe(
        model=kind, config=fields, parameters=count, flops_per_token=6.0 * count, layout=cut,
        seq_len=SEQUENCE, data=str(data), **kept,
    )  # fmt: skip


def trained(made: Recipe, folder: Path, heard: list[dict[str, Any]] | None = None) -> Outcome:
    """Run it to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    return run(made, folder, say=(lambda _: None) if heard is None else heard.append)


def losses(folder: Path) -> list[float]:
    """Of every step, each as it was done last."""
    return [record.loss for record in read_steps(folder)]
