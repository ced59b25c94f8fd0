"""The thread that steps an engine, and the door to it for others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from weftline.runtime.server.engine.loop import Busy, Engine
from weftline.runtime.server.engine.requests import Request, Sampling, Token

__all__ = ["Worker"]

Sink = Callable[[Request, Token], None]


@dataclass(eq=False)
class Worker:
    """Steps whenever there is work.

    Others leave word at the door, and the thread reads it between two steps. Nobody waits for a
    step to end: an event loop that did would tell no tokens meanwhile, and a lock that is free
    for an instant a step lets newcomers in late or not at all.
    """

    engine: Engine
    failed: BaseException | None = None
    _door: threading.Condition = field(default_factory=threading.Condition)
    _come: list[tuple[Request, Sink]] = field(default_factory=list)
    _gone: list[Request] = field(default_factory=list)
    _sinks: dict[Request, Sink] = field(default_factory=dict)
    _ended: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> Worker:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="weftline-engine", daemon=True)
        self._thread.start()
        return self

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits or is on its way."""
        with self._door:
            return self.engine.idle and not (self._come or self._gone or self._sinks)

    def submit(self, prompt: Sequence[int], sampling: Sampling, sink: Sink) -> Request:
        """As ``Engine.submit``; ``sink`` is called on the engine's thread with each token."""
        with self._door:
            if self.failed or self._ended:
                raise Busy("the engine has stopped")
            request = self.engine.request(prompt, sampling, ahead=len(self._come))
            self._come.append((request, sink))
            self._door.notify()
            return request

    def cancel(self, request: Request) -> None:
        """Drop a request before the next step; nothing if it is over."""
        with self._door:
            self._gone.append(request)
            self._door.notify()

    def stop(self) -> None:
        """End the thread; what runs is dropped."""
        with self._door:
            self._ended = True
            self._door.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._let_in():
                for request, token in self.engine.step():
                    sink = self._sinks.pop if token.finish else self._sinks.get
                    if (told := sink(request, None)) is not None:
                        told(request, token)
                time.sleep(0)
        except BaseException as error:
            self.failed = error
        self._drop_all()

    def _let_in(self) -> bool:
        """Wait for work and take the word that was left; False once it is over."""
        with self._door:
            while not (self._ended or self._come or self._gone) and self.engine.idle:
                self._door.wait()
            come, self._come = self._come, []
            gone, self._gone = self._gone, []
            ended = self._ended
            for request, sink in come:
                self._sinks[request] = sink
                self.engine.scheduler.waiting.append(request)
        for request in gone:
            if self._sinks.pop(request, None) is not None:
                self.engine.cancel(request)
        return not ended

    def _drop_all(self) -> None:
        with self._door:
            self._ended = True
        self._let_in()
        for request, sink in list(self._sinks.items()):
            del self._sinks[request]
            self.engine.cancel(request)
            sink(request, Token(None, None, "cancelled"))
