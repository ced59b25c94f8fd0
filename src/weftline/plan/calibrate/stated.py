"""What a shipped run states: its layout as a user would hold it, and its name in words."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path

from weftline.plan.step.columns import Layouts

__all__ = ["held_of", "run_words"]


def held_of(record: Mapping[str, str], layouts: Layouts) -> dict[str, int | str]:
    """Parts of the layout that a row states, from its columns and the layouts that agree with them;
    empty where no degree is stated. The micro-batch is left to what the batch asks."""

    def said(name: str) -> str:
        return (record.get(name) or "").strip()

    if not said("tp") and not said("pp"):
        return {}
    names = ["tp", "pp", "cp", "dp", "zero", *(name for name in ("ep", "vp") if said(name))]
    held: dict[str, int | str] = {name: int(getattr(layouts, name)[0]) for name in names}
    if held.get("vp") == 1:
        del held["vp"]
    if "taken as cp" in said("notes"):  # their product is what is known
        del held["tp"], held["cp"]
    again = said("recompute")
    return held | ({"recompute": again} if again in ("full", "none") else {})


def run_words(ident: str) -> str:
    """A shipped run in words, its id behind: ``LLAMA3_8B on 8 x H100, megatron-bridge [r120]``.

    The id alone for a run that is not among the shipped ones.
    """
    found = _shipped_records().get(ident)
    if found is None:
        return ident
    chips = found["n_accel"].strip()
    return f"{found['model']} on {chips} x {found['accelerator']}, {found['framework']} [{ident}]"


@functools.cache
def _shipped_records() -> Mapping[str, Mapping[str, str]]:
    path = Path(__file__).parents[1] / "data" / "published_runs.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return {record["id"]: record for record in csv.DictReader(file)}
