"""What a user of a store is promised: round trips, whole or absent, damage named and mended."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.burst import Options, Retention, Shard, Store, Target, load, save
from weftline.burst.care.repair import repair_store
from weftline.burst.commit.commits import decode_commit
from weftline.burst.commit.view import RecordId
from weftline.burst.errors import (
    BadNameError,
    CheckpointMissingError,
    CommitError,
    CorruptionError,
    MismatchError,
    NewerFormatError,
    NotAStoreError,
    StorageError,
    StoreBusyError,
    TensorMissingError,
)
from weftline.burst.files import Buffer, RealFile, RealFiles
from weftline.burst.formats.imports import load_from
from weftline.burst.log.envelope import FORMAT_VERSION
from weftline.burst.log.index import Index
from weftline.burst.log.record import Prepared
from weftline.burst.stage.state import DTYPES
from weftline.errors import InputError

Arrays = dict[str, np.ndarray[Any, Any]]
SMALL = Options(chunk_bytes=1 << 16, segment_bytes=1 << 20, io_threads=2, copy_threads=1)


def state(seed: int = 0, large: int = 300_000) -> Arrays:
    """One large and a few small tensors of several kinds, bytes."""
    rng = np.random.default_rng(seed)
    return {
        "large": rng.integers(0, 255, large, dtype=np.uint8),
        "w": rng.standard_normal((33, 57)),
        "scalar": np.asarray(np.float32(seed)),
        "empty": np.zeros((0, 4), np.int64),
        "view": rng.standard_normal((40, 30)).T[::2],
    }


def same(got: Any, want: Arrays) -> bool:
    """Bit by bit, names and shapes included."""
    return set(got) == set(want) and all(
        got[k].shape == v.shape and got[k].tobytes() == v.tobytes() for k, v in want.items()
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s", options=SMALL) as opened:
        yield opened


# --- round trips --------------------------------------------------------------------------------


def test_a_plain_save_and_load_in_one_call_each(tmp_path: Path) -> None:
    info = save(state(), tmp_path / "s", 7, extra={"lr": 0.5, "tokens": 1 << 40})
    assert (info.step, info.world) == (7, 1)
    got = load(tmp_path / "s")
    assert same(got, state())
    assert (got.step, got.extra) == (7, {"lr": 0.5, "tokens": 1 << 40})
    assert list(load(tmp_path / "s", names=["w"])) == ["w"]


@settings(max_examples=40)
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.lists(st.integers(0, 6), max_size=3),
    offsets=st.integers(0, 3),
    method=st.sampled_from([None, "zstd", "planes"]),
)
def test_every_dtype_and_shape_comes_back(
    dtype: str, shape: list[int], offsets: int, method: str | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    width = DTYPES[dtype][0]
    count = int(np.prod(shape)) if shape else 1
    data = np.random.default_rng(0).integers(0, 255, count * width, dtype=np.uint8).tobytes()
    whole = tuple(n + 2 * offsets for n in shape)
    shard = Shard(
        data=data, dtype=dtype, shape=tuple(shape), global_shape=whole,
        offsets=(offsets,) * len(shape),
    )  # fmt: skip
    options = Options(chunk_bytes=4096, segment_bytes=1 << 16, io_threads=1, compress=method)
    with Store.open(tmp_path_factory.mktemp("s"), options=options) as store:
        store.save({"x": shard}, 1, wait=True)
        info = store.tensors()["x"]
        assert (info.dtype, info.shape) == (dtype, whole)
        assert store.read(1, "x", shard.offsets, shape).tobytes() == data
        if offsets and count and shape:
            with pytest.raises(MismatchError, match="only"):
                store.load(1)


def test_the_state_may_change_once_save_returns(store: Store) -> None:
    first = state()
    given_ = {k: v.copy() for k, v in first.items()}
    handle = store.save(given_, 1)
    for array in given_.values():
        array[...] = 0
    handle.wait()
    assert same(store.load(), first)
    assert handle.committed
    assert handle.durable_s >= handle.stall_s > 0


def test_inputs_are_never_changed(tmp_path: Path) -> None:
    options = Options(chunk_bytes=4096, segment_bytes=1 << 20, compress="planes", dedup=True)
    arrays = state()
    for array in arrays.values():
        array.setflags(write=False)
    with Store.open(tmp_path / "s", options=options) as store:
        for step in (1, 2):
            store.save(arrays, step, wait=True)
        assert same(arrays, state())
        assert same(store.load(1), state())


def test_a_block_is_read_from_any_sharding(store: Store) -> None:
    whole = np.random.default_rng(1).standard_normal((67, 41, 5)).astype(np.float32)
    cuts = [0, 9, 30, 67]
    shards = [
        Shard(data=whole[a:b], global_shape=whole.shape, offsets=(a, 0, 0))
        for a, b in itertools.pairwise(cuts)
    ]
    store.save({"x": shards}, 1, wait=True)
    rng = np.random.default_rng(2)
    for _ in range(30):
        low = [int(rng.integers(0, n)) for n in whole.shape]
        size = [int(rng.integers(0, n - o + 1)) for n, o in zip(whole.shape, low, strict=True)]
        want = whole[tuple(slice(o, o + n) for o, n in zip(low, size, strict=True))]
        assert np.array_equal(store.read(1, "x", low, size), want)
        out = np.zeros((*size[::-1],), np.float32).T
        store.load(1, into={"x": Target(data=out, offsets=tuple(low))})
        assert np.array_equal(out, want)


def test_a_device_tensor_copies_itself(store: Store) -> None:
    class Device:
        def fill(self, out: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
            assert out.ctypes.data % 4096 == 0
            out[:] = 7

    shard = Shard(data=Device(), dtype="bfloat16", shape=(400, 500))
    store.save({"x": shard}, 1, wait=True)
    assert store.load()["x"].tobytes() == b"\7" * 400_000


# --- compression, equal chunks ------------------------------------------------------------------


def test_each_way_to_save_space_saves_it_and_gives_the_same_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(400_000).astype(np.float32)
    bf16 = (weights.view(np.uint32) >> 16).astype(np.uint16)
    most = {"planes": 1.7, "dedup": 1.01}
    for kind, bound in most.items():
        options = Options(
            chunk_bytes=1 << 16, segment_bytes=1 << 21, dedup=kind == "dedup",
            compress="planes" if kind != "dedup" else None,
        )  # fmt: skip
        with Store.open(tmp_path / kind, options=options) as store:
            for i in (0, 1):
                store.save({"w": Shard(data=bf16, dtype="bfloat16")}, i, wait=True)
            stored = sum(c.stored_bytes for c in store.checkpoints())
            assert stored < bound * bf16.nbytes, kind
            for i in (0, 1):
                assert np.array_equal(store.load(i)["w"], bf16)
            store.gc(drop=[0])
            assert store.verify() == []


# --- commits ------------------------------------------------------------------------------------


def test_ranks_in_stores_of_one_folder_commit_together(tmp_path: Path) -> None:
    whole = np.arange(1000, dtype=np.int32)
    stores = [Store.open(tmp_path / "s", writer=f"rank{r}", options=SMALL) for r in range(4)]
    prepared = []
    for r, one in enumerate(stores):
        shard = Shard(data=whole[r * 250 : r * 250 + 250], global_shape=(1000,), offsets=(250 * r,))
        prepared.append(one.prepare({"x": shard}, 5, rank=r, world=4, attempt="a"))
    assert stores[1].checkpoints() == []
    with pytest.raises(CheckpointMissingError):
        stores[2].load()
    with pytest.raises(CommitError, match="not the ranks of one save"):
        stores[0].commit(5, prepared=prepared[:3])
    with pytest.raises(CommitError, match=r"not durable: \[0, 1, 2, 3\]"):
        stores[0].commit(5, world=4, attempt="another try", timeout_s=0.05)
    stores[0].commit(5, world=4, attempt="a")
    for one in stores:
        assert np.array_equal(one.load()["x"], whole)
    for one in stores:
        one.close()


@pytest.mark.parametrize("restart", [False, True])
def test_a_dropped_share_cannot_be_committed(tmp_path: Path, restart: bool) -> None:
    store = Store.open(tmp_path / "s", options=SMALL)
    old = store.prepare(state(1), 1, world=2, rank=0, attempt="x")
    store.save(state(2), 2, wait=True)
    if restart:
        store.close()
        store = Store.open(tmp_path / "s", options=SMALL)
    store.wait()
    for step in (3, 4):
        store.save(state(step), step, wait=True)
    with pytest.raises(CommitError, match="not whole"):
        store.commit(1, prepared=[old, msgspec.structs.replace(old, rank=1)])
    assert store.verify() == []
    store.close()


def test_shares_that_wait_for_their_commit_are_kept(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", options=SMALL) as store:
        store.save(state(0), 0, wait=True)
        first = store.prepare(state(1), 1, world=2, rank=0, attempt="x")
        store.prepare(state(2), 2, world=2, rank=0, attempt="x")
        store.gc(Retention(last=1))
        store.commit(1, prepared=[first, store.prepare(state(1), 1, world=2, rank=1, attempt="x")])
        assert same(store.load(1, ranks=[0]), state(1))
        assert same(store.load(1), state(1))  # both ranks hold the same: read once


def test_ranks_that_disagree_are_told_apart(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", options=SMALL) as store:
        ranks = [
            store.prepare({"rng": np.full(9, r)}, 1, world=2, rank=r, attempt="x") for r in (0, 1)
        ]
        store.commit(1, prepared=ranks)
        with pytest.raises(MismatchError, match="different values of `rng`"):
            store.load(1)
        assert store.load(1, ranks=[1])["rng"][0] == 1


def test_merging_runs_keeps_what_a_damaged_one_hides(tmp_path: Path) -> None:
    options = Options(chunk_bytes=1 << 16, segment_bytes=1 << 20, wal_bytes=1, io_threads=1)
    with Store.open(tmp_path / "s", options=options) as store:
        for step in range(4):
            store.save(state(step, 100), step, wait=True)
        store.wait()
        run = sorted((tmp_path / "s").rglob("*.run"))[0]
        _flip(run, 40)
        for step in range(4, 24):
            store.save(state(step, 100), step, wait=True)
    with Store.open(tmp_path / "s", options=options) as store:
        for step in range(24):
            assert same(store.load(step), state(step, 100))
        assert store.log is not None
        assert not store.log.frozen
        assert any("rebuilt from segments" in n for n in store.notices)


def test_the_newest_commit_is_the_latest_even_with_a_smaller_step(store: Store) -> None:
    for step in (10, 20, 15):
        store.save(state(step), step, wait=True)
    assert store.load().step == 15
    store.save(state(99), 10, wait=True)
    assert same(store.load(10), state(99))
    assert [c.step for c in store.checkpoints()] == [20, 15, 10]


def test_retention_keeps_the_last_the_regular_and_the_pinned(tmp_path: Path) -> None:
    options = Options(
        chunk_bytes=1 << 16, segment_bytes=1 << 20, retention=Retention(last=2, every=10)
    )
    with Store.open(tmp_path / "s", options=options) as store:
        for step in (1, 5, 10, 15, 20, 25, 30, 35):
            store.save(state(step), step, wait=True)
            if step == 5:
                store.pin(5, "drain")
        store.wait()
        assert [c.step for c in store.checkpoints()] == [5, 10, 20, 30, 35]
        assert store.checkpoints()[0].pinned == ("drain",)
        assert same(store.load(5), state(5))
        store.unpin(5, "drain")
        assert store.gc(Retention(last=1)).dropped == (5, 10, 20, 30)


def test_compaction_moves_what_is_alive_and_frees_the_rest(tmp_path: Path) -> None:
    options = Options(
        chunk_bytes=1 << 16, segment_bytes=1 << 20, compact_below=0.9, spare_bytes=0, dedup=True
    )
    frozen = np.random.default_rng(0).integers(0, 255, 200_000, dtype=np.uint8)
    with Store.open(tmp_path / "s", options=options) as store:
        store.save({"frozen": frozen, **state(0, 1_500_000)}, 0, wait=True)
        for step in range(1, 4):
            store.save({"frozen": frozen, **state(step, 1_500_000)}, step, wait=True)
        with Store.open(tmp_path / "s", read_only=True) as reader:
            store.wait()
            manifest = reader.manifest(3, 0)  # places as they are before compaction
            report = store.gc(Retention(last=1))
            assert report.moved_bytes > 200_000
            assert report.returned_bytes > 2_000_000
            assert same(reader.load(3), {"frozen": frozen, **state(3, 1_500_000)})
            assert reader.manifest(3, 0).seal.digest == manifest.seal.digest
            assert sorted(r.key for r in reader.records(reader.manifest(3, 0))) == sorted(
                r.key for r in reader.records(manifest)
            )
        assert store.verify() == []


def test_what_the_next_saves_free_is_not_moved(tmp_path: Path) -> None:
    """Rolling saves rewrite nothing and keep to their space; what is pinned is still moved."""
    options = Options(
        chunk_bytes=1 << 16, segment_bytes=1 << 20, compact_below=0.9, retention=Retention(last=2)
    )
    with Store.open(tmp_path / "s", options=options) as store:

        def save(step: int) -> list[tuple[int, int]]:
            store.save(state(step, 300_000), step, wait=True)
            store.wait()
            return places(step)

        def places(step: int) -> list[tuple[int, int]]:
            parts = store.manifest(step, 0).parts
            return [(c.segment, c.offset_bytes) for p in parts for c in p.chunks]

        written = [save(0)]
        for step in range(1, 12):
            written.append(save(step))
            assert places(step - 1) == written[step - 1]
            assert sum(s.capacity_bytes for s in store.writing().log.segments.values()) < 5 << 20
        store.pin(11)
        for step in range(12, 18):
            save(step)
        assert places(11) != written[11]
        assert same(store.load(11), state(11, 300_000))


# --- damage -------------------------------------------------------------------------------------


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x20
    path.write_bytes(data)


class MovingOn(RealFiles):
    """A disk on which the writer turns its log over whenever a reader is about to read it."""

    def __init__(self, turns: int, turn_over: Callable[[], None]) -> None:
        self.turns, self._turn_over = turns, turn_over

    def read_bytes(self, path: str) -> bytes:
        """See :class:`Files`."""
        if path.endswith(".wal") and self.turns:
            self.turns -= 1
            self._turn_over()
        return super().read_bytes(path)


@pytest.mark.parametrize("turns", [1, 2, 7])
def test_an_index_that_moves_on_while_it_is_read_is_not_damaged(tmp_path: Path, turns: int) -> None:
    with Store.open(tmp_path / "s", options=SMALL) as store:
        store.save(state(1), 1, wait=True)
        log = store.writing()

        def turn_over() -> None:
            with log.lock:
                log.index.flush(lambda _: True)

        files = MovingOn(turns, turn_over)
        index = Index(files, str(tmp_path / "s" / "writers" / "w0"))
        assert files.turns == 0
        assert index.damage == []
        assert dict(index.scan()) == dict(log.index.scan())
        assert len(list(index.scan())) > 1


def test_a_checkpoint_dropped_while_it_is_opened_is_missing_not_damaged(tmp_path: Path) -> None:
    options = replace(SMALL, spare_bytes=0)
    with (
        Store.open(tmp_path / "s", options=options) as store,
        Store.open(tmp_path / "s", read_only=True, options=SMALL) as reader,
    ):
        for step in (1, 2, 3):
            store.save(state(step, 2_000_000), step, wait=True)
        gone = reader.read_commit(1)
        store.gc(drop=[1])
        store.save(state(1, 2_000_000), 1, wait=True)
        anew = reader.read_commit(2)
        store.gc(drop=[2])
        for commit in (gone, anew):
            with pytest.raises(CheckpointMissingError):
                reader.manifests(commit)


class Dropping(RealFiles):
    """A disk on which a checkpoint is dropped right after its commit record was read."""

    def __init__(self, name: str, drop: Callable[[], None]) -> None:
        self._name, self._drop = name, drop

    def read_bytes(self, path: str) -> bytes:
        """See :class:`Files`."""
        data = super().read_bytes(path)
        if path.endswith(self._name):
            self._name, drop = "never again", self._drop
            drop()
        return data


def test_the_newest_checkpoint_is_loaded_though_it_is_replaced_meanwhile(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", options=replace(SMALL, spare_bytes=0)) as store:
        store.save(state(1, 2_000_000), 1, wait=True)

        def drop() -> None:
            store.save(state(2, 2_000_000), 2, wait=True)
            store.gc(drop=[1])

        name = Path(store.view.commits.path(1)).name
        with Store.open(tmp_path / "s", read_only=True, files=Dropping(name, drop)) as reader:
            got = reader.load()
            assert got.step == 2
            assert same(got, state(2, 2_000_000))


def test_verifying_passes_over_what_is_dropped_meanwhile(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", options=replace(SMALL, spare_bytes=0)) as store:
        for step in (1, 2, 3):
            store.save(state(step, 2_000_000), step, wait=True)
        name = Path(store.view.commits.path(1)).name
        files = Dropping(name, lambda: store.gc(drop=[1, 2]) and None)
        with Store.open(tmp_path / "s", read_only=True, files=files) as reader:
            assert reader.verify() == []
            assert [c.step for c in reader.checkpoints()] == [3]


class Mirror:
    """A source that copied every record of a store while it was whole."""

    name = "mirror"

    def __init__(self, store: Store) -> None:
        self._commits: dict[int, bytes] = {}
        self._manifests: dict[tuple[int, int], bytes] = {}
        self._records: dict[str, bytes] = {}
        for info in store.checkpoints():
            self._commits[info.step] = store.commit_bytes(info.step)
            for rank in range(info.world):
                manifest = store.manifest(info.step, rank)
                self._manifests[info.step, rank] = manifest.encode()
                for record in store.records(manifest):
                    self._records[record.key] = store.read_record(manifest, record)

    def commit(self, step: int) -> bytes:
        return self._commits[step]

    def manifest(self, share: Prepared) -> bytes:
        return self._manifests[share.step, share.rank]

    def fetch_into(
        self, share: Prepared, records: Sequence[RecordId], outs: Sequence[Any]
    ) -> list[int]:
        assert (share.step, share.rank) in self._manifests
        for record, out in zip(records, outs, strict=True):
            out[:] = np.frombuffer(self._records[record.key], np.uint8)
        return [xxhash.xxh3_64_intdigest(out) for out in outs]


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, Mirror]:
    """A store of two checkpoints, closed, and a mirror of it."""
    options = Options(chunk_bytes=1 << 16, segment_bytes=1 << 20, compress="planes")
    with Store.open(tmp_path / "s", options=options) as store:
        store.save(state(1), 1, wait=True)
        store.save(state(1) | {"w": state(2)["w"]}, 2, wait=True)
        mirror = Mirror(store)
    return tmp_path / "s", mirror


def test_a_flipped_bit_anywhere_is_named_or_harmless_and_a_mirror_mends_it(
    damaged: tuple[Path, Mirror],
) -> None:
    root, mirror = damaged
    want = state(1) | {"w": state(2)["w"]}
    rng = np.random.default_rng(3)
    kinds = {".seg": 60, ".commit": 25, ".wal": 25, ".run": 20, "CURRENT": 15}
    seen: dict[str, int] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        kind = path.suffix or path.name
        whole = path.read_bytes()
        end = max((i for i, b in enumerate(whole) if b), default=0) + 1
        for at in rng.integers(0, end, kinds.get(kind, 0)).tolist():
            _flip(path, at)
            with Store.open(root, read_only=True) as store:
                findings = store.verify()
                error = _error_of(store, want)
                if error is not None:
                    assert str(root) in str(error)
                    assert findings, (path, at)
                    seen[kind] = seen.get(kind, 0) + 1
            with Store.open(root, read_only=True, sources=[mirror]) as store:
                assert same(store.load(2), want), (path, at)
            path.write_bytes(whole)
    assert seen[".seg"] > 5


def _error_of(store: Store, want: Arrays) -> CorruptionError | None:
    """The error of loading step 2; without one it must be what was saved."""
    try:
        got = store.load(2)
    except CorruptionError as e:
        return e
    assert same(got, want)
    return None


def test_damage_names_checkpoint_tensor_file_and_offset(store: Store) -> None:
    store.save(state(1), 3, wait=True)
    manifest = store.manifest(3, 0)
    entry = next(p for p in manifest.parts if p.name == "large")
    chunk = entry.chunks[2]
    path = Path(store.reader.path("w0", chunk.segment))
    _flip(path, chunk.offset_bytes + chunk.head_bytes + 5)
    for _ in range(2):
        with pytest.raises(CorruptionError) as caught:
            store.load(3)
        error = caught.value
        assert (error.step, error.tensor, error.file) == (3, "large", str(path))
        assert error.offset_bytes is not None
        assert chunk.offset_bytes <= error.offset_bytes <= chunk.offset_bytes + chunk.head_bytes
        assert "checkpoint 3" in str(error)
        assert "`large`" in str(error)
        assert str(path) in str(error)
    [finding] = store.verify(3)
    assert (finding.step, finding.tensor, finding.file) == (3, "large", str(path))
    assert same({"w": store.load(3, names=["w"])["w"]}, {"w": state(1)["w"]})
    assert store.load(3, names=["large"], verify=False)["large"].shape == (300_000,)


def test_repair_writes_the_record_anew(damaged: tuple[Path, Mirror]) -> None:
    root, mirror = damaged
    with Store.open(root, sources=[mirror]) as store:
        places = {
            (store.reader.path("w0", c.segment), c.offset_bytes + c.head_bytes)
            for p in store.manifest(2, 0).parts
            for c in p.chunks[:1]
        }
        for path, at in places:
            _flip(Path(path), at)
        got = store.load(2)
        assert got.repaired
        assert {r.source for r in got.repaired} == {"mirror"}
        findings = repair_store(store)
        assert findings
        assert all(f.mended for f in findings), findings
    with Store.open(root) as store:
        assert store.verify() == []
        assert same(store.load(2), state(1) | {"w": state(2)["w"]})
        assert same(store.load(1), state(1))


@pytest.mark.parametrize("victim", ["*.run", "*.wal", "CURRENT"])
def test_a_lost_index_is_rebuilt_from_the_segments(
    damaged: tuple[Path, Mirror], victim: str
) -> None:
    root, _ = damaged
    for path in root.rglob(victim):
        path.unlink()
    with Store.open(root, read_only=True) as store:
        if victim != "CURRENT":
            assert same(store.load(1), state(1))
    with Store.open(root) as store:
        assert same(store.load(1), state(1))
        store.save(state(5), 5, wait=True)
    with Store.open(root) as store:
        assert store.verify() == []
        assert same(store.load(1), state(1))
        assert same(store.load(5), state(5))


def test_a_lost_store_is_loaded_from_a_source(damaged: tuple[Path, Mirror]) -> None:
    _, mirror = damaged
    assert same(load_from([mirror], decode_commit(mirror.commit(1))), state(1))
    newest = load_from([mirror], decode_commit(mirror.commit(2)))
    assert same(newest, state(1) | {"w": state(2)["w"]})


# --- faults of the disk -------------------------------------------------------------------------


class FaultyFile(RealFile):
    """A file whose writes, reads or syncs fail when the plan says so."""

    plan: Callable[[str, str], int | None]

    def write_at(self, buffers: Sequence[Buffer], offset_bytes: int) -> None:
        _fail(self.plan("write", self.path), self.path)
        super().write_at(buffers, offset_bytes)

    def sync(self) -> None:
        _fail(self.plan("sync", self.path), self.path)
        super().sync()

    def allocate(self, length_bytes: int) -> None:
        _fail(self.plan("allocate", self.path), self.path)
        super().allocate(length_bytes)


def _fail(code: int | None, path: str) -> None:
    if code:
        raise StorageError("cannot do that", path=path, errno_=code)


class FaultyFiles(RealFiles):
    """Files that fail by a plan: (operation, path) -> errno or None."""

    def __init__(self) -> None:
        self.plan: Callable[[str, str], int | None] = lambda *_: None

    def open(self, path: str, mode: str, *, direct: bool = False) -> RealFile:
        real = super().open(path, mode, direct=direct)
        file = FaultyFile(path, real._fd, direct=real.direct)
        real._fd = -1
        file.plan = self._now
        return file

    def _now(self, op: str, path: str) -> int | None:
        return self.plan(op, path)

    def rename(self, source: str, target: str) -> None:
        _fail(self.plan("rename", target), target)
        super().rename(source, target)

    def sync_dir(self, path: str) -> None:
        _fail(self.plan("sync_dir", path), path)
        super().sync_dir(path)


@pytest.mark.parametrize("suffix", [".seg", ".wal", ".commit", ".commit.tmp", "commits"])
@pytest.mark.parametrize("operation", ["write", "sync", "allocate", "rename", "sync_dir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_loses_nothing_and_says_so(
    tmp_path: Path, suffix: str, operation: str, code: int
) -> None:
    files = FaultyFiles()
    store = Store.open(tmp_path / "s", options=SMALL, files=files)
    store.save(state(1), 1, wait=True)
    failed = threading.Event()

    def plan(op: str, path: str) -> int | None:
        if op == operation and path.endswith(suffix):
            failed.set()
            return code
        return None

    files.plan = plan
    handle = store.save(state(2, 1_200_000), 2)
    handle.join()
    store.wait() if handle.error is None else None
    if failed.is_set() and handle.error is not None:
        assert isinstance(handle.error, StorageError)
        assert handle.error.hint
        with pytest.raises(StorageError):
            handle.wait()
    files.plan = lambda *_: None
    assert same(store.load(1), state(1))
    if handle.error is not None:
        # A record whose folder could not be synced may be there or not; it is never half there.
        assert 2 not in [c.step for c in store.checkpoints()] or same(
            store.load(2), state(2, 1_200_000)
        )
    store.close()
    with Store.open(tmp_path / "s", options=SMALL) as store:
        store.save(state(3), 3, wait=True)
        assert same(store.load(3), state(3))
        assert same(store.load(1), state(1))
        assert store.verify() == []


@pytest.mark.parametrize("most", [5000, 100_000])
def test_short_writes_and_reads_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    write, read = os.pwritev, os.preadv

    def less(buffers: Sequence[Buffer]) -> list[memoryview]:
        first = memoryview(buffers[0])
        return [first[:most]] if len(first) > 8192 else [first]

    def short_write(fd: int, buffers: Sequence[Buffer], at: int) -> int:
        whole = write(fd, buffers, at)
        return min(whole, sum(map(len, less(buffers))))  # the rest is written twice

    def short_read(fd: int, buffers: Sequence[memoryview], at: int) -> int:
        first = memoryview(buffers[0])
        size = max(4096, most // 4096 * 4096)
        return read(fd, [first[:size]] if len(first) > size else buffers, at)

    monkeypatch.setattr(os, "pwritev", short_write)
    monkeypatch.setattr(os, "preadv", short_read)
    with Store.open(tmp_path / "s", options=SMALL) as store:
        store.save(state(), 1, wait=True)
        assert same(store.load(), state())
        assert store.verify() == []


def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    files = FaultyFiles()
    with Store.open(tmp_path / "s", options=SMALL, files=files) as store:
        store.save(state(1), 1, wait=True)
        files.plan = lambda *_: errno.EROFS
        handle = store.save(state(2, 2_000_000), 2)
        handle.join()
        with pytest.raises(StorageError, match="read-only") as caught:
            handle.wait()
        assert caught.value.where
        assert same(store.load(), state(1))
        files.plan = lambda *_: None
        store.save(state(3), 3, wait=True)


def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([5e9, 1.0, 4e9, 0.0, 3e9, 2.0] * 10)
    monkeypatch.setattr("time.time", lambda: next(times))
    with Store.open(tmp_path / "s", options=SMALL) as store:
        for step in (1, 2, 3):
            store.save(state(step), step, wait=True)
        assert [c.step for c in store.checkpoints()] == [1, 2, 3]
        assert store.load().step == 3
        assert store.gc(Retention(last=1)).dropped == (1, 2)


def test_staging_memory_is_pinned_while_it_is_used(tmp_path: Path) -> None:
    held: dict[int, int] = {}

    class Driver:
        def pin(self, address: int, nbytes: int) -> None:
            held[address] = nbytes

        def unpin(self, address: int) -> None:
            del held[address]

    options = Options(chunk_bytes=1 << 16, segment_bytes=1 << 20, pinner=Driver())
    with Store.open(tmp_path / "s", options=options) as store:
        for large in (300_000, 5_000_000):
            store.save(state(0, large), large, wait=True)
            assert len(held) == 1
            assert sum(held.values()) >= large
        assert store.stats()["arena_bytes"] == sum(held.values())
    assert held == {}


def test_an_error_nobody_saw_is_raised_by_the_next_save_once(tmp_path: Path) -> None:
    files = FaultyFiles()
    with Store.open(tmp_path / "s", options=SMALL, files=files) as store:
        files.plan = lambda _, path: errno.ENOSPC if path.endswith(".seg") else None
        store.save(state(1), 1).join()
        files.plan = lambda *_: None
        with pytest.raises(StorageError, match="disk is full"):
            store.save(state(2), 2)
        store.save(state(2), 2, wait=True)
        assert [c.step for c in store.checkpoints()] == [2]
        assert store.stats()["saves_failed"] == 1


# --- mistakes -----------------------------------------------------------------------------------


def test_mistakes_are_told_with_the_place_and_a_hint(tmp_path: Path, store: Store) -> None:
    store.save(state(), 1, wait=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("x")
    (tmp_path / "new").mkdir()
    newer = bytearray((Path(store.root) / "BURST").read_bytes())
    cases: list[tuple[type[InputError], Callable[[], object], str]] = [
        (NotAStoreError, lambda: Store.open(tmp_path / "full"), "full"),
        (NotAStoreError, lambda: Store.open(tmp_path / "none", create=False), "none"),
        (NotAStoreError, lambda: Store.open(tmp_path / "none", read_only=True), "none"),
        (StoreBusyError, lambda: Store.open(store.root), "w0"),
        (CheckpointMissingError, lambda: store.load(9), "committed steps: 1"),
        (TensorMissingError, lambda: store.load(names=["large.w"]), "did you mean"),
        (TensorMissingError, lambda: store.read(1, "nope"), "nope"),
        (MismatchError, lambda: store.load(into={"w": np.zeros((33, 58))}), "(33, 57)"),
        (MismatchError, lambda: store.load(into={"w": np.zeros((33, 57), np.float32)}), "float64"),
        (MismatchError, lambda: store.save({"x": object()}, 2), "x"),
        (MismatchError, lambda: store.save({"x": np.zeros(3, object)}, 2), "x"),
        (MismatchError, lambda: store.save({"x": Shard(data=b"abc", dtype="int32", shape=(1,))}, 2),
         "3 bytes"),
        (MismatchError, lambda: store.save({}, -1), "-1"),
        (MismatchError, lambda: store.save({}, 1, rank=2, world=2), "rank 2"),
        (BadNameError, lambda: store.save({"../x": np.zeros(1)}, 2), "../x"),
        (BadNameError, lambda: store.save({"a/../../x": np.zeros(1)}, 2), "a/../../x"),
        (BadNameError, lambda: store.save({"/etc/x": np.zeros(1)}, 2), "/etc/x"),
        (BadNameError, lambda: store.save({"a\0b": np.zeros(1)}, 2), "control"),
        (BadNameError, lambda: store.save({"": np.zeros(1)}, 2), "empty"),
        (BadNameError, lambda: Store.open(tmp_path / "new", writer="../w"), "../w"),
        (BadNameError, lambda: store.pin(1, "../../x"), "owner"),
    ]  # fmt: skip
    before = sorted(p for p in tmp_path.rglob("*"))
    for kind, do, part in cases:
        with pytest.raises(kind) as caught:
            do()
        assert part in str(caught.value), (kind, str(caught.value))
        assert caught.value.exit_code == 2
    assert sorted(p for p in tmp_path.rglob("*")) == before
    assert newer


def test_a_newer_format_is_refused_and_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weftline.burst.log.envelope.FORMAT_VERSION", FORMAT_VERSION + 1)
    save(state(), tmp_path / "s")
    monkeypatch.undo()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(NewerFormatError, match=f"written in format {FORMAT_VERSION + 1}"):
        Store.open(tmp_path / "s")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_read_only_store_writes_nothing(tmp_path: Path) -> None:
    save(state(), tmp_path / "s")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with Store.open(tmp_path / "s", read_only=True) as store:
        assert same(store.load(), state())
        with pytest.raises(MismatchError, match="read-only"):
            store.save(state(), 2)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
