"""Low-rank adapters beside frozen weights, by peft, put in before the model is laid out."""

from __future__ import annotations

from typing import Any

from weftline.errors import InputError
from weftline.runtime.train.models import quietly

__all__ = ["adapted", "adapter_config"]


def adapted(model: Any, rank: int) -> None:
    """Put adapters of this rank beside every projection of the layers, in place; the rest freezes.

    Raises InputError where peft is not installed.
    """
    names = sorted({
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if ".layers." in name and type(module).__name__ == "Linear"
    })  # fmt: skip
    config = adapter_config(rank, names)
    from peft import inject_adapter_in_model

    with quietly():
        inject_adapter_in_model(config, model)


def adapter_config(rank: int, names: list[str], *, base: str = "") -> Any:
    """peft's configuration: scaled by alpha / rank with alpha = 2 rank. Raises InputError."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise InputError(
            "peft is needed for adapters", hint="pip install 'weftline[tune]'"
        ) from None
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=names, task_type="CAUSAL_LM",
        base_model_name_or_path=base or None,
    )  # fmt: skip
