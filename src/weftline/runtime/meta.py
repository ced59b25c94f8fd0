"""transformers' own model of a config, on the meta device: exact, and no weight is made.

Needs torch and transformers, which no other part of weftline does. Nothing is downloaded and no
code that a config names is run.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError
from weftline.model.config import HFConfig

__all__ = ["FACTORIES", "IGNORED", "MetaCount", "count_on_meta", "meta_model"]

FACTORIES: Final = (
    "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq",
    "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForPreTraining", "AutoModel",
)  # fmt: skip
"""Tried in turn: a language model counts with its output projection."""
IGNORED: Final = ("auto_map", "quantization_config", "torch_dtype", "dtype")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaCount:
    """What transformers' model of a config holds."""

    model_type: str
    model_class: str
    """The class that was built, such as ``LlamaForCausalLM``."""
    parameters: int
    """Trainable parameters, shared ones once."""
    parts: tuple[tuple[str, int], ...]
    """(module, parameters) two levels down, largest first."""
    version: str
    """transformers' version."""


def count_on_meta(path: Path) -> MetaCount:
    """Count a config.json with transformers' own code.

    Raises InputError if the file is none, if transformers does not know its type, refuses a field
    or cannot build it, or if torch or transformers is missing.
    """
    config = HFConfig.read(path)
    kind = config.model_type
    transformers = _transformers()
    if not kind:
        raise InputError(
            "field `model_type` is missing: it names the family", where=config.source,
            hint='add a `model_type` such as `"llama"`',
        )  # fmt: skip
    try:
        model = meta_model(config.top)
    except KeyError:
        raise InputError(
            f"transformers {transformers.__version__} does not know the model type `{kind}`",
            where=config.source, hint="the model may need code of its own, which is not run",
        ) from None  # fmt: skip
    except Exception as error:
        # What a configuration can make another library's constructors raise has no bound.
        raise InputError(
            f"transformers {transformers.__version__} cannot build `{kind}`: {error}",
            where=config.source, hint="compare the file with the published one",
        ) from error  # fmt: skip
    return MetaCount(
        model_type=kind, model_class=type(model).__name__, parameters=_total(model),
        parts=_parts(model), version=str(transformers.__version__),
    )  # fmt: skip


def meta_model(fields: Mapping[str, Any]) -> Any:
    """The model of a config's fields, without memory behind its weights.

    Raises KeyError if transformers does not know the ``model_type``; else whatever it raises.
    """
    import torch

    transformers = _transformers()
    kept = {key: value for key, value in fields.items() if key not in IGNORED}
    kind = kept.pop("model_type")
    with _quietly():
        mapping = transformers.CONFIG_MAPPING
        if kind not in mapping:
            raise KeyError(kind)
        config = mapping[kind](**kept)
        with torch.device("meta"):
            for factory in FACTORIES:
                with contextlib.suppress(ValueError):
                    if type(config) in getattr(transformers, factory)._model_mapping:
                        return getattr(transformers, factory).from_config(config)
        raise ValueError("no model class is registered for it")


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError(
            "transformers and torch are needed to count with transformers' own code",
            hint="pip install 'weftline[count]'",
        ) from None
    return transformers


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """transformers warns about kernels that are missing and about its own arguments."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _total(model: Any) -> int:
    return sum(math.prod(p.shape) for p in model.parameters())


def _parts(model: Any) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[:2]) if name.count(".") > 1 else name.rpartition(".")[0]
        found[part] = found.get(part, 0) + math.prod(parameter.shape)
    return tuple(sorted(found.items(), key=lambda row: -row[1]))
