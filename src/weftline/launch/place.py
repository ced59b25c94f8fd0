"""Puts every process of a job where its plan wants it, before any communicator exists.

One file and nothing but the standard library, to be copied into any container. In a training
script, before ``init_process_group``: ``weftline_place.place("plan.json")``; or in front of one
that stays as it is, run by the same interpreter: ``weftline_place.py plan.json -- train.py ...``

Launchers number processes as they like. So every process tells a store its host, its local index
(the chip it drives) and its address; the store is whoever binds the rendezvous address first. It
finds the plan's hosts among those there are and tells each process its rank, or all the one line of
what is wrong. Messages are lines of JSON: a hello, empty lines as a sign of life, one answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import resource
import runpy
import selectors
import socket
import sys
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

WAIT_S: Final = 8.0  # without a new process until the rest is missing; more where they start late
LINGER_S: Final = 4.0  # the leader of a job refused at once stays, so that late ones hear why
SIGN_OF_LIFE_S: Final = 1.0
_Key = tuple[str, int, str]  # job, restarts, digest of plan and names: what processes meet by
_LOOPBACK: Final = re.compile(r"127\.|::1$")

# What tells the launcher, then rank, size, local index, restarts, job, host, place in the network.
LAUNCHERS: Final = (
    ("torchrun", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK",
     "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "", ""),
    ("openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK", "", "PMIX_NAMESPACE", "", ""),
    ("srun", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID",
     "SLURM_RESTART_COUNT", "SLURM_JOB_ID", "SLURMD_NODENAME", "SLURM_TOPOLOGY_ADDR"),
)  # fmt: skip


class PlacementError(SystemExit):
    """The job cannot run as planned. Left alone it ends the process: one line, exit code 1."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"weftline: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one process knows of itself."""

    host: str
    local: int  # among the processes of its host: the chip it drives
    order: int | None = None  # its rank as the launcher numbers
    size: int | None = None  # processes the launcher started
    topology: str = ""  # place of the host in the network, outermost first: block2.rack7
    job: str = ""
    restart: int = 0
    rendezvous: str = ""  # host:port of the store


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one process stands in the plan."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    slot: int  # planned host, counted from 0
    host: str
    master_addr: str
    master_port: int
    bound_by: str  # name, topology or launcher order: how planned hosts found real ones
    seconds: float


def chips_of(plan: Mapping[str, Any]) -> list[int]:
    """Chip of every rank of a plan read from JSON. Raises PlacementError where it is none."""
    try:
        lay = plan["layout"]
        ranks = lay["tp"] * lay["cp"] * lay["dp"] * lay["pp"]
        runs = (plan.get("rank_map") or {"runs": [(0, 1, ranks)]})["runs"]
        chips = [first + step * n for first, step, count in runs for n in range(count)]
    except (KeyError, TypeError, ValueError):
        raise PlacementError("the plan file is no weftline plan for training") from None
    if not len(chips) == len(set(chips)) == ranks:
        raise PlacementError(f"the plan's rank map has {len(chips)} chips for {ranks} ranks")
    return chips


def slots_of(plan: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(planned host, local chip) of every rank. Raises PlacementError as :func:`chips_of`."""
    chips, per_host = chips_of(plan), plan["cluster"]["chips_per_host"]
    used = {host: slot for slot, host in enumerate(sorted({c // per_host for c in chips}))}
    return [(used[chip // per_host], chip % per_host) for chip in chips]


def domain_of(plan: Mapping[str, Any]) -> int:
    """Planned hosts of one rack, where the map has racks over hosts: they belong together."""
    found = plan.get("rank_map") or {}
    sides = found.get("shape", ())
    if len(sides) < 3 or not found.get("tiers"):
        return 1
    hosts = {chip // sides[-1] for chip in chips_of(plan)}
    return math.gcd(*Counter(host // sides[-2] for host in hosts).values())


def facts_of(environment: Mapping[str, str] | None = None, **given: Any) -> Facts:
    """What this process knows: ``given`` first, then WEFTLINE_*, then its launcher's variables.

    Raises PlacementError where nothing says the local index or the rendezvous.
    """
    env = os.environ if environment is None else environment
    row = next((r for r in LAUNCHERS if r[1] in env), ("",) * 9)
    names = zip(("order", "size", "local", "restart", "job", "host", "topology"), row[2:],
                strict=True)  # fmt: skip
    ours = {"order": "RANK", "size": "WORLD_SIZE", "local": "LOCAL_RANK"}
    said: dict[str, Any] = {"launcher": row[0]}
    for name, theirs in names:
        value = env.get(f"WEFTLINE_{ours.get(name, name.upper())}", env.get(theirs or "-"))
        if value not in (None, ""):
            number = name in ("order", "size", "local", "restart")
            if number and not value.isdigit():
                raise PlacementError(f"the launcher's {name} is `{value}`, no number")
            said[name] = int(value) if number else value
    said.update({k: v for k, v in given.items() if v is not None})
    said.setdefault("host", socket.gethostname())
    if "local" not in said:
        raise PlacementError("no launcher says this process's local index: set WEFTLINE_LOCAL_RANK")
    where = said.get("rendezvous") or env.get("WEFTLINE_RENDEZVOUS") or _rendezvous(env, said)
    if not where or ":" not in where:
        raise PlacementError("nothing says where to meet: set WEFTLINE_RENDEZVOUS=host:port")
    del said["launcher"]
    return Facts(**{**said, "rendezvous": where})


def _rendezvous(env: Mapping[str, str], said: Mapping[str, Any]) -> str:
    """Where the launcher's own variables put the first host; the port comes from the job's name."""
    port = 20000 + zlib.crc32(str(said.get("job", "")).encode()) % 9000
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    slurm = re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])  # n[3-5],m1: n3
    first = {"torchrun": env.get("MASTER_ADDR", ""), "srun": slurm}.get(said["launcher"], "")
    return f"{first}:{port}" if first else ""


@dataclass(slots=True, kw_only=True)
class _Told:
    """One process as the leader sees it; the leader's own has no connection."""

    host: str
    local: int
    order: int | None
    port: int
    topology: str
    address: str = ""
    connection: socket.socket | None = None
    answer: dict[str, Any] = field(default_factory=dict)

    def send(self, data: bytes, *, last: bool = False) -> None:
        """Send, to whoever still listens."""
        with contextlib.suppress(OSError):
            if self.connection is not None:
                self.connection.sendall(data)
                if last:
                    self.connection.shutdown(socket.SHUT_WR)

    def tell(self, no: str) -> None:
        text = json.dumps({"refused": no} if no else {"placed": self.answer})
        self.send(text.encode() + b"\n", last=True)

    def gone(self) -> bool:
        """Whether the other end has hung up."""
        try:
            return self.connection is not None and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError as error:
            return not isinstance(error, BlockingIOError)


def _natural(text: str) -> list[tuple[int, int | str]]:
    """Sorts node7 before node66."""
    parts = re.split(r"(\d+)", text)
    return [(1, int(part)) if part.isdigit() else (0, part) for part in parts]


def _bind(
    told: Sequence[_Told], slots: int, names: Sequence[str], domain: int
) -> tuple[list[str], str]:
    """The host of every planned host, and how they were found. Raises PlacementError."""
    first: dict[str, tuple[Any, ...]] = {}
    for one in told:
        order = (one.order or 0, *_natural(one.host))
        first[one.host] = min(first.get(one.host, order), order)
    hosts = sorted(first, key=first.__getitem__)
    if names:
        if wrong := sorted(set(hosts) - set(names), key=_natural):
            what = f"host {_some(wrong)} is not in the plan, which names {_some(names)}"
            raise PlacementError(what)
        return list(names), "name"
    if len(hosts) != slots:
        raise PlacementError(f"the plan wants {slots} hosts, {len(hosts)} came: {_some(hosts)}")
    # Slurm's place of a host ends in the host itself.
    above = {one.host: [part for part in one.topology.split(".") if part not in ("", one.host)]
             for one in told}  # fmt: skip
    if not all(above.values()):
        return hosts, "launcher order"
    racks = [".".join(above[host]) for host in hosts]
    for rack in dict.fromkeys(racks):
        if (there := racks.count(rack)) % domain:
            raise PlacementError(f"{rack} has {there} hosts, the plan puts {domain} in one domain")
    # What is near stays together, on every level; among equals the launcher's order.
    seen: dict[tuple[str, ...], int] = {}
    near: dict[str, list[int]] = {}
    for at, host in enumerate(hosts):
        prefixes = [tuple(above[host][: n + 1]) for n in range(len(above[host]))]
        near[host] = [seen.setdefault(prefix, at) for prefix in prefixes]
    return sorted(hosts, key=near.__getitem__), "topology"


def _decide(told: Sequence[_Told], plan: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write every process's answer. Raises PlacementError with the one reason for all."""
    ranks = slots_of(plan)
    slots = 1 + max(slot for slot, _ in ranks)
    hosts, how = _bind(told, slots, names, domain_of(plan))
    there = {(one.host, one.local): one for one in told}
    wanted = [(hosts[slot], local) for slot, local in ranks]
    if missing := [(rank, at) for rank, at in enumerate(wanted) if at not in there]:
        rank, (host, local) = missing[0]
        more = f" ({len(missing)} such ranks)" if len(missing) > 1 else ""
        raise PlacementError(
            f"host {host} has no process with local index {local}, planned as rank {rank}{more}"
        )
    head = there[wanted[0]]
    count = Counter(slot for slot, _ in ranks)
    for rank, (slot, local) in enumerate(ranks):
        one = there[hosts[slot], local]
        one.answer = {
            "rank": rank, "local_rank": local, "world_size": len(ranks), "slot": slot,
            "local_world_size": count[slot], "host": one.host, "bound_by": how,
            "master_addr": head.address, "master_port": head.port,
        }  # fmt: skip


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


class _Leader:
    """The store: one listening socket, one process after the other, no threads."""

    def __init__(self, listening: socket.socket, key: _Key, me: _Told, wanted: int) -> None:
        listening.setblocking(False)
        self.coming = selectors.DefaultSelector()
        self.coming.register(listening, selectors.EVENT_READ)
        self.listening, self.key, self.me, self.wanted = listening, key, me, wanted
        self.told: list[_Told] = [me]
        self.at = {(me.host, me.local): me}
        self.refused, self.linger_s = "", LINGER_S

    def run(self, plan: Mapping[str, Any], names: Sequence[str], wait_s: float) -> dict[str, Any]:
        """Answer everyone; then the leader's own answer. Raises PlacementError."""
        self._gather(wait_s)
        if not self.refused:
            try:
                _decide(self.told, plan, names)
            except PlacementError as error:
                late = f"{len(self.told)} of {self.wanted} processes came in {wait_s:g} s: "
                self.refused = (late if len(self.told) < self.wanted else "") + error.reason
        self._answer()
        if self.refused:
            raise PlacementError(self.refused)
        return self.me.answer

    def _gather(self, wait_s: float) -> None:
        """Until all came, one told something that cannot be, or none came for ``wait_s``."""
        last = beat = time.monotonic()
        while len(self.told) < self.wanted and not self.refused:
            now = time.monotonic()
            if self._admit():
                last = now
            elif now - last > wait_s:
                self.linger_s = 0.5
                return
            if now - beat > SIGN_OF_LIFE_S:
                beat = now
                for one in self.told:
                    one.send(b"\n")

    def _answer(self) -> None:
        """Tell everyone, and stay until everyone has it (a refused job: those still to come)."""
        known, end = 1, time.monotonic() + self.linger_s
        while True:
            for one in self.told[known:]:
                one.tell(self.refused)
            known = len(self.told)
            if not self.refused or known >= self.wanted or time.monotonic() > end:
                break
            self._admit()
        for one in self.told[1:]:
            with contextlib.suppress(OSError):
                if one.connection is not None:
                    one.connection.settimeout(LINGER_S)
                    one.connection.recv(1)
                    one.connection.close()

    def _admit(self) -> bool:
        """Let in who comes, hear who has spoken; whether one was of this start of this job."""
        heard = False
        for key, _ in self.coming.select(0.1):
            with contextlib.suppress(OSError):
                if key.data is None:
                    connection, peer = self.listening.accept()
                    connection.setblocking(False)  # who is slow to speak or read holds no one up
                    self.coming.register(connection, selectors.EVENT_READ, (connection, peer[0]))
                else:
                    self.coming.unregister(key.fileobj)
                    heard = self._hear(*key.data) or heard
        return heard

    def _hear(self, connection: socket.socket, address: str) -> bool:
        """Take one process's hello, which is short and comes in one piece."""
        try:
            said = json.loads(connection.recv(1 << 16))
            one = _Told(connection=connection, host=str(said["host"]), local=int(said["local"]),
                        order=None if said["order"] is None else int(said["order"]),
                        port=int(said["port"]), topology=str(said["topology"]),
                        address=address)  # fmt: skip
            (job, restart, digest), mine = said["key"], str(said["leader"])
        except (OSError, ValueError, KeyError, TypeError):  # not one of ours
            return False
        now = f"start {max(restart, self.key[1])} of the job has begun"
        if job != self.key[0]:
            one.send(b'{"why": "another job answers"}\n')
        elif restart < self.key[1]:
            one.tell(now)
        elif restart > self.key[1]:  # it asks again; what waits here belongs to a dead start
            self.refused, self.wanted = now, 0
        if job != self.key[0] or restart != self.key[1]:
            connection.close()
            return False
        if one.host == self.me.host:
            one.address = self.me.address
        elif mine != self.me.address and _LOOPBACK.match(self.me.address):  # reached by another
            for told in self.told:
                told.address = mine if told.host == self.me.host else told.address
        same = self.at.setdefault((one.host, one.local), one)
        if same is not one and same is not self.me and same.gone():  # it has come again
            self.told.remove(same)
            self.at[one.host, one.local] = one
        elif same is not one:
            what = f"host {one.host} has two processes with local index {one.local}"
            self.refused = self.refused or what
        if digest != self.key[2]:
            what = f"host {one.host} has another plan, or other host names, than the first"
            self.refused = self.refused or what  # one reason for all, whoever comes later
        self.told.append(one)
        return True


def place(
    plan: str | os.PathLike[str], *, hosts: Sequence[str] = (), wait_s: float | None = None,
    publish: bool = True, **facts: Any,
) -> Placement:  # fmt: skip
    """Take the rank that ``plan`` (a JSON file of `weftline plan train -o`) has for this process.

    ``hosts`` names the planned hosts in the plan's order (WEFTLINE_HOSTS: names with commas
    between, or ``@file``). ``facts`` replace what the environment says, by the fields of
    :class:`Facts`. Ranks go to ``os.environ`` unless ``publish`` is false. Raises PlacementError,
    one reason for all, ``wait_s`` (8, or WEFTLINE_PLACE_WAIT_S) after the last came at most.
    """
    started, listed = time.monotonic(), os.environ.get("WEFTLINE_HOSTS", "")
    try:
        data = Path(plan).read_bytes()
        read = json.loads(data)
        listed = Path(listed[1:]).read_text("utf-8") if listed[:1] == "@" else listed
        wait_s = float(os.environ.get("WEFTLINE_PLACE_WAIT_S", wait_s or WAIT_S))
    except (OSError, ValueError) as error:
        raise PlacementError(f"cannot read the plan, its hosts or the wait: {error}") from None
    names, ranks = list(hosts) or listed.replace(",", " ").split(), slots_of(read)
    slots = 1 + max(slot for slot, _ in ranks)
    known = facts_of(**facts)
    if known.size not in (None, len(ranks)):
        what = f"the plan has {len(ranks)} ranks on {slots} hosts, the launcher started"
        again = "start as many as planned, or plan again for what there is"
        raise PlacementError(f"{what} {known.size}: {again}")
    if names and (len(names) != slots or len(set(names)) != slots):
        raise PlacementError(f"{len(names)} host names for the {slots} hosts of the plan")
    digest = hashlib.sha256(data + "\n".join(names).encode()).hexdigest()[:16]
    key = (known.job, known.restart, digest)
    placed = Placement(**_meet(known, key, read, names, wait_s), seconds=time.monotonic() - started)
    if publish:
        os.environ.update({
            "RANK": str(placed.rank), "LOCAL_RANK": str(placed.local_rank),
            "WORLD_SIZE": str(placed.world_size), "LOCAL_WORLD_SIZE": str(placed.local_world_size),
            "NODE_RANK": str(placed.slot), "GROUP_RANK": str(placed.slot),
            "MASTER_ADDR": placed.master_addr, "MASTER_PORT": str(placed.master_port),
            # torchrun's own store numbers ranks as torchrun did.
            "TORCHELASTIC_USE_AGENT_STORE": "False",
        })  # fmt: skip
    return placed


def _meet(
    known: Facts, key: _Key, plan: Mapping[str, Any], names: Sequence[str], wait_s: float
) -> dict[str, Any]:
    """Lead or follow, until there is an answer or the wait is over."""
    host, port = known.rendezvous.rsplit(":", 1)
    end = time.monotonic() + wait_s
    # Held until the answer is there, so that the port of planned rank 0 is free when it is named.
    with socket.socket() as probe:
        probe.bind(("", 0))
        mine = _Told(host=known.host, local=known.local, order=known.order, address="",
                     port=probe.getsockname()[1], topology=known.topology)  # fmt: skip
        while True:
            listening, address = _listen(host, int(port))
            if listening is not None:
                mine.address = address
                with listening:
                    leader = _Leader(listening, key, mine, len(slots_of(plan)))
                    return leader.run(plan, names, wait_s)
            answer = _follow(host, int(port), key, mine)
            if "placed" in answer:
                return dict(answer["placed"])
            if "refused" in answer:
                raise PlacementError(answer["refused"])
            if time.monotonic() > end:
                raise PlacementError(f"{answer['why']} at {known.rendezvous} for {wait_s:g} s")
            time.sleep(0.05)


def _listen(host: str, port: int) -> tuple[socket.socket | None, str]:
    """The store's socket if this process is to lead: the address is its host's, and still free."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        own = str(address[0])
        listening = socket.create_server(address, family=family, backlog=65535)
        # A name of this host may mean 127.0.1.1 here (Debian) and the network elsewhere.
        if _LOOPBACK.match(own) and host not in (own, "localhost"):
            listening.close()
            listening = socket.create_server(("", port), backlog=65535)
    except OSError:
        return None, ""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return listening, own


def _follow(host: str, port: int, key: _Key, mine: _Told) -> dict[str, Any]:
    """Tell the leader, and wait for its answer while it shows that it lives."""
    try:
        with socket.create_connection((host, port), timeout=2.0) as connection:
            if connection.getsockname() == connection.getpeername():  # connected to itself
                return {"why": "nobody answers"}
            hello = {"key": key, "host": mine.host, "local": mine.local, "order": mine.order,
                     "port": mine.port, "topology": mine.topology,
                     "leader": connection.getpeername()[0]}  # fmt: skip
            connection.settimeout(6 * SIGN_OF_LIFE_S)
            connection.sendall(json.dumps(hello).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    if line.strip():
                        return dict(json.loads(line))
        return {"why": "the leader went away"}
    except (OSError, ValueError):
        return {"why": "nobody answers"}


def _run(arguments: Sequence[str]) -> None:
    """``plan.json -- train.py --lr 3e-4``: place, then be that script (or any other command)."""
    if len(arguments) < 3 or arguments[1] != "--":
        raise PlacementError("usage: weftline_place.py PLAN.json -- COMMAND ...")
    placed = place(arguments[0])
    ours = Path(arguments[2]).name.startswith("python")  # this interpreter runs it
    command = list(arguments[3 if ours else 2 :])
    if placed.rank == 0:
        sys.stderr.write(f"weftline: {placed.world_size} ranks placed by {placed.bound_by} "
                         f"in {placed.seconds:.2f} s\n")  # fmt: skip
    sys.argv = command[command[0] == "-m" :]
    if command[0] == "-m":
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    elif command[0].endswith(".py"):
        sys.path[0] = str(Path(command[0]).resolve().parent)
        runpy.run_path(command[0], run_name="__main__")
    else:
        os.execvp(command[0], command)  # noqa: S606  (the command is the user's own)


if __name__ == "__main__":
    _run(sys.argv[1:])
