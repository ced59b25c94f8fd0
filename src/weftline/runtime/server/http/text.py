"""Tokens to text as they come: whole characters only, and nothing that a stop string may begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["TextStream"]

_PARTIAL = "\ufffd"
"""What decoders say where a character's bytes are not all there yet."""


class TextStream:
    """The text of one answer."""

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), *, keep_stop: bool = False):
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._keep_stop = keep_stop
        self._ids: list[int] = []
        self._before = self._read = 0
        self._held = ""
        self.stopped: str | None = None
        """The stop string that ended it."""

    def add(self, token: int) -> str:
        """The text that is certain after one more token."""
        self._ids.append(token)
        known = self._decode(self._ids[self._before : self._read])
        text = self._decode(self._ids[self._before :])
        if len(text) <= len(known) or text.endswith(_PARTIAL):
            return ""
        self._before, self._read = self._read, len(self._ids)
        return self._pass(text[len(known) :])

    def end(self) -> str:
        """What was held back; the answer is over."""
        if self.stopped is not None:
            return ""
        known = self._decode(self._ids[self._before : self._read])
        text = self._decode(self._ids[self._before :])
        self._read = len(self._ids)
        rest = self._pass(text[len(known) :])
        if self.stopped is None:
            rest, self._held = rest + self._held, ""
        return rest

    def _decode(self, ids: Sequence[int]) -> str:
        if not ids:
            return ""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _pass(self, text: str) -> str:
        """Text that no stop string can take back."""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, self.stopped = min(found)
            self._held = ""
            return text[: at + len(self.stopped)] if self._keep_stop else text[:at]
        most = max(map(len, self._stops)) - 1
        kept = next(
            (n for n in range(min(most, len(text)), 0, -1)
             if any(stop.startswith(text[-n:]) for stop in self._stops)), 0,
        )  # fmt: skip
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]
