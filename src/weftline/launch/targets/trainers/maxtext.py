"""MaxText: the layout as ici and dcn degrees of its mesh, on the command line after base.yml."""

from __future__ import annotations

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.trainers.shared import flags_text, one_script

_RUN = "python -m maxtext.trainers.pre_train.train maxtext/configs/base.yml"
_MODELS = {"llama-3.1-8b": "llama3.1-8b", "llama-3.1-70b": "llama3.1-70b",
           "llama-3.1-405b": "llama3.1-405b", "mixtral-8x7b": "mixtral-8x7b",
           "mixtral-8x22b": "mixtral-8x22b", "deepseek-v3": "deepseek3-671b",
           "gemma-2-9b": "gemma2-9b", "gemma-2-27b": "gemma2-27b"}  # fmt: skip


def values(ask: Ask) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """``ici_fsdp_parallelism=64`` and so on, and what cannot be said so."""
    plan = ask.train
    lay, job, notes = plan.layout, plan.job, []
    name = _MODELS.get(job.model)
    if name is None:
        notes.append(f"MaxText's name for {job.model} is not known here: set model_name")
    whole = lay.dp * lay.cp
    fsdp = (lay.shard or whole) // lay.cp if lay.zero == 3 else 1
    said: list[tuple[str, object]] = [
        ("model_name", name or "MODEL"),
        ("ici_tensor_parallelism", lay.tp), ("ici_context_parallelism", lay.cp),
        ("ici_pipeline_parallelism", lay.pp), ("ici_expert_parallelism", lay.ep),
        ("ici_fsdp_parallelism", max(1, fsdp // lay.ep)),
        ("ici_data_parallelism", lay.dp // max(1, fsdp)),
        ("per_device_batch_size", lay.micro_batch * lay.dp / lay.chips),
        ("gradient_accumulation_steps", lay.num_micro_batches),
        ("max_target_length", job.seq_len), ("steps", job.steps),
        ("remat_policy", {"none": "minimal", "selective": "minimal_with_context",
                          "full": "full"}[lay.recompute]),
    ]  # fmt: skip
    if lay.pp > 1:
        said.append(("num_pipeline_microbatches", lay.num_micro_batches))
    if job.precision == "fp8":
        said.append(("quantization", "fp8"))
    if lay.cp > 1:
        said.append(("context_parallel_strategy", lay.context))
    slices = ask.set("slices") or "1"
    if slices != "1":
        said.append(("dcn_data_parallelism", slices))
    if lay.zero in (1, 2):
        notes.append(f"ZeRO-{lay.zero}: MaxText shards weights too (fsdp), or not at all")
    if lay.recompute == "full" and lay.recompute_layers:
        notes.append("MaxText recomputes every layer or none: the plan's count is not kept")
    if plan.rank_map is not None:
        notes.append("JAX orders devices itself: pass the permuted mesh of mesh.py "
                     "(devices=) to keep the plan's map")  # fmt: skip
    if job.tune != "full":
        notes.append(f"{job.tune} is not in MaxText's pre-training")
    return [(f"{key}={value}",) for key, value in said], tuple(notes)


def command(ask: Ask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The command of one process, and what it cannot say."""
    words, notes = values(ask)
    return ("python", "-m", "maxtext.trainers.pre_train.train", "maxtext/configs/base.yml",
            *[w for f in words for w in f]), notes  # fmt: skip


def write(ask: Ask) -> Written:
    """``maxtext.args`` and a script for one process."""
    words, notes = values(ask)
    line = f'{_RUN} $(cat maxtext.args) "$@"'
    return one_script(ask, "maxtext.args", flags_text(words), line, notes)


TARGET = Target(
    name="maxtext", title="MaxText", kinds=("train",), version="main, e591f30cb of 2026-08-22",
    date="2026-11-30",
    source="AI-Hypercomputer/maxtext src/maxtext/configs/base.yml",
    checked="frozen flags", how="keys held against those of base.yml",
    maps=(
        Mapped(what="tp, cp, pp, ep, dp, FSDP shard", where="ici_*_parallelism"),
        Mapped(what="batch, micro-batches, sequence, steps", where="per_device_batch_size, ..."),
        Mapped(what="recomputation", where="remat_policy"),
    ),
    cannot=("ZeRO-1 and 2", "recomputation of some layers", "rank map (JAX orders devices)"),
    write=write, settings={"slices": ("1", "TPU slices that data parallelism spans over DCN")},
)  # fmt: skip
