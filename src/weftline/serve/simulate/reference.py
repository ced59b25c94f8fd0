"""The simulation in plain Python, step by step: what the compiled one must agree with.

Written for reading: every KV block is an object in a list, every engine step is carried out. It
shares no code with the compiled event loop but the rules of the scheduler, and is a thousand times
slower. Tests hold the two against each other.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from weftline.serve.engine.scheduler import Scheduler

StepTime = Callable[[Sequence[tuple[int, int]], int, float], float]
"""(prompt chunks as (tokens, tokens behind), decoding sequences, their mean context) -> seconds."""


@dataclass(slots=True, kw_only=True)
class Request:
    """One request and what has become of it; times in seconds."""

    number: int
    arrived_s: float
    prefill: int
    decode: int
    hashes: tuple[int, ...] = ()
    out: int = 0
    todo: int = 0
    done: int = 0
    context: int = 0
    blocks: list[int] = field(default_factory=list)
    shared: int = 0
    scheduled_s: float = math.nan
    first_s: float = math.nan
    finished_s: float = math.nan
    thrown_out: int = 0
    cached: int = 0
    replica: int = -1


@dataclass(slots=True, kw_only=True)
class Setting:
    """What holds for every replica."""

    scheduler: Scheduler
    step_s: StepTime
    max_seqs: int
    budget: int
    blocks: int
    caching: bool = False
    hash_blocks: int = 1
    """KV blocks of one prefix block of the trace."""
    spec: int = 0
    tokens_per_step: float = 1.0
    ready: bool = False
    hit: float = 0.0
    """Share of a prompt that a cache outside this model is said to hold."""
    window: int = 0
    """Tokens an evicting engine keeps of a sequence; 0 for all."""


class Replica:
    """One engine: running and waiting requests, and KV blocks by number."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.clock = self.before = 0.0
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(setting.blocks))
        self.content: dict[int, tuple[object, ...]] = {}
        """Block -> (whose, unit, place in it); whole units are forgotten together."""
        self.units: dict[tuple[object, ...], list[int]] = {}
        self.refs: dict[tuple[object, ...], int] = {}
        self.pending_blocks: set[int] = set()
        self.pending_seats = 0
        self.last_ended = 0
        self.yielded = 0.0

    # --- KV blocks ---------------------------------------------------------------------------

    def blocks_of(self, tokens: int) -> int:
        """Blocks that ``tokens`` and the drafted ones fill, no more than the window's."""
        size, window = self.setting.scheduler.block_tokens, self.setting.window
        blocks = -(-(tokens + self.setting.spec) // size)
        return min(blocks, -(-window // size)) if window else blocks

    def take(self, count: int) -> list[int]:
        """The ``count`` blocks that have been free the longest; their units are forgotten."""
        taken = []
        for _ in range(count):
            block, _ = self.free.popitem(last=False)
            if block in self.content:
                unit = self.content[block][:2]
                if unit[0] == "prefix":
                    for other in self.units.pop(unit):
                        self.content.pop(other)
                else:
                    self.units[unit].remove(block)
                    self.content.pop(block)
            taken.append(block)
        return taken

    def give_back(self, request: Request, *, comes_again: bool) -> list[int]:
        """Free a request's blocks, deepest first; shared ones only when nobody holds them."""
        private = request.blocks
        freed = list(reversed(private))
        if comes_again and self.setting.caching and private:
            unit = ("left", request.number)
            self.units[unit] = list(private)
            self.content |= {b: (*unit, k) for k, b in enumerate(private)}
        for number in reversed(request.hashes[: request.shared]):
            unit = ("prefix", number)
            self.refs[unit] -= 1
            if self.refs[unit] == 0:
                freed += reversed(self.units[unit])
        request.blocks, request.shared = [], 0
        self.free |= dict.fromkeys(freed)
        return freed

    def room(self) -> int:
        """Free blocks that the scheduler knows of."""
        return len(self.free) - len(self.pending_blocks)

    def admit(self, room: int, seen: float) -> Request | None:
        """Let the first waiting request in if ``room`` blocks do for it."""
        s = self.setting
        request = self.waiting[0]
        tokens = request.prefill + request.out
        whole = s.scheduler.reserve == "whole"
        want = self.blocks_of(request.prefill + request.decode if whole else tokens)
        per = s.scheduler.block_tokens
        prefix: list[tuple[object, ...]] = []
        found = 0
        if s.caching:
            size = s.hash_blocks * per
            prefix = [("prefix", h) for h in request.hashes[: request.prefill // size]]
            while found < min(len(prefix), (tokens - 1) // size) and prefix[found] in self.units:
                found += 1
        held = [u for u in prefix if u in self.units]
        private = want - len(prefix) * s.hash_blocks
        need = private + s.hash_blocks * sum(self.refs.get(u, 0) == 0 or u not in self.units
                                             for u in prefix)  # fmt: skip
        if need > room:
            return None
        for unit in held:
            self._hold(unit)
        left = self.units.pop(("left", request.number), [])
        kept = left[: min(len(left), private)]
        for block in kept:
            self.free.pop(block)
        for block in left:
            self.content.pop(block)
        fresh = self.take(private - len(kept) + s.hash_blocks * (len(prefix) - len(held)))
        request.blocks = kept + fresh[: private - len(kept)]
        fresh = fresh[private - len(kept) :]
        for unit in prefix:
            if unit not in held:
                own, fresh = fresh[: s.hash_blocks], fresh[s.hash_blocks :]
                self.units[unit] = own
                self.content |= {b: (*unit, k) for k, b in enumerate(own)}
                self._hold(unit)
        known = found * s.hash_blocks * per
        if found == len(prefix):
            known += min(len(kept) * per, (tokens - 1 - known) // per * per)
        if s.hit:
            known = max(known, min(int(s.hit * request.prefill), tokens - 1))
        request.shared, request.done, request.todo = len(prefix), known, tokens - known
        request.cached += known
        if math.isnan(request.scheduled_s):
            request.scheduled_s = seen
        self.running.append(self.waiting.pop(0))
        return request

    def _hold(self, unit: tuple[object, ...]) -> None:
        if self.refs.get(unit, 0) == 0:
            for block in self.units[unit]:
                self.free.pop(block, None)
        self.refs[unit] = self.refs.get(unit, 0) + 1

    # --- steps -------------------------------------------------------------------------------

    def decoding(self) -> list[Request]:
        """Running requests whose prompt is done."""
        return [r for r in self.running if r.todo == 0]

    def tokens_next(self) -> int:
        """Whole tokens that the next decode step yields."""
        return math.floor(self.yielded + self.setting.tokens_per_step + 1e-9)

    def growth(self, tokens: int) -> int:
        """Blocks that the next decode step needs."""
        if self.setting.scheduler.reserve == "whole":
            return 0
        return sum(self.blocks_of(r.context + tokens) - self.blocks_of(r.context)
                   for r in self.decoding())  # fmt: skip

    def make_room(self, tokens: int) -> bool:
        """Throw out the newest requests until the next decode step has its blocks."""
        thrown = False
        while self.growth(tokens) > self.room() and len(self.running) > 1:
            request = self.running.pop()
            self.give_back(request, comes_again=True)
            request.todo = request.context = 0
            request.thrown_out += 1
            self.waiting.insert(0, request)
            thrown = True
        return thrown

    def pick_chunks(self, left: int, room: int, seen: float) -> list[tuple[Request, int]]:
        """Prompt chunks of the next step: the one in work, then waiting requests in turn."""
        s = self.setting
        chunks = []
        for request in [r for r in self.running if r.todo > 0]:
            if left > 0:
                chunks.append((request, min(request.todo, left)))
                left -= chunks[-1][1]
        while (
            left > 0 and self.waiting and self.waiting[0].arrived_s <= seen
            and len(self.running) + self.pending_seats < s.max_seqs
            and (not s.scheduler.prompts_per_step or len(chunks) < s.scheduler.prompts_per_step)
            and (not s.ready or self.waiting[0].thrown_out)
        ):  # fmt: skip
            before = len(self.free)
            admitted = self.admit(room, seen)
            if admitted is None:
                break
            room -= before - len(self.free)
            chunks.append((admitted, min(admitted.todo, left)))
            left -= chunks[-1][1]
        return chunks

    def admit_ready(self, seen: float) -> None:
        """Let in requests whose KV has been sent over."""
        tokens = self.tokens_next()
        while (
            self.waiting and len(self.running) + self.pending_seats < self.setting.max_seqs
            and not self.waiting[0].thrown_out and self.waiting[0].arrived_s <= seen
        ):  # fmt: skip
            room = self.room() - self.growth(tokens) - (1 if self.running else 0)
            request = self.admit(room, seen)
            if request is None:
                return
            request.out, request.todo, request.context = 1, 0, request.prefill

    def step(self) -> None:
        """One step of the engine."""
        s = self.setting
        if not self.running:
            self.pending_seats, self.pending_blocks = 0, set()
            self.clock = self.before = max(self.clock, self.waiting[0].arrived_s)
        seen = self.before if s.scheduler.lag == 2 else self.clock
        if s.ready and all(r.todo == 0 for r in self.running):
            self.admit_ready(seen)
        tokens = self.tokens_next()
        thrown = self.make_room(tokens) if s.scheduler.mixed else False
        grown = self.growth(tokens) if s.scheduler.mixed else 0
        batch = self.decoding() if s.scheduler.mixed else []
        left = s.budget - len(batch) * (1 + s.spec)
        chunks = self.pick_chunks(left, -1 if thrown else self.room() - grown, seen)
        if not chunks:
            if not s.scheduler.mixed:
                self.make_room(tokens)
            batch = self.decoding()
        mean = 0.0
        if batch:
            mean = sum(r.context for r in batch) / len(batch) + self.yielded + 1.0
        took = s.step_s([(c, r.done) for r, c in chunks], len(batch), mean)
        if batch:
            self.yielded += s.tokens_per_step - tokens
        for request in batch:
            need = self.blocks_of(request.context + tokens) - self.blocks_of(request.context)
            if s.scheduler.reserve != "whole":
                request.blocks += self.take(need)
            request.context += tokens
            request.out += tokens
        self.before, self.clock = self.clock, self.clock + took
        self.pending_seats, self.pending_blocks, self.last_ended = 0, set(), 0
        self._end()
        for request, size in chunks:
            request.done += size
            request.todo -= size
            if request.todo == 0:
                request.context = request.prefill + request.out
                request.out += 1
                if math.isnan(request.first_s):
                    request.first_s = self.clock
        self._end()

    def _end(self) -> None:
        for request in [r for r in self.decoding() if r.out >= r.decode]:
            self.running.remove(request)
            freed = self.give_back(request, comes_again=False)
            request.finished_s = self.clock
            self.last_ended += 1
            if self.setting.scheduler.lag == 2:
                self.pending_seats += 1
                self.pending_blocks |= set(freed)

    def run(self, until_s: float) -> None:
        """All steps that start before ``until_s``."""
        while self.running or self.waiting:
            start = self.clock
            if not self.running:
                start = max(start, self.waiting[0].arrived_s)
            if start >= until_s:
                return
            self.step()

    def load(self, at_s: float) -> int:
        """Requests in hand at ``at_s``, those of a step under way included."""
        load = len(self.running) + len(self.waiting)
        return load + self.last_ended if self.clock > at_s else load


def simulate_reference(
    setting: Setting, requests: Sequence[Request], *, replicas: int = 1,
    least_loaded: bool = False,
) -> None:  # fmt: skip
    """Carry out all requests (in order of arrival); what became of them is written into them."""
    pool = [Replica(setting) for _ in range(replicas)]
    for number, request in enumerate(requests):
        for replica in pool:
            replica.run(request.arrived_s)
        which = number % replicas
        if least_loaded:
            loads = [replica.load(request.arrived_s) for replica in pool]
            which = loads.index(min(loads))
        request.replica = which
        pool[which].waiting.append(request)
    for replica in pool:
        replica.run(math.inf)
