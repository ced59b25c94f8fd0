"""Who computes what in the next step: continuous batching with prompts in chunks.

Running sequences come first, in the order they began; what they leave of the step's tokens goes to
those that wait. When pages run out, the youngest running sequence gives back its own and begins
again later: what it had said is kept and computed anew as a prompt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from weftline.runtime.server.engine.pages import Pages, key_after
from weftline.runtime.server.engine.requests import Request

__all__ = ["Scheduler", "Turn"]

Stretch = Callable[[int], tuple[int, int]]
"""Position of the next query -> (front, low): keys from ``front`` up to ``low`` are never seen."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A request's part of a step."""

    request: Request
    count: int
    """Tokens computed."""

    @property
    def samples(self) -> bool:
        """Whether its last row decides a new token."""
        return self.request.done + self.count == len(self.request.tokens)


class Scheduler:
    """Requests that run and wait, and the pages they hold."""

    def __init__(
        self, pages: Pages, *, sequences: int, tokens: int, unseen: Stretch | None = None
    ) -> None:
        self.pages = pages
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self._sequences = sequences
        self._tokens = tokens
        self._unseen = unseen

    def next_step(self) -> list[Turn]:
        """The turns of the next step; their pages are taken."""
        left = self._tokens
        turns: list[Turn] = []
        for request in list(self.running):
            count = min(len(request.tokens) - request.done, left)
            if count <= 0 or request not in self.running:
                continue
            if self._make_room(request, count):
                turns.append(Turn(request, count))
                left -= count
        while self.waiting and left > 0 and len(self.running) < self._sequences:
            turn = self._begin(self.waiting[0], left)
            if turn is None:
                break
            self.running.append(self.waiting.popleft())
            turns.append(turn)
            left -= turn.count
        return turns

    def computed(self, turn: Turn) -> None:
        """A turn's keys and values are in the cache: publish full pages, free what is unseen."""
        request, size = turn.request, self.pages.page
        request.done += turn.count
        while (len(request.keys) + 1) * size <= request.done:
            slot = len(request.keys)
            before = request.keys[-1] if request.keys else b""
            request.keys.append(key_after(before, request.tokens[slot * size : (slot + 1) * size]))
            if request.pages[slot]:
                self.pages.publish(request.pages[slot], request.keys[slot])
        if self._unseen is not None:
            front, low = self._unseen(request.done)
            for slot in range(-(-front // size), low // size):
                self._drop(request, slot)

    def leave(self, request: Request) -> None:
        """A request is over, whether it ran or waited: its pages go back."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._release(request)

    def _begin(self, request: Request, left: int) -> Turn | None:
        """Take what the prefix cache has, and pages for the rest; None if there is no room."""
        size = self.pages.page
        if not request.sampling.prompt_logprobs:
            key = b""
            for slot in range((len(request.tokens) - 1) // size):
                key = key_after(key, request.tokens[slot * size : (slot + 1) * size])
                page = self.pages.hold(key)
                if page is None:
                    break
                request.pages.append(page)
                request.keys.append(key)
        request.done = len(request.pages) * size
        count = min(len(request.tokens) - request.done, left)
        if self._lacking(request, count) > self.pages.available:
            self._release(request)
            return None
        if not request.preempted:
            request.cached_tokens = request.done
        self._grow(request, count)
        return Turn(request, count)

    def _make_room(self, request: Request, count: int) -> bool:
        """Pages for ``count`` tokens more; younger ones give way, at last the request itself."""
        while self._lacking(request, count) > self.pages.available:
            victim = self.running.pop()
            self._release(victim)
            victim.preempted += 1
            self.waiting.appendleft(victim)
            if victim is request:
                return False
        self._grow(request, count)
        return True

    def _lacking(self, request: Request, count: int) -> int:
        return -(-(request.done + count) // self.pages.page) - len(request.pages)

    def _grow(self, request: Request, count: int) -> None:
        request.pages += [self.pages.take() for _ in range(self._lacking(request, count))]

    def _drop(self, request: Request, slot: int) -> None:
        if request.pages[slot]:
            self.pages.give_back(request.pages[slot])
            request.pages[slot] = 0

    def _release(self, request: Request) -> None:
        """Last pages first, so that beginnings stay cached longest."""
        for slot in reversed(range(len(request.pages))):
            self._drop(request, slot)
        request.pages, request.keys, request.done = [], [], 0
