"""Kill ranks and whole nodes at random moments; hold what is left against what was promised.

    python tests/crash/kill_nodes.py --rounds 500 --seed 0

A node is a folder for its disk, one for its memory, a server process and, while a job runs, a
rank; with ``--namespaces`` (root only) its processes live in a network namespace of their own, on
a bridge. A round restores, as a job that is started again would, saves without end, and is struck:
ranks are killed, nodes lost with their memory and perhaps their disk, servers stopped for a while
(a link that is cut), disks and memories fill up. Clocks of nodes differ by hours, shares drain to a
bucket meanwhile, old checkpoints are dropped. Then the parent, which knows what every rank said
and which nodes it has destroyed, checks:

- all ranks go back to the same checkpoint, bit for bit one that was saved, of one try;
- it is the newest that was committed, or a newer one, whenever one copy of each of its shares is
  left; what the parent knows to be lost is the only excuse.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch looks
from torch.distributed import TCPStore

from weftline.burst import Options, Retention, Store
from weftline.burst.commit.commits import Commit, decode_commit
from weftline.burst.errors import BurstError, CheckpointMissingError
from weftline.burst.nodes.cluster import Nodes, open_to_restore
from weftline.burst.nodes.meet import JointCommit
from weftline.burst.nodes.server import NodeServer
from weftline.burst.nodes.shares import share_id
from weftline.burst.remote import peers
from weftline.burst.remote.drain import Drainer
from weftline.burst.remote.objects import Bucket

Arrays = dict[str, np.ndarray[Any, Any]]
PORT = 7401
FULL_BYTES = 3 << 20
"""What a node's memory holds when it is made small: a few shares."""


def tensors(round_: int, step: int, rank: int) -> Arrays:
    """State of one rank: sizes and bytes follow from the three numbers, which it also holds."""
    rng = np.random.default_rng((round_, step, rank))
    made: Arrays = {f"r{rank}.tag": np.array([round_, step, rank])}
    for i in range(int(rng.integers(1, 4))):
        made[f"r{rank}.t{i}"] = rng.integers(0, 255, int(rng.integers(1, 300_000)), dtype=np.uint8)
    return made


def forked(work: Callable[[], None], namespace: str | None = None) -> int:
    """Run in a child that cannot return; its pid."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if namespace is not None:
                enter(namespace)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            print(f"open files: {open_files()}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def open_files() -> dict[int, str]:
    """What every descriptor of this process is: tells who took the place of one that was closed."""
    found = {}
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found[int(file.name)] = str(file.readlink())
    return dict(sorted(found.items()))


def enter(namespace: str) -> None:
    """Move this process into a network namespace."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    libc = __import__("ctypes").CDLL(None, use_errno=True)
    if libc.setns(handle, 0x40000000):  # CLONE_NEWNET
        raise OSError(__import__("ctypes").get_errno(), "setns")
    os.close(handle)


class Machines:
    """The nodes, what runs on them, and what was destroyed."""

    def __init__(self, root: Path, count: int, *, namespaces: bool) -> None:
        self.root = root
        self.count = count
        self.namespaces = namespaces
        self.first_port = 10_000 + os.getpid() % 2_500 * 8  # two runs on a machine do not meet
        self.servers: dict[int, int] = {}
        self.tag = secrets.token_hex(2)
        (root / "bucket").mkdir(parents=True)
        if namespaces:
            self._wire()
        self.parent = "10.77.0.1" if namespaces else "127.0.0.1"
        self.board, self.meeting_port = self._meet()
        for node in range(count):
            self.start(node)

    def _meet(self) -> tuple[int, int]:
        """Where ranks meet: a process of its own, and the port it listens on.

        That store serves from a thread. Ranks would be forked beside it, with its sockets open in
        each of them, if it were the parent's, which torch does not provide for.
        """
        hear, say = os.pipe()

        def serve() -> None:
            store = TCPStore(self.parent, 0, is_master=True, wait_for_workers=False)
            os.write(say, f"{store.port}\n".encode())
            signal.pause()

        child = forked(serve)
        os.close(say)
        port = int(os.read(hear, 16))
        os.close(hear)
        return child, port

    def _wire(self) -> None:
        """A namespace a node, on one bridge: 10.77.0.1 is the parent."""
        commands = [f"link add wl{self.tag} type bridge", f"addr add 10.77.0.1/24 dev wl{self.tag}",
                    f"link set wl{self.tag} up"]  # fmt: skip
        for n in range(self.count):
            name = self.namespace(n)
            commands += [
                f"netns add {name}",
                f"link add wl{self.tag}{n} type veth peer name eth0 netns {name}",
                f"link set wl{self.tag}{n} master wl{self.tag} up",
                f"-n {name} addr add 10.77.0.{n + 2}/24 dev eth0",
                f"-n {name} link set eth0 up", f"-n {name} link set lo up",
            ]  # fmt: skip
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)

    def namespace(self, node: int) -> str | None:
        return f"wl{self.tag}n{node}" if self.namespaces else None

    def cut(self, node: int, *, up: bool) -> None:
        """Cut the link of a node, or mend it."""
        way = "up" if up else "down"
        subprocess.run(["ip", "link", "set", f"wl{self.tag}{node}", way], check=True)

    def host(self, node: int) -> str:
        return f"10.77.0.{node + 2}" if self.namespaces else "127.0.0.1"

    def port(self, node: int) -> int:
        return PORT if self.namespaces else self.first_port + node

    def nodes(self, mine: int, copies: int) -> Nodes:
        urls = tuple(f"peer://{self.host(n)}:{self.port(n)}" for n in range(self.count))
        bucket = (self.root / "bucket").as_uri()
        return Nodes(urls=urls, mine=mine, run="job", copies=copies, bucket=bucket)

    def disk(self, node: int) -> Path:
        return self.root / f"disk{node}"

    def start(self, node: int, *, capacity_bytes: int | None = None) -> None:
        """Start a node's server."""

        def serve() -> None:
            with NodeServer(
                self.root / f"memory{node}", store=self.disk(node), host=self.host(node),
                port=self.port(node), capacity_bytes=capacity_bytes,
            ):  # fmt: skip
                os.write(said, b"!")
                signal.pause()

        heard, said = os.pipe()
        self.servers[node] = forked(serve, self.namespace(node))
        os.close(said)
        assert os.read(heard, 1) == b"!", f"server {node} did not start"
        os.close(heard)

    def stop(self, node: int) -> None:
        pid = self.servers.pop(node)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def close(self) -> None:
        for node in list(self.servers):
            self.stop(node)
        os.kill(self.board, signal.SIGKILL)
        os.waitpid(self.board, 0)
        if self.namespaces:
            for n in range(self.count):
                subprocess.run(["ip", "netns", "del", f"wl{self.tag}n{n}"], check=False)
            subprocess.run(["ip", "link", "del", f"wl{self.tag}"], check=False)


class Rank:
    """One rank of a job: restores, saves without end, and tells the parent."""

    def __init__(
        self, machines: Machines, number: int, rank: int, world: int, node: int, copies: int,
        seed: str, say: int,
    ) -> None:  # fmt: skip
        self.machines, self.number, self.rank, self.world = machines, number, rank, world
        self.node, self.say = node, say
        self.nodes = machines.nodes(node, copies)
        self.rng = random.Random(seed)
        self.meeting = TCPStore(
            machines.parent, machines.meeting_port, is_master=False, wait_for_workers=False
        )

    def tell(self, what: str, step: int) -> None:
        os.write(self.say, f"{what} {step}\n".encode())

    def run(self) -> None:
        """Until it is killed."""
        offset_s = self.rng.uniform(-1e5, 1e5)  # this node's clock
        real = time.time
        time.time = lambda: real() + offset_s  # type: ignore[assignment]
        first = self.go_back()
        self.tell("A", first)
        self.meet("chosen")
        options = Options(
            chunk_bytes=self.rng.choice([4096, 65536]), segment_bytes=1 << 20, io_threads=2,
            copy_threads=1, direct=False, dedup=self.rng.random() < 0.2,
            retention=Retention(last=self.rng.choice([1, 2, 3])),
        )  # fmt: skip
        with Store.open(
            self.machines.disk(self.node), options=options, run="job", copier=self.nodes.copier(),
        ) as store:  # fmt: skip
            joint = JointCommit(store, self.meeting, rank=self.rank, world=self.world)
            for step in range(first + 1, first + 10_000):
                self.save(store, joint, step)

    def go_back(self) -> int:
        """Restore as a job does; the step, 0 for none. What was loaded is checked."""
        with open_to_restore(self.machines.disk(self.node)) as store:
            try:
                choice = self.nodes.choose(store)
            except CheckpointMissingError:
                return 0
            self.nodes.ready(store, choice)
            loaded = store.load(choice.commit.step)
            check(loaded, choice.commit)
        return choice.commit.step

    def save(self, store: Store, joint: JointCommit, step: int) -> None:
        name = f"{self.number}.{step}"
        self.tell("B", step)
        state = tensors(self.number, step, self.rank)
        share = store.prepare(state, step, rank=self.rank, world=self.world, attempt=name)
        joint.commit(share, name)
        self.tell("C", step)
        chance = self.rng.random()
        if chance < 0.15:
            with suppress(BurstError):  # retention may have dropped it
                bucket = Bucket.open((self.machines.root / "bucket").as_uri())
                if Drainer(store, bucket).drain(step).durable:
                    self.tell("R", step)
        elif chance < 0.25:
            store.gc()

    def meet(self, name: str) -> None:
        """Wait for all ranks."""
        self.meeting.add(f"{self.number}.{name}", 1)
        while self.meeting.add(f"{self.number}.{name}", 0) < self.world:
            time.sleep(0.002)


def check(loaded: Any, commit: Commit) -> None:
    """Every tensor is that of one round and step, of all ranks."""
    round_, step, _ = loaded["r0.tag"]
    assert step == commit.step
    assert commit.attempt == f"{round_}.{step}"
    wanted = {k: v for r in range(commit.world) for k, v in tensors(round_, step, r).items()}
    assert set(loaded) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=f"{round_} {step} {name}")


class Truth:
    """What the parent knows."""

    def __init__(self) -> None:
        self.promised = 0
        """The newest step that any rank said was committed, or that was gone back to."""
        self.record: Commit | None = None
        """Its record, from a disk before anything was destroyed."""
        self.drained: set[int] = set()
        self.gone: set[int] = set()
        """Nodes that lost their memory since that record was made."""
        self.no_disk: set[int] = set()

    def excused(self, machines: Machines) -> bool:
        """Whether some share of the promised checkpoint is nowhere any more."""
        if self.record is None or self.promised in self.drained:
            return self.record is None
        memory = {f"peer://{machines.host(n)}:{machines.port(n)}": n for n in range(machines.count)}
        for share in self.record.ranks:
            homes = [n for n in range(machines.count) if self.homes.get(n) == share.store_id]
            on_disk = any(n not in self.no_disk for n in homes)
            kept = any(memory[url] not in self.gone for url in share.copies)
            if not on_disk and not kept:
                return True
        return False

    homes: dict[int, str]

    def told(self, machines: Machines) -> str:
        """All of it, for who looks for the mistake."""
        with open_to_restore(machines.disk(0)) as store:
            seen = machines.nodes(0, 1).survey(store)
        lines = [
            f"{s.place}: {[decode_commit(r).step for r in s.records]} {sorted(s.shares)}"
            for s in seen
        ]
        for share in self.record.ranks if self.record else []:
            lines.append(f"rank {share.rank} is {share_id(share)}, copies {share.copies}")
        lines.append(f"memory lost {self.gone}, disks lost {self.no_disk}, homes {self.homes}")
        return "\n".join(lines)


def store_id_of(disk: Path) -> str:
    """Identity of the store on a disk; empty where there is none."""
    with suppress(BurstError, OSError), Store.open(disk, read_only=True, create=False) as store:
        return store.view.store_id
    return ""


def record_of(machines: Machines, number: int, least: int) -> Commit | None:
    """The commit record of a round for step ``least`` as some disk has it, or of the next above.

    Above: once all nodes have the next one, retention may have let go of what was promised last,
    and ranks that are killed before they can say so have told of the last alone.
    """
    found = []
    for node in range(machines.count):
        for path in (machines.disk(node) / "commits").glob("*.commit"):
            with suppress(OSError, BurstError):
                found.append(decode_commit(path.read_bytes()))
    mine = [c for c in found if c.attempt == f"{number}.{c.step}" and c.step >= least]
    return min(mine, key=lambda c: c.order, default=None)


def one_round(machines: Machines, number: int, seed: int, truth: Truth) -> None:
    """Restore, save, strike, look."""
    rng = random.Random(f"{seed}:{number}")
    world = rng.randint(max(2, machines.count - 2), machines.count)
    places = rng.sample(range(machines.count), world)
    copies = rng.choice([1, 1, 1, 2])
    ranks, pipes = [], []
    for rank, node in enumerate(places):
        hear, say = os.pipe()
        pipes.append(hear)

        def run(rank: int = rank, node: int = node, say: int = say) -> None:
            Rank(machines, number, rank, world, node, copies, f"{seed}:{number}:{rank}", say).run()

        ranks.append(forked(run, machines.namespace(node)))
        os.close(say)
    if rng.random() < 0.85:
        until_committed(pipes, 10)
    time.sleep(rng.uniform(0, 0.5))
    trouble = rng.random()
    victim = rng.randrange(machines.count)
    if trouble < 0.15:  # a server that hangs, or a link that is cut, for a moment
        halt(machines, victim, rng.uniform(0.05, 0.5))
    elif trouble < 0.3:  # a memory that is full
        machines.stop(victim)
        machines.start(victim, capacity_bytes=FULL_BYTES)
        time.sleep(rng.uniform(0.05, 0.5))
    for pid in rng.sample(ranks, len(ranks)):
        os.kill(pid, signal.SIGKILL)
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, 0.05))
    ended = [os.waitpid(pid, 0)[1] for pid in ranks]
    said = [heard(hear) for hear in pipes]
    assert all(os.WIFSIGNALED(e) for e in ended), f"a rank failed before it was killed: {ended}"
    listen(machines, number, truth, said)
    truth.homes = {n: store_id_of(machines.disk(n)) for n in range(machines.count)}
    strike(machines, rng, truth)
    look(machines, rng, truth, number)


def until_committed(pipes: list[int], limit_s: float) -> None:
    """Wait until a rank says that something was committed, or that has taken too long."""
    said = dict.fromkeys(pipes, b"")
    end = time.monotonic() + limit_s
    while time.monotonic() < end and not any(b"\nC" in text for text in said.values()):
        ready, _, _ = select.select(pipes, [], [], 0.05)
        if not ready:
            continue
        for pipe in ready:
            said[pipe] += os.read(pipe, 4096)
    EARLY.update(said)


EARLY: dict[int, bytes] = {}
"""What was heard before the end, by pipe."""


def halt(machines: Machines, node: int, seconds: float) -> None:
    if machines.namespaces:
        machines.cut(node, up=False)
        time.sleep(seconds)
        machines.cut(node, up=True)
        return
    os.kill(machines.servers[node], signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(machines.servers[node], signal.SIGCONT)


def heard(pipe: int) -> list[tuple[str, int]]:
    """What a rank said; a last line without its end was never said."""
    text = EARLY.pop(pipe, b"")
    while part := os.read(pipe, 1 << 16):
        text += part
    os.close(pipe)
    lines = [line for line in text.decode().splitlines(keepends=True) if line.endswith("\n")]
    return [(line[0], int(line[2:])) for line in lines]


def listen(
    machines: Machines, number: int, truth: Truth, said: list[list[tuple[str, int]]]
) -> None:
    """Take what the ranks said into account."""
    agreed = {step for lines in said for kind, step in lines if kind == "A"}
    assert len(agreed) <= 1, f"ranks went back to different checkpoints: {agreed}"
    committed = [step for lines in said for kind, step in lines if kind == "C"]
    truth.drained |= {step for lines in said for kind, step in lines if kind == "R"}
    if committed:
        truth.record = record_of(machines, number, max(committed))
        assert truth.record is not None, f"no disk has the record of step {max(committed)}"
        truth.promised = truth.record.step
        truth.gone, truth.no_disk = set(), set()
        truth.drained &= {truth.promised}


def strike(machines: Machines, rng: random.Random, truth: Truth) -> None:
    """Lose none, one or two nodes, each with its memory and perhaps its disk."""
    for node in rng.sample(range(machines.count), rng.choice([0, 1, 1, 1, 2])):
        machines.stop(node)
        shutil.rmtree(machines.root / f"memory{node}", ignore_errors=True)
        truth.gone.add(node)
        if rng.random() < 0.7:
            shutil.rmtree(machines.disk(node), ignore_errors=True)
            truth.no_disk.add(node)
    for node in range(machines.count):
        if node in machines.servers and rng.random() < 0.1:
            machines.stop(node)  # the server alone: its memory is a folder, and stays
        if node not in machines.servers:
            machines.start(node)


def look(machines: Machines, rng: random.Random, truth: Truth, number: int) -> None:
    """Restore as a stranger on one node, and hold it against the truth."""
    node = rng.randrange(machines.count)
    hear, say = os.pipe()

    def restore() -> None:
        nodes = machines.nodes(node, 1)
        with open_to_restore(machines.disk(node)) as store:
            try:
                choice = nodes.choose(store)
            except CheckpointMissingError:
                os.write(say, b"N 0\n")
                return
            nodes.ready(store, choice)
            check(store.load(choice.commit.step), choice.commit)
            os.write(say, f"N {choice.commit.step}\n".encode())

    child = forked(restore, machines.namespace(node))
    os.close(say)
    assert os.waitpid(child, 0)[1] == 0, f"round {number}: node {node} could not restore"
    ((_, found),) = heard(hear)
    if found < truth.promised:
        told = f"step {truth.promised} was promised, {found} came back\n{truth.told(machines)}"
        assert truth.excused(machines), told
        truth.promised, truth.record = found, None
        truth.drained = set()


def run(
    rounds: int, seed: int, folder: Path, *, namespaces: bool = False, nodes: int | None = None
) -> dict[str, int]:
    """All rounds; every twenty-fifth begins with other nodes. Counts of what happened."""
    # A peer that is down is asked again at once: rounds are short.
    peers.DOWN_S, peers.CONNECT_TIMEOUT_S = 0.2, 1.0  # type: ignore[misc]
    os.environ.setdefault("WEFTLINE_BURST_SECRET", secrets.token_hex(16))
    machines: Machines | None = None
    truth = Truth()
    counts = {"rounds": 0, "committed": 0, "went_back": 0}
    try:
        for number in range(rounds):
            if number % 25 == 0:
                if machines is not None:
                    machines.close()
                    shutil.rmtree(machines.root)
                count = nodes or random.Random(f"{seed}:{number}").randint(4, 8)
                machines = Machines(folder / f"m{number}", count, namespaces=namespaces)
                truth = Truth()
            assert machines is not None
            before = truth.promised
            one_round(machines, number, seed, truth)
            counts["rounds"] += 1
            counts["committed"] += max(0, truth.promised - before)
            counts["went_back"] += truth.promised < before
            if number % 25 == 24:
                print(f"{number + 1} rounds: {counts}", file=sys.stderr, flush=True)
    finally:
        if machines is not None:
            machines.close()
    return counts


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=None, help="4 to 8 by default")
    parser.add_argument("--namespaces", action="store_true")
    parser.add_argument("--dir", type=Path, default=None, help="where to work; a folder on a disk")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="burst-nodes-", dir=arguments.dir))
    counts = run(
        arguments.rounds, arguments.seed, folder, namespaces=arguments.namespaces,
        nodes=arguments.nodes,
    )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)  # what failed can be looked at
    print(f"seed {arguments.seed}: {counts}; nothing lost that was left, nothing mixed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
