"""Published serving points: MLPerf, vendors' tables, Neuron, TPU, Splitwise, token positions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from weftline.errors import WeftlineError
from weftline.serve.calibrate.cells import Cells
from weftline.serve.calibrate.harness import HARNESSES, harness_of, limits_of
from weftline.serve.calibrate.names import (
    checkpoint_formats,
    chip_named,
    format_named,
    model_name,
)
from weftline.serve.calibrate.row import Layout, Row, Unanswered, with_throughput
from weftline.serve.engine.launch_settings import TOKEN_POSITIONS, Served

__all__ = ["published_row"]

_ENGINES: Final[tuple[tuple[str, str], ...]] = (
    ("vllm", "vllm"), ("tensorrt", "trtllm"), ("sglang", "sglang"), ("neuron", "neuron"),
    ("jetstream", "jetstream"), ("rocm", "vllm"),
)  # fmt: skip
"""Word in the column -> engine. MLPerf names the library below: TensorRT is TensorRT-LLM, and a
submission that says ROCm alone is AMD's, which serves with vLLM (their READMEs)."""
CORES_PER_CHIP: Final = 2
"""NeuronCores of an Inferentia2 or Trainium1: their tensor parallelism counts cores."""
_ROOM: Final = 0.5
"""Offline layouts that are not stated: the fewest chips whose weights take this share of memory."""
_SCALED: Final = "worked out from the uncapped row (its first token 1.3 times later), not measured"
"""Splitwise's power-capped H100: in every row of its table the time per token is that of the
uncapped chip, and the time to first token 1.3 times its."""
_NO_LENGTHS: Final = "input and output lengths are not stated"
SHAREGPT: Final = (512.0, 380.0)
"""Tokens taken for "ShareGPT<=1024", in and out: the engine's own summary gives no means."""


def published_row(record: Mapping[str, str], where: str, number: int) -> Row | Unanswered:
    """One published row, or why it cannot be answered."""
    cells = Cells(record, where)
    try:
        row = _row(cells, f"{cells.text('set')}:{number}")
    except WeftlineError as error:
        row = (error.what, True)
    if isinstance(row, Row) and not cells.faults:
        return row
    reason, stated = ("", False) if isinstance(row, Row) else row
    return Unanswered(
        id=f"{cells.text('set')}:{number}", chip=cells.text("accelerator"),
        engine=cells.text("engine"), model=cells.text("model"), reason=cells.said() or reason,
        where=where, stated=stated and not cells.faults,
    )  # fmt: skip


def _row(cells: Cells, ident: str) -> Row | tuple[str, bool]:
    """The row; or why it is not answered and whether it states its configuration at all."""
    from weftline.serve.engine.parts import priced

    for column in ("set", "model", "accelerator", "engine", "precision"):
        if not cells.text(column):
            return f"`{column}` is not stated", False
    if cells.text("set") == "llmservingsim_vllm":
        return "a Poisson run: score its per-request file instead", False
    if cells.text("set").startswith("splitwise") and "pcap" in cells.text("accelerator").lower():
        return _SCALED, False
    low = cells.text("engine").lower()
    engine = next((name for word, name in _ENGINES if word in low), None)
    if engine is None:
        return f"engine `{cells.text('engine')}` is not known", True
    weights = _format(cells.text("precision"))
    if weights is None:
        return f"number format `{cells.text('precision')}` is not known", True
    path = cells.text("model")
    model, chip = model_name(path), chip_named(cells.text("accelerator"))
    weights = checkpoint_formats(path, model, weights, weights)[0]
    served = TOKEN_POSITIONS.get(model) if "token_position" in cells.text("set") else None
    served = served or Served()
    weights = served.weights or weights
    kv = served.cache or ("fp8" if weights in ("fp8", "fp8_block", "nvfp4") else "bf16")
    priced(model, chip, weights, weights, kv)
    lengths = _lengths(cells)
    if lengths is None:
        return _NO_LENGTHS, False
    row = _measured(cells, ident, model, chip, engine, weights, kv, lengths)
    return replace(row, drafted=served.drafted) if isinstance(row, Row) else row


def _measured(
    cells: Cells, ident: str, model: str, chip: str, engine: str, weights: str, kv: str,
    lengths: tuple[float, float],
) -> Row | tuple[str, bool]:  # fmt: skip
    """The row of a configuration whose names are all known."""
    own = cells.text("set")
    name = harness_of(own, cells.text("scenario"))
    harness = HARNESSES[name]
    queued = harness.arrival in ("queued", "poisson")
    chips = cells.degree("n_accel") or 1
    layout = _layout(cells, chips, model, chip, weights, kv)
    said = cells.number("concurrency", "a number of requests", least=1, most=1e7)
    if said is None and not queued:
        return "concurrency is not stated", False
    concurrency = said if said is not None else 50.0 * harness.max_batch * layout.workers
    ttft, tpot = cells.seconds("ttft_ms"), cells.seconds("tpot_ms")
    rate = cells.number("output_tok_s_total", "a rate of tokens", above=True, most=1e9)
    # A static batch's rate is of its decoding alone.
    once = cells.text("scenario").lower() == "static batch"
    row = Row(
        id=ident, model=model, chip=chip, engine=engine,
        version=f"{own} {cells.text('engine_version')}".strip(), era=harness.era,
        precision=cells.text("precision").lower(), gemm_dtype=weights, moe_dtype=weights,
        kv_dtype=kv, layout=layout, input_tokens=lengths[0] * harness.length_share,
        output_tokens=lengths[1] * harness.length_share, concurrency=concurrency,
        max_batch=harness.max_batch,
        scenario="offline" if queued else "static" if harness.arrival == "static" else "closed",
        ttft_s=ttft, tpot_s=tpot, limits=limits_of(name, model),
        output_tokens_per_s=None if rate is None or once else rate / chips,
        source=cells.text("source"), harness=name,
    )  # fmt: skip
    return row if once else with_throughput(row)


def _format(text: str) -> str | None:
    stated = re.search(r"w:(\w+)", text.lower())
    return format_named(stated[1] if stated else text)


def _lengths(cells: Cells) -> tuple[float, float] | None:
    if "sharegpt" in cells.text("isl").lower():
        return SHAREGPT
    tpot = cells.text("tpot_ms")
    prompt, answer = cells.tokens("isl"), cells.tokens("osl", least=2.0 if tpot else 1.0)
    return (prompt, answer) if prompt and answer else None


def _layout(cells: Cells, chips: int, model: str, chip: str, weights: str, kv: str) -> Layout:
    stated = {c: cells.degree(c) or 0 for c in ("tp", "pp", "dp", "ep")}
    if stated["tp"] and cells.text("set") == "aws_neuron":
        return Layout(tp=max(stated["tp"] // CORES_PER_CHIP, 1))
    if stated["tp"]:
        tp, pp, dp = stated["tp"], max(stated["pp"], 1), max(stated["dp"], 1)
        if "attention_dp" in cells.text("note") and tp > 1 and dp == 1:
            # Printed as TP; the options give every chip attention of its own, and the experts are
            # split as in the rows of that page that print the split: one share of them a chip.
            tp, dp, stated["ep"] = 1, tp, tp
        ep = min(max(stated["ep"], 1), tp * dp)
        return Layout(tp=tp, pp=pp, dp=dp, ep=ep, workers=max(chips // (tp * pp * dp), 1))
    if cells.text("set") == "tpu":
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
