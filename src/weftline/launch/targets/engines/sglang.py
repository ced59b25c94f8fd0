"""SGLang: ``python -m sglang.launch_server`` for a replica of the plan."""

from __future__ import annotations

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

_QUANTISED = {"fp8": "fp8", "int8": "w8a8_int8", "nvfp4": "modelopt_fp4", "mxfp4": "mxfp4"}


def flags_of(ask: Ask, role: str, degrees: dict[str, int]) -> tuple[Flags, tuple[str, ...]]:
    """Flags of one worker, and what they cannot say."""
    fleet, notes = ask.serve.fleet, []
    tp, pp, dp, ep = (degrees.get(n, 1) for n in ("tp", "pp", "dp", "ep"))
    # With attention data-parallel, --tp-size is the whole: dp attention groups inside it.
    flags: Flags = [
        ("--model-path", model_of(ask)), ("--tp-size", str(tp * dp if dp > 1 else tp)),
        ("--max-running-requests", str(fleet.max_batch)),
        ("--chunked-prefill-size", str(fleet.chunk_tokens)),
    ]  # fmt: skip
    if pp > 1:
        flags.append(("--pp-size", str(pp)))
    if dp > 1:
        flags += [("--dp-size", str(dp)), ("--enable-dp-attention",)]
    if ep > 1:
        flags.append(("--ep-size", str(ep)))
    if fleet.weights in _QUANTISED:
        flags.append(("--quantization", _QUANTISED[fleet.weights]))
    elif fleet.weights == "int4":
        notes.append("int4 weights: --set model= must name a checkpoint in AWQ or GPTQ")
    if fleet.kv == "fp8":
        flags.append(("--kv-cache-dtype", "fp8_e4m3"))
    elif fleet.kv != "bf16":
        notes.append(f"SGLang has no {fleet.kv} KV cache by that name")
    if not fleet.prefix_cache:
        flags.append(("--disable-radix-cache",))
    flags, said = planned_settings(ask, flags)
    notes += said
    if role:
        flags += [("--disaggregation-mode", role), ("--disaggregation-transfer-backend", "nixl")]
    return flags, tuple(notes)


def words_of(ask: Ask, role: str, degrees: dict[str, int]) -> tuple[list[str], tuple[str, ...]]:
    """The server's command line of one role, and what it cannot say."""
    flags, said = flags_of(ask, role, degrees)
    return ["python", "-m", "sglang.launch_server", *[w for f in flags for w in f]], said


def write(ask: Ask) -> Written:
    """``serve.sh`` (one a role), the environment, the scaling numbers."""
    return serve_folder(ask, "sglang", *scripts_of(ask, words_of, "--dist-init-addr"))


TARGET = Target(
    name="sglang", title="SGLang", kinds=("serve",), version="0.5.23", date="2026-11-30",
    source="sglang 0.5.23, the parser of sglang.launch_server, asked",
    checked="frozen flags",
    how="flags, kinds and choices as its own parser says them; that parser in `make test-vllm`",
    maps=(
        Mapped(what="tp, pp, dp, ep", where="--tp-size, --pp-size, --dp-size, --ep-size"),
        Mapped(what="most sequences, tokens a step", where="--max-running-requests, "
               "--chunked-prefill-size"),
        Mapped(what="weights, KV cache", where="--quantization, --kv-cache-dtype"),
        Mapped(what="prefix cache", where="--disable-radix-cache"),
        Mapped(what="memory share, drafting, adapters, offload", where="the plan's `launch`"),
        Mapped(what="prefill and decode workers", where="--disaggregation-mode"),
        Mapped(what="replicas, routing, scaling", where="scaling.json"),
    ),
    cannot=("int8 KV cache",),
    write=write, settings={**SETTINGS, "max_replicas": ("", ""), **FABRIC},
)  # fmt: skip
