"""Copies from a device go on a stream of their own into pinned memory: shown with a stand-in.

The device's memory is host memory, its streams do their work when they are waited for, in order,
as a device may. What it has computed when a save is called is what is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from weftline.burst import Options, Shard, Store
from weftline.burst.pytorch import devices
from weftline.burst.pytorch.devices import CudaPinner, DeviceCopies, pinning
from weftline.burst.pytorch.tensors import TensorFill

DEVICE = torch.device("cuda", 0)
entered: list[Stream] = []


class Stream:
    """Work in order, done when somebody waits for it."""

    def __init__(self, device: torch.device) -> None:
        assert device == DEVICE
        self.work: list[Callable[[], Any]] = []

    def wait_stream(self, other: Stream) -> None:
        upto = len(other.work)
        self.work.append(lambda: other.run(upto))

    def run(self, upto: int | None = None) -> None:
        for i in range(len(self.work) if upto is None else upto):
            do, self.work[i] = self.work[i], int
            do()

    def record_event(self) -> Stream:
        return self

    def synchronize(self) -> None:
        self.run()

    def __enter__(self) -> None:
        entered.append(self)

    def __exit__(self, *_: object) -> None:
        entered.pop()


class OnDevice(torch.Tensor):
    """A tensor of the device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE


@pytest.fixture
def main_stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """What training's own work is on."""
    stream = Stream(DEVICE)
    real = torch.Tensor.copy_

    def copy(self: Any, source: Any, non_blocking: bool = False) -> Any:
        if not isinstance(source, OnDevice):
            return real(self, source, non_blocking)
        assert non_blocking
        entered[-1].work.append(lambda: real(self, source.as_subclass(torch.Tensor)))
        return self

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    monkeypatch.setattr(devices.torch, "Stream", Stream)
    monkeypatch.setattr(devices.torch.accelerator, "current_stream", lambda _: stream)
    return stream


def test_a_save_has_what_was_computed_before_it_and_nothing_after(
    tmp_path: Path, main_stream: Stream
) -> None:
    held: dict[int, int] = {}

    class Driver:
        def pin(self, address: int, nbytes: int) -> None:
            held[address] = nbytes

        def unpin(self, address: int) -> None:
            del held[address]

    weights = torch.zeros(300_000)
    main_stream.work.append(lambda: weights.fill_(1))  # launched, and not done yet
    fill = TensorFill(weights.as_subclass(OnDevice))
    main_stream.work.append(lambda: weights.fill_(2))  # another thread's, beside the save
    with Store.open(tmp_path / "s", options=Options(pinner=Driver())) as store:
        shard = Shard(data=fill, dtype="float32", shape=(300_000,))
        handle = store.save({"w": shard}, 1)
        assert len(held) == 1
        assert len(main_stream.work) == 2
        assert main_stream.work[1] is not int, "the copy waited for what came after the save"
        main_stream.run()  # training goes on: what was staged does not change any more
        handle.wait()
        assert (store.load()["w"] == 1).all()
    assert not held


def test_copies_of_one_device_share_a_stream_and_are_waited_for_once(main_stream: Stream) -> None:
    copies = DeviceCopies()
    sources = [torch.full((10,), float(n)).as_subclass(OnDevice) for n in range(3)]
    targets = [torch.zeros(10) for _ in sources]
    for target, source in zip(targets, sources, strict=True):
        copies.note(source.device)
        copies.start(target, source)
    assert not any(t.any() for t in targets)
    copies.finish()
    assert [float(t[0]) for t in targets] == [0, 1, 2]


def test_staging_memory_is_registered_with_cuda_once_it_is_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []

    class Driver:
        def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
            told.append((address, nbytes, flags))
            return 0 if nbytes < 100 else 2

        def cudaHostUnregister(self, address: int) -> None:  # noqa: N802
            told.append(address)

    assert pinning(None).pinner is None  # no device here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", Driver)
    pinner = pinning(None).pinner
    assert isinstance(pinner, CudaPinner)
    assert pinning(Options(pinner=pinner)).pinner is pinner
    pinner.pin(1, 10)
    assert not told  # no device is in use
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    pinner.pin(1, 10)
    with pytest.warns(UserWarning, match="could not be pinned"):
        pinner.pin(2, 100)
    for address in (1, 2):
        pinner.unpin(address)
    assert told == [(1, 10, 0), (2, 100, 0), 1]
