"""One way to serve a model: chip, engine, layout, number formats, batching; frozen and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from weftline.errors import InputError, InputErrors, UnknownNameError
from weftline.model import Model, load_model
from weftline.serve.engine.adapters import Adapters

__all__ = [
    "DTYPES",
    "ENGINES",
    "KV_DTYPES",
    "PoolConfig",
    "ServingConfig",
    "SpecMethod",
]

Engine = Literal["vllm", "sglang", "trtllm", "jetstream", "neuron"]
SpecMethod = Literal["none", "mtp", "draft"]

ENGINES: Final = ("vllm", "sglang", "trtllm", "jetstream", "neuron")
DTYPES: Final = ("bf16", "fp16", "fp8", "fp8_block", "int8", "int4", "nvfp4", "mxfp4")
KV_DTYPES: Final = ("bf16", "fp16", "fp8", "int8")
HOST_BYTES_PER_S: Final = 40e9
"""From host memory to a chip: assumed, two thirds of PCIe 5.0 x16."""
NVME_BYTES_PER_S: Final = 6e9
"""From NVMe to a chip: assumed, one drive of PCIe 5.0 x4 a chip at half its rate."""
KV_BYTES: Final = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """The layout of one pool of workers in disaggregated serving."""

    workers: int = 1
    chip: str = ""
    """Name in the catalogue; empty for the chip of the workers that decode."""
    tp: int = 1
    pp: int = 1
    dp: int = 1
    """Attention data-parallel ranks."""
    ep: int = 1
    moe_tp: int | None = None
    """None: ``tp * dp / ep``."""
    max_batch: int = 1

    @property
    def expert_tp(self) -> int:
        """Ways one expert is split."""
        return self.moe_tp if self.moe_tp is not None else max(self.tp * self.dp // self.ep, 1)

    @property
    def chips(self) -> int:
        """Chips of one worker."""
        return self.tp * self.pp * self.dp


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """One replica of a served model, or one prefill and one decode pool.

    The experts of a layer are split over the ``tp * dp`` ranks of a stage: ``ep`` ways by expert
    and ``moe_tp`` ways within an expert.
    """

    model: str
    chip: str
    """Name in the catalogue: ``h200-sxm``, ``b200``, ``gb200-nvl72``."""
    engine: str = "vllm"
    engine_version: str = ""
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    moe_tp: int | None = None
    """None: ``tp * dp / ep``."""
    gemm_dtype: str = "bf16"
    moe_dtype: str | None = None
    """None: as ``gemm_dtype``."""
    kv_dtype: str = "bf16"
    max_batch: int = 256
    """Sequences of the whole replica that may run at once (vLLM's ``max_num_seqs`` x ``dp``)."""
    chunk_tokens: int = 8192
    """Tokens one iteration may hold (vLLM's ``max_num_batched_tokens``)."""
    memory_fraction: float = 0.9
    prefix_cache: bool = False
    cache_hit: float = 0.0
    """Share of every prompt's tokens that the prefix cache is said to find."""
    offload_bytes: float = 0.0
    """Memory of one replica beside its chips' that keeps what the prefix cache pushes out."""
    offload_bytes_per_s: float = HOST_BYTES_PER_S
    """From there to one chip."""
    adapters: Adapters | None = None
    """LoRA adapters that requests name, over the one base model."""
    spec_method: SpecMethod = "none"
    spec_tokens: int = 0
    """Tokens drafted ahead in each step."""
    spec_acceptance: float = 0.7
    """Chance that one drafted token, given the ones before it, is kept."""
    draft_model: str | None = None
    policy: str = ""
    """What queries see in the place of full attention (:mod:`weftline.spec.attention_text`)."""
    prefill: PoolConfig | None = None
    """Workers that only prefill; this configuration is then the decode pool's."""
    decode_workers: int = 1

    def __post_init__(self) -> None:
        found: list[InputError] = []
        if self.engine not in ENGINES:
            found.append(UnknownNameError("engine", self.engine, ENGINES, where="engine"))
        for field, value in (("gemm_dtype", self.gemm_dtype), ("moe_dtype", self.moe_dtype)):
            if value is not None and value not in DTYPES:
                found.append(UnknownNameError("number format", value, DTYPES, where=field))
        if self.kv_dtype not in KV_DTYPES:
            found.append(UnknownNameError("KV cache format", self.kv_dtype, KV_DTYPES,
                                          where="kv_dtype"))  # fmt: skip
        for field in ("tp", "pp", "dp", "ep", "max_batch", "chunk_tokens", "decode_workers"):
            if getattr(self, field) < 1:
                found.append(InputError(f"`{field}` must be at least 1", where=field))
        if self.tp >= 1 and self.dp >= 1 and self.ep >= 1:
            found += self._expert_mistakes()
        if not 0 < self.memory_fraction <= 1:
            found.append(InputError("must lie in (0, 1]", where="memory_fraction"))
        if not 0 <= self.spec_acceptance <= 1:
            found.append(InputError("must lie in [0, 1]", where="spec_acceptance"))
        if self.spec_method != "none" and self.spec_tokens < 1:
            found.append(InputError("speculation drafts at least one token", where="spec_tokens",
                                    hint="give `spec_tokens`, or `spec_method` none"))  # fmt: skip
        if len(found) == 1:
            raise found[0]
        if found:
            raise InputErrors(found)

    def _expert_mistakes(self) -> list[InputError]:
        ranks = self.tp * self.dp
        if self.moe_tp is None:
            if ranks % self.ep:
                return [InputError(f"ep {self.ep} does not divide tp x dp = {ranks}", where="ep")]
            return []
        if self.moe_tp * self.ep != ranks:
            return [
                InputError(
                    f"ep {self.ep} x moe_tp {self.moe_tp} is not tp x dp = {ranks}", where="ep",
                    hint="experts are split over all ranks of a stage",
                )
            ]  # fmt: skip
        return []

    @property
    def moe_format(self) -> str:
        """Number format of the experts."""
        return self.moe_dtype or self.gemm_dtype

    @property
    def expert_tp(self) -> int:
        """Ways one expert is split."""
        return self.moe_tp if self.moe_tp is not None else self.tp * self.dp // self.ep

    @property
    def chips_per_replica(self) -> int:
        """Chips of one replica (of one decode worker, where disaggregated)."""
        return self.tp * self.pp * self.dp

    @property
    def chips(self) -> int:
        """All chips: the replica's, or both pools'."""
        if self.prefill is None:
            return self.chips_per_replica
        return (
            self.chips_per_replica * self.decode_workers + self.prefill.chips * self.prefill.workers
        )

    @property
    def prefill_chip(self) -> str:
        """The chip that prompts are prefilled on."""
        return (self.prefill.chip if self.prefill is not None else "") or self.chip

    def chips_by_kind(self) -> dict[str, int]:
        """Chips of one replica or group by name, those that decode first."""
        own = self.chips_per_replica * self.decode_workers
        if self.prefill is None:
            return {self.chip: own}
        found = {self.chip: own}
        before = self.prefill.chips * self.prefill.workers
        found[self.prefill_chip] = found.get(self.prefill_chip, 0) + before
        return found

    def prefilling(self) -> ServingConfig:
        """One prefill worker as a replica of its own; the configuration itself where it has none
        apart."""
        pool = self.prefill
        if pool is None:
            return self
        return replace(
            self, chip=self.prefill_chip, tp=pool.tp, pp=pool.pp, dp=pool.dp, ep=pool.ep,
            moe_tp=pool.moe_tp, prefill=None, decode_workers=1, max_batch=pool.max_batch,
        )  # fmt: skip

    @property
    def tokens_per_step(self) -> float:
        """Tokens a decode step is expected to yield: 1 + a + a^2 + ... (Leviathan 2023, eq. 1)."""
        if self.spec_method == "none":
            return 1.0
        a, n = self.spec_acceptance, self.spec_tokens
        return float(n + 1) if a >= 1 else (1 - a ** (n + 1)) / (1 - a)

    def load(self) -> Model:
        """The model's operators."""
        return load_model(self.model)

    @property
    def chip_name(self) -> str:
        """The chip's name in the catalogue (aliases resolved); raises UnknownNameError."""
        from weftline.operators import chip_of

        return chip_of(self.chip).name
