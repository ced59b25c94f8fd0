"""Published serving points: MLPerf, vendors' tables, Neuron, TPU, Splitwise, token positions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from weftline.errors import InputError, UnknownNameError
from weftline.serve.calibrate.row import (
    Layout,
    Row,
    Unanswered,
    model_name,
    number_of,
    with_throughput,
)

__all__ = ["published_row"]

_CHIPS: Final[tuple[tuple[str, str], ...]] = (
    ("gb300", "gb300-nvl72"), ("gb200", "gb200-nvl72"), ("b200", "b200"),
    ("h200-nvl", "h200-nvl"), ("h200", "h200-sxm"), ("h100", "h100-sxm"), ("a100", "a100-80-sxm"),
    ("mi300x", "mi300x"), ("mi325x", "mi325x"), ("pro 6000", "rtx-pro-6000"),
    ("4090", "rtx-4090"), ("l40s", "l40s"), ("inferentia2", "inferentia2"),
    ("trainium1", "trainium1"), ("v5e", "tpu-v5e"), ("v6e", "tpu-v6e"),
)  # fmt: skip
_FORMATS: Final = {"fp4": "nvfp4", "fp8": "fp8", "fp16": "bf16", "bf16": "bf16", "int8": "int8"}
CORES_PER_CHIP: Final = 2
"""NeuronCores of an Inferentia2 or Trainium1: their tensor parallelism counts cores."""
OFFLINE_BATCH: Final = 1024.0
"""Sequences a replica may run at once where everything is queued."""
MLPERF_BATCH: Final = 2048.0
"""The same in MLPerf: open submissions of v5.1 state 1,232 to 2,401 (Krai, their READMEs)."""
_ROOM: Final = 0.5
"""Offline layouts that are not stated: the fewest chips whose weights take this share of memory."""
_NO_LENGTHS: Final = "input and output lengths are not stated"
SHAREGPT: Final = (512.0, 380.0)
"""Tokens taken for "ShareGPT<=1024", in and out: the engine's own summary gives no means."""


def published_row(record: Mapping[str, str], where: str, number: int) -> Row | Unanswered:
    """One published row, or why it cannot be answered."""
    ident = f"{record['set']}:{number}"
    name = record["accelerator"].lower()
    chip = next((c for text, c in _CHIPS if text in name), "")
    engine = _engine(record.get("engine", ""))
    model = model_name(re.sub(r"-hf$", "", record["model"]))
    model = {"codellama-13b": "llama-2-13b", "mistral-7b-v0.2": "mistral-7b-v0.3"}.get(model, model)

    def unanswered(reason: str, *, stated: bool = False) -> Unanswered:
        return Unanswered(id=ident, chip=chip or record["accelerator"], engine=engine, model=model,
                          reason=reason, stated=stated)  # fmt: skip

    if not chip or chip == "h200-nvl":
        return unanswered(f"no operator times for `{record['accelerator']}`", stated=True)
    if record["set"] == "llmservingsim_vllm":
        return unanswered("a Poisson run: score its per-request file instead")
    weights = _format(record["precision"])
    if weights is None:
        return unanswered(f"precision `{record['precision']}` is not known", stated=True)
    lengths = _lengths(record, where)
    if lengths is None:
        return unanswered(_NO_LENGTHS)
    try:
        return _row(record, where, ident, model, chip, engine, weights, lengths)
    except UnknownNameError as error:
        return unanswered(error.what, stated=True)
    except InputError as error:
        return unanswered(error.what)


def _row(
    record: Mapping[str, str], where: str, ident: str, model: str, chip: str, engine: str,
    weights: str, lengths: tuple[float, float],
) -> Row:  # fmt: skip
    from weftline.serve.engine.parts import setting_of

    kv = "fp8" if weights in ("fp8", "nvfp4") else "bf16"
    setting_of(model, chip, weights, weights, kv)
    scenario = record.get("scenario", "").lower()
    offline = scenario in ("offline", "server", "interactive") or "queued" in scenario
    chips = int(number_of(record, "n_accel", where) or 1)
    layout = _layout(record, where, chips, model, chip, weights, kv)
    said = number_of(record, "concurrency", where)
    if said is None and not offline:
        raise InputError("concurrency is not stated")
    most = MLPERF_BATCH if record["set"].startswith("mlperf") else OFFLINE_BATCH
    concurrency = said if said is not None else 50.0 * most * layout.workers
    ttft, tpot = (number_of(record, c, where) for c in ("ttft_ms", "tpot_ms"))
    rate = number_of(record, "output_tok_s_total", where)
    # Transformers NeuronX puts a batch together once and encodes all its prompts in one go.
    static = scenario == "static batch" or record["set"] == "aws_neuron"
    row = Row(
        id=ident, model=model, chip=chip, engine=engine,
        version=f"{record['set']} {record.get('engine_version') or ''}".strip(), era="",
        precision=record["precision"].lower(), gemm_dtype=weights, moe_dtype=weights, kv_dtype=kv,
        layout=layout, input_tokens=lengths[0], output_tokens=lengths[1], concurrency=concurrency,
        max_batch=most if offline else float("inf"),
        scenario="offline" if offline else "static" if static else "closed",
        ttft_s=None if ttft is None else ttft / 1e3, tpot_s=None if tpot is None else tpot / 1e3,
        output_tokens_per_s=None if rate is None or scenario == "static batch" else rate / chips,
        source=record["source"], harness=f"{record['set']} {record.get('scenario', '')}".strip(),
    )  # fmt: skip
    return row if scenario == "static batch" else with_throughput(row)


def _engine(text: str) -> str:
    low = text.lower()
    if "neuron" in low:
        return "neuron"
    if "jetstream" in low:
        return "jetstream"
    return "trtllm" if "tensorrt" in low else "vllm"


def _format(text: str) -> str | None:
    low = text.lower()
    stated = re.search(r"w:(\w+)", low)
    return _FORMATS.get(stated[1] if stated else low)


def _lengths(record: Mapping[str, str], where: str) -> tuple[float, float] | None:
    if "sharegpt" in record.get("isl", "").lower():
        return SHAREGPT
    found = [number_of(record, c, where) for c in ("isl", "osl")]
    return (found[0], found[1]) if found[0] and found[1] else None


def _layout(
    record: Mapping[str, str], where: str, chips: int, model: str, chip: str, weights: str, kv: str
) -> Layout:  # fmt: skip
    stated = {c: int(number_of(record, c, where) or 0) for c in ("tp", "pp", "dp", "ep")}
    if stated["tp"] and record["set"] == "aws_neuron":
        return Layout(tp=max(stated["tp"] // CORES_PER_CHIP, 1))
    if stated["tp"]:
        tp, pp, dp = stated["tp"], max(stated["pp"], 1), max(stated["dp"], 1)
        ep = min(max(stated["ep"], 1), tp * dp)
        return Layout(tp=tp, pp=pp, dp=dp, ep=ep, workers=max(chips // (tp * pp * dp), 1))
    if record["set"] == "tpu":
        return Layout(tp=chips)
    return _roomy(chips, model, chip, weights, kv)


def _roomy(chips: int, model: str, chip: str, weights: str, kv: str) -> Layout:
    """Replicas of the fewest chips that leave room for a large batch."""
    import numpy as np

    from weftline.serve.engine.memory import chip_bytes
    from weftline.serve.engine.parts import setting_of, weight_bytes

    setting = setting_of(model, chip, weights, weights, kv)
    one = np.ones(1)
    for tp in (1, 2, 4, 8):
        held = float(weight_bytes(setting, tp * one, one, tp * one, one)[0])
        if tp >= chips or held < _ROOM * chip_bytes(setting):
            break
    return Layout(tp=tp, workers=max(chips // tp, 1))
