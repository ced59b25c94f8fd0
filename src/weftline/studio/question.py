"""A question as a form, as a URL and as a command line: three writings of the same fields.

Whatever a browser sends is read here and nowhere else: unknown fields, long texts, names of files
and what unpacks to too much are refused before anything is computed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import shlex
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final
from urllib.parse import urlencode

from weftline.errors import InputError, UnknownNameError
from weftline.model.load import bundled_models, bundled_name
from weftline.spec.job_file import OPTIONS, JobKind
from weftline.spec.parse import Collector
from weftline.studio.controls import Control, controls

__all__ = ["MOST_CONFIG_BYTES", "Question", "kind_of", "read_question"]

MOST_CONFIG_BYTES: Final = 64 << 10
"""Of a pasted config.json; published ones have 0.5 to 8 KB."""
MOST_TEXT: Final = 400
"""Letters of one field."""
MOST_URL: Final = 6000
"""Letters of a URL that mail programs and proxies still take whole."""
_MOST: Final = {"on": 4000, "chip_set": 2000, "config": 128 << 10, "config_text": 128 << 10}
"""Of fields that may be longer."""
_MODEL: Final = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)?")
_NUMBER: Final = re.compile(r"\d+(\.\d*)?")
_STEM: Final = re.compile(r"[^a-z0-9.]+")
_TRUE: Final = frozenset({"on", "true", "yes", "1"})
_PLAIN_NUMBERS: Final[Mapping[str, type[int] | type[float]]] = {
    "burstiness": float, "spread": float, "seed": int, "turns": int,
}  # fmt: skip
"""Fields that are numbers and not texts with units."""
_DEEPEST: Final = 64
"""Nesting of a pasted config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, in the words of the command line."""

    kind: JobKind
    model: str = ""
    """Bundled name, Hub id or ``gpt:`` numbers; of a pasted config, what to call it."""
    config: str = ""
    """A pasted config.json."""
    taken_as: str = ""
    values: Mapping[str, str | bool | int | float] = field(default_factory=dict)
    """By field, only what is not the default."""

    @property
    def model_word(self) -> str:
        """MODEL as a command has it: a name, or the file that the pasted config is kept in."""
        return self.file_name or self.model

    @property
    def file_name(self) -> str:
        """Of the pasted config: made from its name and its bytes, never a path; "" without."""
        if not self.config:
            return ""
        stem = _STEM.sub("-", self.model.lower().rpartition("/")[2]).strip("-.")[:40] or "model"
        return f"{stem}-{hashlib.sha256(self.config.encode()).hexdigest()[:8]}.json"

    @property
    def model_asked(self) -> str:
        """The model as :func:`weftline.plan.job_of` takes it."""
        return f"as={self.taken_as}:{self.model_word}" if self.taken_as else self.model_word

    def options(self) -> tuple[Any, ...]:
        """The nouns of the options, in the order of :data:`weftline.spec.job_file.OPTIONS`."""
        return tuple(
            kind(**{f.name: self.values[f.name] for f in fields(kind) if f.name in self.values})
            for kind in OPTIONS[self.kind]
        )

    def words(self) -> list[str]:
        """The command that gives the same answer."""
        found = ["weftline", "plan", self.kind, self.model_word]
        if self.taken_as:
            found += ["--as", self.taken_as]
        known = controls(self.kind)
        for name, value in self.values.items():
            option = known[name].option
            if isinstance(value, bool):
                found.append(option if value else f"--no-{option[2:]}")
            elif str(value).startswith("-"):
                found.append(f"{option}={value}")
            else:
                found += [option, str(value)]
        return found

    def command(self) -> str:
        """:meth:`words` as a shell takes them."""
        return shlex.join(self.words())

    def as_fields(self) -> dict[str, str]:
        """The question as fields of a URL or a form."""
        found = {"kind": self.kind, "model": self.model}
        if self.taken_as:
            found["as"] = self.taken_as
        for name, value in self.values.items():
            found[name] = ("on" if value else "off") if isinstance(value, bool) else str(value)
        return {name: value for name, value in found.items() if value}

    def query(self) -> str:
        """The question as the query of a URL, a pasted config with it."""
        packed = {"config": _packed(self.config)} if self.config else {}
        return urlencode(self.as_fields() | packed)

    @property
    def shareable(self) -> bool:
        """Whether the URL is short enough to be sent."""
        return len(self.query()) <= MOST_URL


def read_question(pairs: Iterable[tuple[str, str]]) -> Question:
    """The question that a form or a URL holds; later fields of a name win, chips are joined.

    Raises InputError(s), with the option of each mistake.
    """
    get = Collector()
    sent: dict[str, str] = {}
    for name, text in pairs:
        most = _MOST.get(name, MOST_TEXT)
        if len(text) > most or (name != "config_text" and not text.isprintable()):
            get.errors.append(InputError(f"{most:,} letters on one line at most",
                                         where=_place(name)))  # fmt: skip
            continue
        joined = name == "on" and sent.get("on")
        sent[name] = f"{sent['on']},{text}" if joined else text.strip()
    kind = kind_of(sent)
    config = get(lambda: _config(sent)) or ""
    model = sent.get("model", "")
    get(lambda: _check_model(model, pasted=bool(config)))
    values: dict[str, str | bool | int | float] = {}
    for name, control in controls(kind).items():
        value = get(lambda n=name, c=control: _value(c, sent.get(n, "")))  # type: ignore[misc]
        if value is not None:
            values[name] = value
    get.raise_all()
    return Question(kind=kind, model=model, config=config, taken_as=_word(sent.get("as", "")),
                    values=values)  # fmt: skip


def kind_of(sent: Mapping[str, str]) -> JobKind:
    """The kind of question that fields are of: to train unless they say otherwise."""
    return "serve" if sent.get("kind") == "serve" else "train"


def _place(name: str) -> str:
    plain = name.removesuffix("_text")
    return plain if plain in ("model", "config") else "--" + name[:40].replace("_", "-")


def _word(text: str) -> str:
    return text if text == "llama" else ""


def _check_model(model: str, *, pasted: bool) -> None:
    if pasted:
        return
    if not model:
        raise InputError("no model is named", where="model",
                         hint="choose one, or paste a config.json")  # fmt: skip
    if model.lower().startswith("gpt:"):
        return
    if _MODEL.fullmatch(model) is None or ".." in model:
        known = "a bundled model, its name on the Hub, or gpt:layers=..,hidden=.."
        raise InputError(known, where="model", hint="files are not opened: paste the config.json")
    if bundled_name(model) is None:
        raise UnknownNameError("model", model, bundled_models(), where="model",
                               hint="or paste its config.json")  # fmt: skip


def _value(control: Control, text: str) -> str | bool | int | float | None:
    """What a field sets, ``None`` where it is the default. Raises InputError."""
    where = control.option
    if not text:
        if control.needed:
            raise InputError("needed", where=where, hint=control.help)
        return None
    if control.form == "flag":
        flag = text in _TRUE
        return None if str(flag) == control.default else flag
    if control.form == "choice" and text not in control.choices:
        raise UnknownNameError(control.label.lower(), text, control.choices, where=where)
    if control.name == "daily" and _NUMBER.fullmatch(text) is None:
        raise InputError("the peak over the mean is a number here", where=where,
                         hint="1.5; the command line takes a file of rates, too")  # fmt: skip
    if control.name == "policy" and (re.search(r"[/\\{}]|\.(ya?ml|json)\s*$", text, re.I)):
        raise InputError("a policy is a text here", where=where, hint="window=4096,sinks=4")
    if control.name in _PLAIN_NUMBERS:
        return _number(control, text)
    return None if text == control.default else text


def _number(control: Control, text: str) -> int | float | None:
    kind = _PLAIN_NUMBERS[control.name]
    try:
        found = kind(text)
    except ValueError:
        raise InputError(f"`{text[:40]}` is no {'whole ' if kind is int else ''}number",
                         where=control.option) from None  # fmt: skip
    return None if found == kind(control.default) else found


# --- pasted configs -------------------------------------------------------------------------------


def _config(sent: Mapping[str, str]) -> str:
    """The pasted config.json, out of a form or unpacked from a URL; "" without one."""
    text = sent.get("config_text", "")
    if not text and sent.get("config"):
        text = _unpacked(sent["config"])
    if not text:
        return ""
    if len(text.encode()) > MOST_CONFIG_BYTES:
        raise InputError(f"a config.json of more than {MOST_CONFIG_BYTES >> 10} KB", where="config",
                         hint="that of the model, not its weights' index")  # fmt: skip
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {str(error)[:100]}", where="config",
                         hint="paste the whole config.json") from None  # fmt: skip
    if not isinstance(found, dict):
        raise InputError("a config.json begins with {", where="config")
    if _depth(found) > _DEEPEST:
        raise InputError("nested too deep for a config.json", where="config")
    return text.replace("\r\n", "\n")


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level and deepest <= _DEEPEST:
        deepest += 1
        level = [inner for held in level if isinstance(held, dict | list)
                 for inner in (held.values() if isinstance(held, dict) else held)]  # fmt: skip
    return deepest


def _packed(config: str) -> str:
    return base64.urlsafe_b64encode(zlib.compress(config.encode(), 9)).decode().rstrip("=")


def _unpacked(text: str) -> str:
    """The config in a URL; what would unpack to more than a config may have is not unpacked."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        open_ = zlib.decompressobj()
        found = open_.decompress(raw, MOST_CONFIG_BYTES + 1)
        if len(found) > MOST_CONFIG_BYTES or not open_.eof:
            raise ValueError("too long")
        return found.decode("utf-8")
    except (ValueError, binascii.Error, zlib.error):
        raise InputError("the config in this URL is not whole", where="config",
                         hint="paste the config.json") from None  # fmt: skip
