"""NeuronX Distributed Training: the plan as its YAML."""

from __future__ import annotations

from weftline.launch.environment import as_shell, environment_of
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.yaml_text import yaml_text


def document(ask: Ask) -> tuple[dict[str, object], tuple[str, ...]]:
    """The configuration, and what it cannot say."""
    plan = ask.train
    lay, job, notes = plan.layout, plan.job, []
    found: dict[str, object] = {
        "name": ask.name, "model_source": "hf",
        "trainer": {"devices": ask.per_host, "num_nodes": ask.nodes, "max_steps": job.steps},
        "distributed_strategy": {
            "tensor_model_parallel_size": lay.tp, "pipeline_model_parallel_size": lay.pp,
            "context_parallel_size": lay.cp, "expert_model_parallel_size": lay.ep,
            "virtual_pipeline_model_parallel_size": lay.vp,
            "zero1": lay.zero >= 1, "sequence_parallel": lay.tp > 1,
        },
        "data": {"micro_batch_size": lay.micro_batch, "global_batch_size": job.global_batch,
                 "seq_length": job.seq_len},
        "model": {
            "max_position_embeddings": job.seq_len,
            "activations_checkpoint_granularity": (
                None if lay.recompute == "none" else lay.recompute),
        },
        "precision": {"type": "mixed_precision" if job.precision == "bf16" else job.precision},
    }  # fmt: skip
    if lay.zero > 1:
        notes.append(f"ZeRO-{lay.zero}: NxD training has stage 1 only")
    if job.precision not in ("bf16", "fp32"):
        notes.append(f"{job.precision} training is not in NxD training's precision types")
    if lay.context == "ulysses":
        notes.append("NxD training's context parallelism goes round (ring)")
    if job.tune != "full":
        notes.append(f"{job.tune} wants the peft section of NxD training, which is yours to add")
    return found, tuple(notes)


def command(ask: Ask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The command of one process, and what it cannot say."""
    return ("python", "training_orchestrator.py", "--config-path=.",
            "--config-name=neuronx"), (*document(ask)[1], "neuronx.yaml comes from "
                                       "`weftline export --to neuronx`")  # fmt: skip


def write(ask: Ask) -> Written:
    """``neuronx.yaml`` and the environment."""
    found, notes = document(ask)
    script = (
        "#!/bin/bash\nset -eu\nsource job.env\n"
        'python training_orchestrator.py --config-path="$PWD" --config-name=neuronx "$@"\n'
    )
    files = {"neuronx.yaml": yaml_text(found), "train.sh": script,
             "job.env": as_shell(environment_of(ask))}  # fmt: skip
    return Written(files=files, start="./train.sh", notes=notes, programs=("train.sh",))


TARGET = Target(
    name="neuronx", title="NxD Training", kinds=("train",), version="1.7", date="2026-11-30",
    source="AWS Neuron documentation, NxD Training YAML configuration settings",
    checked="not checked", how="names read in the manual; the package is not on the index",
    maps=(
        Mapped(what="tp, pp, cp, ep, vp", where="distributed_strategy"),
        Mapped(what="ZeRO-1", where="distributed_strategy.zero1"),
        Mapped(what="batch, sequence, steps", where="data, trainer.max_steps"),
        Mapped(what="recomputation", where="model.activations_checkpoint_granularity"),
    ),
    cannot=("ZeRO-2 and 3", "fp8, fp4", "Ulysses"),
    write=write,
)  # fmt: skip
