"""Copies from devices to staging memory: pinned, and on streams of their own.

A copy waits for what its device was told to compute before the save, and for nothing that comes
after: other threads go on giving it work. Pageable memory would be copied twice, by way of a
buffer of the driver.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch

from weftline.burst.options import Options

__all__ = ["CudaPinner", "DeviceCopies", "pinning"]

_cuda: Any = torch.cuda


class CudaPinner:
    """Registers staging memory with the CUDA driver. Memory that it refuses stays pageable."""

    def __init__(self) -> None:
        self._pinned: set[int] = set()

    def pin(self, address: int, nbytes: int) -> None:
        """See :class:`~weftline.burst.stage.arena.Pinner`."""
        if not _cuda.is_initialized():
            return  # nothing is on a device, and to ask would take memory of one
        code = int(_cuda.cudart().cudaHostRegister(address, nbytes, 0))
        if code:
            warnings.warn(
                f"staging memory could not be pinned (CUDA error {code}): copies from devices are "
                "slower; see `ulimit -l`",
                stacklevel=2,
            )
            return
        self._pinned.add(address)

    def unpin(self, address: int) -> None:
        """See :class:`~weftline.burst.stage.arena.Pinner`."""
        if address in self._pinned:
            self._pinned.remove(address)
            _cuda.cudart().cudaHostUnregister(address)


def pinning(options: Options | None) -> Options:
    """The settings of a store, with staging memory pinned where there is a CUDA device."""
    options = Options() if options is None else options
    if options.pinner is not None or not _cuda.is_available():
        return options
    return dataclasses.replace(options, pinner=CudaPinner())


class DeviceCopies:
    """Copies of what devices have computed when they were noted."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.Stream] = {}

    def note(self, device: torch.device) -> None:
        """Copies from ``device`` are of what it was told to compute until now, by this thread."""
        if device not in self._streams:
            stream = self._streams[device] = torch.Stream(device)
            stream.wait_stream(torch.accelerator.current_stream(device))

    def start(self, target: Any, source: Any) -> None:
        """Begin to copy a tensor or storage of a device that was noted."""
        with self._streams[source.device]:
            target.copy_(source, non_blocking=True)

    def finish(self) -> None:
        """Wait for the copies that were begun."""
        for event in [stream.record_event() for stream in self._streams.values()]:
            event.synchronize()
