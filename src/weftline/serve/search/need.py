"""Memory of a served model without a price: weights, KV by format, and the chips that hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from weftline.catalog import Accelerator
from weftline.errors import NoFeasiblePlanError, WeftlineError
from weftline.model import Model, load_model
from weftline.serve.engine.config import KV_BYTES, ServingConfig
from weftline.serve.engine.memory import ACTIVATION_ROWS, CONTEXT_BYTES, chip_bytes, memory
from weftline.serve.engine.parts import setting_of, weight_bytes
from weftline.serve.search.lacking import lacking
from weftline.serve.search.screen import engines_and_formats, layouts_of
from weftline.spec import Part, Rejection, ServeSpace
from weftline.spec.need import Holding, Need

__all__ = ["kv_by_format", "serving_need"]

KV_SHOWN: Final = ("bf16", "fp8", "int8")
_CHUNK: Final = 8192


def kv_by_format(model: Model, seq_len: int, sequences: int) -> tuple[Part, ...]:
    """Bytes of cached keys and values of ``sequences`` sequences of ``seq_len`` tokens, by format.

    Recurrent state, which has no format to choose, stands beside them.
    """
    parts = [
        Part(name=name, unit="B", basis="counted",
             value=sequences * model.kv_bytes(seq_len, bytes_per_value=KV_BYTES[name]))
        for name in KV_SHOWN
    ]  # fmt: skip
    if model.state_bytes():
        parts.append(
            Part(name="recurrent state, fp32", value=sequences * model.state_bytes(), unit="B",
                 basis="counted")
        )  # fmt: skip
    return tuple(part for part in parts if part.value > 0)


def serving_need(
    name: str, chips: Sequence[Accelerator], space: ServeSpace, *, seq_len: int, sequences: int
) -> Need:
    """What serving ``sequences`` sequences of ``seq_len`` tokens at once takes, in the first number
    format of ``space`` that a chip has, and the fewest chips of each that hold it."""
    holdings: list[Holding] = []
    without: list[Rejection] = []
    for chip in chips:
        try:
            holdings.append(_holding(name, chip, space, seq_len, sequences))
        except WeftlineError as error:
            without.append(Rejection(accelerator=chip.id, reason=error.what))
    holdings.sort(key=lambda h: (h.chips, h.least_bytes, h.accelerator))
    model = load_model(name)
    weights = space.formats[0]
    kv = sequences * model.kv_bytes(seq_len, bytes_per_value=KV_BYTES[space.kv])
    state = sequences * model.state_bytes()
    setting = setting_of(name, "h100-sxm", weights, weights, space.kv)
    rows = min(_CHUNK, seq_len) * setting.work.hidden * 2.0 * ACTIVATION_ROWS
    one = np.ones(1)
    held = (
        ("weights", float(weight_bytes(setting, one, one, one, one)[0]), "counted"),
        (f"KV cache, {space.kv}", kv, "counted"),
        ("recurrent state, fp32", state, "counted"),
        ("working memory", rows + CONTEXT_BYTES, "assumed rows of activations, driver"),
    )
    return Need(
        kind="serve",
        how=f"weights in {weights}, KV in {space.kv}; {sequences:,} "
            f"sequence{'' if sequences == 1 else 's'} of {seq_len:,} tokens at once",
        parts=tuple(Part(name=n, value=v, unit="B", basis=b) for n, v, b in held if v > 0),
        kept_bytes=0.0, host_bytes=0.0, holdings=tuple(holdings), without=tuple(without),
    )  # fmt: skip


def _holding(
    name: str, chip: Accelerator, space: ServeSpace, seq_len: int, sequences: int
) -> Holding:
    """The smallest replica of ``chip`` that holds the weights and the cache of all sequences."""
    ways = engines_and_formats(chip, space)
    if not ways:
        raise NoFeasiblePlanError(lacking(chip, space))
    engine, weights = min(ways, key=lambda way: space.formats.index(way[1]))
    layouts = sorted(layouts_of(name, chip, space), key=lambda d: d["tp"] * d["pp"] * d["dp"])
    said = "no replica tried holds it"
    for degrees in layouts:
        config = ServingConfig(
            model=name, chip=chip.id, engine=engine, gemm_dtype=weights, kv_dtype=space.kv,
            max_batch=max(sequences, degrees["dp"]), chunk_tokens=min(_CHUNK, seq_len),
            tp=degrees["tp"], pp=degrees["pp"], dp=degrees["dp"], ep=degrees["ep"],
        )  # fmt: skip
        try:
            found = memory(config)
        except NoFeasiblePlanError as error:
            said = error.what
            continue
        capped = found.capped_share * min(seq_len, found.cap_tokens)
        each = (1 - found.capped_share) * seq_len + capped
        if found.kv_capacity_tokens >= sequences * each:
            used = found.weight_bytes + found.activation_bytes + CONTEXT_BYTES
            used += found.kv_bytes_per_token * each * sequences / degrees["dp"]
            setting = setting_of(name, chip.id, weights, config.moe_format, space.kv)
            words = " ".join(f"{k.upper()}{v}" for k, v in degrees.items() if v > 1)
            return Holding(
                accelerator=chip.id, chips=config.chips, least_bytes=used,
                layout=f"{words or '1 chip'} {weights}", chip_bytes=chip_bytes(setting),
            )  # fmt: skip
        said = f"no room for {sequences:,} x {seq_len:,} tokens of cache on {config.chips} chips"
    raise NoFeasiblePlanError(said)
