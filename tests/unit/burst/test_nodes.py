"""Nodes with disks of their own: one commit, copies in memory, and a way back from what is left."""

from __future__ import annotations

import itertools
import json
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import load_from_bucket
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.burst import Options, Retention, Store
from weftline.burst.commit.commits import Commit
from weftline.burst.errors import (
    CheckpointMissingError,
    CommitError,
    CorruptionError,
    MismatchError,
)
from weftline.burst.log.envelope import seal_twice
from weftline.burst.log.record import Prepared
from weftline.burst.nodes.agree import Seen, choose
from weftline.burst.nodes.cluster import Nodes, commits_at, nodes_from_environment
from weftline.burst.nodes.meet import JointCommit
from weftline.burst.nodes.partners import partners
from weftline.burst.nodes.server import NodeServer
from weftline.burst.nodes.shares import overtaken, share_id, share_name
from weftline.burst.nodes.source import NodeSource
from weftline.burst.read.restore import Loaded
from weftline.burst.remote.drain import Drainer
from weftline.burst.remote.objects import Bucket, CredentialsError
from weftline.cli.main import run
from weftline.errors import InputError

SECRET = b"a secret of enough bytes"
SMALL = Options(chunk_bytes=4096, segment_bytes=1 << 18, io_threads=2, direct=False)


class Board:
    """A meeting place in memory: what ``torch.distributed.Store`` is between processes."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def set(self, key: str, value: bytes) -> None:
        with self._lock:
            self._kept[key] = value

    def get(self, key: str) -> bytes:
        with self._lock:
            return self._kept[key]

    def check(self, keys: list[str]) -> bool:
        with self._lock:
            return all(key in self._kept for key in keys)

    def add(self, key: str, amount: int) -> int:
        with self._lock:
            value = int(self._kept.get(key, b"0")) + amount
            self._kept[key] = str(value).encode()
            return value

    def delete_key(self, key: str) -> bool:
        with self._lock:
            return self._kept.pop(key, None) is not None


def state(step: int, rank: int) -> dict[str, Any]:
    """Blocks of one tensor over all ranks, and what a rank has for itself."""
    rng = np.random.default_rng((step, rank))
    return {
        f"own{rank}": rng.integers(0, 255, 70_000, dtype=np.uint8),
        f"small{rank}": np.array([step, rank]),
    }


class Cluster:
    """Nodes in one process: a folder each for its disk, its memory, and a server over both."""

    def __init__(self, root: Path, count: int, *, copies: int = 1, **options: Any) -> None:
        self.root = root
        self.count = count
        self.copies = copies
        self.options = Options(**{**SMALL_FIELDS, **options})
        self.servers: list[NodeServer | None] = [None] * count
        self.stores: list[Store | None] = [None] * count
        self.ports: dict[int, int] = {}
        self.board = Board()
        self.tries = itertools.count()
        for node in range(count):
            self.serve(node)

    def serve(self, node: int) -> None:
        """Start the node's server; a second time in the place of the first, with what is there."""
        server = self.servers[node] = NodeServer(
            self.root / f"memory{node}", store=self.root / f"disk{node}", secret=SECRET,
            port=self.ports.get(node, 0),
        )  # fmt: skip
        self.ports[node] = server.port

    def nodes(self, mine: int, **fields: Any) -> Nodes:
        urls = tuple(f"peer://127.0.0.1:{self.port(n)}" for n in range(self.count))
        return Nodes(**{"urls": urls, "mine": mine, "copies": self.copies} | fields)

    def port(self, node: int) -> int:
        return self.ports[node]

    def open(self, node: int) -> Store:
        store = self.stores[node]
        if store is None:
            store = self.stores[node] = Store.open(
                self.root / f"disk{node}", options=self.options, run="job",
                copier=self.nodes(node).copier(),
            )  # fmt: skip
        return store

    def save(self, step: int, *, broken: int | None = None) -> list[Any]:
        """A save by all nodes, one rank on each; results or errors."""
        name = f"try{next(self.tries)}"

        def one(node: int) -> Any:
            store = self.open(node)
            joint = JointCommit(store, self.board, rank=node, world=self.count, timeout_s=20)
            try:
                if node == broken:
                    joint.fail(name, CommitError("the disk of this node is full"))
                    return None
                share = store.prepare(
                    state(step, node), step, rank=node, world=self.count, attempt=name
                )
                return joint.commit(share, name)
            except CommitError as error:
                return error

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(one, range(self.count)))

    def stop(self, node: int) -> None:
        """The training process of a node ends."""
        store, self.stores[node] = self.stores[node], None
        if store is not None:
            store.close()

    def lose(self, node: int, *, disk: bool = True) -> None:
        """The node is gone with its memory, and its disk unless that is kept."""
        self.stop(node)
        server, self.servers[node] = self.servers[node], None
        assert server is not None
        server.close()
        shutil.rmtree(self.root / f"memory{node}")
        if disk:
            shutil.rmtree(self.root / f"disk{node}", ignore_errors=True)

    def restore(self, mine: int, **fields: Any) -> Loaded:
        """As a new process on a node would: look everywhere, load what was chosen."""
        nodes = self.nodes(mine, **fields)
        with Store.open(self.root / f"disk{mine}", options=self.options, writer="back") as store:
            nodes.ready(store, nodes.choose(store))
            loaded = store.load(nodes.choose(store).commit.step)
            assert store.verify(loaded.step) == []
        nodes.close()
        return loaded

    def close(self) -> None:
        for node in range(self.count):
            self.stop(node)
            server = self.servers[node]
            if server is not None:
                server.close()


SMALL_FIELDS = {"chunk_bytes": 4096, "segment_bytes": 1 << 18, "io_threads": 2, "direct": False}
Make = Callable[..., Cluster]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setenv("WEFTLINE_BURST_SECRET", SECRET.decode())
    monkeypatch.setattr("weftline.burst.nodes.cluster._TRIES", 1)
    made: list[Cluster] = []

    def one(count: int, **options: Any) -> Cluster:
        made.append(Cluster(tmp_path, count, **options))
        return made[-1]

    yield one
    for cluster in made:
        cluster.close()


def assert_is(loaded: Loaded, step: int, world: int) -> None:
    assert loaded.step == step
    wanted = {k: v for rank in range(world) for k, v in state(step, rank).items()}
    assert set(loaded) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(loaded[name], value)


# --- one commit over many stores ----------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4, 8])
def test_every_node_has_the_same_record_and_any_of_them_restores(make: Make, count: int) -> None:
    cluster = make(count)
    cluster.save(1)
    cluster.save(2)
    records = {
        (cluster.root / f"disk{n}/commits/step-{2:020d}.commit").read_bytes() for n in range(count)
    }
    assert len(records) == 1
    for node in range(count):
        cluster.stop(node)
    assert_is(cluster.restore(0), 2, count)
    assert_is(cluster.restore(count - 1), 2, count)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_lost_node_comes_back_from_the_memory_of_another(make: Make, count: int) -> None:
    cluster = make(count)
    cluster.save(1)
    cluster.save(2)
    lost = count // 2
    cluster.lose(lost)
    cluster.serve(lost)  # another machine in its place, empty
    assert_is(cluster.restore(lost), 2, count)
    assert_is(cluster.restore(0), 2, count)


def test_two_lost_nodes_come_back_with_two_copies(make: Make) -> None:
    cluster = make(4, copies=2)
    cluster.save(1)
    for lost in (1, 2):
        cluster.lose(lost)
    for lost in (1, 2):
        cluster.serve(lost)
    assert_is(cluster.restore(1), 1, 4)


def test_without_copies_the_bucket_is_the_way_back(make: Make, tmp_path: Path) -> None:
    cluster = make(3, copies=0)
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    cluster.save(1)
    done = [Drainer(cluster.open(n), Bucket.open(bucket.as_uri())).drain(1) for n in range(3)]
    assert [d.durable for d in done] == [False, False, True]
    assert [d.missing_ranks for d in done] == [(1, 2), (2,), ()]
    cluster.save(2)
    cluster.lose(1)
    cluster.serve(1)
    for node in (0, 2):
        cluster.stop(node)
    loaded = cluster.restore(1, bucket=bucket.as_uri())
    assert_is(loaded, 1, 3)
    for node in (0, 2):
        cluster.lose(node)
        cluster.serve(node)
    assert_is(cluster.restore(0, bucket=bucket.as_uri()), 1, 3)


def test_the_only_node_that_has_a_share_is_asked_again_when_it_breaks_off(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server is started anew between the choice and the load, as after an upgrade."""
    cluster = make(2, copies=0)
    cluster.save(1)
    for node in (0, 1):
        cluster.stop(node)
    nodes = cluster.nodes(0)
    choice = nodes.choose()
    cluster.lose(1, disk=False)
    with Store.open(cluster.root / "disk0", options=SMALL, writer="back") as store:
        nodes.ready(store, choice)
        back = threading.Timer(0.5, cluster.serve, [1])
        back.start()
        assert_is(store.load(1), 1, 2)
        back.join()
        cluster.lose(1, disk=False)
        monkeypatch.setattr("weftline.burst.nodes.cluster._PATIENCE_S", 0.2)
        nodes.ready(store, choice)
        began_s = time.monotonic()
        with pytest.raises(CorruptionError, match="the peer cannot be used: no connection"):
            store.load(1)
        assert time.monotonic() - began_s < 5  # patience is spent once, not on every chunk
        # What cannot be asked is said, where nothing of the share was had before, too.
        fresh = cluster.nodes(0)
        with Store.open(cluster.root / "disk0", options=SMALL, read_only=True) as new:
            fresh.ready(new, choice)
            with pytest.raises(CorruptionError, match=r"no source has it: .*no connection"):
                new.load(1)
        fresh.close()
    nodes.close()


def test_manifests_of_other_nodes_are_asked_for_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(4)
    cluster.save(1)
    for node in range(4):
        cluster.stop(node)
    asked: list[int] = []
    ask = NodeSource.manifest

    def counting(self: NodeSource, share: Prepared) -> bytes:
        asked.append(share.rank)
        return ask(self, share)

    monkeypatch.setattr(NodeSource, "manifest", counting)
    nodes = cluster.nodes(0)
    with Store.open(cluster.root / "disk0", options=SMALL, writer="back") as store:
        nodes.ready(store, nodes.choose(store))
        assert set(store.tensors(1)) == {f"{k}{r}" for k in ("own", "small") for r in range(4)}
        assert_is(store.load(1), 1, 4)
    assert sorted(asked) == [1, 2, 3]
    nodes.close()


def test_what_was_passed_over_is_said(make: Make) -> None:
    cluster = make(2, copies=0)
    cluster.save(1)
    cluster.lose(1)
    cluster.serve(1)
    nodes = cluster.nodes(0)
    with pytest.raises(CheckpointMissingError, match=r"of step 1 ranks \[1\] are lost"):
        nodes.choose(cluster.open(0))


def test_a_node_that_was_away_does_not_mix_its_old_shares(make: Make) -> None:
    """It comes back with its disk of step 1 while the others are at another try of step 1."""
    cluster = make(3)
    cluster.save(1)
    cluster.lose(2, disk=False)
    shutil.move(cluster.root / "disk2", cluster.root / "away")
    cluster.serve(2)
    cluster.tries = itertools.count(100)
    cluster.save(3)
    cluster.save(1)  # the same step anew: its record is another
    cluster.lose(2)
    shutil.move(cluster.root / "away", cluster.root / "disk2")
    cluster.serve(2)
    for node in (0, 1):
        cluster.stop(node)
    nodes = cluster.nodes(2)
    with Store.open(cluster.root / "disk2", options=SMALL, writer="back") as store:
        choice = nodes.choose(store)
        nodes.ready(store, choice)
        loaded = store.load(choice.commit.step)
    assert choice.commit.attempt == "try101"
    assert_is(loaded, 1, 3)


def test_a_failure_on_one_node_commits_nothing_anywhere(make: Make) -> None:
    cluster = make(3)
    cluster.save(1)
    results = cluster.save(2, broken=1)
    assert [isinstance(r, CommitError) for r in results] == [True, False, True]
    assert "the disk of this node is full" in str(results[0])
    assert "the disk of this node is full" in str(results[2])
    for node in range(3):
        assert [c.step for c in cluster.open(node).checkpoints()] == [1]
    cluster.save(3)
    assert [c.step for c in cluster.open(1).checkpoints()] == [1, 3]


def test_the_stores_of_two_runs_are_never_one_checkpoint(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a", options=SMALL, run="a") as a, \
            Store.open(tmp_path / "b", options=SMALL, run="b") as b:  # fmt: skip
        shares = [
            s.prepare({f"w{r}": np.zeros(9)}, 1, rank=r, world=2, attempt="x")
            for r, s in enumerate((a, b))
        ]
        with pytest.raises(CommitError, match="different runs"):
            a.commit(1, prepared=shares)
        assert a.checkpoints() == []
    with pytest.raises(MismatchError, match="belongs to run `a`"):
        Store.open(tmp_path / "a", run="c")


def test_a_new_save_is_newer_than_what_any_node_has_seen(make: Make) -> None:
    """A node that missed commits must not make the next one look old."""
    cluster = make(2)
    for step in (5, 6, 7):
        cluster.save(step)
    cluster.lose(0)
    cluster.serve(0)
    nodes = cluster.nodes(0)
    nodes.ready(cluster.open(0), nodes.choose(cluster.open(0)))
    cluster.save(2)  # training went back
    assert cluster.open(1).read_commit().step == 2
    assert cluster.open(0).read_commit().step == 2


# --- copies -------------------------------------------------------------------------------------


def test_a_node_keeps_no_more_copies_than_it_must(make: Make) -> None:
    cluster = make(3, retention=Retention(last=1))
    for step in range(1, 6):
        cluster.save(step)
    for server in cluster.servers:
        assert server is not None
        kept = Path(server.folder) / "records" / "job"
        end = time.monotonic() + 10  # it lets go once it has answered
        while len(list(kept.iterdir())) > 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(list(kept.iterdir())) == 1
        assert len(server._shares("job")) == 1
    assert [c.step for c in cluster.open(0).checkpoints()] == [5]


def test_while_a_copy_is_missing_the_last_whole_one_stays_everywhere(make: Make) -> None:
    cluster = make(3, retention=Retention(last=1))
    cluster.save(1)
    server, full = cluster.servers[1], []
    assert server is not None
    server._capacity_bytes = 0
    other = cluster.servers[2]
    assert other is not None
    other._capacity_bytes = 0  # rank 0 finds nobody; the others find node 0
    for step in (2, 3):
        full += cluster.save(step)
    for node in range(3):
        cluster.open(node).wait()
    assert [c.step for c in cluster.open(0).checkpoints()] == [1, 3]
    assert any("the peer is full" in n for n in cluster.open(0).notices)
    assert cluster.open(0).stats()["copies_failed"] > 0
    cluster.lose(0)
    cluster.serve(0)
    for node in (1, 2):
        cluster.stop(node)
    loaded = cluster.restore(0)
    assert_is(loaded, 1, 3)


def test_a_peer_that_is_down_is_passed_over_and_another_stands_in(make: Make) -> None:
    cluster = make(3)
    for node in range(3):
        cluster.open(node)
    cluster.lose(1)
    cluster.open(1)
    results = cluster.save(1)
    commit = cluster.open(0).read_commit()
    assert commit.copied
    down = f"peer://127.0.0.1:{cluster.port(1)}"
    assert all(down not in r.copies for r in commit.ranks)
    assert not any(isinstance(r, Exception) for r in results)


@given(st.lists(st.sampled_from("abcde"), min_size=2, max_size=12))
def test_copies_leave_the_failure_domain_and_are_spread(domains: list[str]) -> None:
    n = len(domains)
    orders = [partners(domains, node) for node in range(n)]
    for node, order in enumerate(orders):
        assert sorted([*order, node]) == list(range(n))
        if any(d != domains[node] for d in domains):
            assert domains[order[0]] != domains[node]
        if len(set(domains)) > 2:
            assert len({domains[node], domains[order[0]], domains[order[1]]}) == 3
    largest = max(domains.count(d) for d in domains)
    if 2 * largest <= n:  # then nobody keeps more than one first copy
        assert sorted(order[0] for order in orders) == list(range(n))


# --- what is let go, and what is chosen ---------------------------------------------------------


def share_of(rank: int, save: int, *, world: int = 2, copied: bool = True) -> Prepared:
    return Prepared(
        step=save, rank=rank, world=world, attempt=f"a{save}", store_id=f"s{rank}", writer="w0",
        save_id=save, parts=1, raw_bytes=1, stored_bytes=1, digest=b"d", run="job",
        floor=save, copies=("peer://x",) if copied else (),
    )  # fmt: skip


def commit_of(save: int, *, world: int = 2, copied: tuple[bool, ...] = ()) -> Commit:
    said = copied or (True,) * world
    ranks = [share_of(r, save, world=world, copied=said[r]) for r in range(world)]
    return Commit("", save, save, world, f"a{save}", 0.0, ranks, "job")


@settings(max_examples=200)
@given(st.data())
def test_what_a_node_lets_go_is_never_needed(data: st.DataObject) -> None:
    """Any order of arrival that ranks make by saving in order, and any subset of the records."""
    saves = data.draw(st.integers(1, 6))
    copied = [tuple(data.draw(st.booleans()) for _ in range(2)) for _ in range(saves)]
    committed = [data.draw(st.booleans()) for _ in range(saves)]
    queues = [[share_name(share_of(r, s + 1)) for s in range(saves)] for r in range(2)]
    arrived: list[str] = []
    while any(queues):
        queue = data.draw(st.sampled_from([q for q in queues if q]))
        arrived.append(queue.pop(0))
    told = data.draw(st.integers(0, saves))
    records = [
        commit_of(s + 1, copied=copied[s]) for s in range(told) if committed[s]
    ]  # fmt: skip
    gone = overtaken(records, arrived)
    newest = max((s + 1 for s in range(told) if committed[s]), default=0)
    whole = max((s + 1 for s in range(told) if committed[s] and all(copied[s])), default=newest)
    for name in arrived:
        save = int(name[-16:], 16)
        if save in (newest, whole) or save > newest:
            assert name not in gone  # newest, last whole, or on its way
        elif newest:
            assert name in gone or not committed[save - 1]


@settings(max_examples=200)
@given(st.data())
def test_the_choice_is_the_newest_whole_one_whoever_tells_it(data: st.DataObject) -> None:
    commits = {s: commit_of(s, world=3) for s in data.draw(st.sets(st.integers(1, 6), min_size=1))}
    places = ["disk0", "peer://a", "s3://b"]
    knows = {p: data.draw(st.sets(st.sampled_from(sorted(commits)))) for p in places}
    told = set().union(*knows.values())
    held: dict[tuple[str, int], set[int]] = {
        (p, s): data.draw(st.sets(st.integers(0, 2))) for p in places for s in commits
    }
    seen = [
        Seen(
            p, tuple(seal_twice("K", commits[s]) for s in knows[p]),
            frozenset(share_id(commits[s].ranks[r]) for s in commits for r in held[p, s]),
        )
        for p in places
    ]  # fmt: skip
    seen = data.draw(st.permutations(seen))
    whole = [s for s in told if set().union(*(held[p, s] for p in places)) == {0, 1, 2}]
    if not whole:
        with pytest.raises(CheckpointMissingError):
            choose(seen, run="job")
        return
    choice = choose(seen, run="job")
    assert choice.commit.step == max(whole)
    for rank, have in choice.holders.items():
        assert set(have) == {p for p in places if rank in held[p, choice.commit.step]}
    assert [s for s, _ in choice.passed_over] == sorted(
        (s for s in told if s > max(whole)), reverse=True
    )


def test_records_of_several_runs_are_not_chosen_between() -> None:
    import msgspec

    other = msgspec.structs.replace(commit_of(9), run="other")
    seen = [
        Seen("x", (seal_twice("K", c),), frozenset(map(share_id, c.ranks)))
        for c in (commit_of(1), other)
    ]
    with pytest.raises(MismatchError, match="job, other"):
        choose(seen)
    assert choose(seen, run="job").commit.step == 1


def test_nodes_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEFTLINE_BURST_NODES", raising=False)
    assert nodes_from_environment() is None
    monkeypatch.setenv("WEFTLINE_BURST_NODES", "n1:7401@rack1, n2@rack1 10.0.0.3:7402@rack2")
    monkeypatch.setenv("SLURM_NODEID", "2")
    found = nodes_from_environment(run="job")
    assert found is not None
    assert found.urls == ("peer://n1:7401", "peer://n2", "peer://10.0.0.3:7402")
    assert (found.mine, found.domains, found.copies) == (2, ("rack1", "rack1", "rack2"), 1)
    monkeypatch.delenv("SLURM_NODEID")
    monkeypatch.delenv("GROUP_RANK", raising=False)
    with pytest.raises(InputError, match="which of the nodes"):
        nodes_from_environment()


def test_a_node_does_not_claim_a_share_that_its_store_has_dropped(make: Make) -> None:
    """Its server had read the log before retention: it must look again."""
    cluster = make(2, copies=0)
    cluster.save(1)
    commit = cluster.open(1).read_commit(1)
    node = cluster.nodes(0).node(cluster.nodes(0).urls[1])
    assert share_id(commit.ranks[1]) in node.found().shares
    cluster.save(2)
    cluster.open(1).gc(Retention(last=1))
    assert share_id(commit.ranks[1]) not in node.found().shares


def test_a_node_finds_what_its_store_has_moved_since_it_was_last_asked(make: Make) -> None:
    """Its server knew the places from a restore before: their segments are gone now."""
    cluster = make(2, copies=0, compact_below=0.99, spare_bytes=0)
    cluster.save(1)
    assert_is(cluster.restore(0), 1, 2)
    segments = set((cluster.root / "disk1/writers/w0").glob("*.seg"))
    cluster.stop(1)
    cluster.open(1).gc()
    cluster.stop(1)
    assert not segments & set((cluster.root / "disk1/writers/w0").glob("*.seg"))
    assert_is(cluster.restore(0), 1, 2)


def test_a_node_whose_disk_was_replaced_serves_the_new_one(make: Make) -> None:
    """Its server goes on, and had read the store that is gone."""
    cluster = make(2, copies=0)
    cluster.save(1)
    assert_is(cluster.restore(0), 1, 2)
    for node in (0, 1):
        cluster.stop(node)
    shutil.rmtree(cluster.root / "disk1")
    cluster.save(2)
    cluster.stop(1)
    assert_is(cluster.restore(0), 2, 2)


def test_a_record_that_only_one_node_has_finds_the_shares_of_all(make: Make) -> None:
    """Rank 0 had committed and told who keeps its copy, and died before another node heard."""
    cluster = make(3)
    cluster.save(1)
    cluster.save(2)
    cluster.lose(0)
    for node in (1, 2):
        cluster.stop(node)
        (cluster.root / f"disk{node}/commits/step-{2:020d}.commit").unlink()
    keeper = cluster.nodes(0).copier()._nodes[0].url  # type: ignore[union-attr]
    other = next(n for n in (1, 2) if not keeper.endswith(f":{cluster.port(n)}"))
    shutil.rmtree(cluster.root / f"memory{other}/records")
    cluster.serve(0)
    assert_is(cluster.restore(other), 2, 3)


def test_the_command_line_puts_a_checkpoint_together_from_what_is_left(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = make(3)
    cluster.save(1)
    cluster.save(2)
    cluster.lose(1)
    urls = [cluster.nodes(0).urls[n] for n in (0, 2)]
    assert run(["burst", "restore", urls[0], str(tmp_path / "out.npz"), "--from", urls[1]]) == 0
    with np.load(tmp_path / "out.npz") as found:
        for name, wanted in {k: v for r in range(3) for k, v in state(2, r).items()}.items():
            np.testing.assert_array_equal(found[name], wanted)
    capsys.readouterr()
    assert run(["burst", "ls", urls[1], "--json"]) == 0
    assert [c["step"] for c in json.loads(capsys.readouterr().out)["checkpoints"]] == [1, 2]
    assert run(["burst", "restore", urls[0], str(tmp_path / "half.npz")]) == 2
    assert "of step 2 ranks" in capsys.readouterr().err
    assert not (tmp_path / "half.npz").exists()


def unpack(name: str, into: Path) -> None:
    """A store that an older version has written."""
    with tarfile.open(Path(__file__).with_name("data") / name) as packed:
        for member in packed:
            place, data = into / member.name, packed.extractfile(member)
            if data is None:
                place.mkdir()
            else:
                place.write_bytes(data.read())


def test_a_store_with_differences_is_read_moved_and_drained(tmp_path: Path) -> None:
    """Made when a chunk could be stored as the difference to the one before: three of them."""
    unpack("store_differences.tar.xz", tmp_path)
    bits = np.random.default_rng(0).integers(0, 2**16, 12_000, dtype=np.uint16)
    states = []
    for step in range(3):
        bits = bits ^ (np.arange(len(bits)) % 97 == step).astype(np.uint16)
        states.append(bits)
    (tmp_path / "bucket").mkdir()
    bucket = Bucket.open((tmp_path / "bucket").as_uri())
    options = Options(chunk_bytes=8192, segment_bytes=1 << 17, compact_below=0.9)
    with Store.open(tmp_path / "store", options=options) as store:
        for step, wanted in enumerate(states):
            np.testing.assert_array_equal(store.load(step)["w"], wanted)
        assert store.checkpoints()[2].stored_bytes < bits.nbytes / 2
        assert store.log is not None
        old = set(store.log.log.segments)
        Drainer(store, bucket).drain(2)
        store.save({"w": states[0]}, 3, wait=True)
        store.gc(drop=[0, 1])
        # The third rests on what the first wrote: all of it has moved out of its old segment.
        places = {place for save in store.log.places.values() for place in save}
        assert old.isdisjoint({segment for segment, _, _ in places})
        assert store.verify() == []
        np.testing.assert_array_equal(store.load(2)["w"], states[2])
        np.testing.assert_array_equal(store.load(3)["w"], states[0])
    np.testing.assert_array_equal(load_from_bucket(bucket, 2)["w"], states[2])


def test_a_store_of_format_1_is_read_and_written_on(tmp_path: Path) -> None:
    """Made by the version that wrote format 1, with a rank in each of two logs."""
    unpack("store_v1.tar.xz", tmp_path)
    before = (tmp_path / f"store/commits/step-{2:020d}.commit").read_bytes()
    with Store.open(tmp_path / "store", options=SMALL, writer="w0") as store:
        np.testing.assert_array_equal(store.load(1)["w"], np.arange(3000, dtype=np.float32))
        assert store.load(1).extra == {"lr": 0.1}
        assert [store.load(2)[f"r{r}"][0] for r in (0, 1)] == [0, 1]
        assert store.commit_bytes(2) == before
        store.save({"w": np.zeros(5)}, 3, wait=True)
        store.gc(Retention(last=2))
        assert store.verify() == []
        assert [c.step for c in store.checkpoints()] == [2, 3]


def test_nodes_that_drain_at_their_own_pace_finish_what_another_has_begun(
    make: Make, tmp_path: Path
) -> None:
    """In the background, newest first: else each would be at another step, and none be whole."""
    cluster = make(2, copies=0)
    (tmp_path / "bucket").mkdir()
    url = (tmp_path / "bucket").as_uri()
    cluster.save(1)
    one, other = (Drainer(cluster.open(n), Bucket.open(url)) for n in (0, 1))
    assert not one.drain(1).durable
    cluster.save(2)
    other.start(poll_s=0.01)
    seen: set[int] = set()
    end = time.monotonic() + 20
    while time.monotonic() < end and 1 not in seen:
        seen = {c.step for c in commits_at(url)}
    assert 1 in seen
    one.start(poll_s=0.01)
    while time.monotonic() < end and 2 not in seen:
        seen = {c.step for c in commits_at(url)}
    for drainer in (one, other):
        drainer.stop()
        assert drainer.status.last_error is None
    assert seen == {1, 2}


def test_a_drain_that_waits_for_other_nodes_does_not_spin(make: Make, tmp_path: Path) -> None:
    cluster = make(2, copies=0)
    (tmp_path / "bucket").mkdir()
    bucket = Bucket.open((tmp_path / "bucket").as_uri())
    cluster.save(1)
    drainer = Drainer(cluster.open(0), bucket)
    calls: list[int] = []
    plain = drainer.drain
    drainer.drain = lambda *a, **k: (calls.append(1), plain(*a, **k))[1]  # type: ignore[method-assign]
    drainer.start(poll_s=30.0)
    time.sleep(0.7)
    drainer.stop()
    assert len(calls) == 1


def test_a_node_that_refuses_the_secret_is_not_taken_for_lost(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(2)
    cluster.save(1)
    monkeypatch.setenv("WEFTLINE_BURST_SECRET", "another secret of enough bytes")
    nodes = cluster.nodes(0)
    with pytest.raises(CredentialsError):
        nodes.choose(cluster.open(0))
