"""Read a Hugging Face ``config.json``: typed fields, every mistake reported at once.

The file is JSON and nothing else: it is bounded in size, never executed, and a field such as
``auto_map`` that names Python code is ignored. A builder reads all the fields it needs, then calls
:meth:`HFConfig.check`, which raises one :class:`~weftline.errors.InputErrors` for everything that
was missing, malformed or contradictory, with the line where the field stands.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from weftline.errors import InputError, InputErrors, nearest_names
from weftline.model.json_text import line_of, parse
from weftline.model.known import config_class, is_harmless, transformers_types

__all__ = ["MAX_CONFIG_BYTES", "HFConfig"]

MAX_CONFIG_BYTES: Final = 8 * 2**20
"""Larger files are refused: the largest published config is about 100 kB."""
MAX_SIZE: Final = 2**31
MAX_LAYERS: Final = 10_000
_SECTIONS: Final = (
    "text_config", "llm_config", "language_config", "thinker_config.text_config",
)  # fmt: skip
"""Where multimodal configs keep their language model."""
_SHARED: Final = frozenset(
    {"dtype", "torch_dtype", "quantization_config", "compression_config", "tie_word_embeddings"}
)
"""Fields of the whole file that hold for the language model's section, too."""
_KIND_SYNONYMS: Final = {
    "attention": "full_attention", "global_attention": "full_attention", "global": "full_attention",
    "local_attention": "sliding_attention", "local": "sliding_attention",
    "mamba": "linear_attention", "mamba2": "linear_attention", "recurrent": "linear_attention",
    "deepseek_sparse_attention": "indexed_attention",
}  # fmt: skip
"""Names of layer kinds in files of before transformers 5 -> the names of today."""

Int: TypeAlias = int  # `HFConfig.int` would otherwise shadow the type in annotations


class HFConfig:
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
        self._views: list[HFConfig] = []
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
    def read(cls, path: Path, *, name: str | None = None, source: str | None = None) -> HFConfig:
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
        """``model_type`` of the whole file; empty if there is none."""
        return str(self.top.get("model_type") or "")

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
        line = self.line(key)
        where = f"{self.source}:{line}" if line else self.source
        self._errors.append(InputError(what, where=where, hint=hint))

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
        if len({_shown(self.fields[name]) for name in found}) > 1 and not aliases:
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

    def tied(self, default: bool) -> bool:
        """Whether the output projection shares the token table; the whole file's word wins.

        transformers ties by the outer configuration: a section's own field counts only where the
        outer class takes it over. Some of its models tie nothing, whatever is said.
        """
        self._seen.add("tie_word_embeddings")
        inner = self.fields.get("tie_word_embeddings")
        outer = self.top.get("tie_word_embeddings") if self.section else None
        for value in (inner, outer):
            if value is not None and not isinstance(value, bool):
                return self.bool_or("tie_word_embeddings", default)
        known = self.outer_class.defaults.get("tie_word_embeddings")
        if self.outer_class.ties == "inner":
            outer = None if inner is not None else known
        elif self.section and outer is None:
            # A class of transformers without the field ties nothing, whatever its section says.
            other = False if self.model_type in transformers_types() else inner
            outer = other if known is None else known
        if self.section and self.outer_class.ties == "either" and outer is not True:
            outer = default if inner is None else inner
        value = inner if outer is None else outer
        tied = default if value is None else value
        if tied and self.outer_class.ties == "never":
            self.mistake(
                "tie_word_embeddings",
                f"`tie_word_embeddings` is true, but `{self.model_type}` has no weights to tie",
                hint="set it to false, as transformers' model has it",
            )  # fmt: skip
        return bool(tied)

    def part(self, key: str, *known: str) -> dict[str, Any]:
        """An object inside the config, of which ``known`` fields are read; empty where missing.

        Any other field in it is a mistake, unless it carries no shape.
        """
        value = self.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.mistake(key, f"field `{key}` is {_shown(value)}: an object is needed")
            return {}
        for name, inner in value.items():
            if name not in known and not is_harmless(name, inner):
                self._unread(f"{key}.{name}", [*known])
        return value

    def per_layer(self, layers: Int, own: Sequence[dict[str, Any]] = ()) -> tuple[HFConfig, ...]:
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
        views: dict[str, HFConfig] = {"{}": self}
        made = [self] * layers
        for index, fields in overrides.items():
            text = json.dumps(fields, sort_keys=True)
            if text not in views:
                view = views[text] = copy.copy(self)
                view._overrides = fields
            made[int(index)] = views[text]
        self._views = [view for view in views.values() if view is not self]
        return tuple(made)

    def rotated(self, head_dim: Int, default: float = 1.0, *, kind: str = "") -> Int:
        """Values of a head that rotary positions turn: ``partial_rotary_factor`` of them.

        It stands in ``rope_parameters`` (transformers 5), there for each ``kind`` of layer where
        kinds differ, or by itself.
        """
        rope = self.get("rope_parameters")
        rope = rope if isinstance(rope, dict) else {}
        inner = rope.get(kind)
        rope = inner if isinstance(inner, dict) else rope
        factor = self.float_or("partial_rotary_factor", default)
        stated = rope.get("partial_rotary_factor")
        if isinstance(stated, (int, float)) and not isinstance(stated, bool):
            factor = float(stated)
        return int(head_dim * factor)

    def refuse_unread(self) -> None:
        """Note a mistake for every set field that no builder read and that may carry a shape."""
        known = sorted(self._seen)
        kinds = {self.text_model_type if self.section else self.model_type, self.model_type}
        for key, value in self.fields.items():
            harmless = any(is_harmless(key, value, kind) for kind in kinds)
            if key not in self._seen and not harmless:
                self._unread(key, known)
        for view in self._views:
            for key, value in view._overrides.items():
                if key not in self._seen and not is_harmless(key, value):
                    self._unread(key, known)
        if self.section:
            outermost = self.section.split(".", maxsplit=1)[0]
            for key, value in self.top.items():
                # What the multimodal class has beside its sections is about towers and projectors.
                other = key == outermost or isinstance(value, dict) or key in _SHARED
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

    def name_of(self, key: str, aliases: tuple[str, ...] = ()) -> str:
        """The name under which the file has the field; ``key`` where it has none."""
        found = (n for n in self._names(key, aliases) if self.fields.get(n) is not None)
        return next(found, key)

    def _missing(self, key: str, need: str) -> None:
        near = nearest_names(key, [k for k in self.fields if k != key])
        hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else None
        state = "is null" if key in self.fields else "is missing"
        self.mistake(key, f"field `{key}` {state}: {need} is needed", hint=hint)

    def int(
        self, key: str, *aliases: str, minimum: Int = 1, maximum: Int = MAX_SIZE,
        default: Int | None = None,
    ) -> Int:  # fmt: skip
        """A whole number of at least ``minimum``; a mistake yields ``max(1, minimum)``."""
        value = self.get(key, *aliases)
        need = f"a whole number of at least {minimum}"
        if value is None and default is not None:
            return default
        if value is None:
            self._missing(key, need)
            return max(1, minimum)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            name = self.name_of(key, aliases)
            self.mistake(name, f"field `{name}` is {_shown(value)}: {need} is needed")
            return max(1, minimum)
        if value > maximum:
            name = self.name_of(key, aliases)
            self.mistake(name, f"field `{name}` is {_shown(value)}: {maximum} is the most")
            return max(1, minimum)
        return value

    def int_or(self, key: str, default: Int, *aliases: str, minimum: Int = 1) -> Int:
        """A whole number, or ``default`` where the field is missing or null."""
        return self.int(key, *aliases, minimum=minimum, default=default)

    def optional_int(self, key: str, *aliases: str, minimum: Int = 1) -> Int | None:
        """A whole number, or ``None`` where the field is missing or null."""
        return self.int(key, *aliases, minimum=minimum) if self.get(key, *aliases) else None

    def layers(self, key: str = "num_hidden_layers", *aliases: str) -> Int:
        """The number of layers, bounded so that a typing error cannot fill the memory."""
        return self.int(key, *aliases, maximum=MAX_LAYERS)

    def float_or(self, key: str, default: float, *, minimum: float = 0.0) -> float:
        """A finite number of at least ``minimum``, or ``default``."""
        value = self.get(key)
        if value is None:
            return default
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not minimum <= value < float("inf"):
            need = f"a number of at least {minimum:g}"
            self.mistake(key, f"field `{key}` is {_shown(value)}: {need} is needed")
            return default
        return float(value)

    def bool_or(self, key: str, default: bool, *aliases: str) -> bool:
        """``true`` or ``false``, or ``default``."""
        value = self.get(key, *aliases)
        if value is None:
            return default
        if not isinstance(value, bool):
            name = self.name_of(key, aliases)
            self.mistake(name, f"field `{name}` is {_shown(value)}: true or false is needed")
            return default
        return value

    def str_or(self, key: str, default: str, *, allowed: Sequence[str] = ()) -> str:
        """A string, one of ``allowed`` where given, or ``default``."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or (allowed and value not in allowed):
            need = f"one of {', '.join(allowed)}" if allowed else "a string"
            self.mistake(key, f"field `{key}` is {_shown(value)}: {need} is needed")
            return default
        return value

    def list_or(self, key: str, default: Sequence[Any], *, length: Int | None = None) -> list[Any]:
        """A list, or ``default``; of ``length`` entries where given."""
        value = self.get(key)
        if value is None:
            return list(default)
        if not isinstance(value, list):
            self.mistake(key, f"field `{key}` is {_shown(value)}: a list is needed")
            return list(default)
        if length is not None and len(value) != length:
            self.mistake(
                key,
                f"field `{key}` has {len(value)} entries, the model has {length} layers",
                hint="one entry a layer is needed: correct the list or `num_hidden_layers`",
            )
            return [*value, *([value[-1]] * length)][:length] if value else list(default)
        return value

    def kinds(
        self, key: str, allowed: Iterable[str], length: Int, default: Sequence[str]
    ) -> tuple[str, ...]:
        """A list of layer kinds such as ``layer_types``: one of ``allowed`` for each layer."""
        known = tuple(allowed)
        values = [
            _KIND_SYNONYMS.get(v, v) if isinstance(v, str) and v not in known else v
            for v in self.list_or(key, default, length=length)
        ]
        strange = sorted({str(v) for v in values if v not in known})
        if strange:
            near = nearest_names(strange[0], known)
            self.mistake(
                key,
                f"field `{key}` holds {', '.join(f'`{s}`' for s in strange[:4])}, which this "
                f"family does not have: {', '.join(known)}",
                hint=f"did you mean `{near[0]}`?" if near else None,
            )
        return tuple(v if v in known else known[0] for v in values)

    def indices(self, key: str, layers: Int) -> frozenset[Int]:
        """A list of layer indices (from 0), each below ``layers``; empty where missing."""
        values = self.list_or(key, ())
        good = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
        self.require(
            len(good) == len(values) and all(0 <= v < layers for v in good), key,
            f"field `{key}` must hold layer indices from 0 to {layers - 1}",
        )  # fmt: skip
        return frozenset(good)

    # -- what nearly every family has -------------------------------------------------------------

    def attention_heads(
        self, hidden: Int, *, default_head_dim: Int | None = None
    ) -> tuple[Int, Int, Int]:
        """(query heads, key-value heads, head dimension), checked against each other.

        ``default_head_dim`` is the family's own where it is not ``hidden / heads``.
        """
        heads = self.int("num_attention_heads")
        kv_heads = self.int_or("num_key_value_heads", heads)
        if not self.has("head_dim") and default_head_dim is None:
            self.require(
                hidden % heads == 0, "hidden_size",
                f"`hidden_size` {hidden} does not divide by `num_attention_heads` {heads}",
                hint="correct one of them, or state `head_dim`",
            )  # fmt: skip
        self.require(
            heads % kv_heads == 0, "num_key_value_heads",
            f"`num_attention_heads` {heads} does not divide by `num_key_value_heads` {kv_heads}",
            hint="each key-value head serves the same number of query heads",
        )  # fmt: skip
        return heads, kv_heads, self.int_or("head_dim", default_head_dim or max(1, hidden // heads))

    def expert_counts(self, experts_key: str, top_k_key: str, *aliases: str) -> tuple[Int, Int]:
        """(experts, experts a token is routed to), checked against each other."""
        experts = self.int(experts_key, *aliases)
        top_k = self.int(top_k_key)
        self.require(
            top_k <= experts, top_k_key,
            f"`{top_k_key}` {top_k} exceeds `{experts_key}` {experts}",
            hint="a token cannot be routed to more experts than there are",
        )  # fmt: skip
        return experts, top_k

    @property
    def dtype(self) -> str:
        """The dtype of the published weights as the config states it."""
        return str(self.get("dtype", "torch_dtype") or "bfloat16")


def _at(fields: dict[str, Any], path: str) -> dict[str, Any] | None:
    """The object at a dotted path, or ``None`` if there is none."""
    value: Any = fields
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
