"""Who computes next: a fair, bounded queue over worker processes that can be killed.

Sessions take turns: the one that was served last waits for all others, however much it asks. A
session may have few questions waiting, and all together not many; one more is refused with the
reason. A worker whose task is cancelled or takes too long is killed and replaced.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

__all__ = ["Full", "Job", "Pool", "Size"]

State = Literal["waiting", "running", "done", "failed", "cancelled"]
_LOG: Final = logging.getLogger(__name__)
ENDED: Final = frozenset({"done", "failed", "cancelled"})
_LINE_BYTES: Final = 64 << 20
_KEPT: Final = 256
"""Ended jobs that can still be looked at."""
_RENEWED_AFTER: Final = 500
"""Tasks of a worker before a new one takes its place: caches grow."""


class Full(Exception):  # noqa: N818  (an answer, not a failure)
    """A question that is refused for now, with the reason."""

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(reason)
        self.reason, self.retry_after_s = reason, retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is computed and waits at once."""

    workers: int = 2
    limit_s: float = 300.0
    """Of one task."""
    memory_bytes: int = 4 * 10**9
    """Of one worker; 0 for no limit."""
    per_session: int = 4
    """Tasks of one session that wait."""
    waiting: int = 128
    """Tasks of all sessions that wait."""


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """One task of a session, and how far it is."""

    session: str
    task: str
    asked: Mapping[str, Any]
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: State = "waiting"
    says: str = ""
    share: float | None = None
    result: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, Any] = field(default_factory=dict)
    """Code and errors, as :func:`weftline.studio.worker.failure` gives them."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.state in ENDED

    def touch(self) -> None:
        """Wake whoever watches."""
        self._changed.set()
        self._changed = asyncio.Event()

    def change(self, timeout_s: float) -> Coroutine[Any, Any, None]:
        """Wait for the next change from this call on, or for the time."""
        return _within(self._changed.wait(), timeout_s)

    async def end(self) -> Job:
        """Wait until it has ended."""
        while not self.ended:
            await self.change(3600)
        return self

    def fail(self, what: str, hint: str = "") -> None:
        """End without an answer."""
        self.failed = {"code": 1, "errors": [{"what": what, "where": "", "hint": hint}]}
        self.state = "failed"


async def _within(waiting: Coroutine[Any, Any, Any], timeout_s: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(waiting, timeout_s)


class Pool:
    """Workers and those who wait for them. For one event loop."""

    def __init__(
        self, size: Size, *, after: Callable[[Job], Awaitable[None]] | None = None
    ) -> None:
        """``after`` is awaited when a task is answered, before anybody is told."""
        self.size = size
        self._after = after
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._more = asyncio.Condition()
        self._keepers: list[asyncio.Task[None]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="weftline-studio-"))
        self._mean_s = 1.0

    # -- asking --

    def submit(self, session: str, task: str, asked: Mapping[str, Any]) -> Job:
        """Queue a task. Raises Full with the reason where too many wait."""
        mine, waiting = len(self._queues.get(session, ())), self.waiting
        if mine >= self.size.per_session:
            raise Full(f"{mine} questions of this session wait already", self._retry_s(mine))
        if waiting >= self.size.waiting:
            raise Full(f"{waiting} questions of all sessions wait already", self._retry_s(waiting))
        job = Job(session=session, task=task, asked=asked)
        self._queues.setdefault(session, deque()).append(job)
        self._jobs[job.id] = job
        self._forget()
        asyncio.get_running_loop().create_task(self._wake())
        return job

    def find(self, name: str, session: str) -> Job | None:
        """A job of the session, while it is kept."""
        job = self._jobs.get(name)
        return job if job is not None and job.session == session else None

    def cancel(self, job: Job) -> None:
        """End a job: one that waits leaves the queue, the worker of one that runs is killed."""
        if job.ended:
            return
        queue = self._queues.get(job.session)
        if queue is not None and job in queue:
            queue.remove(job)
            if not queue:
                del self._queues[job.session]
        job.state = "cancelled"
        job.touch()
        self._told_places()

    def forget(self, job: Job) -> None:
        """Let go of a job whose result nobody will ask for again."""
        self.cancel(job)
        self._jobs.pop(job.id, None)

    @property
    def waiting(self) -> int:
        """Tasks that no worker has taken."""
        return sum(map(len, self._queues.values()))

    def ahead(self, job: Job) -> int:
        """How many tasks come before a waiting one, as turns go now."""
        for turn, session in enumerate(self._queues):
            queue = self._queues[session]
            if job in queue:
                place = queue.index(job)
                return sum(
                    min(len(q), place + (i < turn)) if i != turn else place
                    for i, q in enumerate(self._queues.values())
                )
        return 0

    def _retry_s(self, before: int) -> int:
        return max(1, round(before * self._mean_s / self.size.workers))

    def _forget(self) -> None:
        for name in [n for n, j in self._jobs.items() if j.ended][
            : max(0, len(self._jobs) - _KEPT)
        ]:
            del self._jobs[name]

    def _told_places(self) -> None:
        for queue in self._queues.values():
            for job in queue:
                job.touch()

    # -- working --

    async def start(self) -> None:
        """Start the workers; their imports go on while nobody waits."""
        self._keepers = [asyncio.create_task(self._keep(i)) for i in range(self.size.workers)]

    async def stop(self) -> None:
        """Kill the workers and end what waits."""
        for job in list(self._jobs.values()):
            self.cancel(job)
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _wake(self) -> None:
        async with self._more:
            self._more.notify()

    async def _next(self) -> Job:
        """The first task of the session whose turn it is."""
        async with self._more:
            await self._more.wait_for(lambda: self._queues)
            session, queue = self._queues.popitem(last=False)
            job = queue.popleft()
            if queue:
                self._queues[session] = queue  # behind all others
            job.state = "running"
        job.touch()
        self._told_places()
        return job

    async def _keep(self, number: int) -> None:
        """Have one worker alive, and give it one task after the other."""
        process, done = await self._spawn(number), 0
        try:
            while True:
                job = await self._next()
                if process.returncode is not None:  # it was ended while it had nothing to do
                    process, done = await self._spawn(number), 0
                began = asyncio.get_running_loop().time()
                alive = await self._run(process, job)
                spent = asyncio.get_running_loop().time() - began
                self._mean_s += (spent - self._mean_s) / 8
                done += 1
                if not alive or done >= _RENEWED_AFTER:
                    await self._kill(process)
                    process, done = await self._spawn(number), 0
        finally:
            await self._kill(process)

    async def _spawn(self, number: int) -> asyncio.subprocess.Process:
        folder = self._folder / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        return await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "weftline.studio.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=folder,
            limit=_LINE_BYTES, start_new_session=True,
            env={**os.environ, **threads, "WEFTLINE_STUDIO_MEMORY": str(self.size.memory_bytes)},
        )  # fmt: skip

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run(self, process: asyncio.subprocess.Process, job: Job) -> bool:
        """Work one task off; whether the worker can take another."""
        reading = asyncio.create_task(self._answered(process, job))
        until = asyncio.get_running_loop().time() + self.size.limit_s
        try:
            while not reading.done() and job.state != "cancelled":
                left = until - asyncio.get_running_loop().time()
                if left <= 0:
                    why = f"no answer within {self.size.limit_s:g} s, the studio's limit"
                    job.fail(why, "ask for fewer accelerators, or `weftline studio --limit`")
                    break
                changed = asyncio.create_task(job.change(left))
                await asyncio.wait({reading, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            alive = reading.done() and reading.result()
        except Exception as error:  # what came after the answer failed: a bug, and no end of it all
            _LOG.exception("an answer could not be taken")
            job.fail(f"weftline contradicts itself ({type(error).__name__}): a bug to report")
            alive = False
        finally:
            reading.cancel()
        job.touch()
        return alive

    async def _answered(self, process: asyncio.subprocess.Process, job: Job) -> bool:
        """Send a task and read until it is answered; whether the worker lives."""
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        line = json.dumps({"task": job.task, "asked": dict(job.asked)})
        try:
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()
            while raw := await process.stdout.readline():
                said = json.loads(raw)
                if "says" in said:
                    job.says, job.share = said["says"], said["share"]
                    job.touch()
                elif "failed" in said:
                    job.failed, job.state = said["failed"], "failed"
                    return True
                elif "done" in said:
                    job.result = said["done"]
                    if self._after is not None:
                        await self._after(job)
                    if job.state == "running":
                        job.state = "done"
                    return True
        except (ConnectionError, ValueError):
            pass  # it died while it was spoken to
        if job.state == "running":
            job.fail("the worker ended without an answer: it may have run out of memory",
                     "`weftline studio --memory`, or ask on the command line")  # fmt: skip
        return False
