"""torchtitan's flags: its configurations are functions of a registry (TOML is gone since 0.2)."""

from __future__ import annotations

from typing import Final

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.trainers.shared import flags_text, one_script

# Model -> (module, configuration function) of torchtitan/models/*/config_registry.py, 0.3.0.
REGISTRY: Final = {
    "llama-3.1-8b": ("llama3", "llama3_8b"), "llama-3-8b": ("llama3", "llama3_8b"),
    "llama-3.1-70b": ("llama3", "llama3_70b"), "llama-3-70b": ("llama3", "llama3_70b"),
    "llama-3.3-70b": ("llama3", "llama3_70b"), "llama-3.1-405b": ("llama3", "llama3_405b"),
}  # fmt: skip


def arguments(ask: Ask) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Flag and value of every argument, and what the arguments cannot say."""
    plan = ask.train
    lay, job, notes = plan.layout, plan.job, []
    over = lay.shard if lay.zero and lay.shard else (lay.dp * lay.cp if lay.zero else 1)
    shard, replicate = max(1, over // lay.cp), lay.dp * lay.cp // max(over, lay.cp)
    known = REGISTRY.get(job.model)
    if known is None:
        notes.append(f"torchtitan's registry has no configuration that we know for {job.model}: "
                     "write one and name it with --module and --config")  # fmt: skip
    module, config = known or ("MODULE", "CONFIG")
    flags: list[tuple[str, ...]] = [
        ("--module", module), ("--config", config),
        ("--parallelism.tensor_parallel_degree", str(lay.tp)),
        ("--parallelism.pipeline_parallel_degree", str(lay.pp)),
        ("--parallelism.context_parallel_degree", str(lay.cp)),
        ("--parallelism.expert_parallel_degree", str(lay.ep)),
        ("--parallelism.data_parallel_shard_degree", str(shard)),
        ("--parallelism.data_parallel_replicate_degree", str(replicate)),
        ("--training.local_batch_size", str(lay.micro_batch * (lay.num_micro_batches
                                            if lay.pp > 1 else 1))),
        ("--training.global_batch_size", str(job.global_batch)),
        ("--training.seq_len", str(job.seq_len)),
        ("--training.steps", str(job.steps)),
        ("--parallelism.fsdp_reshard_after_forward", "always" if lay.zero == 3 else "never"),
    ]  # fmt: skip
    if lay.pp > 1:
        schedule = {"1f1b": "1F1B", "interleaved": "Interleaved1F1B",
                    "zero-bubble": "ZBVZeroBubble"}[lay.schedule]  # fmt: skip
        flags += [
            ("--parallelism.pipeline_parallel_schedule", schedule),
            ("--parallelism.pipeline_parallel_microbatch_size", str(lay.micro_batch)),
        ]
    if job.offload:
        flags.append(("--training.enable_cpu_offload",))
    if lay.recompute != "none":
        how = "FullAC" if lay.recompute == "full" else "SelectiveAC"
        notes.append(f"recomputation ({lay.recompute}) is set in the configuration function: "
                     f"activation_checkpoint={how}.Config()")  # fmt: skip
    if job.precision in ("fp8", "fp4"):
        notes.append(f"{job.precision} is a configuration of its own (llama3_8b_mxfp8): "
                     "name it with --config")  # fmt: skip
    if lay.zero in (1, 2):
        notes.append(f"ZeRO-{lay.zero}: torchtitan's FSDP2 shards weights too and keeps them "
                     "gathered after the forward pass")  # fmt: skip
    if lay.context == "ulysses":
        notes.append("torchtitan's context parallelism goes round (ring), not by heads")
    if lay.order != ("tp", "cp", "dp", "pp"):
        notes.append(f"torchtitan's mesh is pp-dp-cp-tp, not {'-'.join(reversed(lay.order))}: "
                     "weftline.launch.mesh() keeps the plan's order")  # fmt: skip
    if job.tune != "full":
        notes.append(f"{job.tune} is a configuration of its own in torchtitan")
    return flags, tuple(notes)


def command(ask: Ask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The command of one process, and what it cannot say."""
    flags, notes = arguments(ask)
    return ("python", "-m", "torchtitan.train", *[w for f in flags for w in f]), notes


def write(ask: Ask) -> Written:
    """``torchtitan.args`` and a script for one process."""
    flags, notes = arguments(ask)
    return one_script(ask, "torchtitan.args", flags_text(flags),
                      'python -m torchtitan.train $(cat torchtitan.args) "$@"', notes)  # fmt: skip


TARGET = Target(
    name="torchtitan", title="torchtitan", kinds=("train",), version="0.3.0", date="2026-11-30",
    source="torchtitan 0.3.0 wheel, torchtitan/config/configs.py",
    checked="frozen flags", how="flags and kinds held against the 54 of the wheel's classes",
    maps=(
        Mapped(what="tp, pp, cp, ep", where="--parallelism.*_parallel_degree"),
        Mapped(what="FSDP, HSDP shard", where="--parallelism.data_parallel_*_degree"),
        Mapped(what="batch, sequence, steps", where="--training.*"),
        Mapped(what="pipeline schedule", where="--parallelism.pipeline_parallel_schedule"),
        Mapped(what="model", where="--module, --config of its registry (Llama 3 here)"),
    ),
    cannot=("recomputation and precision (set in the configuration function)", "Ulysses",
            "virtual stages by number", "rank orders beside pp-dp-cp-tp"),
    write=write,
)  # fmt: skip
