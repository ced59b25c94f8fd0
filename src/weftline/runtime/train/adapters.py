"""Low-rank adapters beside frozen weights, by peft, put in before the model is laid out."""

from __future__ import annotations

from typing import Any

from weftline.errors import InputError
from weftline.runtime.train.models import quietly

__all__ = ["adapted"]


def adapted(model: Any, rank: int) -> None:
    """Put adapters of this rank beside every projection of the layers, in place; the rest freezes.

    Scaled by alpha / rank with alpha = 2 rank. Raises InputError where peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError(
            "peft is needed for adapters", hint="pip install 'weftline[tune]'"
        ) from None
    names = sorted({
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if ".layers." in name and type(module).__name__ == "Linear"
    })  # fmt: skip
    with quietly():
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), model
        )
