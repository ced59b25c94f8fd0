"""Read YAML (and so JSON) and keep the line of every mapping and list item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from weftline.errors import InputError

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A value, and the line it starts on; mappings and lists hold located values again."""

    value: Any
    line: int

    def plain(self) -> Any:
        """The value without its lines."""
        if isinstance(self.value, dict):
            return {k: v.plain() for k, v in self.value.items()}
        if isinstance(self.value, list):
            return [v.plain() for v in self.value]
        return self.value

    def get(self, key: str) -> Any:
        """The plain value under ``key`` of a mapping; None where it is absent."""
        held = self.value.get(key) if isinstance(self.value, dict) else None
        return None if held is None else held.plain()

    def items(self, key: str) -> list[Located]:
        """The items of the list under ``key``; none where it is absent or no list."""
        held = self.value.get(key) if isinstance(self.value, dict) else None
        return held.value if held is not None and isinstance(held.value, list) else []


def read_located(text: str, name: str) -> Located:
    """Parse YAML or JSON; raises InputError with file and line where it is neither."""
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Located(value={}, line=1)
        return _located(node, loader, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise InputError(
            f"not YAML: {error.problem or error.context}", where=f"{name}:{line}"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"not YAML: {error}", where=f"{name}:1") from error
    except RecursionError as error:
        raise InputError("nested too deep", where=f"{name}:1") from error
    finally:
        loader.dispose()


def _located(node: Any, loader: Any, name: str) -> Located:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        table: dict[str, Located] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in table:
                where = f"{name}:{key_node.start_mark.line + 1}"
                raise InputError(f"`{key}` stands twice in one mapping", where=where)
            table[key] = _located(value_node, loader, name)
        return Located(value=table, line=line)
    if isinstance(node, yaml.SequenceNode):
        return Located(value=[_located(n, loader, name) for n in node.value], line=line)
    return Located(value=loader.construct_object(node), line=line)
