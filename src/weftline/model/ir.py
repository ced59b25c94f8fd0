"""One form for every model: layers of operators, exact in parameters, FLOPs and bytes.

A family builder (``weftline.model.families``) turns a Hugging Face ``config.json`` into a
:class:`Model`; every other room reads only what stands here. Operators are written as the training
frameworks run them: query, key and value projections of one input are one fused GEMM, and so are
the gate and up projections of a gated MLP, because that decides GEMM shapes and saved activations.

Legend: ``s`` sequence length, ``h`` hidden size, one multiply-add is 2 FLOP.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from weftline.model.once import once_per_model
from weftline.spec.attention import DENSE, Compress, Rule, Window

OperatorKind = Literal[
    "gemm",  # one dense matrix product with weights
    "grouped_gemm",  # the experts' products: `experts` weight matrices, `experts_per_token` used
    "attention",  # scores and weighted values over cached tokens: no weights
    "scan",  # recurrent state update (Mamba, gated delta net, KDA)
    "conv",  # short causal depthwise convolution
    "norm",
    "embedding",  # a table look-up
    "elementwise",  # activation functions, gates, rotary, residual mixing; may own small parameters
]
Shard = Literal[
    "column",  # Megatron column-parallel: output features split over tensor-parallel ranks
    "row",  # Megatron row-parallel: input features split, output summed
    "vocab",  # vocabulary rows split
    "heads",  # split by attention or state heads
    "expert",  # whole experts split over expert-parallel ranks
    "replicated",  # every tensor-parallel rank holds all of it
]
LayerRole = Literal["decoder", "encoder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The shape of one score-and-value product.

    ``qk_dim`` and ``v_dim`` are per head. Without ``causal`` a window reaches as far to both sides.
    """

    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    causal: bool = True
    rule: Rule = DENSE
    """What a query sees; of prompts and training where ``decode_rule`` differs."""
    decode_rule: Rule | None = None
    """What it sees when decoding; None: the same."""
    keeps: bool = False
    """Whether every token stays cached though queries see fewer: a policy that only selects."""
    kv_values_per_token: int = 0
    """Values cached for one token (before any are merged): 2 * kv_heads * dim, or MLA's latent."""
    cross: bool = False
    """Keys and values come from the encoder (T5)."""

    def mean_context(self, seq_len: int, *, masked: bool = True) -> float:
        """Mean number of entries a query attends to over a sequence of ``seq_len`` tokens.

        ``masked=False`` counts the full rectangle, as a FLOP counter that does not know the mask.
        """
        s = int(seq_len)
        if s < 1:
            return 0.0
        if not masked:
            local = min(s, self.rule.local) if isinstance(self.rule, Compress) else 0
            return float(s if self.cross else s // self.rule.stride + local)
        if self.cross:
            return float(s)
        if not self.causal:
            reach = min(s - 1, self.rule.tokens) if isinstance(self.rule, Window) else s - 1
            return (s * (1 + 2 * reach) - reach * (reach + 1)) / s
        from weftline.spec.attention_counts import mean_seen

        return float(mean_seen(self.rule, s))

    @property
    def decoding(self) -> Rule:
        """What a query sees when decoding."""
        return self.rule if self.decode_rule is None else self.decode_rule

    def cached(self, context_len: float) -> float:
        """Entries that stay cached of ``context_len`` tokens."""
        if self.keeps:
            return context_len
        from weftline.spec.attention_counts import held

        return float(held(self.decoding, context_len))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of a layer, with its exact parameters and per-token work."""

    name: str
    """Dotted and stable: ``attn.qkv``, ``attn.out``, ``mlp.gate_up``, ``moe.experts.down``..."""
    kind: OperatorKind
    parameters: int = 0
    """Trainable parameters, biases and all experts included."""
    active_parameters: int | None = None
    """Parameters one token touches; ``None`` means all of them."""
    in_features: int = 0
    out_features: int = 0
    """GEMMs: a token's row of ``in_features`` becomes ``out_features`` (of one expert, if grouped).
    Norms and elementwise: the row's width stands in ``in_features`` (read) and ``out_features``
    (written)."""
    experts: int = 0
    experts_per_token: int = 0
    """Grouped GEMMs: number of experts, and how many one token is routed to."""
    expert_groups: int = 1
    groups_per_token: int = 1
    """Grouped GEMMs: equal groups the experts lie in, and how many of them one token's lie in."""
    shard: Shard = "replicated"
    attention: Attention | None = None
    state_values: int = 0
    """Values of recurrent or convolution state kept per sequence."""
    scan_flops_per_token: float = 0.0
    """Scans and convolutions: FLOP a token, forward."""
    fp32: bool = False
    """A product that runs in fp32 whatever format the weights are served in (some routers)."""
    tied: bool = False
    """The weight is shared with an operator counted before; ``parameters`` is then 0."""

    @property
    def active(self) -> int:
        """Parameters one token touches."""
        return self.parameters if self.active_parameters is None else self.active_parameters

    def forward_flops_per_token(self, seq_len: int, *, masked: bool = True) -> float:
        """FLOP of one token's forward pass, as the mean over a sequence of ``seq_len`` tokens.

        Matrix products, attention, scans and convolutions count; norms and activations do not, as
        in the Megatron-LM and PaLM papers. ``masked=False`` counts attention's full rectangle.
        """
        match self.kind:
            case "gemm":
                return 2.0 * self.in_features * self.out_features
            case "grouped_gemm":
                return 2.0 * self.in_features * self.out_features * self.experts_per_token
            case "attention":
                if self.attention is None:
                    return 0.0
                a = self.attention
                return 2.0 * a.heads * (a.qk_dim + a.v_dim) * a.mean_context(seq_len, masked=masked)
            case "scan" | "conv":
                return self.scan_flops_per_token
            case _:
                return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: a mixer (attention, scan) and a feed-forward, or only one of the two."""

    index: int
    kind: str
    """Signature such as ``gqa+mlp``, ``mla+moe``, ``mamba2``: layers of one kind are identical."""
    operators: tuple[Operator, ...]
    role: LayerRole = "decoder"

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(op.parameters for op in self.operators)

    @property
    def active_parameters(self) -> int:
        """Parameters one token touches."""
        return sum(op.active for op in self.operators)

    @property
    def expert_parameters(self) -> int:
        """Parameters that expert parallelism splits."""
        return sum(op.parameters for op in self.operators if op.kind == "grouped_gemm")

    def forward_flops_per_token(self, seq_len: int, *, masked: bool = True) -> float:
        """FLOP of one token's forward pass through this layer."""
        return sum(op.forward_flops_per_token(seq_len, masked=masked) for op in self.operators)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A part of the published model that is not counted."""

    what: str
    """``vision tower``, ``audio tower``."""
    parameters: int | None = None
    """Its parameters, where its section says enough to count them."""

    def __str__(self) -> str:
        """``vision tower, 0.4B parameters, not counted``."""
        if self.parameters is None:
            return f"{self.what}, size not known, not counted"
        return f"{self.what}, {_short(self.parameters)} parameters, not counted"


def _short(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 5e7 else f"{parameters / 1e6:.1f}M"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Model:
    """A model as the rest of weftline sees it: exact, immutable, without weights."""

    name: str
    """Short name: ``llama-3.1-70b``."""
    family: str
    """The ``model_type`` it was built from."""
    source: str
    """Where the config comes from: repository, file or ``gpt:`` numbers."""
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    embedding: tuple[Operator, ...]
    """Before the first layer: token and position tables, their norms."""
    head: tuple[Operator, ...]
    """After the last layer: final norm, output projection (``head.lm``)."""
    max_seq_len: int | None = None
    tied_embeddings: bool = False
    dtype: str = "bfloat16"
    """The dtype its makers published the weights in."""
    weights_format: str | None = None
    """Number format of the published weights where they are quantised: ``fp8``, ``mxfp4``..."""
    published_parameters: float | None = None
    """The total its makers state, in parameters, if they do."""
    left_out: tuple[LeftOut, ...] = field(default=())
    """Parts of the published model that are not in ``layers``: a multimodal model's towers."""
    notes: tuple[str, ...] = field(default=())
    """What else was left out (next-token-prediction modules) or taken for granted, and why."""

    def __repr__(self) -> str:
        """Its size in a line; layers and operators are in the fields."""
        kinds = ", ".join(dict.fromkeys(layer.kind for layer in self.layers))
        return (
            f"Model({self.name}: {self.parameters:,} parameters, {len(self.layers)} layers of "
            f"{kinds}, hidden {self.hidden}, vocabulary {self.vocab:,})"
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What an answer about this model has to say of it: parts left out, then the notes."""
        return (*map(str, self.left_out), *self.notes)

    @property
    def operators(self) -> Iterable[Operator]:
        """Every operator in order."""
        yield from self.embedding
        for layer in self.layers:
            yield from layer.operators
        yield from self.head

    @property
    def parameters(self) -> int:
        """Trainable parameters, shared weights counted once."""
        return _facts(self).parameters

    @property
    def active_parameters(self) -> int:
        """Parameters one token touches, embedding rows and shared weights as in ``parameters``."""
        return _facts(self).active

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return _facts(self).is_moe

    @property
    def experts(self) -> int:
        """Routed experts of a layer (the largest, where layers differ); 0 for dense models."""
        return _facts(self).experts

    def stage_parameters(self, first: int, last: int) -> int:
        """Parameters of a pipeline stage holding layers ``first`` to ``last`` (exclusive).

        The first stage holds the embedding, the last one the head; a tied output projection is a
        second copy where embedding and head are on different stages.
        """
        total = sum(layer.parameters for layer in self.layers[first:last])
        if first == 0:
            total += sum(op.parameters for op in self.embedding)
        if last == len(self.layers):
            total += sum(op.parameters for op in self.head)
            if self.tied_embeddings and first != 0:
                total += self.vocab * self.hidden
        return total

    def forward_flops_per_token(self, seq_len: int, *, masked: bool = True) -> float:
        """FLOP of one token's forward pass over a sequence of ``seq_len`` tokens."""
        return sum(op.forward_flops_per_token(seq_len, masked=masked) for op in self.operators)

    @once_per_model
    def training_flops_per_token(self, seq_len: int) -> float:
        """Model FLOP a token of training: three times forward (backward is two), no recomputation.

        Causal attention counts the full rectangle, as in PaLM's appendix B and Megatron's
        reporting, so that MFU compares with published figures; windowed, chunked, compressed and
        top-k attention count what they really see.
        """
        return 3.0 * sum(
            op.forward_flops_per_token(seq_len, masked=_is_sparse(op)) for op in self.operators
        )

    def kv_bytes(self, context_len: int, *, bytes_per_value: float = 2.0) -> float:
        """Bytes of cached keys and values one sequence of ``context_len`` tokens holds."""
        total = 0.0
        for op in self.operators:
            a = op.attention
            if a is None or a.kv_values_per_token == 0:
                continue
            total += a.cached(context_len) * a.kv_values_per_token * bytes_per_value
        return total

    def kv_bytes_per_token(self, *, bytes_per_value: float = 2.0) -> float:
        """Bytes one more token adds to the cache while no window is full yet."""
        return sum(
            op.attention.kv_values_per_token / op.attention.rule.stride * bytes_per_value
            for op in self.operators
            if op.attention is not None
        )

    def state_bytes(self, *, bytes_per_value: float = 4.0) -> float:
        """Bytes of recurrent and convolution state a sequence holds, whatever its length."""
        return sum(op.state_values for op in self.operators) * bytes_per_value


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is asked of a model again and again, summed over its operators."""

    parameters: int
    active: int
    is_moe: bool
    experts: int


@once_per_model
def _facts(model: Model) -> _Facts:
    operators = list(model.operators)
    return _Facts(
        parameters=sum(op.parameters for op in operators),
        active=sum(op.active for op in operators),
        is_moe=any(op.kind == "grouped_gemm" for op in operators),
        experts=max((op.experts for op in operators), default=0),
    )


def _is_sparse(op: Operator) -> bool:
    """Whether a query of this attention sees less than all tokens before it."""
    a = op.attention
    return a is not None and a.rule != DENSE
