"""What a training framework decides: bytes it keeps a parameter, kernels it has, what it overlaps.

Sources: the 18 bytes a parameter (bf16 weight 2, fp32 main gradient 4, fp32 master weight and two
Adam moments 12) of mixed-precision training are those of arXiv:1910.02054 section 3 with
Megatron-LM's fp32 gradient accumulation; FSDP2 keeps sharded fp32 weights and moments and gathers
bf16; MaxText keeps fp32 weights and moments sharded over its fsdp axis.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from weftline.errors import InputError, UnknownNameError
from weftline.plan.step.recipes import Recipe, stated_recipe
from weftline.spec import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """One framework family, apart from its version."""

    name: str
    vendors: tuple[str, ...] = ("nvidia",)
    """Whose chips it runs on; the first framework of the table that runs on a chip is its own."""
    flash_attention: bool = True
    sequence_parallel: bool = True
    value_bytes: float = 2.0
    """Bytes of an activation: 2, or 4 in fp32."""
    input_bytes: float = 2.0
    """Bytes of one value of a product's input as kept for backward: 2, or less where the quantised
    copy alone is kept."""
    keeps_quantised: bool = False
    """Whether products in fp8 or fp4 keep the quantised copy of their input alone, as Transformer
    Engine does; others keep it in bf16 and quantise again."""
    rematerialises: bool = False
    """Whether the compiler computes again by itself what does not fit (XLA's rematerialisation
    pass): of a layer computed again only the widest operator has to stand whole."""
    fused_qkv: bool = False
    """Whether queries, keys and values are views of one tensor that stays whole: Megatron-Core
    splits the fused projection, rotates the first two into new tensors and leaves the third."""
    placeholder_bytes: float = 0.0
    """Bytes a weight of gradient placeholders, one for each shape of matrix: where products add
    weight gradients to the main ones themselves, autograd is handed an empty tensor, which
    Transformer Engine keeps (``get_dummy_wgrad``)."""
    weight_copy_bytes: float = 0.0
    """Bytes of quantised copies of a matrix's weight that stand beside ``weight_bytes``."""
    stage_tensors: float = 0.0
    """Tensors of a stage's output size that a pipeline keeps for each chunk in flight beside what
    its layers save. PyTorch's ``torch.distributed.pipelining``: the output until its backward, and
    the buffer its gradient is received in."""
    selective: tuple[str, ...] = ()
    """Modules that selective recomputation computes again, by Megatron-Core's names; unfused score
    matrices always are."""
    saved_products: float = 0.0
    """Where selective recomputation names what it keeps instead: the share of all products'
    outputs, beside a layer's input and attention's output (torchtitan's every second product; every
    product under MaxText's ``minimal``)."""
    expert_capacity: float = 1.0
    """Tokens the fullest rank's experts hold over their even share: what is padded to a capacity
    factor, or what dropless routing leaves uneven."""
    weight_bytes: float = 2.0
    """Bytes of one weight as computed with."""
    grad_bytes: float = 4.0
    """Bytes of one gradient as accumulated."""
    reduce_bytes: float = 2.0
    """Bytes of one gradient as sent in data-parallel reduction."""
    master_bytes: float = 4.0
    """Bytes of the fp32 master copy of one weight, where weights are narrower."""
    state_bytes: float = 8.0
    """Bytes of optimizer states of one parameter."""
    optimizer_flops_per_width: float = 0.0
    """FLOP of the optimizer a parameter and unit of hidden size (Muon's matrix iterations)."""
    offload: bool = False
    """Master weights and states live in host memory and are updated there."""
    offload_inputs: bool = False
    """Inputs of layers that are computed again wait in host memory (MaxText's offloaded
    ``decoder_layer_input``, Megatron-Core's activation offloading)."""
    offloads_states: bool = False
    """Whether published recipes for it put optimizer states there unasked."""
    adapter_rank: int = 0
    """Rank of adapters beside frozen weights; 0 where every weight is trained."""
    frozen_parts: tuple[str, ...] = ()
    """Parts whose weights stay as they are, by :data:`weftline.plan.step.frozen.FREEZABLE`."""
    frozen_bytes: float = 2.0
    """Bytes a weight of a layer's matrices is held in where it is frozen, its scales included."""
    replicates_kv: bool = False
    """Whether tensor parallelism may exceed the key heads, each then held by several ranks."""
    zero_bubble: bool = False
    """Whether it has a zero-bubble schedule beside 1F1B."""
    default_zero: int = 1
    zero_stages: tuple[int, ...] = (1,)
    fully_sharded: bool = False
    """FSDP: weights are kept sharded in ``weight_bytes`` and gathered in bf16 for use; short of
    ZeRO-3 the whole stage stays gathered, and its gradients whole until they are reduced."""
    logits_bytes: float = 6.0
    """Bytes of one logit through the loss: bf16 and fp32 values, and their gradients if kept."""
    context_bytes: float = 3.0e9
    """Driver context, communicator buffers and workspace a chip loses (CUDA + NCCL: 2 to 4 GB)."""
    alone_share: float = 0.5
    """What a chip alone, without communicators, loses of that; assumed."""
    reserved_share: float | None = None
    """Where the peak it logs is what the allocator reserved, holes included: the share of
    activations, logits and gradients that is holes. None where tensors alone are logged.
    torchtitan's 0.25 was set on its eight logged peaks."""
    fragmentation: float = 0.05
    """The share of them that the allocator needs beside the tensors; assumed 0.05 with PyTorch's
    expandable segments. What it reserves beyond that is no need: cached blocks go back to the
    driver before an allocation fails (``garbage_collect_cached_blocks`` and the retry in
    c10/cuda/CUDACachingAllocator.cpp)."""
    pipeline: bool = True
    accumulates: bool = True
    """Whether it cuts a rank's share of the batch into micro-batches unasked. MaxText computes
    ``per_device_batch_size`` sequences at once (MaxText/configs/base.yml @000e935)."""
    dispatch_share: float = 1.0
    """Bytes of expert all-to-all over those of a plain bf16 one to every chosen expert."""
    bubble_share: float = 1.0
    """Pipeline bubble over that of 1F1B."""
    recipe: Recipe | None = None
    """What one release overlaps and fuses; the family's newest where none is named."""
    compute_share: float = 1.0
    """Share of the chip's cores that compute; the rest drive communication."""

    @property
    def optimizer_bytes(self) -> float:
        """Bytes of master weight and optimizer states of one parameter, wherever they live."""
        return self.master_bytes + self.state_bytes

    @property
    def resident_bytes(self) -> float:
        """The part of them that lives in the chip's memory."""
        return 0.0 if self.offload else self.optimizer_bytes

    @property
    def host_bytes(self) -> float:
        """Bytes a trained parameter takes in host memory: its states, and the fp32 gradient that
        comes down for the update (what goes there as in ZeRO-Offload, arXiv:2101.06840)."""
        return self.optimizer_bytes + 4.0 if self.offload else 0.0


MEGATRON_SELECTIVE: tuple[str, ...] = ("layernorm", "mla_up_proj", "moe_act")
"""Modules whose recomputation costs next to nothing: what Megatron-Bridge's recipes of mixture
models turn on first (its perf_recipes, 2026-08: DeepSeek-V3, Kimi-K2, gpt-oss, Nemotron-3)."""

FRAMEWORKS: dict[str, Framework] = {
    f.name: f
    for f in (
        Framework(
            name="megatron-core",
            vendors=("nvidia", "amd", "intel", "meta", "microsoft"),
            keeps_quantised=True,
            fused_qkv=True,
            placeholder_bytes=2.0,
            selective=MEGATRON_SELECTIVE,
            reduce_bytes=4.0,
            zero_stages=(1, 3),
        ),
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
            vendors=("nvidia", "amd", "intel"),
            saved_products=0.5,
            stage_tensors=2.0,
            zero_bubble=True,
            fully_sharded=True,
            logits_bytes=12.0,
            reserved_share=0.25,
            weight_bytes=4.0,
            grad_bytes=4.0,
            reduce_bytes=4.0,
            master_bytes=0.0,
            default_zero=3,
            zero_stages=(2, 3),
        ),
        # NeMo AutoModel: bf16 weights, Transformer Engine's FusedAdam with bf16 moments and
        # the remainder of the master weight (store_param_remainders), sharded by FSDP2.
        Framework(
            name="automodel",
            fully_sharded=True,
            weight_bytes=2.0,
            grad_bytes=2.0,
            reduce_bytes=2.0,
            master_bytes=2.0,
            state_bytes=4.0,
            default_zero=3,
            zero_stages=(2, 3),
        ),
        # PyTorch FSDP as llm-foundry and metaseq use it: fp32 shards, bf16 gathered.
        Framework(
            name="fsdp",
            vendors=("nvidia", "amd", "intel"),
            fully_sharded=True,
            weight_bytes=4.0,
            grad_bytes=4.0,
            reduce_bytes=2.0,
            master_bytes=0.0,
            default_zero=3,
            zero_stages=(2, 3),
            pipeline=False,
        ),
        Framework(
            name="maxtext",
            saved_products=1.0,
            rematerialises=True,
            offloads_states=True,  # optimizer_memory_host_offload
            # XLA fuses the loss and writes the logits' gradients over them.
            logits_bytes=2.0,
            replicates_kv=True,
            vendors=("google", "nvidia"),
            fully_sharded=True,
            weight_bytes=4.0,
            grad_bytes=4.0,
            reduce_bytes=2.0,
            master_bytes=0.0,
            default_zero=3,
            zero_stages=(3,),
            context_bytes=1.0e9,
            pipeline=False,
            accumulates=False,
        ),
        # DeepSeek-V3 (arXiv:2412.19437, section 3.2): dispatch in fp8 (and combining in bf16), a
        # bubble about half of 1F1B's, 20 of 132 streaming multiprocessors given to communication.
        # That all of it hides is not assumed: the published hours, like all measured rows, decide
        # through the fitted overlap. That a token goes to four nodes at most is the model's.
        Framework(
            name="dualpipe",
            keeps_quantised=True,
            fused_qkv=True,
            selective=MEGATRON_SELECTIVE,
            zero_stages=(1,),
            dispatch_share=0.75,
            bubble_share=0.5,
            compute_share=112 / 132,
        ),
        # weftline's own trainer (weftline.runtime) on processors: fp32 weights and moments, FSDP2
        # or whole replicas, torch's pipeline schedules. The context is torch and transformers,
        # loaded: 0.35 to 0.45 GB resident a process.
        Framework(
            name="weftline",
            vendors=("cpu",),
            stage_tensors=2.0,
            zero_bubble=True,
            fully_sharded=True,
            logits_bytes=16.0,
            value_bytes=4.0,
            input_bytes=4.0,
            weight_bytes=4.0,
            grad_bytes=4.0,
            reduce_bytes=4.0,
            master_bytes=0.0,
            default_zero=0,
            zero_stages=(0, 2, 3),
            context_bytes=0.4e9,
            alone_share=1.0,
        ),
        Framework(
            name="neuronx",
            vendors=("aws",),
            rematerialises=True,
            replicates_kv=True,
            default_zero=1,
            zero_stages=(1,),
            context_bytes=1.5e9,
        ),
    )
}


AUTO: str = "auto"
PLAIN: Framework = Framework(
    name="plain",
    vendors=tuple(sorted({vendor for f in FRAMEWORKS.values() for vendor in f.vendors})),
    zero_stages=(1, 3),
)
"""What a framework that is not known is taken for: mixed precision, Adam, flash attention."""
_LIKE: float = 0.7
"""How alike a name and a known one have to be for the name to be a slip of the pen."""


def framework(name: str, *, where: str | None = None) -> Framework:
    """The framework called ``name``; one that nobody knows is a plain one of that name.

    Raises UnknownNameError where the name is nearly that of a known one.
    """
    low = name.lower()
    found = FRAMEWORKS.get(low)
    if found is not None:
        return found
    if not low.strip() or difflib.get_close_matches(low, [*FRAMEWORKS, AUTO], cutoff=_LIKE):
        raise UnknownNameError("framework", name, FRAMEWORKS, where=where)
    return replace(PLAIN, name=low)


OPTIMIZERS: dict[str, tuple[float, float]] = {
    "adamw": (8.0, 0.0),
    "adamw-bf16": (4.0, 0.0),
    "adamw-pure-bf16": (4.0, 0.0),
    "adafactor": (0.02, 0.0),
    "muon": (4.0, 30.0),
}
"""Bytes of state a parameter, FLOP a parameter and unit of hidden size, beside AdamW's few.

AdamW: two fp32 (or bf16) moments; "pure" keeps no master weights and gradients in bf16, too.
Adafactor (arXiv:1804.04235): a row and a column vector a matrix, no momentum.
Muon (arXiv:2502.16982): one fp32 momentum; five Newton-Schulz iterations of three
products on an m x n matrix, of 2 m n min(m, n) FLOP each, are 30 min(m, n) FLOP a parameter."""


def framework_for(name: str, vendor: str) -> str:
    """The framework to use on a vendor's chips: ``name``, or under ``auto`` the vendor's own.

    Raises InputError where ``name`` does not run there; one that is not known runs anywhere.
    """
    if name == AUTO:
        found = next((f.name for f in FRAMEWORKS.values() if vendor in f.vendors), None)
        if found is None:
            raise InputError(f"no framework is known for chips of {vendor}")
        return found
    if vendor not in framework(name).vendors:
        raise InputError(f"{name} does not run on chips of {vendor}")
    return name


NF4_BYTES: float = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes of a weight in 4-bit NormalFloat: an 8-bit scale for each 64, and an fp32 one for each 256
of those (double quantisation, arXiv:2305.14314, section 3)."""


QUANTISED_BYTES: dict[str, float] = {"fp8": 1 + 1 / 32, "fp4": 0.5 + 1 / 16}
"""Bytes of a value in fp8 with a scale for each 32 (OCP microscaling; per-tensor scales are fewer)
and in NVFP4 with an fp8 scale for each 16."""


def in_precision(frame: Framework, precision: str) -> Framework:
    """``frame`` with products in ``precision``: what it keeps of inputs and of weights.

    In fp8 Megatron's weights live in fp8 alone, once along rows and once along columns, which is
    what bf16 takes; in fp4 the bf16 weight stays beside both (Megatron-Bridge's
    ``fp8_param_gather``, 2026-08: on for fp8, off for nvfp4).
    """
    each = QUANTISED_BYTES.get(precision)
    if each is None or not frame.keeps_quantised:
        return frame
    copies = 2 * each if precision == "fp4" else 0.0
    return replace(frame, input_bytes=each, weight_copy_bytes=copies)


def recipe(
    name: str, *, optimizer: str = "adamw", offload: bool = False, precision: str = "bf16",
    tune: str = "full", rank: int = 16, freeze: tuple[str, ...] = (),
) -> Framework:  # fmt: skip
    """A framework with an optimizer. Raises UnknownNameError for either, see :func:`framework`.

    In fp32 weights are their own master copy, and activations take twice the bytes; fp8 and fp4
    change the products alone, as Transformer Engine does. ``tune`` says what is trained: every
    weight but those of ``freeze``, or adapters of ``rank`` beside weights frozen in bf16 (lora) or
    in 4 bits (qlora).
    """
    if optimizer not in OPTIMIZERS:
        raise UnknownNameError(
            "optimizer", optimizer, OPTIMIZERS, where="--optimizer",
            hint=f"one of {', '.join(OPTIMIZERS)}",
        )  # fmt: skip
    state, flops = OPTIMIZERS[optimizer]
    found = replace(
        framework(name), state_bytes=state, optimizer_flops_per_width=flops, offload=offload
    )
    if optimizer == "adamw-pure-bf16":
        found = replace(
            found, weight_bytes=2.0, grad_bytes=2.0, reduce_bytes=2.0, master_bytes=0.0
        )  # fmt: skip
    if precision == "fp32":
        found = replace(found, value_bytes=4.0, weight_bytes=4.0, master_bytes=0.0)
    found = in_precision(found, precision)
    if freeze and tune == "full":
        found = replace(found, frozen_parts=freeze)
    if tune != "full":
        frozen = NF4_BYTES if tune == "qlora" else found.value_bytes
        found = replace(found, adapter_rank=rank, frozen_bytes=frozen)
    return found


def recipe_of(job: Job, name: str) -> Framework:
    """The framework called ``name`` with all that ``job`` asks of it."""
    found = recipe(
        name, optimizer=job.optimizer, offload=job.offload, precision=job.precision,
        tune=job.tune, rank=job.rank, freeze=job.freeze,
    )  # fmt: skip
    return replace(found, recipe=stated_recipe(name, job.recipe)) if job.recipe else found
