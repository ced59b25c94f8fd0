"""How well chips suit a model, in text: one row a chip, then where the time of each goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from weftline.report.text import page, table, wrapped
from weftline.units import format_duration

PARTS: Final = {
    "matrix": "matrix unit at its peak", "memory": "memory at its bandwidth",
    "vector": "vector unit", "gather": "gathers", "launch": "launches",
    "kernel_loss": "lost in kernels", "communication": "between chips",
}  # fmt: skip
OPERATORS_SHOWN: Final = 4
DETAILS_SHOWN: Final = 6


def render_fits(answer: Mapping[str, Any]) -> str:
    """``answer`` is what `catalog fit --json` prints: the question, fits best first, misses."""
    lines = wrapped(
        f"{answer['model']}{_under(answer)}, {answer['quantisation']} weights, "
        f"{answer['kv_cache']} KV: a prompt "
        f"of {answer['prompt_tokens']:,} tokens, a decode step of {answer['batch']} sequences at "
        f"{answer['context']:,} tokens. The fit is the time at the chip's peaks over the time "
        "predicted: 100% wastes nothing.", hang="  ",
    )  # fmt: skip
    for note in answer.get("notes", ()):
        lines += wrapped(note, hang="  ")
    fits: Sequence[Mapping[str, Any]] = answer["fits"]
    rows = [
        (f["chip"], str(f["chips"]), f"{f['fit']:.0%}", f"{f['prefill']['fit']:.0%}",
         format_duration(f["prefill"]["seconds"]), f"{f['decode']['fit']:.0%}",
         format_duration(f["decode"]["seconds"]), f["basis"])
        for f in fits
    ]  # fmt: skip
    header = ("accelerator", "chips", "fit", "prompt", "takes", "decode", "takes", "rests on")
    lines += ["", *table(header, rows, right=frozenset(range(1, 7)))]
    for f in fits[:DETAILS_SHOWN]:
        lines += ["", f"{f['chips']} x {f['chip']}: shares of the time"]
        parts = [
            (said, *(f"{f[phase]['parts'][key]:.1%}" for phase in ("prefill", "decode")))
            for key, said in PARTS.items()
            if max(f[phase]["parts"][key] for phase in ("prefill", "decode")) >= 0.0005
        ]
        lines += table(("", "prompt", "decode"), parts, right=frozenset({1, 2}))
        for phase, said in (("prefill", "prompt"), ("decode", "decode")):
            lines += wrapped(f"{said}: {_largest(f[phase])}", indent="  ", hang="  ")
    if len(fits) > DETAILS_SHOWN:
        lines += ["", f"Parts of {len(fits) - DETAILS_SHOWN} more in --json."]
    if answer["misses"]:
        lines += ["", "Without a fit"]
    for miss in answer["misses"]:
        lines += wrapped(f"{miss['chip']}: {miss['reason']}", indent="  ", hang="  ")
    return page(lines)


def _under(answer: Mapping[str, Any]) -> str:
    policy = answer.get("policy")
    return f" under the attention policy {policy}" if policy else ""


def _largest(phase: Mapping[str, Any]) -> str:
    """The operators that take most, with their unit and their own fit."""
    ordered = sorted(phase["operators"], key=lambda o: -o["seconds"])[:OPERATORS_SHOWN]
    return "; ".join(
        f"{o['name'].replace('_', ' ')} {o['seconds'] / phase['seconds']:.0%} ({_of_peak(o)})"
        for o in ordered
    )


def _of_peak(operator: Mapping[str, Any]) -> str:
    """The unit and, where it has a peak to be held against, the share reached."""
    unit = str(operator["unit"])
    if unit == "link" or not operator["seconds"]:
        return unit
    return f"{unit}, {min(1.0, operator['ideal_s'] / operator['seconds']):.0%} of the ideal"
