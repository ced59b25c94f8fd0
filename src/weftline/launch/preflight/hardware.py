"""What one process measures of its own host: products a second, a disk, an object store."""

from __future__ import annotations

import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

WORK_S: Final = 0.1
WORK_WINDOWS: Final = 3
DISK_BYTES: Final = 8 << 20
STORE_TIMEOUT_S: Final = 5


def work_per_s(device: str) -> float:
    """Products of fixed matrices a second, the best of several windows: float32 on a CPU, bf16 on
    a GPU."""
    if device == "cpu":
        import numpy as np

        value = np.full((96, 96), 0.5, dtype=np.float32)

        def some() -> int:
            for _ in range(8):
                np.matmul(value, value)
            return 8
    else:
        import torch

        large = torch.full((8192, 8192), 0.01, dtype=torch.bfloat16, device=device)

        def some() -> int:
            for _ in range(4):
                torch.matmul(large, large)
            torch.cuda.synchronize()
            return 4

    some()
    best = 0.0
    for _ in range(WORK_WINDOWS):
        done, began, waited = 0, time.perf_counter(), _waited_s()
        while time.perf_counter() - began < WORK_S:
            done += some()
        took = time.perf_counter() - began - (_waited_s() - waited if device == "cpu" else 0.0)
        best = max(best, done / max(took, WORK_S / 100))
    return best


def _waited_s() -> float:
    """Seconds this process was ready to run while others had its core: no fault of the chip.

    Linux's count (Documentation/scheduler/sched-stats.rst); 0 where it is not kept.
    """
    try:
        return int(Path("/proc/self/schedstat").read_text("ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def disk_bytes_per_s(folder: str) -> float:
    """Rate of writing a file where checkpoints go, flushed to the device. Raises OSError."""
    block = os.urandom(1 << 20)
    handle, name = tempfile.mkstemp(prefix=".weftline-preflight-", dir=folder or None)
    try:
        tick = time.perf_counter()
        for _ in range(DISK_BYTES // len(block)):
            os.write(handle, block)
        os.fsync(handle)
        return DISK_BYTES / (time.perf_counter() - tick)
    finally:
        os.close(handle)
        Path(name).unlink(missing_ok=True)


def store_s(url: str, name: str) -> float:
    """Seconds to put, get and delete an object of 1 MB. Raises OSError with one line."""
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    key = f"weftline-preflight-{name}-{os.getpid()}"
    tick = time.perf_counter()
    try:
        local = url.startswith(("file:", "memory:"))
        place: Any = from_url(url) if local else from_url(
            url, client_options={"timeout": f"{STORE_TIMEOUT_S}s", "connect_timeout": "2s",
                                 "allow_http": True},
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=STORE_TIMEOUT_S)},
        )  # fmt: skip
        obstore.put(place, key, os.urandom(1 << 20))
        obstore.get(place, key).bytes()
        obstore.delete(place, key)
    except (BaseError, OSError, ValueError, TypeError) as error:
        raise OSError(f"{url}: {str(error).splitlines()[0][:120]}") from None
    return time.perf_counter() - tick
