"""The bytes on disk: every kind of block is read back; a changed byte is never taken for data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.burst.errors import BurstError, CorruptionError, NewerFormatError
from weftline.burst.files import RealFiles
from weftline.burst.log.envelope import FORMAT_VERSION, open_either, open_envelope, seal_twice
from weftline.burst.log.record import (
    Chunk,
    PartEntry,
    about_of,
    head_bytes,
    pack_head,
    part_key,
    unpack_head,
)
from weftline.burst.log.runs import Run, write_run
from weftline.burst.log.wal import read_wal, wal_frame, wal_head
from weftline.burst.read.boxes import flat_boxes

KEYS = st.binary(min_size=1, max_size=40)
ENTRIES = st.dictionaries(KEYS, st.binary(max_size=60), max_size=60)


def chunk(about_bytes: int, *, large: bool) -> Chunk:
    return Chunk(
        segment=3, epoch=9, offset_bytes=4096, head_bytes=head_bytes(about_bytes, large=large),
        stored_bytes=77, raw_bytes=77, codec=0, seq=11, hash=123, raw_hash=123,
    )  # fmt: skip


@pytest.mark.parametrize("large", [True, False])
def test_every_flipped_bit_of_a_head_is_seen(large: bool) -> None:
    entry = PartEntry(
        name="layer/ü", part=1, dtype="bfloat16", shape=(7,), global_shape=(14,), offsets=(7,),
        chunk_bytes=4096, chunks=[],
    )  # fmt: skip
    draft = chunk(0, large=large)
    about = about_of(5, entry, 2, draft)
    data = bytearray(pack_head(chunk(len(about), large=large), about))
    assert len(data) % (4096 if large else 64) == 0
    head = unpack_head(bytes(data), file="f", offset_bytes=0)
    assert (head.epoch, head.seq, head.about.name, head.about.index) == (9, 11, "layer/ü", 2)
    for at in range(len(data)):
        data[at] ^= 1 << (at % 8)
        with pytest.raises(CorruptionError):
            unpack_head(bytes(data), file="f", offset_bytes=0)
        data[at] ^= 1 << (at % 8)


def test_every_flipped_bit_of_an_envelope_is_seen_and_the_second_copy_stands_in() -> None:
    data = bytearray(seal_twice("K", [1, "two", "three"]))
    for at in range(len(data)):
        data[at] ^= 1 << (at % 8)
        body, damage = open_either("K", bytes(data), list[int | str], path="f")
        assert body == [1, "two", "three"]
        assert damage is not None
        assert damage.offset_bytes == (0 if at < len(data) // 2 else len(data) // 2)
        data[at] ^= 1 << (at % 8)


def test_a_newer_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weftline.burst.log.envelope.FORMAT_VERSION", FORMAT_VERSION + 1)
    data = seal_twice("K", [1])
    monkeypatch.undo()
    with pytest.raises(NewerFormatError, match="update weftline"):
        open_envelope("K", data, list[int], path="f")


@given(frames=st.lists(st.lists(st.tuples(KEYS, st.binary(max_size=30)), max_size=4), max_size=6),
       data=st.data())  # fmt: skip
def test_a_log_cut_anywhere_gives_its_whole_frames(
    frames: list[list[tuple[bytes, bytes]]], data: st.DataObject
) -> None:
    number = 5
    log = wal_head("id", number)
    ends = [len(log)]
    for i, frame in enumerate(frames):
        log += wal_frame(number, i + 1, frame)
        ends.append(len(log))
    cut = data.draw(st.integers(ends[0], len(log)))
    whole = sum(e <= cut for e in ends[1:])
    got, hole = read_wal(log[:cut], number, path="f")
    assert got[:whole] == frames[:whole]
    assert len(got) - whole in (0, 1)  # a frame whose padding alone is cut is whole
    assert hole is None
    if frames:
        # One changed byte loses one frame, and is told from a torn end unless it is the last.
        at = data.draw(st.integers(ends[0], len(log) - 1))
        bad = bytearray(log)
        bad[at] ^= 0x10
        got, hole = read_wal(bytes(bad), number, path="f")
        lost = next(i for i, e in enumerate(ends[1:]) if at < e)
        assert got in (frames, frames[:lost] + frames[lost + 1 :])
        if got != frames and lost < len(frames) - 1:
            assert hole == ends[lost]


def test_frames_of_another_log_do_not_count() -> None:
    log = wal_head("id", 6) + wal_frame(5, 1, [(b"k", b"v")])
    assert read_wal(log, 6, path="f") == ([], None)


@given(entries=ENTRIES, prefix=st.binary(max_size=2))
def test_a_run_finds_what_a_dictionary_would(
    entries: dict[bytes, bytes], prefix: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("run") / "r"
    path.write_bytes(write_run(sorted(entries.items())))
    run = Run(RealFiles().open(str(path), "r"))
    want = sorted((k, v) for k, v in entries.items() if k.startswith(prefix))
    assert list(run.scan(prefix)) == want
    run.close()


def test_a_run_of_many_blocks_is_searched_and_its_damage_is_named(tmp_path: Path) -> None:
    entries = {part_key(s, f"t{i:04d}", 0): bytes(100) for s in (1, 2, 3) for i in range(900)}
    path = tmp_path / "r"
    data = write_run(sorted(entries.items()))
    path.write_bytes(data)
    run = Run(RealFiles().open(str(path), "r"))
    for save in (1, 2, 3):
        assert len(list(run.scan(save.to_bytes(8, "big")))) == 900
    assert len(list(run.scan(b""))) == 2700
    run.close()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 200).tolist():
        bad = bytearray(data)
        bad[at] ^= 0x40
        path.write_bytes(bad)
        file = RealFiles().open(str(path), "r")
        try:
            damage: list[BurstError] = list(Run(file).damage())
        except CorruptionError as e:
            damage = [e]
        file.close()
        assert damage, at
        assert "r" in (damage[0].where or "")


@given(shape=st.lists(st.integers(1, 5), max_size=4), data=st.data())
def test_boxes_of_a_flat_range_are_that_range(shape: list[int], data: st.DataObject) -> None:
    total = int(np.prod(shape)) if shape else 1
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    numbers = np.arange(total).reshape(shape)
    got: list[int] = []
    for at, (offsets, sizes) in flat_boxes(tuple(shape), start, stop):
        block = numbers[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))]
        assert block.reshape(-1)[0] == at
        got += block.reshape(-1).tolist()
    assert got == list(range(start, stop))
