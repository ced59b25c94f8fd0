"""What a user asks of a plan, and the recipe it makes: what runs here, what does not, and why."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError, InputErrors
from weftline.model import Model
from weftline.model.config import HFConfig
from weftline.model.load import config_path, load_config
from weftline.runtime.data.shards import INDEX_FILE, open_shards
from weftline.runtime.train.exchange import backend_of
from weftline.runtime.train.machine import Machine, fast_dtype
from weftline.runtime.train.options import TrainOptions
from weftline.runtime.train.recipe import Recipe
from weftline.runtime.train.smaller import fitted_layout, small_config
from weftline.spec import Layout, Plan
from weftline.spec.attention_text import parse_policy
from weftline.spec.parse import Collector

__all__ = ["recipe_of"]

_STATE_BYTES: Final = 16
"""fp32 weight, gradient and two moments of a trained parameter."""


def recipe_of(
    plan: Plan, asked: TrainOptions, machine: Machine, *, where: str, without_data: bool = False
) -> Recipe:  # fmt: skip
    """The recipe of a plan on this machine. Raises InputErrors with all that cannot be."""
    get = Collector()
    get(lambda: _check_place(plan, asked, machine, where))
    fields = get(lambda: _fields(plan, asked))
    layout = get(lambda: _layout(plan, asked, machine))
    get.raise_all()
    if fields is None or layout is None:
        raise AssertionError("the collector raises before this")
    seq_len = asked.seq or plan.job.seq_len
    vocab = None if without_data else get(lambda: _data_vocab(asked, seq_len))
    if asked.small:
        fields = small_config(fields, layout, seq_len=seq_len, vocab=vocab)
    model = get(lambda: load_config(_config(fields, where)))
    get.raise_all()
    if model is None:
        raise AssertionError("the collector raises before this")
    recipe, notes = _made(plan, asked, machine, fields, layout, model, seq_len)
    wrong = [
        *_cannot(recipe, model), *_too_large(recipe, machine),
        *_other_tokens(recipe, model, vocab, asked),
    ]  # fmt: skip
    if wrong:
        raise wrong[0] if len(wrong) == 1 else InputErrors(wrong)
    return replace(recipe, notes=notes)


def _check_place(plan: Plan, asked: TrainOptions, machine: Machine, where: str) -> None:
    """Refuse a plan for chips that are not here, unless it is to be emulated."""
    chip, chips = plan.cluster.accelerator, plan.layout.chips
    if asked.emulate or (machine.is_like(chip) and chips <= max(1, machine.chips)):
        return
    cores = machine.cores
    raise InputError(
        f"the plan is for {chips:,} x {chip}; here are {machine.about}",
        where=where,
        hint=f"`weftline export` starts it where they are; `--emulate --nproc {min(cores, chips)}` "
        "runs its layout here (with --small a small model of its kind); or plan for this machine "
        "with --chip",
    )


def _fields(plan: Plan, asked: TrainOptions) -> dict[str, Any]:
    """The fields of the model's config.json."""
    given = asked.model or asked.weights
    path = given if given is not None else config_path(plan.job.model)
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"`{plan.job.model}` has no config.json that transformers could build",
            where="--model", hint="give one: `--model config.json`",
        )  # fmt: skip
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read: {error}", where=str(file)) from None
    return found


def _config(fields: Mapping[str, Any], where: str) -> HFConfig:
    return HFConfig(json.dumps(dict(fields)), where, name=str(fields.get("model_type")))


def _layout(plan: Plan, asked: TrainOptions, machine: Machine) -> Layout:
    layout = plan.layout
    ranks = asked.nproc or layout.chips
    if ranks > 4 * machine.cores and machine.kind == "cpu":
        raise InputError(
            f"{ranks} processes are too many for {machine.cores} cores", where="--nproc",
            hint=f"--nproc {machine.cores} shrinks the layout",
        )  # fmt: skip
    micro = asked.micro_batch or (1 if asked.small else layout.micro_batch)
    batch = asked.global_batch or (8 if asked.small else layout.global_batch)
    return fitted_layout(layout, ranks, micro_batch=micro, global_batch=batch)


def _data_vocab(asked: TrainOptions, seq_len: int) -> int | None:
    if asked.data is None:
        raise InputError("say what to train on", where="--data",
                         hint="`weftline prepare TEXT... -o data`, then --data data")  # fmt: skip
    return open_shards(asked.data, seq_len=seq_len).vocab


def _made(
    plan: Plan, asked: TrainOptions, machine: Machine, fields: Mapping[str, Any], layout: Layout,
    model: Model, seq_len: int,
) -> tuple[Recipe, tuple[str, ...]]:  # fmt: skip
    own = not asked.emulate and asked.model is None and asked.weights is None
    tokens = layout.global_batch * seq_len
    steps = asked.steps or max(1, -(-plan.job.tokens // tokens))
    every = asked.checkpoint_every
    notes: list[str] = []
    dtype = asked.dtype
    if dtype == "auto":
        dtype, why = fast_dtype(plan.job.precision, machine)
        notes += [why] if why else []
    same = own and layout == plan.layout and seq_len == plan.job.seq_len
    recipe = Recipe(
        model=model.name if asked.model or asked.small else plan.job.model,
        config=dict(fields), parameters=model.parameters,
        flops_per_token=model.training_flops_per_token(seq_len), layout=layout, seq_len=seq_len,
        steps=steps, data=str(asked.data.resolve()) if asked.data else "",
        weights=str(asked.weights.resolve()) if asked.weights else "",
        dtype=dtype, device=machine.kind, backend=backend_of(asked, machine),
        algorithm=asked.algorithm or "", network=asked.network or "", link=asked.link or "",
        latency=asked.latency or "",
        policy=plan.job.policy,
        sequence_parallel=_splits(asked, layout, seq_len, model, notes), compile=asked.compile,
        optimizer="muon" if plan.job.optimizer == "muon" else "adamw",
        learning_rate=asked.lr, schedule=asked.schedule, warmup_steps=asked.warmup,
        weight_decay=asked.weight_decay, clip_norm=asked.clip,
        tune="full" if plan.job.tune == "full" else "lora", rank=plan.job.rank, seed=asked.seed,
        checkpoint_every=max(1, steps // 10) if every is None else every, keep=asked.keep,
        threads=max(1, machine.cores // layout.chips) if machine.kind == "cpu" else 1,
        profile_step=min(5, steps) if asked.profile is None else asked.profile, trace=asked.trace,
        predicted_step_s=plan.estimates["step_time"].value if same else None,
    )  # fmt: skip
    return recipe, (*notes, *_otherwise(plan, recipe))


def _splits(
    asked: TrainOptions, layout: Layout, seq_len: int, model: Model, notes: list[str]
) -> bool:
    """Whether the sequence is split between the blocks, too."""
    if layout.tp == 1 or not asked.sequence_parallel:
        return False
    tokens = seq_len // layout.cp
    if tokens % layout.tp:
        notes.append(f"{tokens} tokens do not divide by tp={layout.tp}: no sequence parallelism")
        return False
    del model
    return True


def _otherwise(plan: Plan, recipe: Recipe) -> list[str]:
    """What runs otherwise than the plan's framework does it."""
    layout, notes = recipe.layout, []
    if plan.job.precision in ("fp8", "fp4"):
        notes.append(f"{plan.job.precision} products run in {recipe.dtype}")
    if plan.job.optimizer not in ("adamw", "muon"):
        notes.append(f"{plan.job.optimizer} runs as AdamW with fp32 moments")
    if plan.job.offload:
        notes.append("optimizer states stay on the device: no offload")
    if plan.job.tune == "qlora":
        notes.append("qlora trains adapters beside fp32 weights: no 4-bit weights here")
    if layout.zero in (1, 2) and layout.cp * layout.dp > 1:
        notes.append(f"ZeRO-{layout.zero} runs as FSDP2 that keeps gathered weights for a step")
    if layout.recompute == "selective":
        notes.append("selective recomputation: attention keeps no scores, nothing to recompute")
    if layout.cp > 1:
        notes.append(f"context parallelism gathers keys and values, {layout.context} was planned")
    return notes


def _cannot(recipe: Recipe, model: Model) -> list[InputError]:
    """What transformers and torch cannot do of this layout."""
    from weftline.runtime.train.families import PIPELINED

    layout = recipe.layout
    wrong: list[InputError] = []
    if layout.pp > 1 and model.family not in PIPELINED:
        wrong.append(InputError(
            f"pipeline stages of `{model.family}` are not shown to be right here",
            hint=f"plan with --layout pp=1; shown for {', '.join(sorted(PIPELINED))}",
        ))  # fmt: skip
    if recipe.seq_len % layout.cp:
        wrong.append(InputError(f"{recipe.seq_len} tokens do not divide by cp={layout.cp}"))
    heads = recipe.config.get("num_key_value_heads") or recipe.config.get("num_attention_heads")
    if isinstance(heads, int) and heads % layout.tp:
        wrong.append(InputError(
            f"{heads} key heads do not divide by tp={layout.tp}: transformers does not repeat them",
            hint="plan with a smaller --layout tp=..",
        ))  # fmt: skip
    if recipe.tune == "lora" and not recipe.weights:
        wrong.append(InputError(
            "adapters need weights to stand beside", where="--weights",
            hint="give the folder of a model that transformers reads",
        ))  # fmt: skip
    if recipe.tune == "lora" and (layout.tp > 1 or layout.ep > 1):
        wrong.append(InputError(
            "adapters are trained without tensor and expert parallelism",
            hint="plan with --layout tp=1",
        ))  # fmt: skip
    rules = parse_policy(recipe.policy).rules if recipe.policy else ()
    if not all(rule.positional for rule in rules):
        wrong.append(InputError(
            "training under rules that select blocks is planned, not run, here", where="--policy",
            hint="plan with windows, sinks or chunks",
        ))  # fmt: skip
    wrong += _cannot_compile(recipe)
    split = layout.tp > 1 or layout.ep > 1 or (layout.zero > 0 and layout.cp * layout.dp > 1)
    if recipe.optimizer == "muon" and split:
        wrong.append(InputError(
            "Muon needs whole matrices on every rank: no tensor or expert parallelism, no ZeRO",
            where="--optimizer", hint="plan with --layout tp=1,zero=0, or take adamw",
        ))  # fmt: skip
    if layout.vp > 1 and layout.num_micro_batches % layout.pp:
        wrong.append(InputError(
            f"interleaved stages need micro-batches ({layout.num_micro_batches}) in multiples of "
            f"pp={layout.pp}", hint="another --micro-batch or --global-batch",
        ))  # fmt: skip
    return wrong


def _cannot_compile(recipe: Recipe) -> list[InputError]:
    """Why torch cannot compile this layout here; empty where it can, or is not asked to."""
    if not recipe.compile or recipe.device != "cpu":
        return []
    if recipe.layout.tp > 1:
        return [InputError(
            "torch 2.13 cannot compile tensor-parallel modules on CPUs", where="--compile",
            hint="leave it out, or plan with tp=1",
        )]  # fmt: skip
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        return [InputError(
            "torch compiles for CPUs with a C++ compiler, and there is none", where="--compile",
            hint="install g++, or leave it out",
        )]  # fmt: skip
    return []


def _too_large(recipe: Recipe, machine: Machine) -> list[InputError]:
    """The state alone, against the memory that is free now."""
    layout = recipe.layout
    per = _STATE_BYTES if recipe.tune == "full" else 4
    need = recipe.parameters * per / (layout.tp * layout.pp)
    shard = layout.shard or layout.cp * layout.dp
    # ZeRO shares moments, then gradients, then weights; what is gathered counts whole.
    need *= {0: 1.0, 1: 0.5 + 0.5 / shard, 2: 0.25 + 0.75 / shard, 3: 1 / shard}[layout.zero]
    ranks = layout.chips if machine.kind == "cpu" else 1
    if need * ranks <= machine.memory_bytes:
        return []
    return [InputError(
        f"weights, gradients and moments of {recipe.parameters / 1e9:.2f}B parameters need "
        f"{need * ranks / 1e9:.1f} GB here, {machine.memory_bytes / 1e9:.1f} GB are free",
        hint="--small makes a small model of its kind; --model takes another config.json",
    )]  # fmt: skip


def _other_tokens(
    recipe: Recipe, model: Model, vocab: int | None, asked: TrainOptions
) -> list[InputError]:
    """Data that was made with another tokenizer than the model's."""
    import hashlib

    if vocab is not None and vocab > model.vocab:
        return [InputError(
            f"the data's tokenizer has {vocab:,} entries, the model's vocabulary {model.vocab:,}",
            where=str(asked.data), hint="prepare the text again with --tokenizer of the model",
        )]  # fmt: skip
    theirs = Path(recipe.weights) / "tokenizer.json"
    if not recipe.weights or not theirs.is_file():
        return []
    index = json.loads((Path(recipe.data) / INDEX_FILE).read_text(encoding="utf-8"))
    if hashlib.sha256(theirs.read_bytes()).hexdigest() == index["tokenizer_sha256"]:
        return []
    return [InputError(
        "the data was made with another tokenizer than the weights", where=str(asked.data),
        hint=f"`weftline prepare TEXT... --tokenizer {theirs.parent}`",
    )]  # fmt: skip
