"""Read a lifecycle file: every mistake with its line, nothing guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

from weftline.decide.lifecycle.fields import (
    JOB_FIELDS,
    STAGES,
    BandFields,
    LeaveFields,
    LifeFields,
    PlaceFields,
    PortableFields,
)
from weftline.errors import InputError, UnknownNameError
from weftline.spec.job_file import field_text
from weftline.spec.located import Located, read_located
from weftline.spec.parse import Collector, choice

__all__ = ["Life", "Place", "Stage", "read_life"]

OBJECTIVES: Final = ("cost", "energy", "carbon")
MOST_STAGES: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """What a mapping of the file gives: texts and flags by field, and where each stands."""

    values: Mapping[str, str | bool]
    lines: Mapping[str, int]
    path: str
    line: int

    def text(self, name: str) -> str:
        """A field that has a value."""
        return str(self.values[name])

    def get(self, name: str) -> str | None:
        """A field, or None where it is not given."""
        value = self.values.get(name)
        return None if value is None else str(value)

    def flag(self, name: str) -> bool:
        """A field that is true or false."""
        return bool(self.values.get(name, False))

    def where(self, name: str) -> str:
        """``life.yaml:6``: where a field stands, or the mapping that lacks it."""
        return f"{self.path}:{self.lines.get(name, self.line)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Fields):
    """One stage as written."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A lifecycle file."""

    path: str
    head: Fields
    bands: Fields
    places: tuple[Fields, ...]
    """Those the file spells out; none where it names chips only."""
    stages: tuple[Stage, ...]
    plain: Mapping[str, Any]
    """The file as plain values."""
    leave: Fields | None = None
    """What leaving a place costs, where the file asks it."""
    portable: Fields | None = None


Place = Fields


def read_life(path: str) -> Life:
    """The lifecycle in a YAML or JSON file. Raises every mistake of form, with file and line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"`{path}`: {getattr(error, 'strerror', None) or 'not a text file'}",
            hint="examples/life/llama-70b.yaml is one to start from",
        ) from None
    return parse_life(text, path)


def parse_life(text: str, path: str) -> Life:
    """The same from text; ``path`` is what mistakes name."""
    root = read_located(text, path)
    if not isinstance(root.value, dict) or not root.value:
        raise InputError("a lifecycle is a mapping of fields", where=f"{path}:1",
                         hint="model: llama-3.1-70b, on: [h100], stages: [...]")  # fmt: skip
    get = Collector()
    held = dict(root.value)
    kind = held.pop("kind", None)
    if kind is not None and kind.plain() != "lifecycle":
        said = f"`{kind.plain()}` is not a lifecycle"
        get.errors.append(InputError(said, where=f"{path}:{kind.line}", hint="kind: lifecycle"))
    stages = held.pop("stages", None)
    places = held.pop("places", None)
    bands = held.pop("bands", None)
    leave, portable = _leave(held.pop("leave", None), path, get)
    head = _mapping(Located(value=held, line=root.line), LifeFields, path, get,
                    known=("kind", "stages", "places", "bands", "leave"))  # fmt: skip
    band = _mapping(bands or Located(value={}, line=root.line), BandFields, path, get)
    found = [_mapping(p, PlaceFields, path, get) for p in _items(places, "places", path, get)]
    told = [_stage(s, path, get) for s in _items(stages, "stages", path, get)]
    if stages is None or not told:
        get.errors.append(InputError("no stages", where=f"{path}:{root.line}",
                                     hint=f"stages: [{{kind: {', '.join(STAGES)}}}]"))  # fmt: skip
    if len(told) > MOST_STAGES:
        get.errors.append(InputError(f"{len(told)} stages, {MOST_STAGES} are the most",
                                     where=f"{path}:{root.line}"))  # fmt: skip
    get(partial(_check_head, head, found, path))
    get(partial(_unique, [s for s in told if s is not None], path))
    get.raise_all()
    return Life(
        path=path, head=head, bands=band, places=tuple(found),
        stages=tuple(s for s in told if s is not None), plain=root.plain(), leave=leave,
        portable=portable,
    )  # fmt: skip


def _leave(held: Located | None, path: str, get: Collector) -> tuple[Fields | None, Fields | None]:
    """(what binds to a place, the portable model beside it), where they are given."""
    if held is None:
        return None, None
    if not isinstance(held.value, dict):
        get.errors.append(InputError("`leave` is a mapping", where=f"{path}:{held.line}",
                                     hint="leave: {contract: 12, parallel: 2}"))  # fmt: skip
        return None, None
    rest = dict(held.value)
    inner = rest.pop("portable", None)
    own = _mapping(Located(value=rest, line=held.line), LeaveFields, path, get,
                   known=("portable",))  # fmt: skip
    return own, None if inner is None else _mapping(inner, PortableFields, path, get)


def _items(held: Located | None, name: str, path: str, get: Collector) -> list[Located]:
    if held is None:
        return []
    if not isinstance(held.value, list):
        get.errors.append(InputError(f"`{name}` is a list", where=f"{path}:{held.line}"))
        return []
    return list(held.value)


def _check_head(head: Fields, places: list[Fields], path: str) -> None:
    get = Collector()
    get(lambda: choice(head.text("objective"), OBJECTIVES, "objective",
                       where=head.where("objective")))  # fmt: skip
    get(lambda: choice(head.text("place"), ("best", "one"), "placing", where=head.where("place")))
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", head.text("start")):
        get.errors.append(InputError(f"`{head.text('start')}` is not a month",
                                     where=head.where("start"), hint="2027-01"))  # fmt: skip
    if not places and head.get("on") is None:
        get.errors.append(InputError("no chips to run on", where=f"{path}:{head.line}",
                                     hint="on: [trainium2, tpu-v6e, h100]"))  # fmt: skip
    if places and head.get("on") is not None:
        get.errors.append(InputError("`on` and `places` both say where", where=head.where("on"),
                                     hint="give one of them"))  # fmt: skip
    get.raise_all()


def _unique(stages: list[Stage], path: str) -> None:
    seen: set[str] = set()
    for stage in stages:
        if stage.name in seen:
            raise InputError(f"two stages are called `{stage.name}`", where=f"{path}:{stage.line}",
                             hint="give one of them a name of its own")  # fmt: skip
        seen.add(stage.name)


def _stage(held: Located, path: str, get: Collector) -> Stage | None:
    place = f"{path}:{held.line}"
    if not isinstance(held.value, dict):
        get.errors.append(InputError("a stage is a mapping", where=place, hint="kind: train"))
        return None
    rest = dict(held.value)
    named, kinded = rest.pop("name", None), rest.pop("kind", None)
    if kinded is None:
        get.errors.append(InputError("a stage needs a `kind`", where=place,
                                     hint=f"one of {', '.join(STAGES)}"))  # fmt: skip
        return None
    kind = get(lambda: choice(str(kinded.plain()), tuple(STAGES), "kind of stage",
                              where=f"{path}:{kinded.line}"))  # fmt: skip
    if kind is None:
        return None
    found = _mapping(Located(value=rest, line=held.line), STAGES[kind], path, get, kind=kind,
                     known=("kind", "name"))  # fmt: skip
    name = kind if named is None else str(named.plain())
    return Stage(name=name, kind=kind, values=found.values, lines=found.lines, path=path,
                 line=held.line)  # fmt: skip


def fields_of(own: type, kind: str = "") -> Iterator[Field[Any]]:
    """The fields of a mapping: its own, then those of the job that a stage plans."""
    yield from fields(own)
    names = {f.name for f in fields(own)}
    options, without = JOB_FIELDS.get(kind, ((), frozenset()))
    for group in options:
        yield from (f for f in fields(group) if f.name not in without | names)


def _mapping(
    held: Located, own: type, path: str, get: Collector, *, kind: str = "",
    known: tuple[str, ...] = (),
) -> Fields:  # fmt: skip
    """The fields of one mapping, defaults filled in; what is wrong goes to ``get``."""
    allowed = {f.name: f for f in fields_of(own, kind)}
    place = f"{path}:{held.line}"
    values: dict[str, str | bool] = {}
    lines: dict[str, int] = {}
    given = held.value if isinstance(held.value, dict) else {}
    if not isinstance(held.value, dict):
        get.errors.append(InputError("a mapping is needed", where=place))
    for key, value in given.items():
        name, at = key.replace("-", "_"), f"{path}:{value.line}"
        if name not in allowed:
            get.errors.append(UnknownNameError("field", key, (*known, *allowed), where=at))
            continue
        lines[name] = value.line
        flag = allowed[name].type == "bool"
        text = get(partial(field_text, value, flag=flag, where=at))
        if text is not None:
            values[name] = text
    for name, f in allowed.items():
        if name in lines:
            continue
        if f.default is MISSING:
            # Fine-tuning and serving take their jobs' fields; those of theirs must be given too.
            get.errors.append(InputError(f"`{name}` is missing", where=place))
        elif f.default is not None and own_field(f, own):
            values[name] = f.default
    return Fields(values=values, lines=lines, path=path, line=held.line)


def own_field(f: Field[Any], own: type) -> bool:
    """Whether a field is the file's own, not one of a job that a stage plans."""
    return f in fields(own)
