"""Models from local folders and GGUF files, in the number formats that this machine is good at."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from weftline.attention.kernels.build import library
from weftline.errors import InputError
from weftline.runtime.server.engine import adapters
from weftline.runtime.server.options import EngineOptions

__all__ = ["Loaded", "fast_dtype", "load", "make_int8"]


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


class _Int8Linear(torch.nn.Module):
    """A linear layer whose weight is a byte and whose rows have a scale each."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        self.weight = torch.nn.Parameter(
            torch.round(weight / scale[:, None]).to(torch.int8), requires_grad=False
        )
        self.scale = torch.nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]"""
        rows = x.reshape(-1, x.shape[-1])
        native = library("linear") if len(rows) <= _INT8_ROWS else None
        if native is not None:
            given = rows.float().contiguous()
            out = torch.empty(len(rows), len(self.weight))
            at = [ctypes.c_void_p(t.data_ptr()) for t in (given, self.weight, self.scale, out)]
            native.weftline_linear_int8(*at, len(rows), x.shape[-1], len(self.weight))
            out = out.to(x.dtype)
        else:
            out = rows @ (self.weight.to(x.dtype) * self.scale[:, None].to(x.dtype)).T
        out = out if self.bias is None else out + self.bias
        return out.reshape(*x.shape[:-1], -1)


_INT8_ROWS = 16
"""Rows up to which reading bytes wins; beyond, the weight is widened once and multiplied."""


def make_int8(model: Any) -> None:
    """Replace every linear layer inside the model's blocks, one at a time; the head stays."""
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and child is not head:
                setattr(module, name, _Int8Linear(child))
    gc.collect()


def _quiet() -> None:
    """The libraries' bars and advice are for notebooks; and nothing is to be fetched."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as libraries

    said: Any = libraries
    said.set_verbosity_error()
    said.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
