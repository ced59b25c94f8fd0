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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from weftline.errors import InputError, UnknownNameError
from weftline.serve.launch_settings import DEFAULT, Launch, launch_of

__all__ = ["Layout", "Row", "Unanswered", "family_of", "model_name", "read_rows"]

SYSTEMS: Final[Mapping[str, str]] = {
    "b200_sxm": "b200", "h200_sxm": "h200-sxm", "h100_sxm": "h100-sxm", "b300_sxm": "b300",
    "gb200": "gb200-nvl72", "gb300": "gb300-nvl72", "gb200_sxm": "gb200-nvl72",
    "gb300_sxm": "gb300-nvl72", "a100_sxm": "a100-80-sxm", "l40s": "l40s",
}  # fmt: skip
_ALIASES: Final[Mapping[str, str]] = {
    "deepseek-v3.1": "deepseek-v3", "meta-llama-3.1-70b": "llama-3.1-70b",
    "meta-llama-3.1-8b": "llama-3.1-8b", "meta-llama-3.1-405b": "llama-3.1-405b",
    "llama-3.3-70b": "llama-3.1-70b", "llama3.1-405b": "llama-3.1-405b",
    "llama3.1-8b": "llama-3.1-8b", "llama-3-70b": "llama-3.1-70b", "llama-3-8b": "llama-3.1-8b",
    "llama2-70b-99": "llama-2-70b", "llama2-70b-99.9": "llama-2-70b", "llama2-70b": "llama-2-70b",
    "qwen3-235b": "qwen3-235b-a22b", "gpt-oss": "gpt-oss-120b", "codellama-34b": "codellama-34b",
}  # fmt: skip
"""Names that share a shape with a bundled model (Llama 3 and 3.3 have Llama 3.1's)."""
_DECORATION: Final = re.compile(
    r"-(?:fp8|nvfp4|fp4|int4|int8|awq|gptq|kv|0528|0324|instruct|it|chat|2507|hf|bf16|static"
    r"|per\w+|dynamic|preview|nvfp4a16|mxfp4|v2(?=$))(?=-|$)"
)
MEAN_OF_RANGE: Final = 0.9
"""Mean length over stated length where the client draws lengths uniformly from 0.8 to 1."""
_MOST_RANKS: Final = 8
"""Chips of one machine with one replica in it: a larger aggregated "tp" counts several workers."""
_DRAFTED: Final = 3
"""Tokens drafted by multi-token prediction in the runs known to use it; one under attention data
parallelism (InferenceX, ``dsr1_*_trt_mtp.sh``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One worker's layout and how many workers there are."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    workers: int = 1

    @property
    def moe_tp(self) -> int:
        """Ways one expert is split."""
        return max(self.tp * self.dp // self.ep, 1)

    @property
    def chips(self) -> int:
        """Chips of all workers."""
        return self.tp * self.pp * self.dp * self.workers

    @property
    def kind(self) -> str:
        """``dp`` with attention data parallelism, else ``ep``, ``tp`` or ``one``."""
        return "dp" if self.dp > 1 else "ep" if self.ep > 1 else "tp" if self.tp > 1 else "one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured point. Times in seconds, lengths in tokens (means over requests)."""

    id: str
    model: str
    chip: str
    engine: str
    version: str
    era: str
    """Year and month it was measured, or empty."""
    precision: str
    gemm_dtype: str
    moe_dtype: str
    kv_dtype: str
    layout: Layout
    prefill: Layout | None = None
    input_tokens: float
    output_tokens: float
    concurrency: float
    """Requests in flight over all workers."""
    max_batch: float = float("inf")
    """Sequences one replica may run, where that is known to bind."""
    scenario: str = "closed"
    """``closed`` loop, ``offline`` (as fast as it goes) or ``static`` batch."""
    drafted: int = 0
    """Tokens drafted a step where the run is known to use multi-token prediction."""
    launch: Launch = DEFAULT
    """How the server was started, where that is public."""
    ttft_s: float | None = None
    tpot_s: float | None = None
    output_tokens_per_s: float | None = None
    """A chip; stated, or derived from concurrency and both times (``derived`` tells)."""
    derived: bool = False
    """Whether the rate was worked out from the times."""
    source: str = ""
    harness: str = ""
    """Who drove the load: decides lengths and what the statistics are."""
    notes: tuple[str, ...] = field(default=())

    @property
    def family(self) -> str:
        """Sibling names are one family: no sibling of a left-out model stays in a fit."""
        return family_of(self.model)

    @property
    def mode(self) -> str:
        """``disagg`` where prefill has workers of its own, else ``agg``."""
        return "disagg" if self.prefill else "agg"

    @property
    def chips(self) -> int:
        """All chips."""
        return self.layout.chips + (self.prefill.chips if self.prefill else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A row that is not predicted, and why."""

    id: str
    chip: str
    engine: str
    model: str
    reason: str
    stated: bool = False
    """Whether the row does state its configuration (and something else is wrong)."""


def model_name(text: str) -> str:
    """The bundled name of a model as rows write it: organisation and format stripped."""
    name = text.strip().rpartition("/")[2].lower().replace("_", "-").replace(" ", "-")
    for _ in range(4):
        name = _DECORATION.sub("", name)
    return _ALIASES.get(name, name)


def family_of(model: str) -> str:
    """The family a model's siblings share: DeepSeek-V3, R1 and V3.1 have one architecture."""
    if model.startswith(("deepseek-r1", "deepseek-v3")):
        return "deepseek-v3"
    for stem in ("kimi-k2", "glm-5", "minimax-m2", "llama-3.1-70b", "qwen3.5-397b"):
        if model.startswith(stem):
            return stem
    return model


def read_rows(path: str | Path) -> tuple[list[Row], list[Unanswered]]:
    """Rows and what cannot be answered; raises InputError with line and column where malformed."""
    from weftline.serve.rows_published import published_row

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


def number_of(record: Mapping[str, str], column: str, where: str) -> float | None:
    """A cell as a number, None if empty; raises InputError naming the column."""
    text = (record.get(column) or "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"column `{column}` is not a number: `{text}`", where=where) from None


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
        from weftline.serve.parts import setting_of

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


def with_throughput(row: Row) -> Row:
    """The row with output tokens a second and chip, from Little's law where not stated.

    In a closed loop ``concurrency`` requests are always in flight, each for TTFT + (output - 1)
    TPOT, so that many requests end in that time.
    """
    from dataclasses import replace

    if row.ttft_s is None or row.tpot_s is None or row.output_tokens_per_s is not None:
        return row
    each = row.ttft_s + (row.output_tokens - 1.0) * row.tpot_s
    rate = row.concurrency * row.output_tokens / each / row.chips
    return replace(row, output_tokens_per_s=rate, derived=True)


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
