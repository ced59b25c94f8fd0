"""One process beside a plain loop, transformers' Trainer and llm.c: losses, and tokens a second.

    python bench/train_beside.py DATA losses FILE [STEPS [SEEDS [FIRST]]]   weights of SEEDS seeds
    python bench/train_beside.py DATA same [STEPS]      both from the same weights, step by step
    python bench/train_beside.py DATA speed [ROUNDS]    steps in turn, so that loads hit all alike
    LLMC=folder python bench/train_beside.py DATA llmc  its CPU trainer and ours on one GPT

DATA is a folder that ``weftline prepare stdlib`` wrote (made where it is not there). A Llama of
13.8M parameters, eight sequences of 128 tokens a step in fp32, one thread. The plain loop is what a
reader would write in one file: torch's own modules, no framework. llm.c's source is not fetched:
give a clone of github.com/karpathy/llm.c; without one its line is left out and said to be.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from weftline.runtime.data.prepare import prepare
from weftline.runtime.data.shards import Shards, open_shards
from weftline.runtime.train import models
from weftline.runtime.train.recipe import Recipe
from weftline.runtime.train.trainer import Trainer
from weftline.spec import Layout

HIDDEN, LAYERS, HEADS, MLP, VOCAB, TOKENS, BATCH = 384, 6, 6, 1024, 4096, 128, 8
RATE, WARMUP, DECAY, CLIP = 1e-3, 10, 0.1, 1.0
CONFIG = {
    "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "intermediate_size": MLP,
    "max_position_embeddings": TOKENS, "tie_word_embeddings": False, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None, "rms_norm_eps": 1e-5,
}  # fmt: skip
GPT = {
    "model_type": "gpt2", "vocab_size": VOCAB, "n_positions": TOKENS, "n_embd": HIDDEN,
    "n_layer": LAYERS, "n_head": HEADS, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
STEPS = 60
Step = Callable[[int], float]


class Block(nn.Module):
    """A layer of the plain loop's model."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.RMSNorm(HIDDEN, eps=1e-5) for _ in range(2))
        self.q, self.k, self.v, self.o = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(HIDDEN, MLP, bias=False) for _ in range(2))
        self.down = nn.Linear(MLP, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden) -> the same."""
        h = self.first(x)
        q, k, v = (p(h).view(len(x), -1, HEADS, HIDDEN // HEADS).transpose(1, 2)
                   for p in (self.q, self.k, self.v))  # fmt: skip
        q, k = (t * cos + torch.cat(t.chunk(2, -1)[::-1], -1) * sin for t in (q, k))
        a = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).flatten(2))
        h = self.second(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


class Plain(nn.Module):
    """The same Llama in forty lines."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, eps=1e-5)
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)
        half = HIDDEN // HEADS // 2
        angle = torch.outer(torch.arange(TOKENS).float(), 10000.0 ** (-torch.arange(half) / half))
        self.cos = angle.cos().repeat(1, 2)
        self.sin = torch.cat([-angle.sin(), angle.sin()], 1)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(batch, tokens) -> logits."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        out: torch.Tensor = self.head(self.norm(x))
        return out


def batch(shards: Shards, step: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and targets, the same for everyone."""
    drawn = torch.from_numpy(shards.sequences(step, range(BATCH), seq_len=TOKENS, seed=seed))
    return drawn[:, :-1], drawn[:, 1:]


def rate(step: int) -> float:
    """Of the learning, after a warm-up."""
    return RATE * min(1.0, (step + 1) / WARMUP)


def plain(
    shards: Shards, seed: int, model: Plain | None = None, *, drawn: int | None = None
) -> Step:
    """The single-file loop, on random weights of that seed or on a model that is given.

    ``drawn`` is the seed of the batches; the same if not given.
    """
    torch.manual_seed(seed)
    model = model or Plain()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)

    def step(number: int) -> float:
        ids, targets = batch(shards, number, seed if drawn is None else drawn)
        loss = functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = rate(number)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def ours(
    shards: Shards, seed: int, config: dict[str, Any] = CONFIG,
    shape: tuple[int, int] = (BATCH, TOKENS), *, drawn: int | None = None,
) -> Step:  # fmt: skip
    """A step of :func:`trainer_of`; ``drawn`` is the seed of the batches, the same if not given."""
    trainer = trainer_of(seed, config, shape)

    def step(number: int) -> float:
        found = trainer.batch(shards, number) if drawn is None else batch(shards, number, drawn)
        return trainer.step(*found, number, stop=False).loss

    return step


def trainer_of(
    seed: int, config: dict[str, Any] = CONFIG, shape: tuple[int, int] = (BATCH, TOKENS)
) -> Trainer:
    """Our trainer as a rank has it; ``shape`` is sequences and tokens of a step."""
    count = sum(math.prod(p.shape) for p in
                models.build(models.config_of(config), attention="eager").parameters())  # fmt: skip
    recipe = Recipe(
        model="llama", config=config, parameters=count, flops_per_token=6.0 * count,
        layout=Layout(zero=0, micro_batch=shape[0]), seq_len=shape[1], steps=10**6, seed=seed,
        learning_rate=RATE, warmup_steps=WARMUP, schedule="constant", weight_decay=DECAY,
        clip_norm=CLIP,
    )  # fmt: skip
    with models.quietly():
        return Trainer(recipe)


class TheirTrainer:
    """transformers' Trainer in a thread of its own, let go one step at a time."""

    def __init__(self, shards: Shards, seed: int, steps: int, folder: str) -> None:
        import transformers

        go, done = threading.Event(), threading.Event()
        self.go, self.done = go, done

        class Turns(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                go.wait()
                go.clear()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                done.set()

        class Rows(torch.utils.data.Dataset[Any]):
            def __len__(self) -> int:
                return steps * BATCH

            def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
                row = shards.sequences(index // BATCH, range(index % BATCH, index % BATCH + 1),
                                       seq_len=TOKENS - 1, seed=seed)[0]  # fmt: skip
                return {"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)}

        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(models.config_of(CONFIG))
        asked = transformers.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=BATCH, max_steps=steps, use_cpu=True,
            learning_rate=RATE, weight_decay=DECAY, max_grad_norm=CLIP, adam_beta2=0.95,
            save_strategy="no", logging_strategy="no", report_to=[], optim="adamw_torch_fused",
            disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(model=model, args=asked, train_dataset=Rows(),
                                       callbacks=[Turns()])  # fmt: skip
        threading.Thread(target=trainer.train, daemon=True).start()

    def __call__(self, _number: int) -> float:
        self.go.set()
        self.done.wait()
        self.done.clear()
        return math.nan


def same(shards: Shards, steps: int) -> None:
    """Both from one set of weights: how far their losses ever lie apart."""
    trainer, copied = trainer_of(0), Plain()
    theirs = {name.removeprefix("model."): p for name, p in trainer.named.items()}
    ends = {"embed": "embed_tokens", "norm": "norm", "head": "lm_head"}
    inner = {"first": "input_layernorm", "second": "post_attention_layernorm",
             **{n: f"self_attn.{n}_proj" for n in "qkvo"},
             **{n: f"mlp.{n}_proj" for n in ("gate", "up", "down")}}  # fmt: skip
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            *block, part, kind = name.split(".")
            known = f"layers.{block[1]}.{inner[part]}" if block else ends[part]
            parameter.copy_(theirs[f"{known}.{kind}"])
    step = plain(shards, 0, copied)
    mine, gaps = [], []
    for number in range(steps):
        mine.append(trainer.step(*trainer.batch(shards, number), number, stop=False).loss)
        gaps.append(mine[-1] - step(number))
    end, apart = statistics.mean(mine[-10:]), statistics.mean(gaps[-10:])
    print(f"{steps} steps from the same weights: mean of the last ten {end:.4f}, {apart:+.1e} from "
          f"the plain loop's; at most {max(map(abs, gaps)):.1e} apart at any step")  # fmt: skip


def losses(shards: Shards, steps: int, file: Path, seeds: range) -> None:
    """The same batches on weights of several seeds: the mean of the last ten steps of each.

    Only the weights are drawn anew, so that a difference of the means is one of the trainers, and
    its standard error that of two independent samples (Welch). Rows of ``file`` are not run again.
    """
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["name"], row["seed"], row["steps"]) for row in found}
    for seed in seeds:
        tried: dict[str, Callable[[], Step]] = {
            "ours": partial(ours, shards, seed, drawn=0),
            "plain loop": partial(plain, shards, seed, drawn=0),
        }
        for name, make in tried.items():
            if (name, seed, steps) in done:
                continue
            step = make()
            seen = [step(number) for number in range(steps)]
            row = {"name": name, "seed": seed, "steps": steps, "first": seen[0],
                   "loss": statistics.mean(seen[-10:])}  # fmt: skip
            found.append(row)
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(f"seed {seed} {name}: {seen[0]:.3f} -> {row['loss']:.4f}", flush=True)
    mine, theirs = ([r["loss"] for r in found if r["name"] == n and r["steps"] == steps]
                    for n in ("ours", "plain loop"))  # fmt: skip
    if min(len(mine), len(theirs)) < 2:
        return
    gap = statistics.mean(mine) - statistics.mean(theirs)
    error = math.hypot(*(statistics.stdev(v) / math.sqrt(len(v)) for v in (mine, theirs)))
    print(f"after {steps} steps: ours {statistics.mean(mine):.4f} of {len(mine)} seeds, plain "
          f"{statistics.mean(theirs):.4f} of {len(theirs)}; seeds spread "
          f"{statistics.stdev(mine):.4f} and {statistics.stdev(theirs):.4f}; ours lies "
          f"{gap:+.4f} +- {error:.4f} from it")  # fmt: skip


def speed(shards: Shards, rounds: int) -> None:
    """Steps in turn, in another order each round; medians, tokens a second of one core."""
    with tempfile.TemporaryDirectory() as folder:
        tried: dict[str, Any] = {"ours": ours(shards, 0), "plain loop": plain(shards, 0)}
        with contextlib.suppress(ImportError):
            tried["transformers' Trainer"] = TheirTrainer(shards, 0, rounds + 1, folder)
        took: dict[str, list[float]] = {name: [] for name in tried}
        for number in range(rounds):
            names = list(tried)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                begin = time.perf_counter()
                tried[name](number)
                took[name].append(time.perf_counter() - begin)
        mine = took["ours"][2:]
        for name, seconds in took.items():
            ratios = [b / a for a, b in zip(mine, seconds[2:], strict=True)]
            print(f"{name:<22} {BATCH * TOKENS / statistics.median(seconds[2:]):7.0f} tokens/s; "
                  f"ours is {statistics.median(ratios):.2f} times as fast")  # fmt: skip


def llmc(shards: Shards) -> None:
    """llm.c's train_gpt2 on random weights, and ours on transformers' GPT-2 of that shape."""
    source = os.environ.get("LLMC")
    if not source:
        print("llm.c: LLMC names no clone of its source; left out")
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _gpt_files(place, shards)
        flags = ["-O3", "-march=native", "-fno-finite-math-only", "-Wno-unused-result", "-DOMP"]
        subprocess.run(["gcc", *flags, "-ffast-math", "-fno-finite-math-only",
                        str(Path(source) / "train_gpt2.c"), "-I", source, "-lm", "-o",
                        str(place / "gpt")], check=True, capture_output=True)  # fmt: skip
        said = subprocess.run(
            [str(place / "gpt")], cwd=place, capture_output=True, text=True, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ).stdout  # fmt: skip
    times = [float(line.split("took ")[1].split(" ms")[0]) for line in said.splitlines()
             if line.startswith("step ") and "took" in line]  # fmt: skip
    if not times:
        print(f"llm.c: no steps\n{said[-500:]}")
        return
    step = ours(shards, 0, GPT, (4, 64))
    mine = []
    for number in range(len(times)):
        begin = time.perf_counter()
        step(number)
        mine.append(time.perf_counter() - begin)
    theirs_s, ours_s = statistics.median(times[2:]) / 1e3, statistics.median(mine[2:])
    count = VOCAB * HIDDEN + LAYERS * 12 * HIDDEN**2
    print(f"a GPT of {count / 1e6:.1f}M, tied head, 4 x 64 tokens a step, one core: "
          f"llm.c {256 / theirs_s:.0f} tokens/s ({6 * count * 256 / theirs_s / 1e9:.1f} GFLOP/s), "
          f"ours {256 / ours_s:.0f}: {theirs_s / ours_s:.2f} times as fast")  # fmt: skip


def _gpt_files(place: Path, shards: Shards) -> None:
    """A checkpoint of random weights and tokens, as llm.c reads them (train_gpt2.py writes)."""
    header = np.zeros(256, np.int32)
    header[:8] = (20240326, 3, TOKENS, VOCAB, LAYERS, HEADS, HIDDEN, VOCAB)
    h, n = HIDDEN, LAYERS
    sizes = [VOCAB * h, TOKENS * h, n * h, n * h, n * 3 * h * h, n * 3 * h, n * h * h, n * h, n * h,
             n * h, n * 4 * h * h, n * 4 * h, n * 4 * h * h, n * h, h, h]  # fmt: skip
    maker = np.random.default_rng(0)
    with (place / "gpt2_124M.bin").open("wb") as out:
        out.write(header.tobytes())
        for size in sizes:
            out.write((maker.standard_normal(size) * 0.02).astype(np.float32).tobytes())
    data = place / "dev" / "data" / "tinyshakespeare"
    data.mkdir(parents=True)
    tokens = shards.read(0, 200_000).astype(np.uint16)
    for name in ("train", "val"):
        top = np.zeros(256, np.int32)
        top[:3] = (20240520, 1, len(tokens))
        (data / f"tiny_shakespeare_{name}.bin").write_bytes(top.tobytes() + tokens.tobytes())
    # A tokenizer of one-letter words: its words are looked at by nobody.
    top = np.zeros(256, np.int32)
    top[:4] = (20240328, 2, VOCAB, 0)
    (place / "gpt2_tokenizer.bin").write_bytes(top.tobytes() + b"\x01a" * VOCAB)


def main() -> None:
    """DATA and what to do."""
    data, kind, *rest = sys.argv[1:]
    torch.set_num_threads(1)
    if not (Path(data) / "index.json").is_file():
        prepare(["stdlib"], Path(data), vocab=VOCAB)
    shards = open_shards(Path(data), seq_len=TOKENS)
    if kind == "losses":
        steps, seeds, first = (int(v) for v in (*rest[1:], *(STEPS, 3, 0)[len(rest[1:]) :]))
        losses(shards, steps, Path(rest[0]), range(first, first + seeds))
    elif kind == "same":
        same(shards, int(rest[0]) if rest else STEPS)
    elif kind == "speed":
        speed(shards, int(rest[0]) if rest else 20)
    else:
        llmc(shards)


if __name__ == "__main__":
    main()
