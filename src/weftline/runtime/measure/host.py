"""What a machine has beside its operators: disk and store, tokenising, power, what it is called."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from weftline.runtime.data.corpus import pieces_of

__all__ = ["about", "power", "storage", "tokens_per_s"]

_STORE_BYTES: Final = 48 << 20
_TEXT_BYTES: Final = 400_000
_VOCAB: Final = 1024
_RAPL: Final = Path("/sys/class/powercap")


def about(device: str) -> dict[str, Any]:
    """Processor or device, cores, memory, versions."""
    import torch

    name = _processor()
    if device == "cuda":
        name = torch.cuda.get_device_name(0)
    return {
        "name": name, "cores": len(os.sched_getaffinity(0)), "system": platform.system(),
        "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> float:
    """Of the whole host."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def storage(folder: Path | None) -> dict[str, float]:
    """bytes/s of the disk under a folder and of a store on it: what a save and a load reach."""
    from weftline.burst.advise.bench import measure

    with tempfile.TemporaryDirectory(dir=folder) as place:
        found = measure(Path(place), _STORE_BYTES, rounds=2)
    stalled = float(found["state_bytes"]) / float(found["stall_s"])
    return {"staged_bytes_per_s": stalled, **{
        key: float(found[key]) for key in ("durable_bytes_per_s", "load_bytes_per_s")
    }}  # fmt: skip


def tokens_per_s() -> float | None:
    """Tokens a second that one process makes of text; None where tokenizers is not installed."""
    try:
        import tokenizers
    except ImportError:
        return None
    text = ""
    for piece in pieces_of(["stdlib"]):
        text += piece.text()
        if len(text) > _TEXT_BYTES:
            break
    coder: Any = tokenizers.Tokenizer(tokenizers.models.BPE())
    coder.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer: Any = tokenizers.trainers.BpeTrainer(vocab_size=_VOCAB, show_progress=False)
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        coder.train_from_iterator([text[: _TEXT_BYTES // 4]], trainer)
        begin = time.perf_counter()
        made = sum(len(coder.encode(part).ids) for part in text.split("\n\n"))
        return made / (time.perf_counter() - begin)
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


@contextlib.contextmanager
def power(device: str) -> Iterator[dict[str, Any]]:
    """Watts drawn while inside, in the mean, where something can be read; else why not."""
    said: dict[str, Any] = {}
    meters = [p for p in sorted(_RAPL.glob("intel-rapl:?")) if _joules(p) is not None]
    begin = time.perf_counter()
    before = [_joules(p) for p in meters]
    yield said
    if device == "cuda":
        said |= _of_device()
        return
    seconds = time.perf_counter() - begin
    after = [_joules(p) for p in meters]
    spent = [b - a for a, b in zip(before, after, strict=True)
             if a is not None and b is not None and b >= a]  # fmt: skip
    if spent:
        said |= {"watts": sum(spent) / seconds, "from": "RAPL, all packages"}
    else:
        said["why"] = "no energy counter can be read (RAPL needs a machine of one's own)"


def _joules(meter: Path) -> float | None:
    try:
        return int((meter / "energy_uj").read_text(encoding="ascii")) * 1e-6
    except (OSError, ValueError):
        return None


def _of_device() -> dict[str, Any]:
    try:
        asked = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
        text = subprocess.run(  # noqa: S603  (no word of it is the user's)
            asked, capture_output=True, text=True, timeout=10, check=True
        ).stdout
        return {
            "watts": sum(float(line) for line in text.split()),
            "from": "nvidia-smi, at the end",
        }
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"why": f"nvidia-smi: {type(error).__name__}"}
