"""Read a Hugging Face ``config.json``: typed fields, every mistake reported at once.

The file is JSON and nothing else: it is bounded in size, never executed, and a field such as
``auto_map`` that names Python code is ignored. A builder reads all the fields it needs, then calls
:meth:`HFConfig.check`, which raises one :class:`~weftline.errors.InputErrors` for everything that
was missing, malformed or contradictory, with the line where the field stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from weftline.errors import InputError, InputErrors, nearest_names

__all__ = ["MAX_CONFIG_BYTES", "HFConfig"]

MAX_CONFIG_BYTES: Final = 8 * 2**20
"""Larger files are refused: the largest published config is about 100 kB."""
MAX_SIZE: Final = 2**31
MAX_LAYERS: Final = 10_000
_SECTIONS: Final = ("text_config", "llm_config", "language_config")
_TOKEN: Final = re.compile(r'"(?:\\.|[^"\\])*"|[{}\[\],:]')

Int: TypeAlias = int  # `HFConfig.int` would otherwise shadow the type in annotations


class _DuplicateKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return found


def _parse(text: str, source: str) -> dict[str, Any]:
    """The JSON object in ``text``; raises InputError with the line of the fault."""
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise InputError(
            f"not valid JSON: {error.msg}",
            where=f"{source}:{error.lineno}",
            hint="a Hugging Face config.json is one JSON object",
        ) from None
    except _DuplicateKeyError as error:
        raise InputError(
            f"field `{error}` stands twice", where=source, hint="keep the one that is meant"
        ) from None
    except RecursionError:
        raise InputError("nested too deeply to be a config.json", where=source) from None
    except ValueError:
        raise InputError("a number in it is too long to be a size", where=source) from None
    if not isinstance(data, dict):
        raise InputError(
            "holds no JSON object", where=source, hint='it should start with {"model_type": ...}'
        )
    return data


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
        self.top = _parse(text, source)
        """The whole file."""
        self.section: str | None = next(
            (s for s in _SECTIONS if isinstance(self.top.get(s), dict)), None
        )
        """Name of the language model's section, ``None`` where the file is only that."""
        self.fields: dict[str, Any] = self.top[self.section] if self.section else self.top

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
        """``model_type`` of the language model's section; empty if there is none."""
        return str(self.fields.get("model_type") or "")

    # -- mistakes -------------------------------------------------------------------------------

    def line(self, key: str) -> Int | None:
        """Line where ``key`` stands in the file, or ``None`` if it does not."""
        inside = bool(self.section) and key.split(".", maxsplit=1)[0] in self.fields
        path = (*((self.section,) if inside and self.section else ()), *key.split("."))
        return _line_of(self._text, path)

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

    def get(self, key: str, *aliases: str) -> Any:
        """The raw value under the first of the names that is set; ``None`` if none is."""
        for name in (key, *aliases):
            for fields in (self.fields, self.top):
                if fields.get(name) is not None:
                    return fields[name]
        return None

    def has(self, key: str) -> bool:
        """Whether the field is set and not null."""
        return self.get(key) is not None

    def _name_of(self, key: str, aliases: tuple[str, ...]) -> str:
        return next((n for n in (key, *aliases) if self.has(n)), key)

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
            name = self._name_of(key, aliases)
            self.mistake(name, f"field `{name}` is {_shown(value)}: {need} is needed")
            return max(1, minimum)
        if value > maximum:
            name = self._name_of(key, aliases)
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
            name = self._name_of(key, aliases)
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
        values = self.list_or(key, default, length=length)
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

    def expert_counts(self, experts_key: str, top_k_key: str) -> tuple[Int, Int]:
        """(experts, experts a token is routed to), checked against each other."""
        experts = self.int(experts_key)
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


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _line_of(text: str, path: Sequence[str]) -> int | None:
    """Line (from 1) of the key at ``path`` in a JSON text, found without a second parse."""
    wanted = list(path)
    stack: list[str] = []  # names of the open objects and lists; the outermost has none
    last = ""
    for match in _TOKEN.finditer(text):
        mark = match.group()
        if mark[0] == '"':
            last = mark[1:-1]
            is_key = text[match.end() : match.end() + 80].lstrip().startswith(":")
            if is_key and [*stack[1:], last] == wanted:
                return text.count("\n", 0, match.start()) + 1
        elif mark in "{[":
            stack.append(last)
            last = ""
        elif mark in "}]" and stack:
            stack.pop()
    return None
