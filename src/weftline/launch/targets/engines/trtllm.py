"""TensorRT-LLM: ``trtllm-serve`` and its YAML for a replica of the plan."""

from __future__ import annotations

import json

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.engines.shared import (
    SETTINGS,
    model_of,
    pools_of,
    serve_folder,
    shell,
)
from weftline.launch.targets.job import FABRIC
from weftline.launch.yaml_text import yaml_text


def words_of(ask: Ask, role: str, degrees: dict[str, int]) -> tuple[list[str], dict[str, object]]:
    """The command of one worker, and the file beside it."""
    fleet = ask.serve.fleet
    tp, pp, dp, ep = (degrees.get(n, 1) for n in ("tp", "pp", "dp", "ep"))
    words = ["trtllm-serve", model_of(ask), "--tp_size", str(tp * dp), "--pp_size", str(pp),
             "--max_batch_size", str(max(1, fleet.max_batch // dp)),
             "--max_num_tokens", str(fleet.chunk_tokens)]  # fmt: skip
    if ep > 1:
        words += ["--ep_size", str(ep)]
    words += ["--extra_llm_api_options", f"llm{'-' + role if role else ''}.yaml"]
    more: dict[str, object] = {
        "enable_attention_dp": dp > 1, "enable_chunked_prefill": True,
        "kv_cache_config": {
            "enable_block_reuse": fleet.prefix_cache,
            "dtype": {"bf16": "auto", "fp8": "fp8"}.get(fleet.kv, "auto"),
        },
    }  # fmt: skip
    if fleet.weights != "bf16":
        algorithm = {
            "fp8": "FP8",
            "nvfp4": "NVFP4",
            "int4": "W4A16_AWQ",
            "int8": "W8A8_SQ_PER_CHANNEL",
            "mxfp4": "W4A8_MXFP4_FP8",
        }.get(fleet.weights)
        more |= {"quant_config": {"quant_algo": algorithm}} if algorithm else {}
    for name, value in ask.serve.launch.items():  # what the fleet was simulated with
        head, dot, tail = name.partition(".")
        if dot:
            inner = more.setdefault(head, {})
            if isinstance(inner, dict):
                inner.setdefault(tail, _typed(value))
    if role:
        more["cache_transceiver_config"] = {"backend": "UCX"}
    return words, more


def _typed(text: str) -> object:
    """A setting as YAML writes it."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def write(ask: Ask) -> Written:
    """``serve.sh`` and ``llm.yaml`` (one a role), the environment, the scaling numbers."""
    commands, notes, files = {}, [], {}
    for role, degrees, workers in pools_of(ask):
        words, more = words_of(ask, role, degrees)
        chips = degrees.get("tp", 1) * degrees.get("pp", 1) * degrees.get("dp", 1)
        before = ""
        if chips > ask.per_host:
            before = f"mpirun -n {chips} --map-by ppr:{ask.per_host}:node trtllm-llmapi-launch "
            notes.append("over several hosts it starts under mpirun or srun")
        commands[role] = f"exec {before}" + shell([*words, '"$@"'])
        files[f"llm{'-' + role if role else ''}.yaml"] = yaml_text(more)
        notes += [f"{role}: {workers} workers"] if role else []
    if ask.serve.fleet.kv not in ("bf16", "fp8"):
        notes.append(f"TensorRT-LLM has no {ask.serve.fleet.kv} KV cache by that name")
    done = serve_folder(ask, "trtllm", commands, tuple(dict.fromkeys(notes)))
    return Written(files={**done.files, **files}, start=done.start, notes=done.notes,
                   programs=done.programs)  # fmt: skip


TARGET = Target(
    name="trtllm", title="TensorRT-LLM", kinds=("serve",), version="1.0", date="2026-11-30",
    source="NVIDIA/TensorRT-LLM docs/source/commands/trtllm-serve.rst and llmapi/llm_args.py",
    checked="not checked", how="names read in the manual; the package needs its GPU stack",
    maps=(
        Mapped(what="tp, pp, dp, ep", where="--tp_size, --pp_size, enable_attention_dp, --ep_size"),
        Mapped(what="most sequences, tokens a step", where="--max_batch_size, --max_num_tokens"),
        Mapped(what="weights, KV cache", where="quant_config, kv_cache_config.dtype"),
        Mapped(what="prefix cache", where="kv_cache_config.enable_block_reuse"),
        Mapped(what="memory share, drafting, adapters, offload", where="the plan's `launch`"),
        Mapped(what="replicas, routing, scaling", where="scaling.json"),
    ),
    cannot=("int8 KV cache", "names of its Prometheus metrics"),
    write=write, settings={**SETTINGS, "max_replicas": ("", ""), **FABRIC},
)  # fmt: skip
