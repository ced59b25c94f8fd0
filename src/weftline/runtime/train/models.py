"""transformers' module of a config: made without memory, cut, counted, and filled on each rank.

No weight is made whole anywhere but one module at a time. A random weight depends on the seed and
its own name alone, so every layout of a model begins from the same numbers.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from weftline.errors import InputError, InternalError
from weftline.runtime.meta import IGNORED

__all__ = [
    "Read", "Ties", "begin_as_embedding", "build", "check_count", "config_of", "cut_to_stage",
    "materialise", "quietly", "stage_of", "tie", "tied_head", "ties_of", "weights_of",
]  # fmt: skip

Read = Callable[[str], torch.Tensor | None]
Ties = list[tuple[str, str]]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """transformers and torch warn about kernels that are missing and about their own arguments."""
    names = ("transformers", "torch.distributed")
    levels = [logging.getLogger(name).level for name in names]
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in zip(names, levels, strict=True):
            logging.getLogger(name).setLevel(level)


def config_of(fields: Mapping[str, Any]) -> Any:
    """transformers' configuration of a config.json's fields. Raises InputError."""
    import transformers

    kept = {key: value for key, value in fields.items() if key not in IGNORED}
    kind = kept.pop("model_type", "")
    with quietly():
        if kind not in transformers.CONFIG_MAPPING:
            raise InputError(
                f"transformers {transformers.__version__} has no model type `{kind}`",
                hint="--model takes another config.json",
            )
        made = transformers.CONFIG_MAPPING[kind](**kept)
    if type(made) not in transformers.AutoModelForCausalLM._model_mapping:
        raise InputError(
            f"transformers has no causal language model of type `{kind}`",
            hint="only those are trained here",
        )
    made.use_cache = False
    return made


def build(config: Any, *, attention: str) -> nn.Module:
    """The module on the meta device, in training mode."""
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    with quietly(), torch.device("meta"):
        model: nn.Module = auto.from_config(
            copy.deepcopy(config), attn_implementation=attention, dtype=torch.float32
        )
    model.train()
    return model


def check_count(model: nn.Module, parameters: int) -> None:
    """Raise InternalError where the module holds another number than weftline counts."""
    found = sum(math.prod(p.shape) for p in model.parameters())
    if found != parameters:
        raise InternalError(
            f"transformers' module holds {found:,} parameters, weftline counts {parameters:,}"
        )


def stage_of(whole: Any, first: int, last: int) -> Any:
    """A module of its own around layers ``first`` to ``last`` (exclusive) of one that is built.

    The layers are those of ``whole``: stages that share none may all be made of one. Building a
    module costs as much as its layers, which are many where a rank has many stages.
    """
    kept = {id(layer): layer for layer in whole.base_model.layers}
    model = copy.deepcopy(whole, kept)
    cut_to_stage(model, first, last)
    return model


def cut_to_stage(model: Any, first: int, last: int) -> None:
    """Keep layers ``first`` to ``last`` (exclusive) and the ends that go with them, in place.

    Names stay as they are in the whole model. What is not kept passes its input on.
    """
    from transformers.distributed.pipeline_parallel import PipelineIdentityLayer

    passing_on: Any = PipelineIdentityLayer
    base = model.base_model
    layers = base.layers
    for index in range(len(layers)):
        if not first <= index < last:
            layers[index] = passing_on()
    ends = last == len(layers)
    if first > 0:
        base.embed_tokens = passing_on()
    if not ends:
        base.norm = passing_on()
        model.lm_head = passing_on()
        if getattr(model.config, "final_logit_softcapping", None) is not None:
            model.config.final_logit_softcapping = None
    if not (first == 0 and ends):
        model.all_tied_weights_keys = {}


def tied_head(model: Any) -> bool:
    """Whether the output projection is the embedding's own weight."""
    return bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))


def materialise(
    model: Any, device: str, *, seed: int, ties: Ties, read: Read | None = None
) -> None:
    """Give every parameter of this rank memory and its values.

    ``read`` gives a whole tensor by name (None where it has none: then the value is random).
    Raises InternalError where a buffer is left without a value.
    """
    model.to_empty(device=device)
    tie(model, ties)
    for module in model.modules():
        for buffer in module._buffers.values():
            if buffer is not None and buffer.is_floating_point():
                buffer.fill_(math.nan)
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = {k: p for k, p in module._parameters.items() if p is not None and id(p) not in seen}
        seen |= {id(p) for p in own.values()}
        if own or module._buffers:
            _fill(model, module, name, own, seed, read)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and bool(buffer.isnan().any()):
            raise InternalError(f"the buffer `{name}` was left without a value")


def _fill(
    model: Any, module: nn.Module, name: str, own: dict[str, nn.Parameter], seed: int,
    read: Read | None,
) -> None:  # fmt: skip
    """One module: whole on this host for a moment, then this rank's share of it."""
    kept = dict(module._parameters)
    whole = {k: nn.Parameter(torch.empty(p.shape, dtype=p.dtype)) for k, p in own.items()}
    module._parameters.update(whole)
    try:
        # transformers draws a module's values from the global generator.
        torch.manual_seed(_seed_of(name, seed))
        with torch.no_grad():
            _initialise(model, module)
    finally:
        module._parameters.update({k: kept[k] for k in own})
    for key, parameter in own.items():
        full = None if read is None else read(f"{name}.{key}" if name else key)
        value = whole[key].detach() if full is None else full.to(parameter.dtype)
        with torch.no_grad():
            put(parameter, value)


def _initialise(model: Any, module: nn.Module) -> None:
    """As transformers does; what is none of its own (an adapter's layer) by its own rule."""
    if type(module).__module__.startswith("peft."):
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
        return
    model._init_weights(module)


def put(parameter: torch.Tensor, whole: torch.Tensor) -> None:
    """Copy this rank's share of ``whole`` into ``parameter``."""
    if whole.shape != parameter.shape:
        raise InputError(f"a weight of shape {tuple(whole.shape)}, not {tuple(parameter.shape)}")
    if not isinstance(parameter, DTensor):
        parameter.copy_(whole)
        return
    local = parameter.to_local()
    share = distribute_tensor(
        whole.to(local.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
    local.copy_(share.to_local())


def ties_of(model: nn.Module) -> Ties:
    """(name, the name of the parameter that it is) of every parameter met twice."""
    first: dict[int, str] = {}
    found: Ties = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            found.append((name, first[id(parameter)]))
        first.setdefault(id(parameter), name)
    return found


def tie(model: nn.Module, ties: Ties) -> None:
    """Make one parameter again of those that sharding or new memory has parted."""
    for other, one in ties:
        owner, _, key = other.rpartition(".")
        model.get_submodule(owner)._parameters[key] = model.get_parameter(one)


def weights_of(folder: str, config: Any) -> Read:
    """Whole tensors by name, from a local folder as transformers reads it. Raises InputError.

    transformers joins and renames what older files split (experts, mostly); so one whole copy is
    held in host memory on every rank while the shares are taken.
    """
    import transformers

    with quietly():
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                Path(folder), config=copy.deepcopy(config), local_files_only=True,
                dtype=torch.float32,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"cannot read weights: {error}", where=folder) from None
    state = model.state_dict()

    def read(name: str) -> torch.Tensor | None:
        return state.get(name.replace(".base_layer.", "."))

    return read


def begin_as_embedding(model: Any, weight: torch.Tensor, seed: int) -> None:
    """Fill a tied output projection that stands apart from its embedding, as that is filled."""
    name = f"{model.base_model_prefix}.embed_tokens"
    rows, width = weight.shape
    whole = nn.Embedding(rows, width, padding_idx=model.config.get_text_config().pad_token_id)
    torch.manual_seed(_seed_of(name, seed))
    with torch.no_grad():
        model._init_weights(whole)
        put(weight, whole.weight.detach())


def _seed_of(name: str, seed: int) -> int:
    return zlib.crc32(name.encode()) ^ (seed * 0x9E3779B1 & 0x7FFFFFFF)
