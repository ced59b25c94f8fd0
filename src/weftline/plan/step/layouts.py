"""Every layout that a framework could run for one model on so many chips, as columns.

Legal by construction: degrees divide what they split, the global batch is held, interleaving needs
whole chunks and a number of micro-batches that pp divides (Megatron-LM's rule), experts are split
over tp * cp * dp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError, InputErrors
from weftline.model import Model
from weftline.model.once import once_per_model
from weftline.plan.step.columns import Layouts
from weftline.plan.step.compiled import (
    RECOMPUTE_FULL,
    RECOMPUTE_NONE,
    RECOMPUTE_SELECTIVE,
    split_layers,
)
from weftline.plan.step.frameworks import Framework
from weftline.spec import DEFAULT_ORDER, PIPELINE_INSIDE, RECOMPUTES, Cluster, Layout, Schedule

BoolArray = npt.NDArray[np.bool_]
MAX_TP = 64
MAX_MICRO_BATCH = 16
TOKENS_PER_CP_RANK = 8192
"""Context parallelism leaves a rank at least so many tokens, unless nothing else fits or the user
asks: below, attention rings do not hide, and frameworks recompute or split layers instead."""
LEAST_PER_CP_RANK = 4096
UNEVEN_LIMIT = 1.125
"""A pipeline may give its longest stage at most this much more than an even share."""


@once_per_model
def attention_heads(model: Model) -> int:
    """The smallest number of heads of any layer: what tensor parallelism must divide."""
    heads = [op.attention.heads for op in model.operators if op.attention is not None]
    return min((h for h in heads if h >= 4), default=model.hidden // 64)


@once_per_model
def kv_heads(model: Model) -> int:
    """The smallest number of key and value heads of any layer: what Ulysses must divide."""
    heads = [op.attention.kv_heads for op in model.operators if op.attention is not None]
    return min(heads, default=1)


def enumerate_layouts(
    model: Model, cluster: Cluster, frame: Framework, *, global_batch: int, seq_len: int
) -> Layouts:
    """All legal layouts of ``model`` on ``cluster`` for ``global_batch`` sequences a step."""
    return layouts_on(
        model, cluster.chips, cluster.levels[0].size, frame, global_batch=global_batch,
        seq_len=seq_len,
    )  # fmt: skip


Held = tuple[tuple[str, int | str], ...]
"""Parts of a layout that are fixed, by name: what a user holds."""


def layouts_on(
    model: Model, chips: int, domain: int, frame: Framework, *, global_batch: int, seq_len: int,
    held: Held = (), far_context: bool = False,
) -> Layouts:  # fmt: skip
    """The same from what it depends on: the count and the chips of a scale-up domain.

    ``held`` parts take the user's value alone, whether or not it would be tried unasked. Sequences
    are split inside a domain, unless ``far_context``: beyond it keys and values of every layer
    cross the slow network, where pipeline stages send one activation.
    """
    fixed = dict(held)
    tp, cp, pp, ep = _degrees(model, chips, frame, seq_len, fixed, far_context)
    dp = chips // (tp * cp * pp)
    legal = (dp * tp * cp * pp == chips) & (dp <= global_batch)
    legal &= np.mod(tp * cp * dp, ep) == 0
    if "cp" not in fixed and not far_context:
        legal &= (cp == 1) | (tp * cp <= domain)
    # A ring needs two equal halves a rank (causal balance), sequence parallelism equal shares,
    # unless a compiler pads them.
    legal &= (cp == 1) | (np.mod(seq_len, 2 * cp) == 0)
    if frame.sequence_parallel and not frame.rematerialises:
        legal &= np.mod(seq_len, cp * tp) == 0
    tp, cp, pp, ep, dp = (a[legal] for a in (tp, cp, pp, ep, dp))

    micro = _micro_batches(fixed, global_batch)
    layers = len(model.layers)
    chunks = range(1, min(layers, 16) + 1) if frame.pipeline else (1,)
    vp = _tried(fixed, "vp", chunks)
    zero = _tried(fixed, "zero", frame.zero_stages)
    zero = zero[np.isin(zero, frame.zero_stages)]
    again = _recomputations(fixed, frame)
    base, micro = _cross(len(tp), micro)
    per_rank = global_batch // dp[base]
    keep = (dp[base] * per_rank == global_batch) & (np.mod(per_rank, micro) == 0)
    base, micro = base[keep], micro[keep]
    num = global_batch // (dp[base] * micro)

    index, vp = _cross(len(base), vp)
    pp_i = pp[base[index]]
    interleaved = vp > 1
    whole = (np.mod(layers, pp_i * vp) == 0) | (np.mod(layers + 2, pp_i * vp) == 0)
    # Layers that no stage count divides (DeepSeek-V3's 61) are laid out by hand, chunk by chunk.
    apart = (np.mod(layers, pp_i) != 0) & (np.mod(layers + 2, pp_i) != 0)
    if "vp" in fixed:
        apart = np.ones(len(apart), dtype=bool)
    whole |= apart & (-(-layers // (pp_i * vp)) * pp_i * vp <= UNEVEN_LIMIT * layers)
    keep = ~interleaved | ((pp_i > 1) & whole & (np.mod(num[index], pp_i) == 0))
    index, vp = index[keep], vp[keep]

    final, options = _cross(len(index), np.arange(len(zero) * len(again)))
    index, vp = index[final], vp[final]
    base_i = base[index]
    zero_f, again_f = zero[options // len(again)], again[options % len(again)]
    # ZeRO-3 gathers weights for every micro-batch of every stage: frameworks pair it with pp = 1;
    # those that shard fully can be told otherwise.
    told = frame.fully_sharded and {"pp", "zero"} <= fixed.keys()
    keep = (zero_f < 3) | (pp[base_i] == 1) | told
    share = _held_share(fixed, layers, pp[base_i].astype(np.float64))
    columns = {
        "tp": tp[base_i], "cp": cp[base_i], "dp": dp[base_i], "pp": pp[base_i], "ep": ep[base_i],
        "vp": vp, "micro_batch": micro[index], "num_micro_batches": num[index],
        "zero": zero_f, "recompute": again_f,
        "recompute_share": np.where(again_f == RECOMPUTE_FULL, share, 0.0),
        "etp": np.ones(len(again_f)),
        "shard": cp[base_i] * dp[base_i], "pp_inner": np.zeros(len(again_f)),
        "zero_bubble": np.zeros(len(again_f)), "ulysses": np.zeros(len(again_f)),
    }  # fmt: skip
    plain = Layouts(**{k: v[keep].astype(np.float64) for k, v in columns.items()})
    return _held(_variants(plain, model, float(domain), frame), fixed)


def _tried(
    fixed: Mapping[str, int | str], name: str, usual: Sequence[int]
) -> npt.NDArray[np.int64]:
    """The values of a part: the one that is held, else the usual ones."""
    values = [fixed[name]] if name in fixed else list(usual)
    return np.array(values, dtype=np.int64)


def _micro_batches(fixed: Mapping[str, int | str], global_batch: int) -> npt.NDArray[np.int64]:
    """Sequences of a micro-batch: powers of two, or what a held number of micro-batches asks."""
    usual = {1, 2, 4, 8, MAX_MICRO_BATCH}
    number = int(fixed.get("num_micro_batches", 0))
    if number:
        usual |= {m for m in range(1, 4 * MAX_MICRO_BATCH + 1) if global_batch % (number * m) == 0}
    micro = _tried(fixed, "micro_batch", sorted(usual))
    return micro[micro <= global_batch]


def _recomputations(fixed: Mapping[str, int | str], frame: Framework) -> npt.NDArray[np.int64]:
    """Ways to recompute: full is not tried unasked, the search adds as much as memory asks."""
    if "recompute" in fixed:
        return np.array([RECOMPUTES.index(fixed["recompute"])])
    if fixed.get("recompute_layers"):
        return np.array([RECOMPUTE_FULL])
    return np.array(
        [RECOMPUTE_NONE] if frame.flash_attention else [RECOMPUTE_NONE, RECOMPUTE_SELECTIVE]
    )


def _held_share(
    fixed: Mapping[str, int | str], layers: int, pp: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Share of a stage's layers that full recomputation covers: all, unless a count is held."""
    stage, _ = split_layers(float(layers), pp)
    count = fixed.get("recompute_layers")
    return np.ones(len(pp)) if count is None else np.minimum(float(count) / stage, 1.0)


def _held(layouts: Layouts, fixed: Mapping[str, int | str]) -> Layouts:
    """Those that have every part as it is held."""
    keep = np.ones(len(layouts), dtype=bool)
    for name in ("tp", "cp", "dp", "pp", "ep", "vp", "micro_batch", "num_micro_batches", "zero",
                 "etp"):  # fmt: skip
        if name in fixed:
            keep &= getattr(layouts, name) == float(fixed[name])
    if fixed.get("shard"):
        keep &= layouts.shard == float(fixed["shard"])
    if "context" in fixed:
        keep &= layouts.ulysses == float(fixed["context"] == "ulysses")
    if "schedule" in fixed:
        keep &= layouts.zero_bubble == float(fixed["schedule"] == "zero-bubble")
        if fixed["schedule"] != "zero-bubble":
            keep &= (layouts.vp > 1) == (fixed["schedule"] == "interleaved")
    return layouts if keep.all() else layouts.take(keep)


def _variants(plain: Layouts, model: Model, domain: float, frame: Framework) -> Layouts:
    """Beside each plain layout what else it could be, where that changes anything.

    Expert-tensor parallelism for experts under tp; Ulysses where heads divide; HSDP that shards
    inside the scale-up domain; pipeline neighbours inside it; a zero-bubble schedule.
    """
    found = [plain]
    if model.is_moe:
        split = (plain.tp > 1) & (np.mod(plain.tp * plain.cp * plain.dp, plain.ep * plain.tp) == 0)
        some = plain.take(split)
        found.append(replace(some, etp=some.tp))
    inside = np.maximum(domain / plain.tp, 1.0)
    hybrid = (plain.zero >= 3) & (plain.ep == 1) & (inside < plain.shard) & (inside > 1)
    some = plain.take(hybrid & (np.mod(plain.shard, inside) == 0))
    found.append(replace(some, shard=np.maximum(domain / some.tp, 1.0)))
    near = (plain.pp > 1) & (plain.dp > 1) & (plain.cp == 1) & (plain.ep == 1)
    some = plain.take(near & (plain.tp * plain.pp <= domain))
    found.append(replace(some, pp_inner=np.ones(len(some))))
    heads = kv_heads(model)
    some = plain.take((plain.cp > 1) & (np.mod(heads, plain.tp * plain.cp) == 0))
    found.append(replace(some, ulysses=np.ones(len(some))))
    if frame.zero_bubble:
        some = plain.take((plain.pp > 1) & (plain.vp == 1))
        found.append(replace(some, zero_bubble=np.ones(len(some))))
    return concatenate(found)


def concatenate(parts: Sequence[Layouts]) -> Layouts:
    """Columns of several as one."""
    return Layouts(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Layouts)}
    )


def _degrees(
    model: Model,
    chips: int,
    frame: Framework,
    seq_len: int,
    fixed: Mapping[str, int | str],
    far_context: bool,
) -> tuple[npt.NDArray[np.int64], ...]:
    layers = len(model.layers)
    heads, keys = attention_heads(model), kv_heads(model)
    tps = [t for t in _powers(min(MAX_TP, chips)) if heads % t == 0 and model.hidden % t == 0]
    if not frame.replicates_kv and keys > 1:
        tps = [t for t in tps if keys % t == 0]
    least = LEAST_PER_CP_RANK if far_context else TOKENS_PER_CP_RANK
    cps = [c for c in _powers(chips) if c == 1 or seq_len // c >= least]
    pps = [p for p in range(1, min(layers, chips) + 1) if p == 1 or frame.pipeline]
    pps = [p for p in pps if chips % p == 0 and _even_enough(layers, p)]
    experts = model.experts
    eps = [e for e in _powers(min(max(experts, 1), chips)) if max(experts, 1) % e == 0]
    degrees = (("tp", tps), ("cp", cps), ("pp", pps), ("ep", eps))
    grid = np.meshgrid(*(_tried(fixed, n, usual) for n, usual in degrees), indexing="ij")
    tp, cp, pp, ep = (g.ravel().astype(np.int64) for g in grid)
    return tp, cp, pp, ep


def _even_enough(layers: int, pp: int) -> bool:
    if layers % pp == 0 or (layers + 2) % pp == 0:
        return True
    return -(-layers // pp) * pp / layers <= UNEVEN_LIMIT


def _powers(limit: int) -> list[int]:
    return [1 << i for i in range(limit.bit_length()) if 1 << i <= limit]


def _cross(
    rows: int, values: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every row beside every value: row indices and values."""
    return np.repeat(np.arange(rows), len(values)), np.tile(values, rows)


def layout_at(layouts: Layouts, index: int, layers: int) -> Layout:
    """One row of the columns as the noun; ``layers`` is the model's count."""
    names = ("tp", "cp", "dp", "pp", "ep", "vp", "micro_batch", "num_micro_batches", "zero")
    row = {name: int(getattr(layouts, name)[index]) for name in names}
    stage = float(split_layers(float(layers), layouts.pp[index : index + 1])[0][0])
    return Layout(
        **row,
        recompute=RECOMPUTES[int(layouts.recompute[index])],
        recompute_layers=round(float(layouts.recompute_share[index]) * stage),
        etp=int(layouts.etp[index]),
        shard=int(layouts.shard[index]) if row["zero"] >= 1 else 0,
        schedule=_schedule(layouts, index),
        context="ulysses" if layouts.ulysses[index] else "ring",
        order=PIPELINE_INSIDE if layouts.pp_inner[index] else DEFAULT_ORDER,
    )


def _schedule(layouts: Layouts, index: int) -> Schedule:
    if layouts.zero_bubble[index]:
        return "zero-bubble"
    return "interleaved" if layouts.vp[index] > 1 else "1f1b"


def columns_of(layout: Layout, layers: int) -> Layouts:
    """One layout as columns of length one; ``layers`` is the model's count."""
    stage = float(split_layers(float(layers), np.array([float(layout.pp)]))[0][0])

    def column(value: int) -> npt.NDArray[np.float64]:
        return np.array([float(value)])

    return Layouts(
        tp=column(layout.tp), cp=column(layout.cp), dp=column(layout.dp), pp=column(layout.pp),
        ep=column(layout.ep), vp=column(layout.vp), micro_batch=column(layout.micro_batch),
        num_micro_batches=column(layout.num_micro_batches), zero=column(layout.zero),
        recompute=column(RECOMPUTES.index(layout.recompute)),
        recompute_share=np.array([min(layout.recompute_layers / stage, 1.0)]),
        etp=column(layout.etp),
        shard=column(layout.shard or layout.cp * layout.dp),
        pp_inner=column(layout.order.index("pp") < layout.order.index("dp")),
        zero_bubble=column(layout.schedule == "zero-bubble"),
        ulysses=column(layout.context == "ulysses"),
    )  # fmt: skip


def check_model(layout: Layout, model: Model) -> None:
    """Raise InputErrors where a model cannot be cut as ``layout`` says."""
    wrong: list[InputError] = []
    heads = attention_heads(model)
    if heads % layout.tp:
        wrong.append(InputError(f"tp={layout.tp} does not divide {heads} attention heads",
                                hint="tensor parallelism splits whole heads"))  # fmt: skip
    if layout.context == "ulysses" and kv_heads(model) % (layout.tp * layout.cp):
        wrong.append(
            InputError(f"Ulysses over cp={layout.cp} does not divide {kv_heads(model)} key heads "
                       f"left by tp={layout.tp}", hint="use context=ring")
        )  # fmt: skip
    if layout.ep > 1 and (not model.is_moe or model.experts % layout.ep):
        wrong.append(InputError(f"ep={layout.ep} does not divide {model.experts} experts"))
    if wrong:
        raise wrong[0] if len(wrong) == 1 else InputErrors(wrong)
