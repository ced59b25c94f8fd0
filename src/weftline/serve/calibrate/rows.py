"""Measured serving points as the engine model reads them: one row, one configuration.

``read_rows`` takes a CSV with the columns of the silicon rows (``silicon_ttft_ms``...) or of the
published rows (``set``, ``scenario``...). Rows that do not state their configuration are returned
apart, each with what is missing. What the columns mean was learnt from rows that several files
give in different words; ``docs/serving.md`` tells how.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weftline.errors import InputError, WeftlineError
from weftline.serve.calibrate.cells import Cells, listed
from weftline.serve.calibrate.harness import HARNESSES
from weftline.serve.calibrate.names import (
    checkpoint_formats,
    chip_named,
    engine_named,
    family_of,
    format_named,
    mode_named,
    model_name,
)
from weftline.serve.calibrate.published_rows import published_row
from weftline.serve.calibrate.row import Layout, Row, Unanswered, with_throughput
from weftline.serve.engine.engines import PROFILES
from weftline.serve.engine.launch_settings import DEFAULT, launch_of
from weftline.serve.engine.work import work_of

__all__ = ["read_rows", "silicon_row"]

_MOST_RANKS: Final = 8
"""Chips of one machine with one replica in it: a larger aggregated "tp" counts several workers."""
_DRAFTED: Final = 3
"""Tokens drafted by multi-token prediction in the runs known to use it; one under attention data
parallelism (InferenceX, ``dsr1_*_trt_mtp.sh``)."""


def read_rows(path: str | Path) -> tuple[list[Row], list[Unanswered]]:
    """Rows, and those that are not answered with the reason of each.

    Raises InputError for a file that cannot be read or has neither set of columns; what is wrong
    with a single value is the reason of its row.
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read `{path}`: {error}", where=str(path)) from error
    reader = csv.DictReader(text.splitlines(), restval="")
    columns = set(reader.fieldnames or ())
    silicon = {"silicon_ttft_ms", "silicon_tpot_ms", "backend", "system"} <= columns
    if not silicon and not {"set", "accelerator", "output_tok_s_total"} <= columns:
        raise InputError(
            "the columns are neither those of silicon rows nor of published rows",
            where=f"{path}:1",
            hint="silicon rows have `silicon_ttft_ms`, published rows have `set`; "
            "per-request files have `request_id`",
        )
    rows: list[Row] = []
    left: list[Unanswered] = []
    records = list(reader)
    told = _plain_runs(records) if silicon else {}
    for number, record in enumerate(records, start=2):
        where = f"{path}:{number}"
        found = (
            silicon_row(record, where, number, plain=told)
            if silicon
            else published_row(record, where, number)
        )
        (rows if isinstance(found, Row) else left).append(found)  # type: ignore[arg-type]
    return rows, left


def silicon_row(
    record: Mapping[str, str], where: str, number: int, *, plain: _Plain | None = None
) -> Row | Unanswered:
    """One silicon row, or why it cannot be answered; ``plain`` are the dump's measurements."""
    cells = Cells(record, where)
    try:
        row = _silicon_row(cells, number, plain or {})
    except WeftlineError as error:
        row = error.what
    if isinstance(row, Row) and not cells.faults:
        return row
    unknown = isinstance(row, _Unknown)
    return Unanswered(
        id=cells.text("id") or f"row {number}", chip=cells.text("system"),
        engine=cells.text("backend"), model=cells.text("model_path"),
        reason=cells.said() or f"{row}", where=where, stated=unknown and not cells.faults,
    )  # fmt: skip


class _Unknown(str):
    """Why a row that does state its configuration is not answered: a name nobody here knows."""

    __slots__ = ()


def _silicon_row(cells: Cells, number: int, plain: _Plain) -> Row | str:
    """The row; or why it is not answered, beside the faults that ``cells`` collects."""
    record, source = cells.record, cells.text("silicon_data_source")
    named = _names_of(cells)
    harness = "inferencex" if _ranged(source) else "fixed-length"
    disaggregated = mode_named(cells.text("mode")) == "disagg"
    found = (_pools if disaggregated else _replica)(cells, harness == "inferencex")
    ttft, tpot = cells.seconds("silicon_ttft_ms"), cells.seconds("silicon_tpot_ms")
    lengths = cells.tokens("isl"), cells.tokens("osl", least=1.0 if tpot is None else 2.0)
    if not isinstance(named, _Named):
        return named
    if isinstance(found, str):
        return found
    if cells.faults or not lengths[0] or not lengths[1]:
        return "`isl` or `osl` not stated"
    layout, prefill, concurrency = found
    said = _splits(named.model, layout, prefill)
    if said:
        cells.faults.append(said)
        return said
    share = HARNESSES[harness].length_share
    measured = _match(r"measured=(\d{4}-\d\d)", source) or ""
    version = cells.text("backend_version") or measured
    engine, chip = named.engine, named.chip
    record = {**record, "backend": engine, "mode": "disagg" if disaggregated else "agg"}
    drafted = 0
    if _drafts(record, source, measured, harness):
        drafted = 1 if layout.dp > 1 else _DRAFTED
    elif harness == "inferencex" and not disaggregated:
        run = (engine, family_of(named.model), chip, named.precision, version, layout.tp, layout.ep)
        twin = _SPECULATIVE_TWINS.get(run, 0)
        drafted = 0 if twin and _is_plain(record, plain) else twin
    launch = DEFAULT
    if harness == "inferencex" and not disaggregated:
        launch = launch_of(record, tp=layout.tp, dp=layout.dp, concurrency=concurrency,
                           drafted=drafted, version=version)  # fmt: skip
    return with_throughput(Row(
        id=cells.text("id") or f"row {number}", model=named.model, chip=chip, engine=engine,
        version=version, era=measured, precision=named.precision, gemm_dtype=named.gemm,
        moe_dtype=named.moe, kv_dtype=launch.cache or named.kv, layout=layout, prefill=prefill,
        input_tokens=lengths[0] * share, output_tokens=lengths[1] * share,
        concurrency=concurrency, ttft_s=ttft, tpot_s=tpot, source=source, harness=harness,
        drafted=drafted, launch=launch,
    ))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """What a row's words mean."""

    model: str
    chip: str
    engine: str
    precision: str
    gemm: str
    moe: str
    kv: str


def _names_of(cells: Cells) -> _Named | str:
    """Model, chip, engine, mode and number formats of a row, or which of them nobody knows."""
    from weftline.serve.engine.parts import priced

    for column in ("model_path", "system", "backend", "mode"):
        if not cells.text(column):
            return f"`{column}` is not stated"
    engine, mode = engine_named(cells.text("backend")), mode_named(cells.text("mode"))
    if engine is None:
        return _Unknown(f"engine `{cells.text('backend')}` is not known: "
                        f"{listed(tuple(PROFILES))} are")  # fmt: skip
    if mode is None:
        return _Unknown(f"mode `{cells.text('mode')}` is not known: agg or disagg are")
    formats = []
    for column in ("precision", "gemm_quant_mode", "moe_quant_mode"):
        text = cells.text(column)
        formats.append(format_named(text) if text else "")
        if formats[-1] is None:
            return _Unknown(f"number format `{text}` ({column}) is not known")
    precision = formats[0] or formats[1] or "bf16"
    gemm = formats[1] or formats[0] or "bf16"
    path, model = cells.text("model_path"), model_name(cells.text("model_path"))
    gemm, moe = checkpoint_formats(path, model, gemm, formats[2] or gemm)
    kv = "fp8" if precision in ("fp8", "fp8_block", "nvfp4") else "bf16"
    try:
        chip = chip_named(cells.text("system"))
        priced(model, chip, gemm, moe, kv)
    except WeftlineError as error:
        return _Unknown(error.what)
    return _Named(model=model, chip=chip, engine=engine, precision=precision, gemm=gemm, moe=moe,
                  kv=kv)  # fmt: skip


def _splits(model: str, layout: Layout, prefill: Layout | None) -> str:
    """Why a model cannot be cut as a row says; empty where it can."""
    heads = work_of(model).attention_heads
    for side in (layout, prefill):
        if side is not None and heads % side.tp:
            return f"column `tp_size` is {side.tp}: it does not divide {heads} attention heads"
    return ""


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None


def _ranged(source: str) -> bool:
    """Whether the closed-loop client drew the lengths (dated dumps and files, gap analyses)."""
    if source.startswith("db-dump"):
        return True
    file = (_match(r"source_file=([^;]+)", source) or "").rpartition("/")[2]
    return bool(re.match(r"\d{4}-\d\d-\d\d\.csv", file)) or "gap-analysis" in file


def _drafts(record: Mapping[str, str], source: str, measured: str, harness: str) -> bool:
    """Whether the run is known to use multi-token prediction.

    TensorRT-LLM's DeepSeek runs with these images and dates are the speculative half of the sweep;
    the dump, which leaves speculative runs out, has none of them.
    """
    if harness != "inferencex" or source.startswith("db-dump") or record["mode"] != "agg":
        return False
    version = record.get("backend_version", "")
    return record["backend"] == "trtllm" and "DeepSeek" in (record["model_path"] or "") and (
        version == "1.2.0rc6.post3" or (version == "1.1.0rc2.post2" and measured >= "2026-01")
    )  # fmt: skip


_SPECULATIVE_TWINS: Final[Mapping[tuple[object, ...], int]] = {
    ("sglang", "deepseek-v3", "b200", "fp8", "0.5.9", 8, 1): 2,
    ("sglang", "qwen3.5-397b", "b200", "fp8", "0.5.9", 4, 1): 3,
    ("sglang", "qwen3.5-397b", "b300", "fp8", "0.5.9", 4, 1): 3,
}
"""Runs of the public sweep that were made without and with speculation in one layout, and the
tokens drafted (InferenceX, ``dsr1_fp8_b200_mtp.sh``, ``qwen3.5_fp8_b200_mtp.sh``). The dump leaves
speculative runs out: of these, what it does not hold is the speculative half."""
_Plain = dict[tuple[object, ...], list[float]]
_SAME_MS: Final = 0.02
"""Files round times per token to a hundredth of a millisecond."""


def _point(record: Mapping[str, str]) -> tuple[object, ...]:
    source = record.get("silicon_data_source") or ""
    said = _match(r"silicon_concurrency=([\d.]+)", source)
    numbers = (_quietly(record.get(c)) for c in ("isl", "osl"))
    return (
        record.get("backend"), family_of(model_name(record.get("model_path") or "")),
        record.get("system"), record.get("precision", ""), *numbers,
        _quietly(said or record.get("batch_size")),
    )  # fmt: skip


def _quietly(text: str | None) -> float:
    """A cell as a number, 0 if it is none: the row itself says what is wrong with it."""
    try:
        found = float(text or 0)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0


def _plain_runs(records: Sequence[Mapping[str, str]]) -> _Plain:
    """Times per token, in ms, of the measurements that the dump holds."""
    found: _Plain = {}
    for r in records:
        time = _quietly(r.get("silicon_tpot_ms"))
        if time and (r.get("silicon_data_source") or "").startswith("db-dump"):
            found.setdefault(_point(r), []).append(time)
    return found


def _is_plain(record: Mapping[str, str], plain: _Plain) -> bool:
    """Whether the dump holds this very measurement, so that it ran without speculation."""
    own = _quietly(record.get("silicon_tpot_ms"))
    if (record.get("silicon_data_source") or "").startswith("db-dump") or not own:
        return True
    return any(abs(own - t) <= _SAME_MS for t in plain.get(_point(record), []))


def _layout(cells: Cells, prefix: str) -> tuple[int, ...]:
    """tp, pp, dp (0 where it is not stated), moe_tp, ep."""
    tp, pp = (cells.degree(prefix + name) or 1 for name in ("tp_size", "pp_size"))
    dp = cells.degree(f"{prefix}attention_dp_size", least=0) or 0
    # Dense models have no experts to split: some files write 0 there.
    moe_tp, ep = (cells.degree(prefix + n, least=0) or 1 for n in ("moe_tp_size", "moe_ep_size"))
    return tp, pp, dp, moe_tp, ep


def _in_flight(cells: Cells, column: str) -> tuple[float | None, float | None]:
    """(requests in flight, batch of one rank), as the source and the column state them."""
    batch = cells.number(column, "a number of requests", least=1, most=MOST_REQUESTS)
    said = _match(r"silicon_concurrency=([\d.]+)", cells.text("silicon_data_source"))
    return (float(said) if said else None), batch


MOST_REQUESTS: Final = 1e7
_NO_LOAD: Final = "neither batch size nor concurrency is stated"


def _replica(cells: Cells, ranged: bool) -> tuple[Layout, None, float] | str:
    tp, pp, dp, moe_tp, ep = _layout(cells, "")
    said, batch = _in_flight(cells, "batch_size")
    concurrency = said or batch
    if not concurrency:
        return _NO_LOAD
    if ranged and moe_tp > 1 and moe_tp == ep and max(tp, dp) == moe_tp * ep:
        # These files multiply the ranks by the expert ranks: TP 8, EP 8 stands as 64, 8, 8.
        tp, dp, moe_tp = (1, ep, 1) if dp > 1 else (ep, 1, 1)
    elif ranged and dp > 1 and tp == dp:
        tp, moe_tp, ep = 1, 1, dp  # and attention data parallelism over TP's ranks twice
    if tp > _MOST_RANKS:
        return f"tp {tp} counts the chips of several workers: their layout is not stated"
    dp = dp or max(1, moe_tp * ep // tp)
    workers = 1
    if not ranged and batch and concurrency > 1.01 * batch * dp:
        workers = max(1, round(concurrency / (batch * dp)))
    ep = min(ep, tp * dp)
    return Layout(tp=tp, pp=pp, dp=dp, ep=ep, workers=workers), None, concurrency


def _pools(cells: Cells, ranged: bool) -> tuple[Layout, Layout, float] | str:
    feeders, workers = (cells.degree(f"{p}_num_workers") for p in ("prefill", "decode"))
    found = []
    for prefix, count in (("prefill_", feeders), ("decode_", workers)):
        tp, pp, dp, moe_tp, ep = _layout(cells, prefix)
        dp = dp or 1
        if ranged and dp > 1 and ep == 1 and moe_tp == tp * dp:
            ep = tp * dp  # wide expert parallelism, noted as tensor parallelism of the experts
        found.append(Layout(tp=tp, pp=pp, dp=dp, ep=max(1, min(ep, tp * dp)), workers=count or 1))
    said, batch = _in_flight(cells, "decode_batch_size")
    if not feeders or not workers:
        return "how many workers prefill and decode is not stated"
    concurrency = said or (batch or 0.0) * workers * found[1].dp
    return (found[1], found[0], concurrency) if concurrency else _NO_LOAD
