"""A streaming copy is a copy: any place, any length, nothing beside it touched."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.burst import copying
from weftline.burst.arena import aligned_buffer
from weftline.burst.copying import copy_array, make_ready

MIB = 1 << 20
SOURCE = np.random.default_rng(0).integers(0, 256, 3 * MIB, dtype=np.uint8)


@pytest.fixture(autouse=True)
def ready() -> None:
    assert make_ready()


@settings(max_examples=60, deadline=None)
@given(
    at=st.integers(0, 3) | st.integers(0, 40).map(lambda n: 64 * n),
    start=st.integers(0, 200),
    length=st.integers(MIB - 3, MIB + 300) | st.integers(0, 2 * MIB),
)
def test_bytes_arrive_and_nothing_beside_them(at: int, start: int, length: int) -> None:
    out = aligned_buffer(at + length + 128)
    copy_array(out[at : at + length], SOURCE[start : start + length])
    assert np.array_equal(out[at : at + length], SOURCE[start : start + length])
    assert not out[:at].any()
    assert not out[at + length :].any()


@pytest.mark.parametrize("order", ["C", "strided", "transposed"])
def test_any_layout_of_the_source(order: str) -> None:
    data = SOURCE.view(np.float32)[: 700 * 700].reshape(700, 700).copy()
    data = {"C": data, "strided": data[:, ::2], "transposed": data.T}[order]
    out = aligned_buffer(data.nbytes).view(np.float32).reshape(data.shape)
    copy_array(out, data)
    assert out.tobytes() == data.tobytes()


def test_large_aligned_copies_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(copying, "_stream", lambda _to, _from, blocks: seen.append(blocks))
    copy_array(aligned_buffer(2 * MIB), SOURCE[: 2 * MIB])
    copy_array(aligned_buffer(2 * MIB)[8:], SOURCE[: 2 * MIB - 8])
    copy_array(aligned_buffer(MIB // 2), SOURCE[: MIB // 2])
    assert seen == [2 * MIB // 64]


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
        copy_array(out, np.roll(SOURCE, i)[: 2 * MIB])
        turn.set()
        back.wait()
        back.clear()
    thread.join()
    assert wrong == []
