"""Operators of a plan's own layer on one rank, forward and backward through autograd.

Shapes are what one rank works on: heads, features and vocabulary over tensor parallelism, tokens
over context parallelism. Elementwise operators are transformers' own code, taken from the layer.
A chain of layers, forward through all and then back, is timed beside them: what it takes beyond
its operators is what the host does between them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from weftline.runtime.train import models
from weftline.runtime.train.recipe import Recipe
from weftline.runtime.train.trainer import loss_of, products_in

__all__ = ["Operator", "local_fields", "now", "operators_of", "timed"]

CHAIN: Final = 3
"""Layers of the chain: enough that what one saves has left the caches when it is read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Something that can be run forward and back."""

    name: str
    part: str
    """Which part of a step it belongs to."""
    count: float
    """How many of it one layer has; 0 for what a step has once a micro-batch."""
    run: Callable[[], tuple[float, float]]
    """Seconds forward and backward of one of it."""


def local_fields(recipe: Recipe) -> dict[str, Any]:
    """The config of a layer as one tensor-parallel rank holds it."""
    tp = recipe.layout.tp
    fields = dict(recipe.config)
    if tp == 1:
        return fields
    heads = int(fields["num_attention_heads"])
    fields["head_dim"] = int(fields.get("head_dim") or fields["hidden_size"] // heads)
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size",
                 "moe_intermediate_size"):  # fmt: skip
        if isinstance(fields.get(name), int):
            fields[name] = max(1, fields[name] // tp)
    return fields


def timed(forward: Callable[[], Any], device: str) -> tuple[float, float]:
    """Seconds of a forward pass and of its backward pass."""
    begin = now(device)
    outs = forward()
    middle = now(device)
    outs = outs if isinstance(outs, list) else [outs]
    torch.autograd.backward(outs, [torch.ones_like(o) for o in outs])
    return middle - begin, now(device) - middle


def now(device: str) -> float:
    """Seconds of a clock, after what runs on the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def operators_of(recipe: Recipe) -> list[Operator]:
    """The operators of a layer, the chain of layers, and the ends, at this rank's shapes."""
    layout, device = recipe.layout, recipe.device
    fields = local_fields(recipe) | {"num_hidden_layers": CHAIN}
    if isinstance(fields.get("layer_types"), list):
        fields["layer_types"] = fields["layer_types"][:CHAIN]
    if "max_window_layers" in fields:
        fields["max_window_layers"] = min(int(fields["max_window_layers"] or 0), CHAIN)
    config = models.config_of(fields)
    attention = "eager" if fields.get("attn_logit_softcapping") is not None else "sdpa"
    model: Any = models.build(config, attention=attention)
    models.materialise(model, device, seed=recipe.seed, ties=models.ties_of(model))
    text = config.get_text_config()
    tokens = recipe.seq_len // layout.cp
    shape = (layout.micro_batch, tokens)
    made = _Maker(recipe, model, text, shape)
    return [*made.of_layer(), made.chain(), *made.ends()]


class _Maker:
    """Makes the operators of one model at one shape."""

    def __init__(self, recipe: Recipe, model: Any, text: Any, shape: tuple[int, int]) -> None:
        self.recipe, self.model, self.text, self.shape = recipe, model, text, shape
        self.device = recipe.device
        self.layer: Any = model.base_model.layers[0]
        split = recipe.layout.tp if recipe.sequence_parallel else 1
        self.short = (shape[0], shape[1] // split)
        """Where the sequence is split between the blocks: norms and residuals."""

    def _random(self, *shape: int, grad: bool = True) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, requires_grad=grad)

    def _operator(
        self, name: str, part: str, count: float, call: Callable[[], Any], inputs: list[Any]
    ) -> Operator:
        def run() -> tuple[float, float]:
            for tensor in inputs:
                tensor.grad = None
            with products_in(self.recipe):
                return timed(call, self.device)

        return Operator(name=name, part=part, count=count, run=run)

    def of_layer(self) -> list[Operator]:
        """Products by shape, norms by width, attention, rotary, activation, residuals."""
        found: list[Operator] = []
        linears: dict[tuple[int, int], list[nn.Linear]] = {}
        norms: dict[int, list[nn.Module]] = {}
        for module in self.layer.modules():
            if isinstance(module, nn.Linear):
                linears.setdefault((module.in_features, module.out_features), []).append(module)
            elif "Norm" in type(module).__name__:
                norms.setdefault(int(next(iter(module.parameters())).numel()), []).append(module)
        for (k, n), same in linears.items():
            found.append(self._product(f"product {k} x {n}", same[0], len(same)))
        for width, alike in norms.items():
            found.append(self._norm(width, alike[0], len(alike)))
        found += [*self._attention(), *self._activation()]
        a, b = (self._random(*self.short, self.text.hidden_size) for _ in range(2))
        found.append(self._operator("residual", _REST, 2, lambda: a + b, [a, b]))
        return found

    def _product(self, name: str, module: nn.Linear, count: float) -> Operator:
        x = self._random(*self.shape, module.in_features)
        weights = list(module.parameters())
        return self._operator(name, "matrix products", count, lambda: module(x), [x, *weights])

    def _norm(self, width: int, module: nn.Module, count: float) -> Operator:
        # A norm narrower than the model is one of heads: it sees every head of the whole sequence.
        heads = () if width == self.text.hidden_size else (self.text.num_attention_heads,)
        shape = self.short if not heads else self.shape
        x = self._random(*shape, *heads, width)
        inputs = [x, *module.parameters()]
        return self._operator(f"norm {width}", _REST, count, lambda: module(x), inputs)

    def _attention(self) -> list[Operator]:
        inner = self.layer.self_attn
        heads = self.text.num_attention_heads
        dim = int(inner.head_dim)
        kv = int(getattr(self.text, "num_key_value_heads", None) or heads)
        batch, tokens = self.shape
        # A rank of a context group has the whole sequence's keys: the last rank works most.
        seen = self.recipe.seq_len
        q = self._random(batch, heads, tokens, dim)
        k, v = (self._random(batch, kv, seen, dim) for _ in range(2))
        mask = None
        if seen != tokens:
            rows = torch.arange(seen - tokens, seen, device=self.device)[:, None]
            mask = torch.arange(seen, device=self.device)[None, :] <= rows

        def attend() -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=heads != kv
            )

        found = [self._operator("attention", "attention", 1, attend, [q, k, v])]
        rotate = getattr(sys.modules[type(self.layer).__module__], "apply_rotary_pos_emb", None)
        if rotate is not None:
            mine = self._random(batch, kv, tokens, dim)
            cos, sin = (self._random(1, tokens, dim, grad=False) for _ in range(2))

            def turn() -> list[torch.Tensor]:
                return list(rotate(q, mine, cos, sin))

            found.append(self._operator("rotary", _REST, 1, turn, [q, mine]))
        return found

    def _activation(self) -> list[Operator]:
        mlp = getattr(self.layer, "mlp", None)
        if mlp is None or not hasattr(mlp, "act_fn") or not hasattr(mlp, "down_proj"):
            return []
        width = int(mlp.down_proj.in_features)
        a, b = (self._random(*self.shape, width) for _ in range(2))
        gated = hasattr(mlp, "gate_proj")

        def act() -> Any:
            return mlp.act_fn(a) * b if gated else mlp.act_fn(a)

        return [self._operator("activation", _REST, 1, act, [a, b])]

    def chain(self) -> Operator:
        """Layers one after another, forward and then back; one of them."""
        model = self.model
        x = self._random(*self.shape, self.text.hidden_size)
        positions = torch.arange(self.shape[1], device=self.device)[None, :]
        inputs = [x, *(p for layer in model.base_model.layers for p in layer.parameters())]
        turned = model.base_model.rotary_emb(x.detach(), positions)

        def through() -> torch.Tensor:
            h: torch.Tensor = x
            for layer in model.base_model.layers:
                out: Any = layer(h, attention_mask=None, position_ids=positions,
                                 position_embeddings=turned, use_cache=False)  # fmt: skip
                h = out[0] if isinstance(out, tuple) else out
            return h

        whole = self._operator(LAYER, LAYER, 1, through, inputs)

        def one() -> tuple[float, float]:
            forward, backward = whole.run()
            return forward / CHAIN, backward / CHAIN

        return Operator(name=LAYER, part=LAYER, count=1, run=one)

    def ends(self) -> list[Operator]:
        """Embedding, output product, loss: once a micro-batch, where the rank holds them."""
        vocab = int(self.text.vocab_size)
        share = vocab // self.recipe.layout.tp
        table = nn.Embedding(share, self.text.hidden_size, device=self.device)
        head = nn.Linear(self.text.hidden_size, share, bias=False, device=self.device)
        ids = torch.randint(0, share, self.shape, device=self.device)
        logits = self._random(*self.shape, vocab)
        targets = torch.randint(0, vocab, self.shape, device=self.device)
        return [
            self._operator("embedding", _REST, 0, lambda: table(ids), [table.weight]),
            self._product(HEAD, head, 0),
            self._operator("loss", "loss", 0, lambda: loss_of(logits, targets), [logits]),
        ]


LAYER: Final = "layer"
HEAD: Final = "output product"
_REST: Final = "norms and activations"
