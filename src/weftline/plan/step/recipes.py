"""Recipes: what a release of a framework overlaps, fuses and launches, as data with sources.

``data/recipes.yaml`` holds a row a release. A run is matched by its framework's words, a plan by
the framework family it names; one that matches none keeps the flags of a plain framework, is called
by its own words, and is no kin of any other: its band is that of a source never seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from weftline.errors import InputError, UnknownNameError
from weftline.operators.products import family_of
from weftline.plan.step.constants import Number

__all__ = [
    "FLAGS",
    "Recipe",
    "checked_recipe",
    "flag_columns",
    "recipe_of_framework",
    "recipe_of_run",
    "recipes",
    "stated_recipe",
]

_UNKNOWN: Final = "unknown"
_WORDS: Final = {"on": 1.0, "off": 0.0, "true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_CHOICES: Final[Mapping[str, Mapping[str, Mapping[str, float]]]] = {
    "dispatch": {"node": {"once_a_node": 1.0}, "copy": {"once_a_node": 0.0}},
    "attention": {
        "unfused": {"fused_attention": 0.0, "old_attention": 0.0, "triton_attention": 0.0},
        "triton": {"fused_attention": 1.0, "old_attention": 1.0, "triton_attention": 1.0},
        "flash2": {"fused_attention": 1.0, "old_attention": 1.0, "triton_attention": 0.0},
        "newest": {"fused_attention": 1.0, "old_attention": 0.0, "triton_attention": 0.0},
    },
    "overlap_pp": {
        "interleaved": {"overlap_pp": 0.0, "overlap_interleaved": 1.0},
        **{
            word: {"overlap_pp": value, "overlap_interleaved": value}
            for word, value in _WORDS.items()
        },
    },
}
"""Flags that are words in the data, and what they set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One release. Flags are 0 or 1, or arrays of them where rows of many recipes are joined."""

    name: str = _UNKNOWN
    family: str = _UNKNOWN
    """Releases whose rows are fitted together."""
    overlap_tp: Number = 0.0
    overlap_dp: Number = 1.0
    overlap_pp: Number = 1.0
    overlap_interleaved: Number = 1.0
    """The same where stages are interleaved."""
    overlap_ep: Number = 0.0
    overlap_cp: Number = 1.0
    graphs: Number = 0.0
    """Share of a layer's launches that graphs or whole-step compilation take from the host."""
    once_a_node: Number = 0.0
    """Whether a token is sent once to a rank and to a node, not once to each of its experts."""
    fused_routing: Number = 0.0
    """Permutation, activation and quantisation of routed tokens inside neighbouring kernels."""
    fused_casts: Number = 1.0
    fused_attention: Number = 1.0
    old_attention: Number = 0.0
    """Flash attention 2 on chips that have newer kernels."""
    triton_attention: Number = 0.0
    """Flash attention's first form in Triton, older than flash attention 2 on every chip."""
    rowwise: Number = 0.0
    """fp8 with a scale a row, computed outside the products."""
    reduce_bytes: Number = 4.0
    """Bytes of a gradient in data-parallel reduction."""
    neighbours: Number = 0.0
    """1 where a benchmark's gate, to balance experts, sends a token to neighbouring ones."""
    where: tuple[tuple[tuple[str, Any], ...], ...] = ()
    """Changes on some chips or for some models, each as its items."""
    released: str = ""
    source: str = ""

    @property
    def known(self) -> bool:
        """Whether the data has it; one that is not known is no kin of any."""
        return not self.family.startswith(_UNKNOWN)

    def on(self, accelerator: str, model: str) -> Recipe:
        """The recipe as it runs on a chip (catalogue id) and a model (name)."""
        found = self
        for items in self.where:
            case = dict(items)
            chips, models = case.get("chips"), case.get("models")
            if chips is not None and accelerator.partition("+")[0] not in chips:
                continue
            if models is not None and not any(part in model for part in models):
                continue
            found = replace(found, **_values(
                {k: v for k, v in case.items() if k not in ("chips", "models")}))  # fmt: skip
        return replace(found, where=()) if self.where else found

    def with_flags(self, asked: Sequence[str], *, where: str = "--recipe") -> Recipe:
        """The recipe with flags that a user states: ``overlap_tp=off``, ``dispatch=node``.

        They hold on every chip. Raises InputError(s) for what is no flag or no value of one.
        """
        if not asked:
            return self
        stated: dict[str, Any] = {}
        for text in asked:
            name, _, value = text.partition("=")
            if name not in FLAGS:
                raise UnknownNameError("flag", name, FLAGS, where=where,
                                       hint=f"one of {', '.join(FLAGS)}")  # fmt: skip
            stated[name] = _parsed(name, value.strip().lower(), where)
        case = tuple(stated.items())
        return replace(self, where=(*self.where, case), name=f"{self.name} with {', '.join(asked)}")


FLAGS: Final[tuple[str, ...]] = (
    "overlap_tp", "overlap_dp", "overlap_pp", "overlap_ep", "overlap_cp", "graphs", "dispatch",
    "fused_routing", "fused_casts", "attention", "reduce_bytes",
)  # fmt: skip
"""What a user may state of a recipe."""


def flag_columns() -> tuple[str, ...]:
    """Fields of a recipe that are numbers, which rows of many recipes join into arrays."""
    words = ("name", "family", "where", "released", "source")
    return tuple(f.name for f in fields(Recipe) if f.name not in words)


def _parsed(name: str, value: str, where: str) -> Any:
    if name in _CHOICES:
        if value in _CHOICES[name]:
            return value
        raise InputError(f"`{name}` cannot be `{value}`", where=where,
                         hint=f"one of {', '.join(_CHOICES[name])}")  # fmt: skip
    if value in _WORDS:
        return _WORDS[value]
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= (4 if name == "reduce_bytes" else 1):
        raise InputError(f"`{name}` cannot be `{value or 'nothing'}`", where=where,
                         hint=f"{name}=on or {name}=off")  # fmt: skip
    return number


def _values(flags: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in flags.items():
        if name in _CHOICES:
            out |= _CHOICES[name][str(value).lower()]
        else:
            out[name] = float(value)
    return out


def _frozen(case: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """A case of the data as items that can be hashed."""
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in case.items())


@dataclass(frozen=True, slots=True)
class _Row:
    recipe: Recipe
    pattern: re.Pattern[str]
    frameworks: tuple[str, ...]
    families: tuple[str, ...]


@lru_cache(maxsize=1)
def _read() -> tuple[_Row, ...]:
    import yaml

    text = (resources.files("weftline.plan") / "data" / "recipes.yaml").read_text(encoding="utf-8")
    return tuple(
        _Row(
            Recipe(
                name=row["name"], family=row["family"], released=row["released"],
                source=row["source"], where=tuple(map(_frozen, row.get("where", ()))),
                **_values(row["flags"]),
            ),
            re.compile(row["matches"], flags=re.IGNORECASE),
            tuple(row["frameworks"]),
            tuple(row.get("families", ())),
        )
        for row in yaml.safe_load(text)["recipes"]
    )  # fmt: skip


def recipes() -> tuple[Recipe, ...]:
    """All that are known, in the order they are matched."""
    return tuple(row.recipe for row in _read())


def recipe_of_run(framework: str) -> Recipe:
    """The recipe of a run by its framework's words; one of no kin where none matches."""
    for row in _read():
        if row.pattern.search(framework):
            return row.recipe
    return Recipe(name=framework or "unknown", family=f"{_UNKNOWN} {framework}")


def recipe_of_framework(name: str, accelerator: str = "") -> Recipe:
    """The recipe that a plan for a framework family uses on a chip: its newest there."""
    family = family_of(accelerator).name
    fitting = [row for row in _read() if name in row.frameworks]
    for row in fitting:
        if family in row.families:
            return row.recipe
    for row in fitting:
        if not row.families:
            return row.recipe
    return Recipe(name=name, family=f"{_UNKNOWN} {name}")


def stated_recipe(
    framework: str, text: str, accelerator: str = "", *, where: str = "--recipe"
) -> Recipe:
    """What a user states: a release by its name, flags of one, or both, separated by commas.

    Flags alone change the newest recipe of ``framework``. Raises UnknownNameError for a release or
    flag nobody knows, InputError for a value a flag cannot have.
    """
    base = recipe_of_framework(framework, accelerator)
    flags = []
    for part in (p.strip() for p in text.split(",")):
        if "=" in part:
            flags.append(part)
        elif part:
            known = {r.name: r for r in recipes()}
            if part not in known:
                raise UnknownNameError("release", part, known, where=where,
                                       hint="or a flag: overlap_tp=off")  # fmt: skip
            base = known[part]
    return base.with_flags(flags, where=where)


def checked_recipe(text: str, *, where: str) -> str:
    """``text`` if :func:`stated_recipe` can read it. Raises what that raises."""
    stated_recipe("", text, where=where)
    return text
