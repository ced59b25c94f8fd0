"""Names as people write them: Hub ids with their organisation, suffixes of fine-tunes, dates.

``meta-llama/Llama-3.1-8B-Instruct``, ``llama3.1-8b`` and ``Llama_3.1-8B-FP8`` all mean the bundled
``llama-3.1-8b``: what does not change a shape is passed over, and the answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from weftline.errors import nearest_names

__all__ = ["find_name", "format_of", "key_of", "near_in_family"]

_NEUTRAL: Final = frozenset(
    {
        "4bit", "8bit", "awq", "base", "bf16", "bnb", "chat", "dpo", "dynamic", "fp16", "fp4",
        "fp8", "gguf", "gptq", "hf", "instruct", "int4", "int8", "it", "latest", "meta", "mlx",
        "mxfp4", "nvfp4", "per", "pertensor", "preview", "pt", "quantized", "reasoning", "rlhf",
        "sft", "static", "tensor", "thinking", "tuned", "turbo", "unsloth", "w4a16", "w8a16",
        "w8a8",
    }
)  # fmt: skip
"""Words that name a fine-tune, a format or its maker, not a shape."""
_FORMATS: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("nvfp4", frozenset({"nvfp4", "fp4"})),
    ("mxfp4", frozenset({"mxfp4"})),
    ("fp8", frozenset({"fp8"})),
    ("int8", frozenset({"int8", "8bit", "w8a8", "w8a16"})),
    ("int4", frozenset({"int4", "4bit", "w4a16", "awq", "gptq"})),
)
"""Number format -> the words that say it; ``GPTQ-Int8`` is 8 bit, so a width is asked first."""
_DATE: Final = re.compile(r"(?:2[3-7](?:0[1-9]|1[0-2])|0[1-9][0-3]\d|1[0-2][0-3]\d|20\d{6})")
"""``2507``, ``0528`` or ``20250101``: a release of the same shape."""
_SPLIT: Final = re.compile(r"[-_.\s:/]+")
_JOINED: Final = re.compile(r"^([a-z]+)(\d.*)$")


def _words(name: str) -> list[str]:
    """The words of a name: lower case, dots and underscores as dashes, no organisation."""
    text = name.strip().lower().rpartition("/")[2]
    words: list[str] = []
    for word in _SPLIT.split(text):
        joined = _JOINED.match(word)
        # `llama3` is `llama-3`, but `v0`, `a3b`, `t5` and `nvfp4` are words of their own.
        split = joined is not None and len(joined[1]) > 2 and word not in _NEUTRAL
        words += joined.groups() if joined is not None and split else [word]
    return [word for word in words if word]


@lru_cache(maxsize=4096)
def key_of(name: str, *, loosely: bool = False, dated: bool = False) -> str:
    """The name as it is compared; ``loosely`` without words that change no shape, and without
    dates unless ``dated``."""
    words = _words(name)
    if loosely:
        words = [w for w in words if w not in _NEUTRAL and (dated or not _DATE.fullmatch(w))]
    return "-".join(words)


def format_of(name: str) -> str | None:
    """The number format of the weights that a name says, such as ``-AWQ``; ``None`` without."""
    words = frozenset(_words(name))
    return next((form for form, said in _FORMATS if words & said), None)


def find_name(name: str, known: Mapping[str, Iterable[str]]) -> str | None:
    """The short name that ``name`` means, or ``None``.

    ``known`` is short name -> its other names. Spelled alike wins over alike but for fine-tune,
    format, and that over alike but for the date; of several that are so alike, the shortest name.
    """
    # A release of another day has the same shape, but not always the same context.
    for loosely, dated in ((False, True), (True, True), (True, False)):
        wanted = key_of(name, loosely=loosely, dated=dated)
        if not wanted:
            return None
        found = [
            short
            for short, others in known.items()
            if any(
                key_of(each, loosely=loosely, dated=dated) == wanted for each in (short, *others)
            )
        ]
        if found:
            return min(found, key=lambda short: (len(short), short))
    return None


def near_in_family(name: str, known: Iterable[str]) -> list[str]:
    """Names of the same family only: a Qwen is no better answer to a Llama than none."""
    families: dict[str, list[str]] = {}
    for short in known:
        families.setdefault((_words(short) or [""])[0], []).append(short)
    first = (_words(name) or [""])[0]
    family = first if first in families else next(iter(nearest_names(first, families, 1)), "")
    if len(first) < 2 or not family:
        return []
    inside = families[family]
    # Compared without words that all fine-tunes share, which would outweigh the size.
    by_key = {key_of(short, loosely=True): short for short in sorted(inside, key=len, reverse=True)}
    near = nearest_names(key_of(name, loosely=True), by_key)
    return [by_key[key] for key in near] or sorted(inside)[:3]
