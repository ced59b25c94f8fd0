"""A copy that hashes on the way is a copy, and the hash is the library's, of what was copied."""

from __future__ import annotations

import itertools
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.burst import Options, Store
from weftline.burst.session import SaveSession
from weftline.burst.stage import copying
from weftline.burst.stage.arena import Arena, aligned_buffer, copy_parts, rooms_for
from weftline.burst.stage.copying import PIECE_BYTES, Landing, copy_bytes, make_ready
from weftline.burst.stage.kernel import LEAST_BYTES, compile_kernel, kernel_text
from weftline.burst.stage.state import parts_of

MIB = 1 << 20
SOURCE = np.random.default_rng(0).integers(0, 256, 3 * MIB, dtype=np.uint8)
KERNEL = compile_kernel()


@pytest.fixture(autouse=True)
def ready() -> None:
    assert make_ready()


@settings(max_examples=300, deadline=None)
@given(
    at=st.integers(0, 40).map(lambda n: 64 * n),
    start=st.integers(0, 200),
    length=st.integers(LEAST_BYTES, 4500)
    | st.integers(1, 60).flatmap(lambda n: st.integers(1024 * n - 66, 1024 * n + 66))
    | st.integers(LEAST_BYTES, 2 * MIB),
)
def test_the_kernel_copies_and_computes_xxh3(at: int, start: int, length: int) -> None:
    assert KERNEL is not None
    out = aligned_buffer(at + length + 128)
    data = SOURCE[start : start + length]
    assert KERNEL(out.ctypes.data + at, data.ctypes.data, length) == xxhash.xxh3_64_intdigest(data)
    assert np.array_equal(out[at : at + length], data)
    assert not out[:at].any()
    assert not out[at + length :].any()


@settings(max_examples=60, deadline=None)
@given(
    start=st.sampled_from([0, 64, 8]),
    length=st.integers(0, 5000)
    | st.integers(4, 11).flatmap(lambda n: st.integers(n * MIB // 4 - 70, n * MIB // 4 + 70)),
)
def test_what_lands_in_pieces_is_hashed_as_a_whole(start: int, length: int) -> None:
    out = aligned_buffer(start + length + 128)
    data, at = SOURCE[5 : 5 + length], 0
    landing = Landing(out[start : start + length], np.empty(PIECE_BYTES, np.uint8))
    while count := len(room := landing.room()):
        room[:] = data[at : at + count].data
        at += count
        landing.landed()
    assert landing.digest == xxhash.xxh3_64_intdigest(data)
    assert np.array_equal(out[start : start + length], data)
    assert not out[:start].any()
    assert not out[start + length :].any()


@pytest.mark.parametrize("byte", [0, 255])
def test_words_that_overflow_every_lane(byte: int) -> None:
    data = np.full(MIB + 77, byte, np.uint8)
    out = aligned_buffer(len(data))
    assert copy_bytes(out, data) == xxhash.xxh3_64_intdigest(data)


def test_small_or_unaligned_copies_are_plain() -> None:
    for out, length in ((aligned_buffer(MIB), MIB - 1), (aligned_buffer(2 * MIB)[8:], MIB)):
        assert copy_bytes(out[:length], SOURCE[:length]) is None
        assert np.array_equal(out[:length], SOURCE[:length])


def test_the_hash_is_that_of_the_copy_while_the_source_changes() -> None:
    source, stop = SOURCE[: 2 * MIB + 100].copy(), threading.Event()

    def change() -> None:
        value = 0
        while not stop.is_set():
            value = (value + 1) % 256
            source[:: 61 + value % 3] = value
            source[-1100:] = value

    thread = threading.Thread(target=change)
    thread.start()
    out, torn = aligned_buffer(len(source)), 0
    for _ in range(300):
        before = source.copy()
        assert copy_bytes(out, source) == xxhash.xxh3_64_intdigest(out)
        torn += not np.array_equal(out, before)
    stop.set()
    thread.join()
    assert torn  # it did change meanwhile


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("chunk_bytes", [4096, MIB, 2 * MIB + 4096, 32 * MIB])
def test_parts_arrive_and_hashes_are_those_of_their_chunks(threads: int, chunk_bytes: int) -> None:
    rng = np.random.default_rng(1)
    state: dict[str, Any] = {
        "long": rng.integers(0, 256, 21 * MIB + 13, dtype=np.uint8),
        "strided": rng.standard_normal((1000, 999))[:, ::2],
        "transposed": rng.standard_normal((300, 700)).T,
        "small": rng.standard_normal(10),
        "none": np.empty((0, 3)),
    }
    parts = parts_of(state)
    rooms = rooms_for(parts, Arena())
    with ThreadPoolExecutor(2) as pool:
        hashes: dict[tuple[int, int], int] = {}

        def staged(part: int, chunk: int, hashed: int) -> None:
            hashes[part, chunk] = hashed

        copy_parts(parts, rooms, pool, threads=threads, chunk_bytes=chunk_bytes, staged=staged)
    for part, room in zip(parts, rooms, strict=True):
        assert room[: part.nbytes].tobytes() == state[part.name].tobytes()
    for (i, k), hashed in hashes.items():
        end = min((k + 1) * chunk_bytes, parts[i].nbytes)
        assert hashed == xxhash.xxh3_64_intdigest(rooms[i][k * chunk_bytes : end])
    # A chunk of more than 16 MiB is copied in pieces, and hashed when it is written.
    expected = {4096: 0, MIB: 21, 2 * MIB + 4096: 10, 32 * MIB: 0}[chunk_bytes]
    assert sum(parts[i].name == "long" for i, _ in hashes) == expected


def test_a_state_that_was_hashed_as_it_was_staged_reads_back(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"a": np.tile(SOURCE, 4), "b": np.arange(1000.0)}
    seen: list[int] = []
    real = copying.copy_bytes

    def spy(out: Any, data: Any) -> int | None:
        seen.append(len(out))
        return real(out, data)

    monkeypatch.setattr("weftline.burst.stage.arena.copy_bytes", spy)
    with Store.open(tmp_path / "s", options=Options(compress="zstd")) as store:
        store.save(state, 1, wait=True)
        assert sorted(seen)[-1] == 8 * MIB
        assert store.verify() == []
        loaded = store.load()
        assert all(np.array_equal(loaded[k], v) for k, v in state.items())


@pytest.fixture
def slow_copies(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Copies that leave writers time; "fail" is the number of the one that fails, if any."""
    state = np.tile(SOURCE, 30)[: 75 * MIB]
    seen: dict[str, Any] = {"copies": 0, "fail": None, "early": 0, "state": state}
    numbers = itertools.count(1)
    real_write = SaveSession._write_large

    def copy(out: Any, data: Any) -> int | None:
        time.sleep(0.02)
        seen["copies"] = number = next(numbers)
        if number == seen["fail"]:
            raise MemoryError
        return copying.copy_bytes(out, data)

    def write(session: SaveSession, job: Any) -> Any:
        seen["early"] += seen["copies"] < 10
        assert np.array_equal(job.raw, state[8 * MIB * job.index :][: len(job.raw)])
        return real_write(session, job)

    monkeypatch.setattr("weftline.burst.stage.arena.copy_bytes", copy)
    monkeypatch.setattr(SaveSession, "_write_large", write)
    return seen


def test_chunks_that_are_written_while_others_are_copied_arrive(
    tmp_path: Any, slow_copies: dict[str, Any]
) -> None:
    with Store.open(tmp_path / "s") as store:
        store.reserve(80 * MIB)
        store.save({"a": slow_copies["state"]}, 1, wait=True)
        assert slow_copies["early"] >= 2
        assert np.array_equal(store.load()["a"], slow_copies["state"])
        assert store.verify() == []


def test_a_copy_that_fails_leaves_the_store_as_it_was(
    tmp_path: Any, slow_copies: dict[str, Any]
) -> None:
    with Store.open(tmp_path / "s") as store:
        store.reserve(80 * MIB)
        slow_copies["fail"] = 6
        with pytest.raises(MemoryError):
            store.save({"a": slow_copies["state"]}, 1)
        assert slow_copies["early"] >= 1
        assert store.checkpoints() == []
        store.save({"a": slow_copies["state"]}, 2, wait=True)
        assert np.array_equal(store.load(2)["a"], slow_copies["state"])
        assert store.verify() == []


def test_a_wrong_hash_of_staging_does_not_pass(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weftline.burst.errors import CorruptionError

    def wrong(out: Any, data: Any) -> int | None:
        hashed = copying.copy_bytes(out, data)
        return None if hashed is None else hashed ^ 1

    monkeypatch.setattr("weftline.burst.stage.arena.copy_bytes", wrong)
    with Store.open(tmp_path / "s") as store:
        store.save({"a": SOURCE}, 1, wait=True)
        with pytest.raises(CorruptionError):
            store.load()


def test_what_is_copied_is_there_for_another_thread() -> None:
    out = aligned_buffer(2 * MIB)
    turn, back = threading.Event(), threading.Event()
    wrong: list[int] = []

    def check() -> None:
        for i in range(200):
            turn.wait()
            turn.clear()
            if not np.array_equal(out, np.roll(SOURCE, i)[: 2 * MIB]):
                wrong.append(i)
            back.set()

    thread = threading.Thread(target=check)
    thread.start()
    for i in range(200):
        copy_bytes(out, np.roll(SOURCE, i)[: 2 * MIB])
        turn.set()
        back.wait()
        back.clear()
    thread.join()
    assert wrong == []


def test_without_llvm_copies_are_plain_and_the_store_says_so(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_kernel", None)
    state = {"a": np.tile(SOURCE, 24)}
    with Store.open(tmp_path / "s") as store:
        for step in (1, 2):
            store.save(state, step, wait=True)
        assert sum("llvmlite" in n for n in store.notices) == 1
        assert np.array_equal(store.load()["a"], state["a"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_llvm_leaves_little_in_memory() -> None:
    code = """
import pathlib
from weftline.burst.stage.copying import make_ready
assert make_ready()
kept = 0
for block in pathlib.Path("/proc/self/smaps").read_text().split("VmFlags"):
    lines = block.strip().splitlines()
    head = next((x for x in lines if " r-xp " in x), "")
    if "llvmlite" in head:
        kept += int(next(x for x in lines if x.startswith("Rss:")).split()[1]) << 10
print(kept)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 * MIB


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of this kind")
@pytest.mark.parametrize("cpu", ["x86-64", "x86-64-v2", "haswell"])
def test_lesser_processors_compute_the_same(cpu: str) -> None:
    kernel = compile_kernel(cpu)
    assert kernel is not None
    out = aligned_buffer(2 * MIB)
    for length in (LEAST_BYTES, 1024, 1025, 5000, 2 * MIB - 5):
        data = SOURCE[3 : 3 + length]
        assert kernel(out.ctypes.data, data.ctypes.data, length) == xxhash.xxh3_64_intdigest(data)
        assert np.array_equal(out[:length], data)


def test_arm_gets_streaming_stores_too() -> None:
    """Compiled, not run."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    text = kernel_text(x86=False)
    assert "x86" not in text
    module = llvm.parse_assembly(text)
    module.verify()
    target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    code = target.create_target_machine(cpu="neoverse-n1", opt=3).emit_assembly(module)
    assert code.count("stnp") >= 32  # 16 stripes of 64 bytes, 32 at a time
