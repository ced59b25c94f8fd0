"""What can be asked: each control is an option of the command line, with its name and its help.

Names, defaults and help come from :mod:`weftline.spec.options`; here stands only how a control
looks and in which group it is. Options that name files on this machine are no controls: nothing
that a browser sends is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Final, Literal

from weftline.spec.job_file import OPTIONS, JobKind, explained_fields
from weftline.spec.options import as_option

__all__ = ["EXAMPLES", "FILES_ONLY", "Control", "Group", "chips", "controls", "groups"]

Form = Literal["text", "choice", "flag", "chips"]
FILES_ONLY: Final = frozenset({"chip"})
"""Options that are files and nothing else."""
_TITLES: Final[Mapping[JobKind, Mapping[str, tuple[str, ...]]]] = {
    "train": {
        "What to train": ("tokens", "seq", "global_batch", "precision", "tune"),
        "Where": ("on", "chips", "max_chips"),
        "Money and time": ("objective", "price", "budget", "deadline", "discount", "region"),
        "Framework and layout": (),
    },
    "serve": {
        "Traffic": ("rate", "input", "output", "trace", "burstiness", "spread"),
        "Targets": ("ttft", "tpot", "e2e", "within", "p99", "headroom"),
        "Where": ("on", "max_chips", "engine", "precision"),
        "Money": ("price", "discount", "region", "batch", "deadline"),
        "Sessions, caches and layout": (),
    },
}
"""Groups in their order; the last takes every option that no other names."""
_OPEN: Final = frozenset({"What to train", "Where", "Money and time", "Traffic", "Targets"})
_LABELS: Final = {
    "seq": "Tokens a sequence", "global_batch": "Sequences a step", "on": "Accelerators",
    "chips": "Exactly so many chips", "max_chips": "At most so many chips", "ttft": "First token",
    "tpot": "Each later token", "e2e": "Whole answer", "p99": "Limits of the 99th percentile",
    "within": "Share that keeps them", "input": "Tokens of a prompt",
    "output": "Tokens of an answer", "kv": "KV cache format", "lora": "LoRA adapters",
    "tune": "What is trained", "rank": "Rank of adapters", "seed": "Seed of the traffic",
    "tokens": "Tokens of the run", "price": "Price or way to pay", "daily": "Peak over the mean",
}  # fmt: skip
EXAMPLES: Final[Mapping[JobKind, Mapping[str, str]]] = {
    "train": {"model": "llama-3.1-8b", "tokens": "1T", "on": "h100-sxm,b200,mi300x",
              "max_chips": "512"},
    "serve": {"model": "llama-3.1-8b", "rate": "20/s", "input": "1000", "output": "250",
              "ttft": "500ms", "tpot": "40ms", "on": "h100-sxm", "engine": "vllm"},
}  # fmt: skip
"""What the page asks for before anybody has said anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One option as a control."""

    name: str
    label: str
    option: str
    """As on the command line: ``--max-chips``."""
    help: str
    default: str
    form: Form = "text"
    choices: tuple[str, ...] = ()
    """All there are of a choice; suggestions of a text."""
    needed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Controls that are read together."""

    title: str
    controls: tuple[Control, ...]
    open: bool
    """Whether it is unfolded at the start."""


@cache
def _choices() -> Mapping[str, tuple[str, ...]]:
    from weftline.plan.step.frameworks import FRAMEWORKS, OPTIMIZERS
    from weftline.serve.engine.config import KV_DTYPES
    from weftline.serve.simulate.traffic import BUNDLED
    from weftline.spec.job import OBJECTIVES, PRECISIONS, TUNES
    from weftline.spec.serve_job import ROUTINGS

    return {
        "objective": OBJECTIVES, "precision": PRECISIONS, "tune": TUNES, "routing": ROUTINGS,
        "framework": ("auto", *FRAMEWORKS), "optimizer": tuple(OPTIMIZERS),
        "kv": tuple(KV_DTYPES), "trace": ("", *BUNDLED),
    }  # fmt: skip


_HINTS: Final[Mapping[str, tuple[str, ...]]] = {
    "price": ("on-demand", "spot", "reserved", "capacity-block", "any"),
    "engine": ("all", "vllm", "sglang", "trtllm", "jetstream", "neuron"),
}


@cache
def controls(kind: JobKind) -> Mapping[str, Control]:
    """Every control of a question of ``kind``, by the field that it sets."""
    found: dict[str, Control] = {}
    for options in OPTIONS[kind]:
        said = dict(explained_fields(options))
        for f in fields(options):
            if f.name in FILES_ONLY:
                continue
            default = "" if f.default in (MISSING, None) else str(f.default)
            form, choices = _form(kind, f.name, str(f.type))
            found[f.name] = Control(
                name=f.name, label=_LABELS.get(f.name, f.name.replace("_", " ").capitalize()),
                option=as_option(f.name), help=said[f.name], default=default, form=form,
                choices=choices, needed=f.default is MISSING,
            )  # fmt: skip
    return found


def _form(kind: JobKind, name: str, type_: str) -> tuple[Form, tuple[str, ...]]:
    if type_ == "bool":
        return "flag", ()
    if name == "on":
        return "chips", ()
    # Serving takes several formats at once.
    if name in _choices() and not (kind == "serve" and name == "precision"):
        return "choice", _choices()[name]
    return "text", _HINTS.get(name, ())


@cache
def groups(kind: JobKind) -> tuple[Group, ...]:
    """The controls in groups, every one in one of them."""
    known = controls(kind)
    named = {name for names in _TITLES[kind].values() for name in names}
    rest = tuple(c for name, c in known.items() if name not in named)
    return tuple(
        Group(title=title, controls=tuple(known[n] for n in names) or rest, open=title in _OPEN)
        for title, names in _TITLES[kind].items()
    )


def chips() -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Maker -> (catalogue name, what to show) of its accelerators; at last the user's own."""
    from weftline.catalog import accelerators
    from weftline.catalog.machines import machines

    found: dict[str, list[tuple[str, str]]] = {}
    for chip in accelerators().values():
        found.setdefault(chip.vendor, []).append((chip.id, chip.id))
    mine = [(name, "measured here") for name in machines()]
    return {maker: tuple(rows) for maker, rows in (*found.items(), ("yours", mine)) if rows}
