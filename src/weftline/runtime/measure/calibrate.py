"""This machine measured and written into the user's catalogue; plans and runs learnt from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from weftline.catalog.machines import HERE, Machine, machine, machines, write_machine
from weftline.errors import ThresholdCrossedError
from weftline.model.key import model_key
from weftline.model.load import load_config
from weftline.runtime.keep.supervise import RunFailedError, supervise
from weftline.runtime.measure import host
from weftline.runtime.measure.forecast import forecast, held
from weftline.runtime.measure.grid import COLLECTIVES, SIZES, on_grid, tables_of
from weftline.runtime.measure.loud import Loudness, Noise
from weftline.runtime.measure.shallow import depths_of
from weftline.runtime.measure.work import FOUND_FILE, holding, measuring
from weftline.runtime.train import models
from weftline.runtime.train.exchange import load_group, usual
from weftline.runtime.train.machine import Machine as Place
from weftline.runtime.train.recipe import Recipe
from weftline.spec import Layout, Measurement

__all__ = [
    "Calibrated", "calibrate_machine", "calibrate_plan", "key_of", "measure_plan", "memory_of",
    "ranks_found", "remember",
]  # fmt: skip

_GRID_S: Final = 20.0
"""For the grid; with processes that start, disk and text, a calibration takes less than 60."""
_PLAN_S: Final = 12.0
_SHARE: Final = 0.9
"""Of the host's memory that ranks may fill."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What was learnt, and where it stands."""

    machine: Machine
    file: str
    measurement: Measurement | None
    """Of a plan or a run, where one was given."""


def calibrate_machine(
    place: Place, *, today: str, name: str = HERE, folder: Path | None = None,
    accept_loud: bool = False, say: Say | None = None,
) -> Calibrated:  # fmt: skip
    """Measure this machine on a grid of shapes and write it down.

    ``folder`` is on the disk to measure. Raises ThresholdCrossedError where the machine is loud and
    ``accept_loud`` is not set; nothing is written then.
    """
    said = say or (lambda _: None)
    said("looking who else works here")
    noise = Noise()
    said("operators, exchanges and copies, all ranks at once")
    with host.power(place.kind) as drawn:
        found = ranks_found(_all_ranks(place), on_grid(_GRID_S))
    loud = noise.judge(found["reference"])
    _refuse(loud, accept_loud)
    said("disk and store")
    disk = host.storage(folder)
    said("text into tokens")
    text = host.tokens_per_s()
    times = found["times"]
    rates = {
        **{f"peak.{fmt}": max(_product_rate(key, s) for key, s in times.items()
                              if key.startswith(f"gemm/{fmt}/")) for fmt in ("fp32", "bf16")},
        "memory_bandwidth": found["copied_bytes"] / times["copy"],
        **({} if text is None else {"tokens_per_s": text}),
    }  # fmt: skip
    kept = machine(name).measurements if name in machines() else ()
    made = Machine(
        id=name, date=today, about=host.about(place.kind), loudness=asdict(loud),
        chip=_chip(name, place, rates, times, drawn, today),
        dtype="bf16" if rates["peak.bf16"] > rates["peak.fp32"] else "fp32", rates=rates,
        collectives=tuple(_collectives(times, place)), storage=disk, power=drawn,
        tables=tables_of(times, name), measurements=kept,
    )  # fmt: skip
    return Calibrated(machine=made, file=str(write_machine(made)), measurement=None)


def calibrate_plan(
    recipe: Recipe, *, today: str, name: str = HERE, accept_loud: bool = False,
    say: Say | None = None,
) -> Calibrated:  # fmt: skip
    """Time a plan's own operators and layout, and keep what they say of its step.

    Raises ThresholdCrossedError as :func:`calibrate_machine`.
    """
    (say or (lambda _: None))(f"operators of {recipe.layout.short()}, all ranks at once")
    found = measure_plan(recipe, today=today, name=name)
    if found.loud and not accept_loud:
        raise _loud(found.loud)
    return remember(found, name)


def measure_plan(
    recipe: Recipe, *, today: str, name: str = HERE, seconds: float = _PLAN_S
) -> Measurement:
    """What a plan's own operators and shallow layouts say of its step on this machine."""
    noise = Noise()
    found = ranks_found(recipe, measuring(seconds))
    references = [s for one in zip(*(r["rows"]["reference"] for r in found), strict=True)
                  for s in one]  # fmt: skip
    loud = noise.judge(references)
    parts = forecast(recipe, found)
    return Measurement(
        machine=name, model=recipe.model, model_key=key_of(recipe), layout=recipe.layout,
        seq_len=recipe.seq_len, dtype=recipe.dtype, source="operators",
        parts_s={part: seconds for part, seconds in parts.items() if seconds > 0},
        memory_bytes=memory_of(recipe), samples=len(found[0]["rows"]["low"]), date=today,
        spread=loud.spread,
        reference_s=sorted(references)[len(references) // 2], loud=loud.reasons,
    )  # fmt: skip


def memory_of(recipe: Recipe) -> float:
    """Bytes of a plan's fullest rank: its layout with few layers and with more, each run apart.

    A run that saves on the way holds steps and a save together; one that saves at its end, the
    more of the two.
    """
    depths = depths_of(recipe)
    low = ranks_found(recipe, holding(depths.low))
    high = ranks_found(recipe, holding(depths.high)) if depths.times else low
    found: dict[str, float] = {n: held(low[n], high[n], depths.times) for n in low}
    if 0 < recipe.checkpoint_every < recipe.steps:
        return found["in all"]
    return max(found["stepped"], found["saved"])


def key_of(recipe: Recipe) -> str:
    """The key of a recipe's model."""
    from weftline.model.config import HFConfig

    return model_key(load_config(HFConfig(json.dumps(dict(recipe.config)), recipe.model)))


def remember(found: Measurement, name: str = HERE) -> Calibrated:
    """Lay a measurement into the machine's file, in the place of the last of its kind.

    Raises InputError where the machine has no file yet.
    """
    known = machine(name)
    others = tuple(
        m for m in known.measurements
        if not (m.source == found.source and m.about(found.model_key, found.layout, found.seq_len))
    )  # fmt: skip
    made = replace(known, measurements=(*others, found))
    return Calibrated(machine=made, file=str(write_machine(made)), measurement=found)


def ranks_found(recipe: Recipe, work: Callable[..., bool]) -> Any:
    """Fork the ranks as a run does, with the same things loaded, and read what they found."""
    with models.quietly():
        models.build(models.config_of(recipe.config), attention="eager")
    load_group(recipe)
    with tempfile.TemporaryDirectory() as folder:
        outcome = supervise(recipe, Path(folder), work, say=lambda _: None)
        if not outcome.finished:
            raise RunFailedError("the measurement was stopped: nothing is kept")
        return json.loads((Path(folder) / FOUND_FILE).read_text(encoding="utf-8"))


def _all_ranks(place: Place) -> Recipe:
    """A recipe of no model, for one rank a core or device."""
    small = ("vocab_size", "hidden_size", "intermediate_size", "head_dim")
    ones = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    fields = {"model_type": "llama", **dict.fromkeys(small, 32), **dict.fromkeys(ones, 1)}
    return Recipe(
        model="none", config=fields, parameters=0, flops_per_token=0.0,
        layout=Layout(dp=max(1, place.chips), zero=0), seq_len=1, steps=1, device=place.kind,
        backend=usual(place.kind),
    )  # fmt: skip


def _product_rate(key: str, seconds: float) -> float:
    m, n, k = (float(v) for v in key.split("/")[2:])
    return 2.0 * m * n * k / seconds


def _collectives(times: dict[str, float], place: Place) -> list[dict[str, Any]]:
    return [
        {"backend": usual(place.kind), "ranks": place.chips, "operation": name, "bytes": size,
         "seconds": times[key]}
        for name in COLLECTIVES for size in SIZES
        if (key := f"exchange/{name}/{size}") in times
    ]  # fmt: skip


def _chip(
    name: str, place: Place, rates: dict[str, float], times: dict[str, float],
    drawn: dict[str, Any], today: str,
) -> dict[str, Any]:  # fmt: skip
    """One rank's share of the machine, as ``--chip`` reads it."""
    ranks = max(1, place.chips)
    memory = host.memory_bytes() / ranks if place.kind == "cpu" else place.memory_bytes
    record: dict[str, Any] = {
        "id": name, "vendor": "cpu" if place.kind == "cpu" else "nvidia", "measured": today,
        "memory": memory * _SHARE, "memory_bandwidth": rates["memory_bandwidth"],
        "peak.fp32": rates["peak.fp32"], "peak.bf16": rates["peak.bf16"],
        "chips_per_host": float(ranks),
    }  # fmt: skip
    biggest = times.get(f"exchange/all-reduce/{SIZES[-1]}")
    if biggest is not None:
        # A ring sends 2 (n - 1) / n of the buffer one way.
        record |= {"scale_up": 2 * (ranks - 1) / ranks * SIZES[-1] / biggest,
                   "scale_up_domain": float(ranks), "topology": "switch"}  # fmt: skip
    if "watts" in drawn:
        record["tdp"] = float(drawn["watts"]) / ranks
    return record


def _refuse(loud: Loudness, accept: bool) -> None:
    if loud.reasons and not accept:
        raise _loud(loud.reasons)


def _loud(reasons: Sequence[str]) -> ThresholdCrossedError:
    return ThresholdCrossedError(
        f"the machine is too loud to measure: {'; '.join(reasons)}", where="calibrate",
        hint="try again when it is quiet, or --accept-loud keeps the figures with this said",
    )  # fmt: skip
