"""Megatron-Bridge: the model from its Hugging Face config, the plan as overrides of a recipe."""

from __future__ import annotations

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.trainers.shared import flags_text, one_script

_PRECISION = {"bf16": "bf16_mixed", "fp8": "bf16_with_fp8_current_scaling_mixed",
              "fp4": "bf16_with_nvfp4_mixed", "fp32": "fp32"}  # fmt: skip


def overrides(ask: Ask) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """``model.tensor_model_parallel_size=8`` and so on, and what cannot be said so."""
    plan = ask.train
    lay, job, notes = plan.layout, plan.job, []
    values: list[tuple[str, object]] = [
        ("model.tensor_model_parallel_size", lay.tp),
        ("model.pipeline_model_parallel_size", lay.pp),
        ("model.context_parallel_size", lay.cp),
        ("model.expert_model_parallel_size", lay.ep),
        ("model.expert_tensor_parallel_size", lay.etp),
        ("model.virtual_pipeline_model_parallel_size", lay.vp if lay.vp > 1 else "null"),
        ("model.sequence_parallel", "true" if lay.tp > 1 else "false"),
        ("model.seq_length", job.seq_len),
        ("dataset.sequence_length", job.seq_len),
        ("train.micro_batch_size", lay.micro_batch),
        ("train.global_batch_size", job.global_batch),
        ("train.train_iters", job.steps),
        ("ddp.use_distributed_optimizer", "true" if lay.zero else "false"),
        ("mixed_precision", _PRECISION[job.precision]),
    ]
    if lay.zero > 1:
        how = {2: "optim_grads", 3: "optim_grads_params"}[lay.zero]
        values += [("ddp.use_megatron_fsdp", "true"), ("ddp.data_parallel_sharding_strategy", how)]
    if lay.recompute == "selective":
        values.append(("model.recompute_granularity", "selective"))
    elif lay.recompute == "full":
        values += [("model.recompute_granularity", "full"), ("model.recompute_method", "block"),
                   ("model.recompute_num_layers", lay.recompute_layers)]  # fmt: skip
    if lay.cp > 1:
        values.append(("model.cp_comm_type", "a2a" if lay.context == "ulysses" else "p2p"))
    if lay.order == ("tp", "cp", "pp", "dp"):
        values.append(("dist.use_tp_pp_dp_mapping", "true"))
    elif lay.order != ("tp", "cp", "dp", "pp"):
        notes.append(f"Megatron has no word for the rank order {'-'.join(lay.order)}")
    if job.tune != "full":
        notes.append(f"{job.tune}: use a finetune recipe and peft.dim={job.rank}")
    if lay.schedule == "zero-bubble":
        notes.append("Megatron-Bridge has no zero-bubble schedule: it will run 1F1B")
    return [(f"{name}={value}",) for name, value in values], tuple(notes)


def command(ask: Ask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The command of one process, and what it cannot say."""
    words, notes = overrides(ask)
    recipe = ask.set("recipe") or "RECIPE"
    if recipe == "RECIPE":
        notes = (*notes, "name the recipe of your model: --set recipe=llama3_8b_pretrain_config")
    return ("python", "scripts/training/run_recipe.py", "--recipe", recipe,
            *[w for f in words for w in f]), notes  # fmt: skip


def write(ask: Ask) -> Written:
    """``bridge.overrides`` and a script for one process."""
    words, notes = overrides(ask)
    recipe = ask.set("recipe") or "RECIPE"
    line = f'python scripts/training/run_recipe.py --recipe {recipe} $(cat bridge.overrides) "$@"'
    return one_script(ask, "bridge.overrides", flags_text(words), line, notes)


TARGET = Target(
    name="megatron-bridge", title="Megatron-Bridge", kinds=("train",), version="0.3.1",
    date="2026-11-30", source="megatron_bridge 0.3.1 wheel, training/config.py and recipes/",
    checked="not checked", how="names read in the wheel; its parser needs the GPU stack",
    maps=(
        Mapped(what="tp, pp, cp, ep, etp, vp", where="model.*_parallel_size"),
        Mapped(what="ZeRO stage", where="ddp.use_distributed_optimizer, ddp.use_megatron_fsdp"),
        Mapped(what="batch, sequence, steps", where="train.*, model.seq_length"),
        Mapped(what="recomputation, precision", where="model.recompute_*, mixed_precision"),
    ),
    cannot=("zero-bubble schedule", "rank orders beside tp-cp-dp-pp and tp-cp-pp-dp"),
    write=write, settings={"recipe": ("", "the recipe function of your model")},
)  # fmt: skip
