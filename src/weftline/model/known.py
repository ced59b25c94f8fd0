"""What is known of config fields: which change no shape, and what transformers' classes default to.

Two data files. ``data/harmless.json`` lists the fields that carry no shape, with a reason for each
group. ``data/classes.json`` holds, for every model type with a builder that transformers knows,
the defaults of its configuration class, the names it treats as one, and its sections; it is
written by ``python -m weftline.runtime.classes``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

__all__ = ["ConfigClass", "config_class", "is_harmless", "transformers_types", "unchecked_types"]

_DATA: Final = Path(__file__).with_name("data")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigClass:
    """transformers' configuration class of one model type, as far as it carries shapes."""

    defaults: dict[str, Any] = field(default_factory=dict)
    """Field -> the class's default; fields listed as harmless are not in it."""
    aliases: dict[str, str] = field(default_factory=dict)
    """A name that the class takes -> the name it keeps (``attribute_map``)."""
    ties: str = "outer"
    """Whose ``tie_word_embeddings`` counts: the ``outer`` file's, ``either`` its own or its
    section's, its section's alone (``inner``),
    or none (``never``), because the model class ties nothing."""
    sections: dict[str, str] = field(default_factory=dict)
    """Section such as ``text_config`` -> the model type it has where none is stated."""

    def names_of(self, key: str) -> tuple[str, ...]:
        """Other names under which this class knows ``key``."""
        kept = self.aliases.get(key, key)
        others = [kept, *(name for name, target in self.aliases.items() if target == kept)]
        return tuple(name for name in others if name != key)


_UNKNOWN: Final = ConfigClass()


@lru_cache(maxsize=1)
def _classes() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((_DATA / "classes.json").read_text(encoding="utf-8"))
    return data


@lru_cache(maxsize=512)
def config_class(model_type: str) -> ConfigClass:
    """What is known of a model type's class; an empty one where transformers has none."""
    row = _classes()["classes"].get(model_type)
    return _UNKNOWN if row is None else ConfigClass(**row)


@lru_cache(maxsize=1)
def transformers_types() -> frozenset[str]:
    """Every model type that the transformers release of ``data/classes.json`` knows."""
    return frozenset(_classes()["known"])


@lru_cache(maxsize=1)
def unchecked_types() -> dict[str, str]:
    """Accepted model types that no model of transformers was built for -> what they rest on."""
    text = (_DATA / "unchecked.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)["types"]
    return found


@dataclass(frozen=True, slots=True)
class _Group:
    """One row of ``data/harmless.json``."""

    names: re.Pattern[str]
    values: tuple[Any, ...] | None
    """The only values that are harmless; ``None`` for any."""
    types: frozenset[str]
    """The only model types; none for all."""

    def holds(self, key: str, value: object, kind: str) -> bool:
        if self.types and kind not in self.types:
            return False
        if not self.names.fullmatch(key):
            return False
        return self.values is None or any(
            value == v and type(value) is type(v) for v in self.values
        )


@lru_cache(maxsize=1)
def _groups() -> tuple[_Group, ...]:
    rows = json.loads((_DATA / "harmless.json").read_text(encoding="utf-8"))["groups"]
    return tuple(
        _Group(
            re.compile("|".join(translate(name) for name in row["names"])),
            tuple(row["values"]) if "values" in row else None,
            frozenset(row.get("types", ())),
        )
        for row in rows
    )


def is_harmless(key: str, value: object, kind: str = "") -> bool:
    """Whether the field can be left unread: no shape depends on it, or it is not set.

    ``kind`` is the model type, for fields that are harmless only in some.
    """
    if value is None:
        return True
    return any(group.holds(key, value, kind) for group in _groups())
