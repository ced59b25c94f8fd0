"""Which fields a config has, which of them a builder read, and every mistake in them.

The file is JSON and nothing else: it is bounded in size, never executed, and a field such as
``auto_map`` that names Python code is ignored. What a builder asks for counts as read; any other
field is a mistake, unless it is known to carry no shape (:mod:`weftline.model.known`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

from weftline.errors import InputError, InputErrors, nearest_names
from weftline.model.json_text import line_of, parse
from weftline.model.known import config_class, is_harmless

__all__ = ["MAX_CONFIG_BYTES", "Reader", "shown"]

CLASSES: Final = {"FluxTransformer2DModel": "flux", "SD3Transformer2DModel": "sd3"}
"""diffusers' ``_class_name`` -> model type; its files have no ``model_type``."""
MAX_CONFIG_BYTES: Final = 8 * 2**20
"""Larger files are refused: the largest published config is about 100 kB."""
_SECTIONS: Final = (
    "text_config", "llm_config", "language_config", "thinker_config.text_config",
)  # fmt: skip
"""Where multimodal configs keep their language model."""
_SHARED: Final = frozenset(
    {"dtype", "torch_dtype", "quantization_config", "compression_config", "tie_word_embeddings"}
)
"""Fields of the whole file that hold for the language model's section, too."""

Int: TypeAlias = int  # `Reader.int` would otherwise shadow the type in annotations


class Reader:
    """The fields of one config, with its mistakes collected until :meth:`check`.

    For multimodal models the language model's section (``text_config``) is read; a field that is
    not there is looked for at the top level.
    """

    def __init__(self, text: str, source: str, *, name: str | None = None) -> None:
        self.source = source
        """File name for messages and ``Model.source``."""
        self.name = name or source
        """Short name for ``Model.name``."""
        self.notes: list[str] = []
        """What a builder leaves out, for ``Model.notes``."""
        self._text = text
        self._errors: list[InputError] = []
        self._seen: set[str] = set()
        self._overrides: dict[str, Any] = {}
        self._views: list[Reader] = []
        self._outer_seen: set[str] = set()
        self._is_whole = True
        self.top = parse(text, source)
        """The whole file."""
        self.section: str | None = next((s for s in _SECTIONS if _at(self.top, s)), None)
        """Path of the language model's section, ``None`` where the file is only that."""
        self.fields: dict[str, Any] = (_at(self.top, self.section) or {}) if self.section else (
            self.top
        )  # fmt: skip
        self.outer_class = config_class(self.model_type)
        """transformers' class of the whole file."""
        self.class_ = config_class(self.text_model_type) if self.section else self.outer_class
        """transformers' class of the language model."""

    @classmethod
    def read(cls, path: Path, *, name: str | None = None, source: str | None = None) -> Self:
        """Read a config file, or the ``config.json`` of a directory."""
        if path.is_dir():
            path = path / "config.json"
        where = source or str(path)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_CONFIG_BYTES + 1)
        except OSError as error:
            raise InputError(
                f"cannot be read: {error.strerror}",
                where=where,
                hint="give a config.json, a directory that holds one, or a bundled name",
            ) from None
        if len(data) > MAX_CONFIG_BYTES:
            raise InputError(
                f"larger than {MAX_CONFIG_BYTES // 2**20} MiB: this is no config.json",
                where=where,
                hint="give the model's config.json, not its weights",
            )
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError("not UTF-8 text: this is no config.json", where=where) from None
        return cls(text, where, name=name)

    @property
    def model_type(self) -> str:
        """``model_type`` of the whole file; empty if there is none.

        Files of diffusers name their class instead.
        """
        named = CLASSES.get(str(self.top.get("_class_name")), "")
        return str(self.top.get("model_type") or named)

    def as_flat(self) -> str:
        """Read the whole file as the section it lacks; the model type of that section.

        Some multimodal files (Qwen2-VL) keep the language model's fields at the top, where
        transformers looks for them if there is no ``text_config``.
        """
        kind = self.outer_class.sections.get("text_config", "")
        self.class_ = config_class(kind)
        return kind

    @property
    def text_model_type(self) -> str:
        """``model_type`` of the language model's section, else its class's; empty if none is."""
        stated = self.fields.get("model_type")
        if not stated and self.section:
            holder = self.outer_class
            *way, last = self.section.split(".")
            for name in way:
                holder = config_class(holder.sections.get(name, ""))
            stated = holder.sections.get(last)
        return str(stated or "")

    # -- mistakes -------------------------------------------------------------------------------

    def line(self, key: str) -> Int | None:
        """Line where ``key`` stands in the file, or ``None`` if it does not."""
        inside = self.section is not None and key.split(".", maxsplit=1)[0] in self.fields
        before = self.section.split(".") if inside and self.section else []
        return line_of(self._text, (*before, *key.split(".")))

    def mistake(self, key: str, what: str, *, hint: str | None = None) -> None:
        """Note a mistake in field ``key``; :meth:`check` raises it with all others."""
        self._note(self.line(key), what, hint)

    def _note(self, line: Int | None, what: str, hint: str | None = None) -> None:
        where = f"{self.source}:{line}" if line else self.source
        error = InputError(what, where=where, hint=hint)
        if str(error) not in map(str, self._errors):  # two kinds of layer may find the same
            self._errors.append(error)

    def require(self, holds: object, key: str, what: str, *, hint: str | None = None) -> None:
        """Note the mistake ``what`` in field ``key`` unless ``holds``."""
        if not holds:
            self.mistake(key, what, hint=hint)

    def check(self) -> None:
        """Raise everything noted so far: InputErrors (InputError if it is one)."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise InputErrors(self._errors)

    # -- fields ---------------------------------------------------------------------------------

    def _names(self, key: str, aliases: tuple[str, ...] = ()) -> list[str]:
        """``key`` and what else it may be called, in the order in which they are looked for."""
        names = [key, *self.class_.names_of(key)]
        for alias in aliases:
            names += [alias, *self.class_.names_of(alias)]
        return list(dict.fromkeys(names))

    def get(self, key: str, *aliases: str) -> Any:
        """The raw value under the first of the names that is set; ``None`` if none is.

        What is asked for counts as read (:meth:`refuse_unread`). Two names of one field that
        contradict each other are a mistake.
        """
        names = self._names(key, aliases)
        self._seen.update(names)
        for name in names:
            if self._overrides.get(name) is not None:
                return self._overrides[name]
        found = [name for name in names if self.fields.get(name) is not None]
        if len({shown(self.fields[name]) for name in found}) > 1:
            self.mistake(
                found[1], f"fields `{found[0]}` and `{found[1]}` name the same and differ",
                hint="keep the one that is meant",
            )  # fmt: skip
        if found:
            return self.fields[found[0]]
        if key in _SHARED:
            return next((self.top[name] for name in names if self.top.get(name) is not None), None)
        return None

    def default(self, key: str, otherwise: Any = None) -> Any:
        """What transformers' class has where the field is missing; ``otherwise`` if nothing."""
        for name in (key, *self.class_.names_of(key)):
            if self.class_.defaults.get(name) is not None:
                return self.class_.defaults[name]
        return otherwise

    def outer_int(self, key: str) -> Int:
        """A size that the whole file states beside its sections, else its class's default."""
        self._outer_seen.add(key)
        value = self.top.get(key)
        value = self.outer_class.defaults.get(key) if value is None else value
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
            return value
        what = f"field `{key}` is {shown(value)}: a whole number above 0 is needed"
        self._note(line_of(self._text, (key,)), what)
        return 1

    def within(self, section: str) -> Self:
        """This file with another section in front; mistakes and notes are kept together."""
        view = copy.copy(self)
        view.section = section
        view.fields = _at(self.top, section) or {}
        view.class_ = config_class(view.text_model_type)
        view._seen, view._views, view._is_whole = set(), [], False
        return view

    def unused(self, *keys: str) -> None:
        """Fields that the family's class has and that change no shape of this model.

        What they would say is derived from other fields, or concerns blocks that it does not have.
        """
        for key in keys:
            self._seen.update(self._names(key))

    def was_read(self, key: str) -> bool:
        """Whether a builder has asked for the field."""
        return key in self._seen

    def note_default(self, key: str, value: object) -> None:
        """Say that a size comes from transformers' class, because the section leaves it out."""
        text = f"`{key}` {value} as in transformers' class: the section leaves it out"
        if text not in self.notes:
            self.notes.append(text)

    def part(self, key: str, *known: str) -> dict[str, Any]:
        """An object inside the config, of which ``known`` fields are read; empty where missing.

        Any other field in it is a mistake, unless it carries no shape.
        """
        value = self.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.mistake(key, f"field `{key}` is {shown(value)}: an object is needed")
            return {}
        for name, inner in value.items():
            if name not in known and not is_harmless(name, inner):
                self._unread(f"{key}.{name}", [*known])
        return value

    def per_layer(self, layers: Int, own: Sequence[dict[str, Any]] = ()) -> tuple[Self, ...]:
        """This config as each layer sees it: ``per_layer_config`` overrides fields by index.

        transformers 5 writes so what differs between layers. ``own`` are overrides of each layer
        that a family states in a field of its own. Layers with the same overrides share one view.
        """
        overrides = self.get("per_layer_config") or {str(i): fields for i, fields in enumerate(own)}
        good = isinstance(overrides, dict) and all(
            str(index).isdigit() and int(index) < layers and isinstance(fields, dict)
            for index, fields in overrides.items()
        )
        if not good:
            self.mistake(
                "per_layer_config",
                f"`per_layer_config` must map layer indices from 0 to {layers - 1} to objects",
            )
            return (self,) * layers
        views: dict[str, Self] = {"{}": self}
        made = [self] * layers
        for index, fields in overrides.items():
            text = json.dumps(fields, sort_keys=True)
            if text not in views:
                view = views[text] = copy.copy(self)
                view._overrides = fields
            made[int(index)] = views[text]
        self._views = [view for view in views.values() if view is not self]
        return tuple(made)

    def refuse_unread(self) -> None:
        """Note a mistake for every set field that no builder read and that may carry a shape."""
        known = sorted(self._seen)
        kinds = {self.text_model_type if self.section else self.model_type, self.model_type}
        for key, value in self.fields.items():
            harmless = any(is_harmless(key, value, kind) for kind in kinds)
            # A tower is left out, and so is what a flat multimodal file has for its projector.
            harmless |= not self.section and key in self.outer_class.sections
            harmless |= self.class_ is not self.outer_class and not self.section and (
                key in self.outer_class.defaults
            )  # fmt: skip
            if key not in self._seen and not harmless:
                self._unread(key, known)
        for view in self._views:
            for key, value in view._overrides.items():
                if key not in self._seen and not is_harmless(key, value):
                    self._unread(key, known)
        if self.section and self._is_whole:
            outermost = self.section.split(".", maxsplit=1)[0]
            for key, value in self.top.items():
                # What the multimodal class has beside its sections is about towers and projectors.
                other = key == outermost or isinstance(value, dict) or key in _SHARED
                other |= key in self._outer_seen
                same = self.fields.get(key, value) == value
                other |= same and (key in self.outer_class.defaults or key in self.fields)
                if not (other or is_harmless(key, value, self.model_type)):
                    self._unread(key, known, beside=not same)

    def _unread(self, key: str, known: Sequence[str], *, beside: bool = False) -> None:
        if beside:
            self.mistake(
                key, f"field `{key}` is not that of `{self.section}`, which has its own",
                hint="keep the section's",
            )  # fmt: skip
            return
        near = nearest_names(key.rpartition(".")[2], known)
        kind = self.text_model_type if self.section else self.model_type
        self.mistake(
            key,
            f"field `{key}` may carry a shape and is not read for `{kind}`: it would be ignored",
            hint=f"did you mean `{near[0]}`?" if near
            else "remove it if the model does not have it",
        )  # fmt: skip

    def has(self, key: str) -> bool:
        """Whether the field is set and not null."""
        return self.get(key) is not None


def _at(fields: dict[str, Any], path: str) -> dict[str, Any] | None:
    """The object at a dotted path, or ``None`` if there is none."""
    value: Any = fields
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None


def shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
