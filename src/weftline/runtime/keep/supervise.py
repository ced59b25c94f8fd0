"""The parent of a run on one machine: starts the ranks, hears them, and starts them again.

It has torch and the model's code loaded, and forks: a generation is there in tenths of a second. It
hosts the key-value store that ranks meet over, a new one a generation, made once all ranks are
forked: no thread of the store runs at a fork, so no lock that it held stays locked in a rank, and
what a dead rank left in a store disturbs nobody. A rank that dies, hangs or computes a loss that is
no number ends its generation; the next goes on from the newest checkpoint, on the same layout, with
the same sums.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError, WeftlineError
from weftline.runtime.keep.inject import PROCESSES_FILE
from weftline.runtime.keep.ledger import Ledger, Shares
from weftline.runtime.keep.watch import Sleep, Watch, Work, started_at, state_of
from weftline.runtime.record import EVENTS_FILE
from weftline.runtime.train.recipe import Recipe
from weftline.spec.serialize import write_text

__all__ = ["LEDGER_FILE", "Outcome", "RunFailedError", "supervise"]

LEDGER_FILE: Final = "ledger.json"
LOGS: Final = "logs"
_LOOK_S: Final = 0.02
_FIRST_STEP_S: Final = 600.0
"""Until a generation's first step: a large model is read, a compiler runs."""
_TRIES: Final = 3
"""Generations in a row that may end without a step."""
_GRACE_S: Final = 60.0
"""For the last save, after SIGTERM."""
_PORT_BYTES: Final = 2


class RunFailedError(WeftlineError):
    """The ranks ended, again and again, and not by what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    steps: int
    """Steps done, those before this start included."""
    finished: bool
    """False where it was told to stop."""
    loss: float | None
    generations: int
    saved_step: int | None
    shares: Shares


@dataclass(slots=True)
class _Run:
    """What the parent knows."""

    ranks: dict[int, int] = field(default_factory=dict)
    """Process -> rank."""
    generation: int = 0
    done: int = 0
    """Steps taken."""
    loss: float | None = None
    saved: int | None = None
    stepped: bool = False
    """Whether this generation has taken a step."""
    idle: int = 0
    nan_at: int | None = None
    fatal: dict[str, Any] | None = None
    failed: str | None = None
    since: float = 0.0
    """When that failure began, as far as it is known."""
    stopping: bool = False
    finished: bool = False


def supervise(
    recipe: Recipe,
    folder: Path,
    work: Callable[..., bool],
    *,
    say: Callable[[dict[str, Any]], None],
) -> Outcome:
    """Run all ranks of ``recipe`` to its last step. ``work`` is what a rank does.

    ``say`` hears every event. Raises InputError for what a rank says the user must mend, and
    RunFailedError where ranks die without a step, or the loss is no number twice at one step.
    """
    return _Supervisor(recipe, folder, work, say).run()


class _Supervisor:
    def __init__(
        self, recipe: Recipe, folder: Path, work: Callable[..., bool],
        say: Callable[[dict[str, Any]], None],
    ) -> None:  # fmt: skip
        import torch.distributed as dist  # before ranks are forked, so that they have it

        self.c10d: Any = dist
        self.recipe, self.folder, self.work, self.say = recipe, folder, work, say
        self.world = recipe.layout.chips
        self.state = _Run()
        self.ledger = Ledger(time.time())
        self.watch, self.sleep, self.works = Watch(_FIRST_STEP_S), Sleep(), Work()
        self.store: Any = None
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
        self.events = os.open(folder / EVENTS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.reads, self.writes = os.pipe()
        os.set_blocking(self.reads, False)
        self.rest = b""

    def run(self) -> Outcome:
        """Generation after generation until the run ends."""
        told = [signal.signal(s, self._told) for s in (signal.SIGTERM, signal.SIGINT)]
        try:
            self._start()
            while self.state.ranks:
                self._hear(_LOOK_S)
                self._look()
                self._reap()
                if self.state.failed is not None:
                    self._again()
            self._hear(0.0)
        finally:
            self._kill_all()
            for number, handler in zip((signal.SIGTERM, signal.SIGINT), told, strict=True):
                signal.signal(number, handler)
            (self.folder / PROCESSES_FILE).unlink(missing_ok=True)
        if self.state.fatal is not None:
            raise self._fatal(self.state.fatal)
        return self._outcome()

    # --- ranks ------------------------------------------------------------------------------------

    def _start(self) -> None:
        state = self.state
        state.stepped, state.failed = False, None
        self.watch.start(time.time())
        self.store = None  # the last generation's: its thread has ended when this returns
        gate = os.pipe()
        for rank in range(self.world):
            pid = os.fork()
            if pid == 0:
                self._child(rank, gate)
            state.ranks[pid] = rank
        self._open(gate)
        rows = [
            {"rank": rank, "pid": pid, "started": started_at(pid)}
            for pid, rank in state.ranks.items()
        ]
        known = {"generation": state.generation, "parent": os.getpid(), "ranks": rows}
        write_text(json.dumps(known) + "\n", self.folder / PROCESSES_FILE)
        self._note("start", generation=state.generation, ranks=self.world)

    def _open(self, gate: tuple[int, int]) -> None:
        """Make the store, and tell every rank its port."""
        self.store = self.c10d.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        os.write(gate[1], self.store.port.to_bytes(_PORT_BYTES) * self.world)
        for end in gate:
            os.close(end)

    def _child(self, rank: int, gate: tuple[int, int]) -> None:
        """The rank's process: never returns."""
        code = 1
        try:
            # What the parent made stays uncollected: torch's objects end by joining threads, and
            # the threads of the parent do not run here.
            gc.freeze()
            os.close(self.reads)
            os.close(gate[1])
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            log = os.open(
                self.folder / LOGS / f"rank{rank}.log",
                os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644,
            )  # fmt: skip
            os.dup2(log, 1)
            os.dup2(log, 2)
            # A terminal's status line may have replaced what writes: these write to the log.
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
            port = int.from_bytes(os.read(gate[0], _PORT_BYTES))  # 0 where the parent has ended
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.world),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "lo",
            }  # fmt: skip
            if port:
                code = self._rank(rank, port)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            try:
                sys.stderr.flush()
            finally:  # also where the disk has no room for the log
                os._exit(code)

    def _rank(self, rank: int, port: int) -> int:
        generation = self.state.generation

        def report(kind: str, **values: Any) -> None:
            said = {"kind": kind, "rank": rank, "generation": generation, **values}
            os.write(self.writes, (json.dumps(said) + "\n").encode()[: select.PIPE_BUF])

        try:
            whole = self.work(
                self.folder, self.recipe, report, rank=rank, world=self.world,
                store=self.c10d.TCPStore("127.0.0.1", port, None, False), generation=generation,
            )  # fmt: skip
        except InputError as error:
            report("fatal", what=error.render()[:2000], code=error.exit_code)
            return error.exit_code
        report("end", whole=whole)
        return 0

    def _kill_all(self) -> None:
        for pid in self.state.ranks:
            os.kill(pid, signal.SIGKILL)
        for pid in self.state.ranks:
            os.waitpid(pid, 0)
        self.state.ranks.clear()

    def _told(self, number: int, _frame: Any) -> None:
        if self.state.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.state.stopping = True
        for pid in self.state.ranks:
            os.kill(pid, signal.SIGTERM)

    # --- what happens -----------------------------------------------------------------------------

    def _hear(self, timeout_s: float) -> None:
        ready, _, _ = select.select([self.reads], [], [], timeout_s)
        if not ready:
            return
        *lines, self.rest = (self.rest + os.read(self.reads, 1 << 16)).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if said["generation"] == self.state.generation:
                self._heard(said)

    def _heard(self, said: dict[str, Any]) -> None:
        state, kind = self.state, said["kind"]
        if kind == "step" and said["rank"] == 0:
            self.ledger.step(said["step"], said["begin"], said["end"], said["stall"])
            if said["durable"] and said["saved"] != state.saved:
                self.ledger.whole(said["durable"])
            self.watch.step(time.time(), said["end"] - said["begin"])
            state.done, state.loss, state.stepped = said["step"] + 1, said["loss"], True
            state.saved = said["saved"]
            state.idle = 0
            self.say(said)
        elif kind == "end":
            state.finished = state.finished or bool(said["whole"])
        elif kind == "fatal":
            state.fatal = state.fatal or said
        elif kind == "nan" and said["rank"] == 0:
            if state.nan_at == said["step"]:
                state.fatal = said
            state.nan_at = said["step"]
            self._note("nan", step=said["step"] + 1, loss=said["loss"])
        elif kind in ("note", "save-failed") and said["rank"] == 0:
            self._note(kind, **{k: v for k, v in said.items() if k not in ("kind", "generation")})
        elif kind == "ready" and said["rank"] == 0:
            self.ledger.goes_on(said["step"], time.time())
            state.done = said["step"]
            self._note("ready", step=said["step"])
        elif kind == "closed" and said["rank"] == 0:
            state.saved = said["saved"]

    def _look(self) -> None:
        """Who does not move, and who is slow."""
        state, now = self.state, time.time()
        states = {rank: state_of(pid) for pid, rank in state.ranks.items()}
        if state.stepped:
            self.sleep.sample(states)
            found = self.sleep.slow()
            if found is not None:
                rank, own, others = found
                self._note("slow", rank=rank, sleeps=round(own, 2), others=round(others, 2))
        grace = _GRACE_S if state.stopping else 0.0
        busy = self.works.busy(now, state.ranks)
        if state.failed is None and self.watch.hung(now - grace, busy=busy):
            stopped = [rank for rank, s in states.items() if s == "T"]
            state.failed = f"no step for {self.watch.limit_s():.1f} s" + (
                f"; rank {stopped[0]} is stopped" if stopped else ""
            )
            state.since = self.watch.stopped_at()
            self._note("hang", why=state.failed)

    def _reap(self) -> None:
        """Ranks that have ended."""
        while self.state.ranks:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            rank = self.state.ranks.pop(pid, None)
            if rank is None or status == 0:
                continue
            ended = os.waitstatus_to_exitcode(status)
            how = f"signal {signal.Signals(-ended).name}" if ended < 0 else f"exit {ended}"
            if self.state.failed is None:
                self.state.failed = f"rank {rank} ended: {how}"
                self.state.since = time.time()
                self._note("death", rank=rank, how=how)

    def _again(self) -> None:
        """End this generation, and begin the next unless there is no use."""
        state = self.state
        self._hear(0.0)
        self._kill_all()
        self._hear(0.0)
        if state.fatal is not None:
            return
        if state.stopping:
            return
        state.idle += 1
        if state.idle > _TRIES:
            state.fatal = {"kind": "deaths", "why": state.failed}
            return
        self.ledger.failed(time.time(), state.since)
        self.sleep = Sleep()
        state.generation += 1
        self._start()

    def _fatal(self, said: dict[str, Any]) -> WeftlineError:
        if said["kind"] == "fatal":
            what, _, hint = said["what"].removeprefix("error: ").partition("\n\nhint: ")
            return InputError(what, hint=hint or None)
        if said["kind"] == "nan":
            return RunFailedError(
                f"the loss of step {said['step'] + 1} is {said['loss']}, also when done again",
                where=str(self.folder), hint="a lower --lr, or look at the data of that step",
            )  # fmt: skip
        return RunFailedError(
            f"{_TRIES + 1} starts in a row ended without a step: {said['why']}",
            where=str(self.folder), hint=f"{self.folder / LOGS} says what each rank said last",
        )  # fmt: skip

    def _note(self, kind: str, **values: Any) -> None:
        said = {"kind": kind, "time": time.time(), **values}
        os.write(self.events, (json.dumps(said) + "\n").encode())
        self.say(said)

    def _outcome(self) -> Outcome:
        shares = self.ledger.close(time.time(), self.recipe.checkpoint_every)
        write_text(json.dumps(asdict(shares), indent=1) + "\n", self.folder / LEDGER_FILE)
        self._note("end", finished=self.state.finished, step=self.state.done)
        os.close(self.events)
        return Outcome(
            steps=self.state.done, finished=self.state.finished, loss=self.state.loss,
            generations=self.state.generation + 1, saved_step=self.state.saved,
            shares=shares,
        )  # fmt: skip
