"""DeBERTa's disentangled attention: contents and relative positions score each other.

Source: arXiv:2006.03654 and, for parameters, transformers' modelling code. A score is a content
product and, each where ``pos_att_type`` names it, content to position (``c2p``) and position to
content (``p2c``). Positions are rows of one table that all layers share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from weftline.model.blocks import elementwise, gemm, norm
from weftline.model.config import HFConfig
from weftline.model.ir import Operator

__all__ = ["Relative", "deberta", "deberta_v2"]

Ops = tuple[Operator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """What disentangled attention has beside attention to contents."""

    scores: int
    """Further products a pair of tokens."""
    projections: int
    """Parameters of a layer that project the table of positions, or mix heads."""
    fewer_biases: int
    """Biases that the queries, keys and values of a layer do not have."""
    before: Ops
    """The table, and what else stands outside the layers."""

    def attending(self, attention: Ops) -> Ops:
        """An attention's operators with its scores, projections and biases.

        Each further product counts as wide as the first, for every pair: the table has about as
        many rows as a sequence has tokens. Projecting the table once a step is not counted.
        """
        made = []
        for op in attention:
            if op.name == "attn.qkv":
                made.append(replace(op, parameters=op.parameters - self.fewer_biases))
                if self.projections:
                    made.append(elementwise("attn.relative", 0, parameters=self.projections))
            elif op.attention is not None:
                wide = op.attention.qk_dim * (1 + self.scores)
                made.append(replace(op, attention=replace(op.attention, qk_dim=wide)))
            else:
                made.append(op)
        return tuple(made)


def _kinds(config: HFConfig) -> tuple[bool, bool]:
    """(content to position, position to content), from a list or ``c2p|p2c``."""
    if not config.bool_or("relative_attention", False):
        config.unused("pos_att_type")
        return False, False
    value = config.get("pos_att_type") or []
    named = value.lower().split("|") if isinstance(value, str) else list(value)
    named = [str(kind).strip() for kind in named]
    config.require(
        set(named) <= {"c2p", "p2c"}, "pos_att_type",
        f"`pos_att_type` holds {', '.join(named)}: `c2p` and `p2c` are modelled",
    )  # fmt: skip
    return "c2p" in named, "p2c" in named


def _table(config: HFConfig, hidden: int, buckets: int = 0) -> Ops:
    """Rows for distances to either side; none without relative attention."""
    rows = config.int_or("max_relative_positions", -1, minimum=-1)
    if not config.bool_or("relative_attention", False):
        return ()
    if rows < 1:
        rows = config.int_or("max_position_embeddings", 512)
    rows = buckets if buckets > 0 else rows
    return (elementwise("embed.relative", 0, parameters=2 * rows * hidden),)


def deberta(config: HFConfig, hidden: int) -> Relative:
    """DeBERTa 1: keys without bias, neither the positions' keys."""
    to_position, to_content = _kinds(config)
    heads = config.int("num_attention_heads", default=config.default("num_attention_heads"))
    mixed = 2 * heads * heads if config.bool_or("talking_head", False) else 0
    square = hidden * hidden
    return Relative(
        scores=to_position + to_content, before=_table(config, hidden), fewer_biases=hidden,
        projections=to_position * square + to_content * (square + hidden) + mixed,
    )  # fmt: skip


def deberta_v2(config: HFConfig, hidden: int) -> Relative:
    """DeBERTa 2 and 3: distances in buckets, projections shared with the contents' or biased."""
    to_position, to_content = _kinds(config)
    own = not config.bool_or("share_att_key", False)
    buckets = config.int_or("position_buckets", -1, minimum=-1)
    before = _table(config, hidden, buckets)
    if "layer_norm" in config.str_or("norm_rel_ebd", "none").lower().split("|"):
        before = (*before, *norm("embed.relative_norm", hidden, bias=True))
    kernel = config.int_or("conv_kernel_size", 0, minimum=0)
    groups = config.int_or("conv_groups", 1)
    if kernel:  # one convolution, beside the first layer
        config.require(
            hidden % groups == 0, "conv_groups",
            f"`hidden_size` {hidden} does not divide by `conv_groups` {groups}",
        )  # fmt: skip
        taps = kernel * hidden // groups
        before = (
            *before,
            gemm("embed.conv", taps, hidden, shard="replicated", bias=True),
            *norm("embed.conv_norm", hidden, bias=True),
        )
    projected = (to_position + to_content) * own
    return Relative(
        scores=to_position + to_content, before=before, fewer_biases=0,
        projections=projected * hidden * (hidden + 1),
    )  # fmt: skip
