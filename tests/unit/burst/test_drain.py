"""A drained checkpoint is whole or absent at the target, and what was sent is not sent again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import load_from_bucket
from fault_proxy import FaultProxy

from weftline.burst import Options, Retention, Store
from weftline.burst.errors import CheckpointMissingError, CorruptionError, StoreBusyError
from weftline.burst.formats.imports import load_from
from weftline.burst.nodes.agree import choose, survey_bucket
from weftline.burst.remote.checkpoints import RemoteSource, checkpoints_of
from weftline.burst.remote.drain import Drainer, DrainOptions
from weftline.burst.remote.objects import Bucket, BucketOptions, ObjectInfo, RemoteError
from weftline.burst.remote.peer_server import PeerServer
from weftline.burst.remote.peers import PeerObjects

KIB = 1 << 10
SMALL = Options(chunk_bytes=64 * KIB, segment_bytes=1 << 20, io_threads=2, copy_threads=1)
PACKS = DrainOptions(pack_bytes=250 * KIB)
SECRET = b"a secret of enough bytes"


def state(seed: int, tensors: int = 5) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {f"w{i}": generator.standard_normal((150, 100)) for i in range(tensors)}


def same(loaded: Any, wanted: dict[str, np.ndarray]) -> bool:
    return loaded.keys() == wanted.keys() and all(
        loaded[n].tobytes() == a.tobytes() and loaded[n].shape == a.shape for n, a in wanted.items()
    )


class Breaking:
    """Objects that stop working before the n-th put, as a machine that dies would."""

    def __init__(self, objects: Bucket, puts_left: int) -> None:
        self._objects = objects
        self.puts_left = puts_left
        self.put_names: list[str] = []
        self.url = objects.url
        self.counters = objects.counters

    def put(self, name: str, chunks: Any, *, progress: Any = None) -> ObjectInfo:
        if self.puts_left == 0:
            raise RemoteError("the machine is gone")
        self.puts_left -= 1
        self.put_names.append(name)
        return self._objects.put(name, chunks, progress=progress)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket.open(f"file://{tmp_path}/remote", BucketOptions(retries=1, backoff_s=0.01))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", options=SMALL) as opened:
        yield opened


def test_what_was_drained_is_restored_without_the_store(store: Store, bucket: Bucket) -> None:
    for step in (1, 2):
        store.save(state(step), step, extra={"step": step}, wait=True)
    drainer = Drainer(store, bucket, PACKS)
    assert [c.step for c in drainer.pending()] == [1, 2]
    heard: list[tuple[int, int]] = []
    report = drainer.drain(1, progress=lambda done, total: heard.append((done, total)))
    raw = sum(a.nbytes for a in state(1).values())
    assert (report.durable, report.sent_bytes, report.packs) == (True, raw, 3)
    assert heard[-1] == (raw, raw)
    assert [c.step for c in drainer.pending()] == [2]
    drainer.drain()
    for step in (1, 2):
        loaded = load_from_bucket(bucket, step)
        assert same(loaded, state(step))
        assert loaded.extra == {"step": step}
    assert load_from_bucket(bucket).step == 2
    assert drainer.drain(2).sent_bytes == 0
    assert store.checkpoints()[0].pinned == ()
    with pytest.raises(CheckpointMissingError):
        drainer.drain(7)


def test_the_commit_object_is_last_and_nothing_shows_before_it(
    store: Store, bucket: Bucket
) -> None:
    """Stopped before every put in turn: absent, then after going on whole, with little sent twice.

    Each try is a new process's: a new drainer that knows only what is on disk.
    """
    store.save(state(0), 0, wait=True)
    Drainer(store, bucket, PACKS).drain(0)
    store.save(state(1), 1, wait=True)
    names: list[str] = []
    for tries in range(50):  # noqa: B007
        breaking = Breaking(bucket, puts_left=1)
        try:
            report = Drainer(store, breaking, PACKS).drain(1)
        except RemoteError:
            names += breaking.put_names
            assert RemoteSource(bucket).steps() == [0]
            assert store.checkpoints()[1].pinned == ("drain",)
            continue
        names += breaking.put_names
        assert report.durable
        break
    assert tries == 4  # 3 packs, the places, the commit: each sent once
    assert len(names) == len(set(names)) == 5
    assert [n.rpartition(".")[2] for n in names] == ["pack"] * 3 + ["places", "commit"]
    assert same(load_from_bucket(bucket, 1), state(1))


def test_packs_that_are_gone_are_sent_again(store: Store, bucket: Bucket) -> None:
    store.save(state(1), 1, wait=True)
    with pytest.raises(RemoteError):
        Drainer(store, Breaking(bucket, 2), PACKS).drain(1)
    for info in bucket.list("data")[:1]:
        bucket.delete(info.name)
    assert Drainer(store, bucket, PACKS).drain(1).durable
    assert same(load_from_bucket(bucket, 1), state(1))


def test_a_commit_that_lacks_something_is_withdrawn_and_sent_anew(
    store: Store, bucket: Bucket
) -> None:
    """A pack, or the places, vanish or change after the commit; the drain finds out and mends."""
    store.save(state(1), 1, wait=True)
    drainer = Drainer(store, bucket, PACKS)
    drainer.drain(1)
    remote = Path(bucket.url.removeprefix("file://"))
    for kind in ("pack", "places", "commit"):
        for act in ("vanish", "change"):
            if (kind, act) in (("pack", "change"), ("commit", "vanish")):
                continue  # the one is found by reading it, the other is no commit at all
            path = next(remote.rglob(f"*.{kind}"))
            if act == "vanish":
                path.unlink()
            else:
                path.write_bytes(path.read_bytes()[:-3] + b"xyz")
            assert drainer.drain(1).durable
            assert same(load_from_bucket(bucket, 1), state(1))
    assert len(bucket.list("data")) == 4  # three packs and the places: nothing is left over


def test_a_damaged_newest_commit_is_not_passed_over(store: Store, bucket: Bucket) -> None:
    drainer = Drainer(store, bucket, PACKS)
    for step in (1, 2):
        store.save(state(step), step, wait=True)
        drainer.drain(step)
    commits = sorted(Path(bucket.url.removeprefix("file://"), "commits").iterdir())
    for path, fine in ((commits[1], False), (commits[0], True)):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"?")
        if fine:
            assert RemoteSource(bucket).steps() == [2]
        else:
            with pytest.raises(CorruptionError, match="in checkpoint 2"):
                load_from_bucket(bucket)
        with pytest.raises(CorruptionError):
            drainer.prune([2])  # what it needs is not known
        path.write_bytes(whole)
    assert load_from_bucket(bucket).step == 2


def test_a_pack_that_goes_before_the_commit_stops_the_commit(store: Store, bucket: Bucket) -> None:
    """Another hand deletes a pack between its upload and the commit: not durable, not reported."""
    store.save(state(1), 1, wait=True)

    class Meddled(Breaking):
        def put(self, name: str, chunks: Any, *, progress: Any = None) -> ObjectInfo:
            info = super().put(name, chunks, progress=progress)
            if name.endswith(".places"):
                self._objects.delete(self.put_names[0])
            return info

    with pytest.raises(RemoteError, match="are gone"):
        Drainer(store, Meddled(bucket, 99), PACKS).drain(1)
    assert RemoteSource(bucket).steps() == []
    assert Drainer(store, bucket, PACKS).drain(1).durable
    assert same(load_from_bucket(bucket, 1), state(1))


def test_equal_pieces_travel_once_and_outlive_the_checkpoint_that_brought_them(
    tmp_path: Path, bucket: Bucket
) -> None:
    options = Options(chunk_bytes=64 * KIB, segment_bytes=1 << 20, dedup=True)
    first, second = state(1), {**state(1), "w0": state(2)["w0"]}
    with Store.open(tmp_path / "s", options=options) as store:
        store.save(first, 1, wait=True)
        store.save(second, 2, wait=True)
        drainer = Drainer(store, bucket, PACKS)
        whole = drainer.drain(1).sent_bytes
        report = drainer.drain(2)
        assert report.durable
        assert report.sent_bytes + report.reused_bytes == whole
        assert report.sent_bytes <= whole / 4
        assert [c.step for c in drainer.prune([2])] == [1]
    assert RemoteSource(bucket).steps() == [2]
    assert same(load_from_bucket(bucket, 2), second)


def test_prune_leaves_nothing_but_what_is_kept(store: Store, bucket: Bucket) -> None:
    drainer = Drainer(store, bucket, PACKS)
    for step in range(3):
        store.save(state(step), step, wait=True)
        drainer.drain(step)
    assert sorted(c.step for c in drainer.prune([1])) == [0, 2]
    kept = checkpoints_of(bucket)[0].folder
    assert all(kept in info.name for info in bucket.list())
    assert same(load_from_bucket(bucket), state(1))


def test_ranks_of_two_machines_make_one_checkpoint(tmp_path: Path, bucket: Bucket) -> None:
    """Each drains its own; the last to come commits."""
    halves = [state(1), {f"v{i}": a for i, a in enumerate(state(2).values())}]
    with (
        Store.open(tmp_path / "s", writer="a", options=SMALL) as one,
        Store.open(tmp_path / "s", writer="b", options=SMALL) as two,
    ):
        done = [
            s.prepare(half, 5, rank=r, world=2, attempt="x")
            for r, (s, half) in enumerate(zip((one, two), halves, strict=True))
        ]
        one.commit(5, prepared=done)
        first = Drainer(one, bucket, PACKS).drain(5, ranks=[1])
        assert (first.durable, first.missing_ranks) == (False, (0,))
        assert RemoteSource(bucket).steps() == []
        assert one.checkpoints()[0].pinned == ("drain",)
        second = Drainer(two, bucket, PACKS).drain(5, ranks=[0])
        assert second.durable
    assert same(load_from_bucket(bucket, 5), {**halves[0], **halves[1]})


def test_a_damaged_record_is_not_drained(store: Store, bucket: Bucket) -> None:
    store.save(state(1), 1, wait=True)
    flip_payload(Path(store.root))
    with pytest.raises(CorruptionError):
        Drainer(store, bucket, PACKS).drain(1)
    assert RemoteSource(bucket).steps() == []


def test_a_step_saved_anew_is_another_checkpoint(store: Store, bucket: Bucket) -> None:
    store.save(state(1), 1, wait=True)
    drainer = Drainer(store, bucket, PACKS)
    drainer.drain(1)
    store.save(state(2), 1, wait=True)
    assert [c.step for c in drainer.pending()] == [1]
    drainer.drain(1)
    assert same(load_from_bucket(bucket, 1), state(2))
    drainer.prune([1])
    assert len(checkpoints_of(bucket)) == 1
    assert same(load_from_bucket(bucket, 1), state(2))


def test_one_drain_at_a_time(store: Store, bucket: Bucket) -> None:
    store.save(state(1), 1, wait=True)
    entered, leave = threading.Event(), threading.Event()

    class Waiting(Breaking):
        def put(self, name: str, chunks: Any, *, progress: Any = None) -> ObjectInfo:
            entered.set()
            leave.wait(10)
            return super().put(name, chunks, progress=progress)

    other = threading.Thread(target=Drainer(store, Waiting(bucket, 99), PACKS).drain)
    other.start()
    entered.wait(10)
    with pytest.raises(StoreBusyError, match="another process drains"):
        Drainer(store, bucket, PACKS).drain(1)
    leave.set()
    other.join()
    assert RemoteSource(bucket).steps() == [1]


def test_in_the_background_new_checkpoints_follow_and_errors_pass(
    store: Store, bucket: Bucket
) -> None:
    target = Breaking(bucket, puts_left=0)
    drainer = Drainer(store, target, PACKS)
    store.save(state(1), 1, wait=True)
    drainer.start(poll_s=0.01)
    try:
        _eventually(lambda: drainer.status.last_error is not None)
        assert drainer.refresh().queued == 1
        assert drainer.status.durable_lag_s > 0
        target.puts_left = 99
        _eventually(lambda: drainer.status.newest_durable_step == 1)
        store.save(state(2), 2, wait=True)
        store.save(state(3), 3, wait=True)
        _eventually(lambda: drainer.status.newest_durable_step == 3)
        assert drainer.status.last_error is None
    finally:
        drainer.stop()
    assert drainer.refresh().durable_lag_s == 0
    assert same(load_from_bucket(bucket), state(3))
    assert all(c.pinned == () for c in store.checkpoints())


# --- restore: here, then a peer, then the object store ------------------------------------------


def test_damage_is_mended_from_the_nearest_copy(tmp_path: Path, bucket: Bucket) -> None:
    with Store.open(tmp_path / "s", options=SMALL) as store:
        store.save(state(1), 1, wait=True)
        with PeerServer(tmp_path / "peer", secret=SECRET) as server:
            peer = PeerObjects(server.host, server.port, SECRET)
            Drainer(store, peer, PACKS).drain(1)
            Drainer(store, bucket, PACKS).drain(1)
            read = (peer.counters.read_bytes, bucket.counters.read_bytes)
            flip_payload(tmp_path / "s")
            sources = [RemoteSource(peer), RemoteSource(bucket)]
            with Store.open(tmp_path / "s", read_only=True, sources=sources) as again:
                loaded = again.load(1)
            assert same(loaded, state(1))
            assert [r.source for r in loaded.repaired] == [peer.url]
            assert peer.counters.read_bytes - read[0] < 150 * KIB  # a record, not a pack
            assert bucket.counters.read_bytes == read[1]
            peer.close()
        # The peer is gone: the object store answers.
        with Store.open(tmp_path / "s", read_only=True, sources=sources) as again:
            loaded = again.load(1)
        assert same(loaded, state(1))
        assert [r.source for r in loaded.repaired] == [bucket.url]


def test_what_lies_together_comes_by_one_request(
    store: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is far apart by one for each; one damaged record costs no other its way."""
    wanted = {f"{i:02}": np.random.default_rng(i).bytes(600 * KIB) for i in range(12)}
    arrays = {name: np.frombuffer(data, np.uint8) for name, data in wanted.items()}
    store.save(arrays, 1, wait=True)
    Drainer(store, bucket, DrainOptions(pack_bytes=1 << 30)).drain(1)
    asked: list[int] = []
    read = Bucket.read

    def noted(self: Bucket, name: str, start: int = 0, length: int | None = None) -> bytes:
        if name.endswith(".pack"):
            asked.append(int(length or 0))
        return read(self, name, start, length)

    monkeypatch.setattr(Bucket, "read", noted)
    assert same(load_from_bucket(bucket), arrays)
    assert sum(asked) == sum(map(len, wanted.values()))
    assert len(asked) < 12 * 10 / 4  # of ten records each
    source = RemoteSource(bucket)
    choice = choose([survey_bucket(source)])
    asked.clear()
    some = load_from([source], choice.commit, select=lambda _: ["00", "06", "11"])
    assert same(some, {name: arrays[name] for name in ("00", "06", "11")})
    assert sum(asked) <= 3 * 640 * KIB
    pack = next(Path(bucket.url.removeprefix("file://")).rglob("*.pack"))
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    left = load_from([source], choice.commit, select=lambda _: ["00", "11"])
    assert same(left, {name: arrays[name] for name in ("00", "11")})
    with pytest.raises(CorruptionError):
        load_from([source], choice.commit)


def test_a_copy_that_is_damaged_too_is_passed_over(store: Store, bucket: Bucket) -> None:
    store.save(state(1), 1, wait=True)
    Drainer(store, bucket, PACKS).drain(1)
    remote = Path(bucket.url.removeprefix("file://"))
    for pack in remote.rglob("*.pack"):
        damaged = bytearray(pack.read_bytes())
        damaged[:: 32 * KIB] = bytes(b ^ 1 for b in damaged[:: 32 * KIB])
        pack.write_bytes(damaged)
    with pytest.raises(CorruptionError):
        load_from_bucket(bucket, 1)
    assert same(store.load(1), state(1))


def test_a_changed_list_of_places_or_commit_object_is_found(store: Store, bucket: Bucket) -> None:
    store.save(state(1), 1, wait=True)
    Drainer(store, bucket, PACKS).drain(1)
    remote = Path(bucket.url.removeprefix("file://"))
    for kind in ("places", "commit"):
        path = next(remote.rglob(f"*.{kind}"))
        whole = path.read_bytes()
        for at in random.Random(0).sample(range(len(whole)), 40):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            with pytest.raises(Exception, match=r".") as caught:
                load_from_bucket(bucket, 1)
            assert type(caught.value).__module__.startswith("weftline")
        path.write_bytes(whole)
    assert same(load_from_bucket(bucket, 1), state(1))


# --- a real S3 server that fails ------------------------------------------------------------------


def drain_through_faults(s3_port: int, tmp_path: Path, name: str, seed: int, share: float) -> int:
    """Drain and restore through a proxy that fails at random; how often it failed."""
    generator = random.Random(seed)
    faults = ("503", "reset", "lost", "truncate", "slow")

    def rule(*_: object) -> str | None:
        return generator.choice(faults) if generator.random() < share else None

    with FaultProxy(s3_port, rule) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        options = BucketOptions(part_bytes=5 << 20, retries=12, backoff_s=0.005, seed=seed)
        bucket = Bucket.open(f"s3://weftline/{name}-{seed}", options)
        wanted = state(seed, tensors=60)
        with Store.open(tmp_path / f"{name}-{seed}", options=SMALL) as store:
            store.save(wanted, seed, wait=True)
            report = Drainer(store, bucket, DrainOptions(pack_bytes=6 << 20)).drain(seed)
            assert report.durable
        assert same(load_from_bucket(bucket, seed), wanted)
        return sum(fault is not None for *_, fault in proxy.seen)


def test_a_drain_survives_a_failing_server(
    s3_port: int, s3: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert drain_through_faults(s3_port, tmp_path, "short", seed=1, share=0.3) > 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_drain_survives_every_kind_of_failure_at_random(
    s3_port: int, s3: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    drain_through_faults(s3_port, tmp_path, "long", seed=seed, share=0.4)


def flip_payload(root: Path) -> None:
    """One bit in the middle of the first segment's first large payload."""
    path = next((root / "writers").rglob("seg-*.seg"))
    data = bytearray(path.read_bytes())
    data[48 * KIB] ^= 1
    path.write_bytes(data)


def _eventually(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- kill -9 in the middle ------------------------------------------------------------------------

DRAIN_SLOWLY = """
import sys
from weftline.burst import Store
from weftline.burst.remote.drain import Drainer, DrainOptions
from weftline.burst.remote.objects import Bucket, BucketOptions

with Store.open(sys.argv[1], read_only=True) as store:
    options = BucketOptions(bandwidth_bytes_per_s=2.5e6, part_bytes=32 << 10)
    drainer = Drainer(store, Bucket.open(sys.argv[2], options), DrainOptions(pack_bytes=150_000))
    print("begins", flush=True)
    drainer.drain(1)
"""


def kill_rounds(store: Store, bucket: Bucket, rounds: int, seed: int) -> int:
    """Drain in a process that is killed at a random moment; how many of them were cut off."""
    pick = random.Random(seed)
    cut_off = 0
    for _ in range(rounds):
        command = [sys.executable, "-c", DRAIN_SLOWLY, store.root, bucket.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            time.sleep(pick.uniform(0.0, 0.4))
            process.kill()
        if RemoteSource(bucket).steps():
            assert same(load_from_bucket(bucket, 1), state(1))
            Drainer(store, bucket, PACKS).prune([])
        else:
            cut_off += 1
    assert Drainer(store, bucket, PACKS).drain(1).durable
    assert same(load_from_bucket(bucket, 1), state(1))
    return cut_off


def test_a_drain_that_was_killed_goes_on(store: Store, bucket: Bucket) -> None:
    store.save(state(1), 1, wait=True)
    assert kill_rounds(store, bucket, rounds=3, seed=0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_drains_that_were_killed_go_on(store: Store, bucket: Bucket, seed: int) -> None:
    store.save(state(1), 1, wait=True)
    assert kill_rounds(store, bucket, rounds=20, seed=seed) > 5


def test_the_pin_of_a_drain_that_is_gone_is_let_go(tmp_path: Path) -> None:
    """Killed an hour ago: retention goes on. One that is alive, and any user's pin, holds."""
    with Store.open(tmp_path / "s") as store:
        for step in (1, 2, 3):
            store.save({"w": np.zeros(9)}, step, wait=True)
        for step, owner in ((1, "drain"), (2, "user")):
            store.pin(step, owner)
        long_ago = time.time() - 3700
        for step, owner in ((1, "drain"), (2, "user")):
            os.utime(tmp_path / f"s/commits/step-{step:020d}.pin.{owner}", (long_ago, long_ago))
        store.pin(1, "drain")  # it has sent another pack
        assert store.gc(Retention(last=1)).dropped == ()
        os.utime(tmp_path / f"s/commits/step-{1:020d}.pin.drain", (long_ago, long_ago))
        assert store.gc(Retention(last=1)).dropped == (1,)
