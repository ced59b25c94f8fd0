"""DeepSeek-V4: compressed attention beside a local window, hyper-connections, hashed routing.

Keys and values are one vector a token. Beside the last ``sliding_window`` tokens a layer sees
either every 128 tokens merged into one entry (heavily compressed), or every 4 merged and the best
of them picked by an indexer (compressed sparse), or nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from weftline.model.blocks import assemble, elementwise, gemm, lm_head, moe, norm, stack
from weftline.model.config import HFConfig
from weftline.model.ir import Attention, Model, Operator
from weftline.spec.attention import Compress, Rule, Window

__all__ = ["FAMILY", "deepseek_v4"]

Ops = tuple[Operator, ...]
_KINDS: Final = (
    "sliding_attention",
    "compressed_sparse_attention",
    "heavily_compressed_attention",
)
_SIGNATURES: Final = dict(zip(_KINDS, ("swa", "csa", "hca"), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    hidden: int
    heads: int
    head_dim: int
    rope_dim: int
    q_rank: int
    o_groups: int
    o_rank: int
    window: int
    index_heads: int
    index_dim: int
    index_topk: int
    streams: int
    rates: tuple[tuple[str, int], ...]

    def rate(self, kind: str) -> int:
        """Tokens merged into one entry; 1 in layers without compression."""
        return dict(self.rates).get(kind, 1)


def _read(config: HFConfig) -> _Shape:
    rates = config.get("compress_rates")
    rates = rates if isinstance(rates, dict) else {}
    sparse, heavy = _KINDS[1], _KINDS[2]
    found = {
        sparse: rates.get(sparse, config.int_or("compress_rate_csa", 4)),
        heavy: rates.get(heavy, config.int_or("compress_rate_hca", 128)),
    }
    good = all(isinstance(rate, int) and rate > 0 for rate in found.values())
    config.require(good, "compress_rates", "`compress_rates` must be whole numbers above 0")
    heads, head_dim = config.int("num_attention_heads"), config.int_or("head_dim", 512)
    groups = config.int_or("o_groups", 8)
    config.require(
        heads * head_dim % groups == 0, "o_groups",
        f"attention's width {heads * head_dim} does not divide by `o_groups` {groups}",
    )  # fmt: skip
    return _Shape(
        hidden=config.int("hidden_size"), heads=heads, head_dim=head_dim,
        q_rank=config.int("q_lora_rank"),
        rope_dim=config.int_or(
            "qk_rope_head_dim", config.rotated(head_dim, 64 / 512, kind="main")
        ),
        o_groups=groups, o_rank=config.int("o_lora_rank"), window=config.int("sliding_window"),
        index_heads=config.int("index_n_heads"), index_dim=config.int("index_head_dim"),
        index_topk=config.int("index_topk"), streams=config.int_or("hc_mult", 4),
        rates=tuple(found.items()),
    )  # fmt: skip


def _compressor(name: str, shape: _Shape, width: int, rate: int, overlap: int) -> Ops:
    """Merges ``rate`` tokens into one entry of ``width``; ``overlap`` is 2 if windows overlap."""
    wide = overlap * width
    return (
        gemm(f"{name}.kv_gate", shape.hidden, 2 * wide, shard="replicated"),
        elementwise(f"{name}.pool", 2 * wide, width, parameters=rate * wide),
        *norm(f"{name}.norm", width),
    )


def _indexer(shape: _Shape, rate: int) -> Ops:
    core = Attention(
        heads=shape.index_heads, kv_heads=1, qk_dim=shape.index_dim, v_dim=0,
        rule=Compress(tokens=rate),
        kv_values_per_token=shape.index_dim,
    )  # fmt: skip
    width = shape.index_heads * shape.index_dim
    return (
        *_compressor("indexer.compressor", shape, shape.index_dim, rate, overlap=2),
        gemm("indexer.q", shape.q_rank, width, shard="replicated"),
        gemm("indexer.weights", shape.hidden, shape.index_heads, shard="replicated"),
        Operator(name="indexer.core", kind="attention", attention=core, in_features=width),
    )


def _attention(shape: _Shape, kind: str) -> Ops:
    width, rate = shape.heads * shape.head_dim, shape.rate(kind)
    sliding, sparse = kind == _KINDS[0], kind == _KINDS[1]
    ops: list[Operator] = [
        *norm("attn.norm", shape.hidden),
        gemm("attn.qkv_down", shape.hidden, shape.q_rank + shape.head_dim, shard="replicated"),
        *norm("attn.q_norm", shape.q_rank),
        *norm("attn.kv_norm", shape.head_dim),
        gemm("attn.q_up", shape.q_rank, width, shard="column"),
        *norm("attn.q_head_norm", width, parameters=0),
        elementwise("attn.rotary", (2 * shape.heads + 1) * shape.rope_dim, shard="heads"),
    ]
    if not sliding:
        ops += _compressor("compressor", shape, shape.head_dim, rate, overlap=2 if sparse else 1)
    if sparse:
        ops += _indexer(shape, rate)
    rule: Rule = Window(tokens=shape.window)
    if not sliding:
        topk = shape.index_topk if sparse else None
        rule = Compress(tokens=rate, topk=topk, local=shape.window)
    core = Attention(
        heads=shape.heads, kv_heads=1, qk_dim=shape.head_dim, v_dim=shape.head_dim,
        rule=rule, kv_values_per_token=shape.head_dim,
    )  # fmt: skip
    # The output's first product is block-diagonal: each group of heads has a matrix of its own, so
    # that a token's work is one group's input width times all groups' output.
    out_a = gemm("attn.out_a", width // shape.o_groups, shape.o_groups * shape.o_rank,
                 shard="heads")  # fmt: skip
    return (
        *ops,
        Operator(name="attn.core", kind="attention", attention=core, shard="heads",
                 parameters=shape.heads, in_features=width, out_features=width),
        out_a,
        gemm("attn.out_b", shape.o_groups * shape.o_rank, shape.hidden, shard="row"),
    )  # fmt: skip


def _hyper_connection(name: str, shape: _Shape) -> Ops:
    """Weights that mix the residual streams before and after one block."""
    wide, mixed = shape.streams * shape.hidden, (2 + shape.streams) * shape.streams
    return (
        *norm(f"{name}.norm", wide, parameters=0),
        gemm(f"{name}.weights", wide, mixed, shard="replicated",
             parameters=wide * mixed + mixed + 3),
        elementwise(f"{name}.mix", 2 * wide + shape.hidden, wide + shape.hidden),
    )  # fmt: skip


def _attention_kinds(config: HFConfig, layers: int) -> tuple[str, ...]:
    """Each layer's attention: named, by compression ratio, or heavy and sparse in turn."""
    default = [_KINDS[2]] * min(layers, 2)
    default += [_KINDS[1] if i % 2 else _KINDS[2] for i in range(layers - len(default))]
    ratios = config.list_or("compress_ratios", ())
    if config.has("layer_types") or not ratios:
        return config.kinds("layer_types", _KINDS, layers, default)
    by_ratio = {0: _KINDS[0], 4: _KINDS[1], 128: _KINDS[2]}
    good = len(ratios) >= layers and all(ratio in by_ratio for ratio in ratios)
    config.require(
        good, "compress_ratios",
        f"`compress_ratios` needs 0, 4 or 128 for each of {layers} layers, has {len(ratios)}",
    )  # fmt: skip
    # Entries past the last layer belong to next-token-prediction modules.
    return tuple(by_ratio[ratio] for ratio in ratios[:layers]) if good else tuple(default)


def deepseek_v4(config: HFConfig) -> Model:
    """Every layer mixes ``hc_mult`` residual streams around attention and around its experts."""
    shape = _read(config)
    vocab = config.int("vocab_size")
    layers = config.layers()
    kinds = _attention_kinds(config, layers)
    experts, top_k = config.expert_counts("n_routed_experts", "num_experts_per_tok")
    ffn = config.int("moe_intermediate_size", "intermediate_size")
    config.require(
        config.int_or("n_shared_experts", 1) == 1, "n_shared_experts",
        "`n_shared_experts` other than 1 is not published for this family and not counted",
    )  # fmt: skip
    shared = ffn
    tied = config.tied(False)
    config.unused("num_key_value_heads", "partial_rotary_factor")  # one, and rope_dim's share
    config.kinds("mlp_layer_types", ("hash_moe", "moe"), layers, ["moe"] * layers)
    config.check()
    config.notes.append("next-token-prediction module left out; its hash tables are no parameters")
    forward = moe(
        hidden=shape.hidden, experts=experts, top_k=top_k, expert_ffn=ffn, shared_ffn=shared
    )

    def build(kind: str) -> tuple[str, Ops]:
        operators = (
            *_hyper_connection("hc.attn", shape), *_attention(shape, kind),
            *_hyper_connection("hc.ffn", shape), *forward,
        )  # fmt: skip
        return f"{_SIGNATURES[kind]}+moe", operators

    wide = shape.streams * shape.hidden
    head = (
        *norm("head.hc.norm", wide, parameters=0),
        gemm("head.hc.weights", wide, shape.streams, shard="replicated",
             parameters=wide * shape.streams + shape.streams + 1),
        elementwise("head.hc.mix", wide, shape.hidden),
        *lm_head(shape.hidden, vocab, tied=tied),
    )  # fmt: skip
    return assemble(
        config, hidden=shape.hidden, vocab=vocab, layers=stack(kinds, build), tied=tied,
        head_ops=head,
    )  # fmt: skip


FAMILY: Final = {"deepseek_v4": deepseek_v4}
