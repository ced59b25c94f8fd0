"""Text that would run if a page took it for markup, put wherever an answer has text."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from typing import Any

HOSTILE = (
    "</script></title><script>window.broken=1</script><img src=x onerror='window.broken=1'>\"'&<!--"
)


class Elements(HTMLParser):
    """Elements of a page as a browser sees them: how many of each, scripts, and other text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.policy = ""
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = dict(attrs)
        assert not any(name.startswith("on") for name in given), tag
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        self._script = tag == "script"
        if self._script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script &= tag != "script"

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data
        else:
            self.text.append(data)


def poisoned(value: Any, *, keeping: bool = False) -> Any:
    """The same value with hostile text for every text in it, or before it where that is kept."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = {"kind", "size"}
        return replace(value, **{
            f.name: poisoned(getattr(value, f.name), keeping=keeping)
            for f in fields(value) if f.name not in kept
        })  # fmt: skip
    if isinstance(value, str):
        return value and (HOSTILE + value if keeping else HOSTILE)
    if isinstance(value, dict):
        return {name: poisoned(v, keeping=keeping) for name, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(poisoned(v, keeping=keeping) for v in value)
    return value
