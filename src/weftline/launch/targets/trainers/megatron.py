"""Megatron-LM's arguments (``pretrain_gpt.py``): the layout, the batch and the model's sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.trainers.shared import config_of, flags_text, one_script

# Our field of a config.json -> Megatron's argument, for the decoders it builds from arguments.
_SIZES = (
    ("num_hidden_layers", "--num-layers"), ("hidden_size", "--hidden-size"),
    ("num_attention_heads", "--num-attention-heads"), ("intermediate_size", "--ffn-hidden-size"),
    ("head_dim", "--kv-channels"), ("max_position_embeddings", "--max-position-embeddings"),
    ("rope_theta", "--rotary-base"), ("rms_norm_eps", "--norm-epsilon"),
    ("num_experts", "--num-experts"), ("num_local_experts", "--num-experts"),
    ("moe_intermediate_size", "--moe-ffn-hidden-size"),
    ("num_experts_per_tok", "--moe-router-topk"),
)  # fmt: skip
_DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"})


def arguments(ask: Ask) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Flag and value of every argument, and what the arguments cannot say."""
    plan = ask.train
    lay, job, notes = plan.layout, plan.job, []
    flags: list[tuple[str, ...]] = [
        ("--tensor-model-parallel-size", str(lay.tp)),
        ("--pipeline-model-parallel-size", str(lay.pp)),
        ("--context-parallel-size", str(lay.cp)),
        ("--micro-batch-size", str(lay.micro_batch)),
        ("--global-batch-size", str(job.global_batch)),
        ("--seq-length", str(job.seq_len)),
        ("--train-iters", str(job.steps)),
    ]
    if lay.tp > 1:
        flags.append(("--sequence-parallel",))
    if lay.cp > 1:
        flags.append(("--cp-comm-type", "a2a" if lay.context == "ulysses" else "p2p"))
    if lay.ep > 1 or lay.etp > 1:
        flags += [("--expert-model-parallel-size", str(lay.ep)),
                  ("--expert-tensor-parallel-size", str(lay.etp)),
                  ("--moe-token-dispatcher-type", "alltoall")]  # fmt: skip
    if lay.vp > 1:
        flags.append(("--num-virtual-stages-per-pipeline-rank", str(lay.vp)))
    if lay.order == ("tp", "cp", "pp", "dp"):
        flags.append(("--use-tp-pp-dp-mapping",))
    elif lay.order != ("tp", "cp", "dp", "pp"):
        notes.append(f"Megatron has no word for the rank order {'-'.join(lay.order)}")
    flags += _sharding(ask)
    flags += _recompute(ask)
    if job.precision != "fp32":
        flags.append(("--bf16",))
    if job.precision == "fp8":
        flags.append(("--fp8-format", "hybrid"))
    elif job.precision == "fp4":
        flags.append(("--fp4-format", "e2m1"))
    if lay.schedule == "zero-bubble":
        notes.append("Megatron-LM has no zero-bubble schedule: it will run 1F1B")
    if job.optimizer != "adamw":
        notes.append(f"the optimizer {job.optimizer} is chosen in your own script")
    if job.tune != "full":
        notes.append(f"{job.tune} is Megatron-Bridge's, not Megatron-LM's: export to that")
    if job.offload:
        flags += [("--optimizer-cpu-offload",), ("--optimizer-offload-fraction", "1.0")]
    flags.append(("--exit-signal-handler",))
    return flags, tuple(notes)


def _sharding(ask: Ask) -> list[tuple[str, ...]]:
    lay = ask.train.layout
    over = lay.cp * lay.dp
    flags: list[tuple[str, ...]] = []
    if lay.zero == 1:
        flags += [("--use-distributed-optimizer",), ("--overlap-grad-reduce",),
                  ("--overlap-param-gather",)]  # fmt: skip
    elif lay.zero > 1:
        how = {2: "optim_grads", 3: "optim_grads_params"}[lay.zero]
        flags += [
            ("--use-distributed-optimizer",),
            ("--use-megatron-fsdp",),
            ("--data-parallel-sharding-strategy", how),
            ("--no-gradient-accumulation-fusion",),
        ]
    if lay.zero and lay.shard and lay.shard < over:
        flags.append(("--num-distributed-optimizer-instances", str(over // lay.shard)))
    return flags


def _recompute(ask: Ask) -> list[tuple[str, ...]]:
    lay = ask.train.layout
    if lay.recompute == "selective":
        return [("--recompute-granularity", "selective")]
    if lay.recompute == "full":
        return [("--recompute-granularity", "full"), ("--recompute-method", "block"),
                ("--recompute-num-layers", str(lay.recompute_layers))]  # fmt: skip
    return []


def sizes(config: Mapping[str, Any]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """The model as arguments, where Megatron builds it from arguments."""
    kind = str(config.get("model_type", ""))
    if kind not in _DECODERS:
        return [], (f"Megatron-LM's arguments for a {kind or 'model'} are yours to add: "
                    "Megatron-Bridge reads the Hugging Face config itself",)  # fmt: skip
    flags: list[tuple[str, ...]] = [
        (flag, _plain(config[name])) for name, flag in _SIZES if config.get(name) is not None
    ]
    heads = config.get("num_key_value_heads")
    if heads and heads != config.get("num_attention_heads"):
        flags += [("--group-query-attention",), ("--num-query-groups", str(heads))]
    flags += [("--swiglu",), ("--normalization", "RMSNorm"), ("--disable-bias-linear",),
              ("--position-embedding-type", "rope"), ("--use-mcore-models",)]  # fmt: skip
    if kind in ("qwen3", "qwen3_moe"):
        flags.append(("--qk-layernorm",))
    if kind == "qwen2":
        flags.append(("--add-qkv-bias",))
    if not config.get("tie_word_embeddings", False):
        flags.append(("--untie-embeddings-and-output-weights",))
    return flags, ()


def _plain(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value >= 1 else str(value)


def command(ask: Ask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The command of one process, and what it cannot say."""
    flags, notes = arguments(ask)
    model, more = sizes(config_of(ask))
    words = [word for flag in [*model, *flags] for word in flag]
    data = (
        "data and tokenizer (--data-path, --tokenizer-type, --tokenizer-model) are yours to add",
    )
    return ("python", "pretrain_gpt.py", *words), (*notes, *more, *data)


def write(ask: Ask) -> Written:
    """``megatron.args`` and a script for one process."""
    flags, notes = arguments(ask)
    model, more = sizes(config_of(ask))
    return one_script(
        ask,
        "megatron.args",
        flags_text([*model, *flags]),
        'python pretrain_gpt.py $(cat megatron.args) "$@"',
        (*notes, *more),
    )


TARGET = Target(
    name="megatron", title="Megatron-LM", kinds=("train",), version="main, d98e8a64 of 2026-08-22",
    date="2026-11-30",
    source="NVIDIA/Megatron-LM megatron/training/arguments.py",
    checked="frozen flags", how="every flag is one of arguments.py; degrees multiply to the chips",
    maps=(
        Mapped(what="tp, pp, cp, ep, etp, vp", where="--*-model-parallel-size, "
               "--num-virtual-stages-per-pipeline-rank"),
        Mapped(what="ZeRO stage, HSDP shard", where="--use-distributed-optimizer, "
               "--use-megatron-fsdp, --num-distributed-optimizer-instances"),
        Mapped(what="micro-batch, batch, sequence, steps", where="--micro-batch-size, ..."),
        Mapped(what="recomputation", where="--recompute-granularity, -method, -num-layers"),
        Mapped(what="precision", where="--bf16, --fp8-format, --fp4-format"),
        Mapped(what="rank order", where="--use-tp-pp-dp-mapping"),
        Mapped(what="model", where="sizes of dense and expert decoders from config.json"),
    ),
    cannot=("zero-bubble schedule", "LoRA, QLoRA",
            "rank orders beside tp-cp-dp-pp and tp-cp-pp-dp"),
    write=write,
)  # fmt: skip
