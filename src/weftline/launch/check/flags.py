"""Commands in exported scripts against the flags that each engine's own parser knows (frozen)."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from weftline.errors import nearest_names
from weftline.launch.check.found import Finding

# What starts a command line of an engine: the words, and the engine.
STARTS: Final = (
    (("vllm", "serve"), "vllm"), (("-m", "sglang.launch_server"), "sglang"),
    (("-m", "dynamo.vllm"), "vllm"), (("-m", "dynamo.sglang"), "sglang"),
    (("-m", "torchtitan.train"), "torchtitan"), (("pretrain_gpt.py",), "megatron"),
    (("-m", "maxtext.trainers.pre_train.train"), "maxtext"),
)  # fmt: skip
_OURS: Final = frozenset({"--is-prefill-worker"})
"""Flags of a wrapper around an engine (Dynamo's)."""
_FILES: Final = {"megatron.args": "megatron", "torchtitan.args": "torchtitan",
                 "maxtext.args": "maxtext"}  # fmt: skip


@cache
def known(engine: str) -> dict[str, Any]:
    """The frozen list of one engine: version, date and flags."""
    text = files("weftline.launch").joinpath(f"data/flags/{engine}.json").read_text("utf-8")
    return dict(json.loads(text))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines as a shell joins them, with the number of the first."""
    start, held = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        held += line.removesuffix("\\") if line.endswith("\\") else line
        if not line.endswith("\\"):
            yield start, held
            start, held = 0, ""
    if held:
        yield start, held


def flag_findings(file: str, text: str, at: str = "") -> tuple[list[Finding], int]:
    """(mistakes, commands looked at) of a script, a file of arguments, or a text inside another
    file, which stands at ``at``."""
    found: list[Finding] = []
    looked = 0
    if file.rpartition("/")[2] in _FILES:
        engine = _FILES[file.rpartition("/")[2]]
        for number, line in enumerate(text.splitlines(), 1):
            found += _words(engine, shlex.split(line), f"{file}:{number}")
        return found, 1
    for number, line in _lines(text):
        for start, engine in STARTS:
            before, words, rest = line.partition(" ".join(start))
            if not words or before.lstrip().startswith("#"):
                continue
            looked += 1
            rest = re.split(r"\s[|&;]|\$\(\[", rest)[0]
            found += _words(engine, _split(rest), at or f"{file}:{number}")
            break
    return found, looked


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a command inside quotes of YAML: its end quote is not ours
        return text.replace("'", " ").replace('"', " ").split()


def _words(engine: str, words: list[str], where: str) -> Iterator[Finding]:
    flags: Mapping[str, Mapping[str, Any]] = known(engine)["flags"]
    version = f"{engine} {known(engine)['version']}"
    for n, word in enumerate(words):
        if engine == "maxtext":
            name, equals, value = word.partition("=")
            is_flag = bool(equals) and name.isidentifier()
        else:
            name, equals, value = word.partition("=")
            is_flag = word.startswith("--") and len(word) > 2
        if not is_flag or name in _OURS:
            continue
        flag = flags.get(name)
        if flag is None:
            near = nearest_names(name, flags, 1)
            yield Finding(what=f"{version} knows no {name}", where=where,
                          hint=f"did you mean {near[0]}?" if near else "")  # fmt: skip
            continue
        follows = words[n + 1] if n + 1 < len(words) else ""
        value = value if equals else "" if follows.startswith("--") else follows
        yield from _value(version, name, flag, value, where)


def _value(
    version: str, name: str, flag: Mapping[str, Any], value: str, where: str
) -> Iterator[Finding]:
    if value.startswith("$") or flag["kind"] == "bool":
        return
    if not value and flag.get("bare"):
        return
    if not value:
        yield Finding(what=f"{name} has no value", where=where)
    elif flag["kind"] == "int" and not re.fullmatch(r"-?\d[\d_]*(k|K|m|M)?", value):
        yield Finding(what=f"{name} wants a whole number, not `{value}`", where=where)
    elif flag["kind"] == "float" and not re.fullmatch(r"-?[\d.]+([eE]-?\d+)?", value):
        yield Finding(what=f"{name} wants a number, not `{value}`", where=where)
    elif "choices" in flag and value not in flag["choices"]:
        near = nearest_names(value, flag["choices"], 1)
        yield Finding(what=f"{name} has no choice `{value}` in {version}", where=where,
                      hint=f"did you mean `{near[0]}`?" if near else "")  # fmt: skip
