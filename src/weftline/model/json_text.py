"""JSON of a config file: one object, no field twice, and the line where a field stands."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from weftline.errors import InputError

__all__ = ["line_of", "parse"]

_TOKEN: Final = re.compile(r'"(?:\\.|[^"\\])*"|[{}\[\],:]')


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


def parse(text: str, source: str) -> dict[str, Any]:
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


def line_of(text: str, path: Sequence[str]) -> int | None:
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
