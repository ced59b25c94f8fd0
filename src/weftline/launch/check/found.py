"""One mistake in an exported file, and YAML read with the line of everything."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong, where (``job.yaml:12``), and what to change."""

    what: str
    where: str
    hint: str = ""


@dataclass(slots=True)
class Document:
    """One document of a YAML file: its value, and the line of every part."""

    file: str
    value: Any
    lines: dict[Path, int] = field(default_factory=dict)
    repeated: list[Path] = field(default_factory=list)

    def where(self, path: Path) -> str:
        """``file:line`` of the part, or of the nearest part around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return f"{self.file}:{self.lines[path[:end]]}"
        return self.file

    def texts(self) -> Iterator[tuple[Path, str]]:
        """Every text in it, with where it stands; lists of words also as one command."""

        def walk(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
            if isinstance(value, str):
                yield path, value
            elif isinstance(value, dict):
                for name, part in value.items():
                    yield from walk(part, (*path, name))
            elif isinstance(value, list):
                if value and all(isinstance(word, str) for word in value) and len(value) > 3:
                    yield path, shlex.join(value)
                else:
                    for number, part in enumerate(value):
                        yield from walk(part, (*path, number))

        return walk(self.value, ())

    @property
    def kind(self) -> str:
        """``JobSet`` of a Kubernetes object, else empty."""
        return str(self.value.get("kind", "")) if isinstance(self.value, dict) else ""


def dotted(path: Path) -> str:
    """``spec.replicatedJobs[0].name``."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return text.removeprefix(".") or "the document"


def read_yaml(file: str, text: str) -> Iterator[Document]:
    """Every document of a file. Raises yaml.YAMLError."""
    for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
        if node is not None:
            document = Document(file=file, value=None)
            loader = yaml.SafeLoader("")
            document.value = _value(node, (), document, loader)
            yield document


def _value(node: yaml.Node, path: Path, into: Document, loader: yaml.SafeLoader) -> Any:
    into.lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if key in found:
                into.repeated.append((*path, key))
            found[key] = _value(value_node, (*path, key), into, loader)
            into.lines[(*path, key)] = key_node.start_mark.line + 1
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, n), into, loader) for n, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)
