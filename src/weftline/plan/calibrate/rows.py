"""Measured training runs from CSV files, as jobs whose step time can be predicted.

Two forms are read: columns of published runs (``accelerator,n_accel,model,tp,pp,...``) and those of
vTrain's ground truth (``# GPUs,global batch,micro batch,...``). What a source leaves open
(micro-batch, interleaving, recomputation) is predicted as the fastest choice that fits, as a
practitioner would have run it; what cannot be predicted is kept, with the reason.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from weftline.errors import InputError, InputErrors, UnknownNameError, WeftlineError
from weftline.fabric import cluster_of
from weftline.model import Model, load_model
from weftline.plan.calibrate.predict import prior_seconds
from weftline.plan.calibrate.row import Row, Unpredicted
from weftline.plan.calibrate.stated import held_of
from weftline.plan.calibrate.words import CHIPS, MODELS, family_of_run, precision_of, recipe_of
from weftline.plan.step.columns import Layouts
from weftline.plan.step.compiled import RECOMPUTE_FULL, RECOMPUTE_NONE, RECOMPUTE_SELECTIVE
from weftline.plan.step.frameworks import FRAMEWORKS, PLAIN, Framework, in_precision
from weftline.plan.step.layouts import attention_heads, concatenate, enumerate_layouts
from weftline.plan.step.memory import fit_recompute, memory_of
from weftline.plan.step.recipes import recipe_of_run
from weftline.plan.step.releases import released
from weftline.spec import Cluster

VTRAIN_COLUMNS: Final = (
    "# GPUs", "global batch", "micro batch", "hidden size", "attention heads", "# layers",
    "sequence length", "tensor parallelism", "data parallelism", "pipeline parallelism",
    "iteration time (ms)",
)  # fmt: skip
RUN_COLUMNS: Final = ("accelerator", "n_accel", "model", "seq_len", "gbs", "framework")
MAX_CSV_BYTES: Final = 64 << 20
MEMORY_SLACK: Final = 1.25
ADAPTER_RANK: Final = 16
"""Rank of adapters where a row of LoRA does not say: that of MLPerf's llama2_70b_lora."""

_SELECTIVE_BY_RECIPE: Final = ("megatron-core", "neuronx", "dualpipe")
"""Frameworks whose published recipes drop or offload single operators' activations, which costs
next to nothing; their rows that say nothing of recomputation are taken to have none."""
_BLOCKS_AT_ONCE: Final = ("automodel",)
"""Frameworks whose recomputation is a switch for all blocks: on where a run did not fit without."""
_PRODUCT_STATED: Final = re.compile(r"tp x cp = \d+ taken as cp")
"""A note on rows of which the product of both degrees is known, and how it is split is not."""


def read_rows(path: Path) -> tuple[list[Row], list[Unpredicted]]:
    """All runs of one CSV. Raises InputError(s): no file, no rows, missing columns, bad numbers."""
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise InputError("too large", where=str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(error.strerror or "cannot read", where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("not a text file", where=str(path)) from None
    reader = csv.DictReader(io.StringIO(text))
    header = set(reader.fieldnames or ())
    vtrain = "# GPUs" in header
    needed = VTRAIN_COLUMNS if vtrain else RUN_COLUMNS
    missing = [c for c in needed if c not in header]
    if missing:
        raise InputError(
            f"columns missing: {', '.join(missing)}", where=f"{path}:1",
            hint="rows need the columns of published runs or of vTrain's ground truth",
        )  # fmt: skip
    return rows_of(list(reader), vtrain=vtrain, where=str(path))


def rows_of(
    records: Sequence[Mapping[str, str]], *, vtrain: bool, where: str
) -> tuple[list[Row], list[Unpredicted]]:
    """Rows from records already split into columns; record 0 stands on line 2."""
    rows: list[Row] = []
    left: list[Unpredicted] = []
    wrong: list[InputError] = []
    for index, record in enumerate(records):
        try:
            row = _vtrain_row(index, record) if vtrain else _run_row(record)
        except _BadNumberError as error:
            wrong.append(InputError(str(error), where=f"{where}:{index + 2}"))
            continue
        if isinstance(row, Row):
            rows.append(row)
        else:
            left.append(row)
    if wrong:
        raise wrong[0] if len(wrong) == 1 else InputErrors(wrong[:20])
    if not rows and not left:
        raise InputError("no rows", where=where)
    return rows, left


class _BadNumberError(ValueError):
    """A cell that should be a number and is not."""


def _number(record: Mapping[str, str], name: str) -> float | None:
    text = (record.get(name) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise _BadNumberError(f"`{name}` is `{text[:40]}`: a number is needed") from None
    if not math.isfinite(value) or value < 0:
        raise _BadNumberError(f"`{name}` is {text}: it cannot be below zero")
    return value


def _count(record: Mapping[str, str], name: str) -> int | None:
    value = _number(record, name)
    return None if value is None or value < 1 else round(value)


def _layouts(**columns: float | Iterable[float]) -> Layouts:
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, float)) for v in columns.values()))
    return Layouts(**{k: a.astype(np.float64) for k, a in zip(columns, arrays, strict=True)})


def _vtrain_row(index: int, record: Mapping[str, str]) -> Row | Unpredicted:
    get = {name: _number(record, name) for name in VTRAIN_COLUMNS}
    name = f"line {index + 2}"
    holes = [n for n in VTRAIN_COLUMNS[:-1] if get[n] is None]
    if holes:
        return Unpredicted(id=name, accelerator="a100-80-sxm", framework="vTrain",
                           reason=f"does not state {', '.join(holes)}")  # fmt: skip
    gpus, batch, micro, hidden, heads, layers, seq, tp, dp, pp = (
        int(get[n] or 0) for n in VTRAIN_COLUMNS[:-1]
    )
    if tp * dp * pp != gpus:
        raise _BadNumberError(f"tensor {tp} x data {dp} x pipeline {pp} are not {gpus} GPUs")
    if batch % (dp * micro):
        raise _BadNumberError(f"data {dp} x micro batch {micro} do not divide the batch {batch}")
    time_ms = get["iteration time (ms)"]
    single = gpus <= 8
    model = load_model(f"gpt:layers={layers},hidden={hidden},heads={heads},seq={seq}")
    return Row(
        id=name,
        accelerator="a100-80-sxm",
        group=f"a100-80-sxm/vtrain-{'single' if single else 'multi'}-node",
        framework=f"vTrain {'single' if single else 'multi'}-node",
        model_name=f"gpt {layers}x{hidden}",
        measured_s=None if time_ms is None else time_ms / 1000,
        model=model,
        cluster=cluster_of("a100-80-sxm", gpus),
        frame=replace(FRAMEWORKS["megatron-lm-2022"], recipe=recipe_of_run("vTrain")),
        # A node's models fit without recomputation; those of 3.6B and more do not.
        layout=_layouts(
            tp=tp, cp=1, dp=dp, pp=pp, ep=1, vp=1, micro_batch=micro,
            num_micro_batches=batch // (dp * micro), zero=0,
            recompute=RECOMPUTE_NONE if single else RECOMPUTE_FULL,
            recompute_share=0.0 if single else 1.0, etp=1, shard=dp, pp_inner=0, zero_bubble=0,
            ulysses=0,
        ),
        stated=True,
        held={"tp": tp, "pp": pp, "dp": dp, "cp": 1, "zero": 0},
        seq_len=seq,
        precision="bf16",
        recipe="bf16",
        source=record.get("source", ""),
    )  # fmt: skip


def _run_row(record: Mapping[str, str]) -> Row | Unpredicted:
    name = (record.get("id") or record.get("model") or "?").strip()
    listed = (record.get("accelerator") or "").strip()
    framework = (record.get("framework") or "").strip()
    if re.search("async ?tp", record.get("notes") or "", flags=re.IGNORECASE):
        framework += " with asynchronous TP"
    if mlperf := re.search(r"training_results_(v\d+\.\d+)", record.get("source") or ""):
        # The same names a year apart are other software: the round stands for the version.
        framework += f" (MLPerf {mlperf.group(1)})"

    def give_up(reason: str) -> Unpredicted:
        return Unpredicted(id=name, accelerator=listed, framework=framework, reason=reason)

    chips = _count(record, "n_accel")
    seq, batch = _count(record, "seq_len"), _count(record, "gbs")
    if chips is None:
        return give_up("does not state the number of chips")
    frame = _frame_of(framework, record)
    try:
        model = _model_of(record)
    except WeftlineError as error:
        return give_up(error.what)
    if seq is None:
        seq = min(model.max_seq_len or 2048, 2048)
    try:
        cluster = _cluster_for(listed, chips, frame)
    except WeftlineError as error:
        return give_up(error.what)
    adapters = re.search("lora", " ".join(record.get(c) or "" for c in ("source", "framework")),
                         flags=re.IGNORECASE)  # fmt: skip
    if adapters:
        frame = replace(frame, adapter_rank=ADAPTER_RANK)
    if batch is None and (record.get("tokens_per_s_per_accel") or "").strip():
        batch = _one_micro_batch(record, cluster.chips)
    measured = _step_time(record, model, chips, seq, batch, cluster)
    if batch is None:
        return give_up("does not state the global batch")
    precision = precision_of(record.get("precision") or "", framework)
    frame = in_precision(released(frame, framework, record.get("model") or ""), precision)
    if modules := re.search(r"selective: (.+)", record.get("recompute") or ""):
        frame = replace(frame, selective=tuple(modules[1].split()))
    candidates = _candidates(record, model, cluster, frame, batch, seq)
    if isinstance(candidates, str):
        return give_up(candidates)
    peak = _number(record, "peak_mem_gib_per_accel")
    row = Row(
        id=name,
        accelerator=cluster.accelerator,
        group=f"{cluster.accelerator}/{frame.name}",
        framework=framework,
        model_name=(record.get("model") or "").strip(),
        measured_s=measured,
        model=model,
        cluster=cluster,
        frame=frame,
        layout=candidates,
        stated=_count(record, "tp") is not None or _count(record, "pp") is not None,
        seq_len=seq,
        precision=precision,
        recipe=recipe_of(record.get("precision") or "", precision),
        peak_memory_bytes=None if peak is None else peak * 2**30,
        source=(record.get("source") or "").strip(),
        held=held_of(record, candidates),
    )
    said = (record.get("recompute") or "").strip()
    if said.startswith("custom") or (not said and frame.name not in _SELECTIVE_BY_RECIPE):
        row = replace(row, layout=_recompute_as_needed(row))
    return replace(row, layout=_likeliest(row))


def _frame_of(framework: str, record: Mapping[str, str]) -> Framework:
    """Memory of the framework's family and the recipe of its release."""
    recipe = recipe_of_run(framework)
    if "rowwise" in (record.get("precision") or "").lower():
        recipe = replace(recipe, rowwise=1.0)
    if framework.startswith("NeMo AutoModel") and "balanced gate" in (record.get("notes") or ""):
        # Its FakeBalancedGate gives a token the next k experts in turn (components/moe/layers.py).
        recipe = replace(recipe, neighbours=1.0)
    family = family_of_run(framework)
    frame = replace(PLAIN, name=framework.lower()) if family is None else FRAMEWORKS[family]
    frame = replace(frame, recipe=recipe)
    # A run's memory is counted as it was logged, and what it recomputed made room for that.
    holes = frame.reserved_share
    return frame if holes is None else replace(frame, fragmentation=holes)


def _model_of(record: Mapping[str, str]) -> Model:
    """The bundled model a row names, or the GPT or Llama shape its numbers state."""
    name = re.sub(r"\s*\(.*\)$", "", (record.get("model") or "").strip())
    layers, hidden = _count(record, "layers"), _count(record, "hidden")
    with contextlib.suppress(UnknownNameError):
        found = load_model(MODELS.get(name, name))
        if layers in (None, len(found.layers)):
            return found
    heads = _count(record, "heads")
    if layers is None or hidden is None or heads is None:
        return load_model(name.lower())
    ffn, kv = _count(record, "ffn") or 4 * hidden, _count(record, "kv_heads") or heads
    vocab = _count(record, "vocab") or 51200
    gated = "llama" in name.lower()
    spec = f"gpt:layers={layers},hidden={hidden},heads={heads},ffn={ffn},vocab={vocab}"
    return load_model(
        f"{spec},seq={_count(record, 'seq_len') or 2048},kv_heads={kv}"
        + (",gated=true,positions=rope,tied=false" if gated else "")
    )


def _cluster_for(listed: str, chips: int, frame: Framework) -> Cluster:
    cluster = cluster_of(CHIPS.get(listed, listed), chips)
    if listed == "H100-96GB-500W":
        # The HBM2e variant of Grand Teton: 96 GB at 2.4 TB/s, 500 W (the rows' source).
        return replace(
            cluster, memory_bytes=96 * 2**30, memory_bandwidth_bytes_per_s=2.4e12, tdp_w=500.0
        )
    if frame.name == "neuronx" and cluster.accelerator == "trainium1":
        return _by_core(cluster)
    return cluster


def _by_core(cluster: Cluster) -> Cluster:
    """Trainium1 by NeuronCore: Neuron's degrees count cores, two a chip, each with half of all."""
    return replace(
        cluster,
        chips=cluster.chips * 2,
        chips_per_host=cluster.chips_per_host * 2,
        memory_bytes=cluster.memory_bytes / 2,
        memory_bandwidth_bytes_per_s=cluster.memory_bandwidth_bytes_per_s / 2,
        peak_flops={k: v / 2 for k, v in cluster.peak_flops.items()},
        levels=tuple(
            replace(lv, size=lv.size * 2, bandwidth_bytes_per_s=lv.bandwidth_bytes_per_s / 2,
                    shape=(2 * lv.shape[0], *lv.shape[1:]) if lv.shape else ())
            for lv in cluster.levels
        ),
    )  # fmt: skip


def _step_time(
    record: Mapping[str, str], model: Model, chips: int, seq: int, batch: int | None,
    cluster: Cluster,
) -> float | None:  # fmt: skip
    """Seconds a step: logged, or from tokens/s, FLOP/s or MFU by the model's own FLOP count."""
    logged = _number(record, "iter_time_s")
    if logged:
        return logged
    if batch is None:
        return None
    tokens = batch * seq
    rate = _number(record, "tokens_per_s_per_accel")
    if rate:
        return tokens / (rate * chips)
    # Meta's rates agree across 8k and 128k tokens only where attention counts its causal half.
    causal = (record.get("framework") or "").startswith("Meta internal")
    per_token = (
        3 * model.forward_flops_per_token(seq) if causal else model.training_flops_per_token(seq)
    )
    flops = per_token * tokens / chips
    tflops = _number(record, "tflops_per_accel")
    if tflops:
        return flops / (tflops * 1e12)
    mfu = _number(record, "mfu_pct")
    cores = cluster.chips / chips
    return flops / (mfu / 100 * cluster.peak_flops["bf16"] * cores) if mfu else None


def _one_micro_batch(record: Mapping[str, str], chips: int) -> int | None:
    """The batch of a step of one micro-batch: what a rate without a batch is answered for."""
    micro = _count(record, "mbs")
    if micro is None:
        return None
    degrees = [_count(record, name) or 1 for name in ("tp", "pp", "cp")]
    return micro * max(chips // math.prod(degrees), 1)


def _candidates(
    record: Mapping[str, str], model: Model, cluster: Cluster, frame: Framework, batch: int,
    seq: int,
) -> Layouts | str:  # fmt: skip
    """The layouts that agree with what the row states, or why there is none."""
    tp, pp = _count(record, "tp"), _count(record, "pp")
    if tp is None and pp is None:
        found = enumerate_layouts(model, cluster, frame, global_batch=batch, seq_len=seq)
        return found if len(found) else "no legal layout for its chips and batch"
    tp, cp = tp or 1, _count(record, "cp") or 1
    pairs = [(tp, cp)]
    if _PRODUCT_STATED.search(record.get("notes") or ""):
        most = math.gcd(tp * cp, attention_heads(model))
        pairs = [(t, tp * cp // t) for t in range(1, most + 1) if most % t == 0]
    parts = [_agreeing(record, model, cluster, frame, batch, *pair) for pair in pairs]
    layouts = [part for part in parts if isinstance(part, Layouts)]
    return concatenate(layouts) if layouts else parts[0]


def _agreeing(
    record: Mapping[str, str], model: Model, cluster: Cluster, frame: Framework, batch: int,
    tp: int, cp: int,
) -> Layouts | str:  # fmt: skip
    """The same at one degree of tensor and of context parallelism."""
    pp, ep = _count(record, "pp") or 1, _count(record, "ep")
    if cluster.chips % (tp * pp * cp):
        return f"tp {tp} x pp {pp} x cp {cp} do not divide {cluster.chips} chips"
    dp = cluster.chips // (tp * pp * cp)
    if ep is not None and (tp * cp * dp) % ep:
        return f"ep {ep} does not divide tp x cp x dp"
    eps = [ep] if ep is not None else _expert_degrees(model, tp * cp * dp)
    # Batches stated in tokens need not divide evenly: what counts is the mean share of a rank.
    per_rank = batch // dp if batch % dp == 0 else batch / dp
    zero = _zero(record, frame, pp)
    stated = _count(record, "mbs")
    # Without a pipeline nothing asks a fully sharded run to cut what a rank holds.
    whole_batch = frame.name == "maxtext" or (frame.name == "torchtitan" and pp == 1)
    if whole_batch or (frame.name in ("fsdp", "automodel") and pp == 1 and stated is None):
        micros: list[float] = [per_rank]
    elif stated is not None and per_rank % stated == 0:
        micros = [stated]
    else:
        micros = [m for m in (1, 2, 4, 8, 16) if per_rank % m == 0] or [1]
    vp = _count(record, "vp")
    layers = len(model.layers)
    interleaved = "interleaved" in (record.get("notes") or "").lower()
    vps = [vp or (2 if interleaved and pp > 1 else 1)]
    if vp is None and frame.name == "megatron-core" and pp > 1 and zero < 3:
        even = [v for v in (1, 2, 3, 4, 6, 8) if layers % (pp * v) == 0]
        vps = even or [v for v in (1, 2, 3, 4, 6, 8) if (layers + 2) % (pp * v) == 0] or [1]
    if frame.name == "torchtitan" and pp > 1 and stated is None:
        # torchtitan's default: as many micro-batches as the pipeline has stages.
        micros = [max(per_rank / (pp * vps[0]), 1)]
    grid = np.meshgrid(micros, vps, eps, indexing="ij")
    micro, v, experts = (g.ravel().astype(float) for g in grid)
    r = np.full(len(micro), _recompute(record.get("recompute") or ""))
    return _layouts(
        tp=tp, cp=cp, dp=dp, pp=pp, ep=experts, vp=np.where(pp > 1, v, 1.0), micro_batch=micro,
        num_micro_batches=per_rank / micro, zero=zero, recompute=r,
        recompute_share=(r == RECOMPUTE_FULL).astype(float), etp=1, shard=cp * dp, pp_inner=0,
        zero_bubble=0, ulysses=0,
    )  # fmt: skip


def _expert_degrees(model: Model, ranks: int) -> list[int]:
    """Degrees of expert parallelism that a run which states none may have: 1 without experts."""
    experts = [op.experts for op in model.operators if op.kind == "grouped_gemm"]
    most = math.gcd(min(experts, default=1), ranks)
    return [d for d in range(1, most + 1) if most % d == 0]


def _zero(record: Mapping[str, str], frame: Framework, pp: int) -> int:
    text = (record.get("fsdp") or "").strip().lower()
    if "zero-" in text:
        return int(text.split("zero-")[1][0])
    if text.isdigit() and int(text) > 1 and frame.name == "megatron-core":
        return 3
    if frame.name == "torchtitan":
        return 2 if pp > 1 else 3
    return frame.default_zero


def _recompute(text: str) -> int:
    """What a source says of recomputation; where it says nothing, as much as memory asks for."""
    low = text.lower()
    if "full" in low:
        return RECOMPUTE_FULL
    return RECOMPUTE_SELECTIVE if any(w in low for w in ("selective", "minimal", "save_")) else (
        RECOMPUTE_NONE)  # fmt: skip


def _recompute_as_needed(row: Row) -> Layouts:
    found = fit_recompute(
        row.model, row.frame, row.layout, seq_len=row.seq_len,
        capacity_bytes=row.cluster.memory_bytes,
    )  # fmt: skip
    if row.frame.name not in _BLOCKS_AT_ONCE:
        return found
    return replace(found, recompute_share=np.ceil(found.recompute_share))


def _likeliest(row: Row) -> Layouts:
    """Of several candidates the fastest that fits in memory, by the unfitted prior constants."""
    if len(row.layout) == 1:
        return row.layout
    memory = memory_of(row.model, row.frame, row.layout, seq_len=row.seq_len).total_bytes
    seconds = prior_seconds(row)
    # The run did fit: a candidate is ruled out only beyond what the memory count can be off.
    fits = memory <= MEMORY_SLACK * row.cluster.memory_bytes
    cost = np.where(fits, seconds, seconds + 1e6 * (memory / row.cluster.memory_bytes))
    return row.layout.take(np.array([int(np.argmin(cost))]))
