"""Who holds which page of the KV cache, and which pages begin a known text.

A page is held by the sequences whose tables name it, counted. A full page is published under a key
that follows from every token up to its last; a later prompt that begins alike takes it instead of
computing it again. A published page that nobody holds stays until its room is wanted, the longest
unused first. Page 0 belongs to nobody: tables name it where they name nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

__all__ = ["Pages", "key_after"]


def key_after(before: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a page of ``tokens`` after the page of key ``before``."""
    text = np.asarray(tokens, np.int64).tobytes()
    return hashlib.blake2b(before + text, digest_size=16).digest()


class Pages:
    """The pages of one cache."""

    def __init__(self, count: int, page: int, *, prefix_cache: bool = True) -> None:
        self.count = count - 1
        """Pages that can be held."""
        self.page = page
        """Tokens a page."""
        self._free = list(range(count - 1, 0, -1))
        self._held = np.zeros(count, np.int64)
        self._key: dict[int, bytes] = {}
        self._known: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._prefix_cache = prefix_cache

    @property
    def available(self) -> int:
        """Pages that can be taken now."""
        return len(self._free) + len(self._idle)

    @property
    def held(self) -> int:
        """Pages that sequences hold."""
        return int((self._held > 0).sum())

    @property
    def cached(self) -> int:
        """Pages that nobody holds and that begin a known text."""
        return len(self._idle)

    def take(self) -> int:
        """A page of one's own. Raises IndexError if none is available."""
        if self._free:
            page = self._free.pop()
        else:
            if not self._idle:
                raise IndexError("no page is available")
            page, _ = self._idle.popitem(last=False)
            del self._known[self._key.pop(page)]
        self._held[page] = 1
        return page

    def give_back(self, page: int) -> None:
        """One holder less."""
        self._held[page] -= 1
        if self._held[page]:
            return
        if page in self._key:
            self._idle[page] = None
        else:
            self._free.append(page)

    def publish(self, page: int, key: bytes) -> None:
        """A full page can be found by its key; the first of equal pages keeps the name."""
        if self._prefix_cache and key not in self._known and page not in self._key:
            self._known[key] = page
            self._key[page] = key

    def hold(self, key: bytes) -> int | None:
        """The page of a key, held once more; None if it is not known."""
        page = self._known.get(key)
        if page is not None:
            self._held[page] += 1
            self._idle.pop(page, None)
        return page

    def check(self) -> None:
        """Raise AssertionError unless every page is in exactly one place."""
        free, idle, held = set(self._free), set(self._idle), set(np.flatnonzero(self._held > 0))
        assert len(free) == len(self._free)  # noqa: S101
        assert len(free) + len(idle) + len(held) == self.count  # noqa: S101
        assert free | idle | held == set(range(1, self.count + 1))  # noqa: S101
        assert all(self._known[key] == page for page, key in self._key.items())  # noqa: S101
        assert len(self._known) == len(self._key)  # noqa: S101
        assert not self._held.min() < 0  # noqa: S101
