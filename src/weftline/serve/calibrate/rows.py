"""Measured serving points as the engine model reads them: one row, one configuration.

``read_rows`` takes a CSV with the columns of the silicon rows (``silicon_ttft_ms``...) or of the
published rows (``set``, ``scenario``...). Rows that do not state their configuration are returned
apart, each with what is missing. What the columns mean was learnt from rows that several files
give in different words; ``docs/serving.md`` tells how.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from weftline.errors import InputError, UnknownNameError
from weftline.serve.calibrate.published_rows import published_row
from weftline.serve.calibrate.row import (
    Layout,
    Row,
    Unanswered,
    family_of,
    model_name,
    number_of,
    with_throughput,
)
from weftline.serve.engine.launch_settings import DEFAULT, launch_of

__all__ = ["read_rows", "silicon_row"]

SYSTEMS: Final[Mapping[str, str]] = {
    "b200_sxm": "b200", "h200_sxm": "h200-sxm", "h100_sxm": "h100-sxm", "b300_sxm": "b300",
    "gb200": "gb200-nvl72", "gb300": "gb300-nvl72", "gb200_sxm": "gb200-nvl72",
    "gb300_sxm": "gb300-nvl72", "a100_sxm": "a100-80-sxm", "l40s": "l40s",
}  # fmt: skip
MEAN_OF_RANGE: Final = 0.9
"""Mean length over stated length where the client draws lengths uniformly from 0.8 to 1."""
_MOST_RANKS: Final = 8
"""Chips of one machine with one replica in it: a larger aggregated "tp" counts several workers."""
_DRAFTED: Final = 3
"""Tokens drafted by multi-token prediction in the runs known to use it; one under attention data
parallelism (InferenceX, ``dsr1_*_trt_mtp.sh``)."""


def read_rows(path: str | Path) -> tuple[list[Row], list[Unanswered]]:
    """Rows and what cannot be answered; raises InputError with line and column where malformed."""
    file = Path(path)
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read `{path}`: {error}", where=str(path)) from error
    reader = csv.DictReader(text.splitlines())
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


def _count(record: Mapping[str, str], column: str, where: str) -> int | None:
    value = number_of(record, column, where)
    return None if value is None else int(value)


def silicon_row(
    record: Mapping[str, str], where: str, number: int, *, plain: _Plain | None = None
) -> Row | Unanswered:
    """One silicon row, or why it cannot be answered; ``plain`` are the dump's measurements."""
    source = record.get("silicon_data_source", "")
    ident = record.get("id") or f"row {number}"
    model, system = model_name(record["model_path"]), record["system"]
    chip, engine = SYSTEMS.get(system, system), record["backend"]

    def unanswered(reason: str, *, stated: bool = False) -> Unanswered:
        return Unanswered(id=ident, chip=chip, engine=engine, model=model, reason=reason,
                          stated=stated)  # fmt: skip

    try:
        from weftline.serve.engine.parts import setting_of

        precision = record.get("precision", "") or "bf16"
        gemm = record.get("gemm_quant_mode") or "bf16"
        moe = record.get("moe_quant_mode") or gemm
        kv = "fp8" if precision in ("fp8", "fp4", "nvfp4", "int4") else "bf16"
        setting_of(model, chip, gemm, moe, kv)
    except UnknownNameError as error:
        return unanswered(error.what, stated=True)
    harness = "closed-loop" if _ranged(source) else "fixed-length"
    disaggregated = record.get("mode") == "disagg"
    found = (_pools if disaggregated else _replica)(record, where, harness == "closed-loop")
    if isinstance(found, str):
        return unanswered(found)
    layout, prefill, concurrency = found
    share = MEAN_OF_RANGE if harness == "closed-loop" else 1.0
    ttft, tpot = (
        number_of(record, "silicon_ttft_ms", where),
        number_of(record, "silicon_tpot_ms", where),
    )
    measured = _match(r"measured=(\d{4}-\d\d)", source) or ""
    lengths = [number_of(record, c, where) for c in ("isl", "osl")]
    if not lengths[0] or not lengths[1]:
        return unanswered("`isl` or `osl` not stated")
    version = record.get("backend_version", "") or measured
    drafted = 0
    if _drafts(record, source, measured, harness):
        drafted = 1 if layout.dp > 1 else _DRAFTED
    elif harness == "closed-loop" and not disaggregated:
        run = (engine, family_of(model), chip, precision, version, layout.tp, layout.ep)
        twin = _SPECULATIVE_TWINS.get(run, 0)
        drafted = 0 if twin and _is_plain(record, plain or {}) else twin
    launch = DEFAULT
    if harness == "closed-loop" and not disaggregated:
        launch = launch_of(record, tp=layout.tp, dp=layout.dp, concurrency=concurrency,
                           drafted=drafted, version=version)  # fmt: skip
    row = Row(
        id=ident, model=model, chip=chip, engine=engine, version=version, era=measured,
        precision=precision, gemm_dtype=gemm, moe_dtype=moe, kv_dtype=kv, layout=layout,
        prefill=prefill, input_tokens=lengths[0] * share, output_tokens=lengths[1] * share,
        concurrency=concurrency, ttft_s=None if ttft is None else ttft / 1e3,
        tpot_s=None if tpot is None else tpot / 1e3, source=source, harness=harness,
        drafted=drafted, launch=launch,
    )  # fmt: skip
    return with_throughput(row)


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
    if harness != "closed-loop" or source.startswith("db-dump") or record["mode"] != "agg":
        return False
    version = record.get("backend_version", "")
    return record["backend"] == "trtllm" and "DeepSeek" in record["model_path"] and (
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
    source = record.get("silicon_data_source", "")
    said = _match(r"silicon_concurrency=([\d.]+)", source)
    numbers = (_quietly(record.get(c)) for c in ("isl", "osl"))
    return (
        record["backend"], family_of(model_name(record["model_path"])), record["system"],
        record.get("precision", ""), *numbers, _quietly(said or record.get("batch_size")),
    )  # fmt: skip


def _quietly(text: str | None) -> float:
    """A cell as a number, 0 if it is none: the row itself says what is wrong with it."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _plain_runs(records: Sequence[Mapping[str, str]]) -> _Plain:
    """Times per token, in ms, of the measurements that the dump holds."""
    found: _Plain = {}
    for r in records:
        time = _quietly(r.get("silicon_tpot_ms"))
        if time and r.get("silicon_data_source", "").startswith("db-dump"):
            found.setdefault(_point(r), []).append(time)
    return found


def _is_plain(record: Mapping[str, str], plain: _Plain) -> bool:
    """Whether the dump holds this very measurement, so that it ran without speculation."""
    own = _quietly(record.get("silicon_tpot_ms"))
    if record.get("silicon_data_source", "").startswith("db-dump") or not own:
        return True
    return any(abs(own - t) <= _SAME_MS for t in plain.get(_point(record), []))


def _layout(record: Mapping[str, str], prefix: str, where: str) -> tuple[int, ...]:
    def cell(name: str, default: int) -> int:
        return _count(record, prefix + name, where) or default

    return (
        cell("tp_size", 1), cell("pp_size", 1), cell("attention_dp_size", 0),
        cell("moe_tp_size", 1), cell("moe_ep_size", 1),
    )  # fmt: skip


def _replica(
    record: Mapping[str, str], where: str, ranged: bool
) -> tuple[Layout, None, float] | str:
    tp, pp, dp, moe_tp, ep = _layout(record, "", where)
    batch = number_of(record, "batch_size", where)
    said = _match(r"silicon_concurrency=([\d.]+)", record.get("silicon_data_source", ""))
    concurrency = float(said) if said else batch
    if not concurrency:
        return "neither batch size nor concurrency is stated"
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


def _pools(
    record: Mapping[str, str], where: str, ranged: bool
) -> tuple[Layout, Layout, float] | str:
    feeders = _count(record, "prefill_num_workers", where)
    workers = _count(record, "decode_num_workers", where)
    if not feeders or not workers:
        return "how many workers prefill and decode is not stated"
    found = []
    for prefix, count in (("prefill_", feeders), ("decode_", workers)):
        tp, pp, dp, moe_tp, ep = _layout(record, prefix, where)
        dp = dp or 1
        if ranged and dp > 1 and ep == 1 and moe_tp == tp * dp:
            ep = tp * dp  # wide expert parallelism, noted as tensor parallelism of the experts
        found.append(Layout(tp=tp, pp=pp, dp=dp, ep=max(1, min(ep, tp * dp)), workers=count))
    said = _match(r"silicon_concurrency=([\d.]+)", record.get("silicon_data_source", ""))
    batch = number_of(record, "decode_batch_size", where)
    concurrency = float(said) if said else (batch or 0.0) * workers * found[1].dp
    if not concurrency:
        return "neither batch size nor concurrency is stated"
    return found[1], found[0], concurrency
