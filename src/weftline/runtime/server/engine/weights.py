"""Models from local folders and GGUF files, in the number formats that this machine is good at."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from weftline.errors import InputError
from weftline.runtime.server.engine import adapters
from weftline.runtime.server.engine.linear import make_int8, quicken
from weftline.runtime.server.options import EngineOptions

__all__ = ["Loaded", "fast_dtype", "load"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and its tokenizer."""

    model: Any
    tokenizer: Any
    dtype: Literal["fp32", "bf16"]
    seconds: float
    notes: tuple[str, ...] = ()


def load(place: Path, options: EngineOptions) -> Loaded:
    """Read a Hugging Face folder (config.json, safetensors, tokenizer) or a .gguf file, or a folder
    of adapters with the weights that they stand beside.

    Only safetensors are read: other formats run code as they are opened. Raises InputError.
    """
    begun = time.perf_counter()
    adapter = options.adapter
    if adapter is None and (base := adapters.beside(place)) is not None:
        place, adapter = base, place
    _quiet()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(place)}
    if place.is_file() and place.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": str(place.parent), "gguf_file": place.name}
    elif not (place / "config.json").is_file():
        raise InputError("no config.json is in this folder", where=str(place),
                         hint="a folder as Hugging Face lays it out, or a .gguf file")  # fmt: skip
    dtype, note = (options.dtype, "") if options.dtype != "auto" else fast_dtype()
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            **where, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            # What is added to a weight would round away in half of its digits.
            dtype=torch.float32 if dtype == "fp32" or adapter else torch.bfloat16,
        )  # fmt: skip
    except ImportError as error:
        raise InputError(str(error).strip().splitlines()[0], where=str(place),
                         hint="pip install gguf") from None  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"cannot be read: {said[0]}", where=str(place)) from None
    notes = [note] if note else []
    if adapter is not None:
        model = adapters.merged(model, adapter)
        model.to(torch.float32 if dtype == "fp32" else torch.bfloat16)
        notes.append(f"adapters of {adapter} added into the weights of {place}")
    if options.weights == "int8":
        make_int8(model)
        notes.append("weights of the layers in int8, a scale a row")
    notes += [note for note in (quicken(model),) if note]
    return Loaded(model, tokenizer, dtype, time.perf_counter() - begun, tuple(notes))


def fast_dtype() -> tuple[Literal["fp32", "bf16"], str]:
    """What is faster here for the products of decoding and of prompts together, and why.

    A CPU without bf16 units takes several times as long in it; one with them gains as much.
    """
    took = {"fp32": _products_s(torch.float32), "bf16": _products_s(torch.bfloat16)}
    ratio = took["bf16"] / took["fp32"]
    if ratio < 1:
        return "bf16", f"bf16: takes {ratio:.2f} of the time of fp32 here"
    return "fp32", f"fp32: bf16 takes {ratio:.1f} times as long here"


def _products_s(dtype: torch.dtype) -> float:
    """Seconds of a decoding product and a prompt's, each at its best of four."""
    weight = torch.ones(2048, 2048, dtype=dtype)
    total = 0.0
    for rows, times in ((1, 8), (128, 1)):
        x = torch.ones(rows, 2048, dtype=dtype)
        best = float("inf")
        for _ in range(4):
            begun = time.perf_counter()
            for _ in range(times):
                torch.nn.functional.linear(x, weight)
            best = min(best, time.perf_counter() - begun)
        total += best
    return total


def _quiet() -> None:
    """The libraries' bars and advice are for notebooks; and nothing is to be fetched."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as libraries

    said: Any = libraries
    said.set_verbosity_error()
    said.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
