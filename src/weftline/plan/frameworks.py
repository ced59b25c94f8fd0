"""What a training framework decides: bytes it keeps a parameter, kernels it has, what it overlaps.

Sources: the 18 bytes a parameter (bf16 weight 2, fp32 main gradient 4, fp32 master weight and two
Adam moments 12) of mixed-precision training are those of arXiv:1910.02054 section 3 with
Megatron-LM's fp32 gradient accumulation; FSDP2 keeps sharded fp32 weights and moments and gathers
bf16; MaxText keeps fp32 weights and moments sharded over its fsdp axis.
"""

from __future__ import annotations

from dataclasses import dataclass

from weftline.errors import UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """One framework family, apart from its version."""

    name: str
    flash_attention: bool = True
    sequence_parallel: bool = True
    weight_bytes: float = 2.0
    """Bytes of one weight as computed with."""
    grad_bytes: float = 4.0
    """Bytes of one gradient as accumulated."""
    reduce_bytes: float = 2.0
    """Bytes of one gradient as sent in data-parallel reduction."""
    optimizer_bytes: float = 12.0
    """Bytes of master weight and optimizer states of one parameter."""
    default_zero: int = 1
    zero_stages: tuple[int, ...] = (1,)
    context_bytes: float = 3.0e9
    """Driver context, communicator buffers and workspace a chip loses (CUDA + NCCL: 2 to 4 GB)."""
    fragmentation: float = 0.05
    """Share of activations and gradients lost to the allocator."""
    pipeline: bool = True


FRAMEWORKS: dict[str, Framework] = {
    f.name: f
    for f in (
        Framework(name="megatron-core", reduce_bytes=4.0, zero_stages=(1, 3)),
        Framework(
            name="megatron-lm-2021",
            flash_attention=False,
            sequence_parallel=False,
            default_zero=0,
            zero_stages=(0,),
        ),
        Framework(name="megatron-lm-2022", flash_attention=False, default_zero=0, zero_stages=(0,)),
        Framework(
            name="torchtitan",
            weight_bytes=4.0,
            grad_bytes=4.0,
            reduce_bytes=4.0,
            optimizer_bytes=8.0,
            default_zero=3,
            zero_stages=(2, 3),
        ),
        Framework(
            name="maxtext",
            weight_bytes=4.0,
            grad_bytes=4.0,
            reduce_bytes=2.0,
            optimizer_bytes=8.0,
            default_zero=3,
            zero_stages=(3,),
            context_bytes=1.0e9,
            pipeline=False,
        ),
        Framework(name="neuronx", default_zero=1, zero_stages=(1,), context_bytes=1.5e9),
    )
}


def framework(name: str) -> Framework:
    """The framework called ``name``. Raises UnknownNameError with the nearest names."""
    found = FRAMEWORKS.get(name.lower())
    if found is None:
        raise UnknownNameError("framework", name, FRAMEWORKS)
    return found
