"""One rank of a run: its stages, its share of the batch, and a step of them."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from weftline.runtime.data.shards import Shards
from weftline.runtime.train import models, parallel, pipeline
from weftline.runtime.train.adapters import adapted
from weftline.runtime.train.meshes import meshes_of, rank_grid
from weftline.runtime.train.optimizer import (
    Optimizers,
    align_gradients,
    gradient_norm,
    rate_at,
    scale_gradients,
)
from weftline.runtime.train.recipe import Recipe
from weftline.runtime.train.sequence import place
from weftline.spec.attention_text import parse_policy

__all__ = ["StepTimes", "Trainer", "loss_of", "products_in"]


@dataclass(slots=True)
class StepTimes:
    """Seconds of one step on this rank, and what came of it."""

    loss: float = 0.0
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    stop: bool = False
    """Whether some rank was told to stop."""
    parts: dict[str, float] = field(default_factory=dict)


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of (batch, tokens, vocab) logits against (batch, tokens) ids, in fp32."""
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


class Trainer:
    """The stages and optimizer of this rank; :meth:`step` takes one step of the run."""

    def __init__(self, recipe: Recipe, *, filled: bool = True) -> None:
        """``filled=False`` leaves weights without memory or values: for fakes."""
        self.recipe = recipe
        self._filled = filled
        layout = recipe.layout
        many = layout.chips > 1
        self.meshes = meshes_of(layout, recipe.device) if many else None
        rank = dist.get_rank() if many else 0
        at = (rank_grid(layout) == rank).nonzero()[0].tolist()
        self.at = dict(zip(("pp", "dp", "cp", "tp"), at, strict=True))
        place.index = self.at["cp"]
        place.group = self.meshes.group("cp") if self.meshes and layout.cp > 1 else None
        place.policy = parse_policy(recipe.policy) if recipe.policy else None
        config = models.config_of(recipe.config)
        read = models.weights_of(recipe.weights, config) if recipe.weights else None
        self.stages: list[nn.Module] = []
        self.models: list[Any] = []
        self._build(config, read)
        self.schedule: Any = None
        self.ends: pipeline.Ends | None = None
        if self.meshes is not None and layout.pp > 1:
            text = config.get_text_config()
            if filled:  # fakes exchange nothing between stages
                self.schedule = pipeline.schedule_over(
                    recipe, self.stages, self.meshes, loss_of, hidden=text.hidden_size,
                    vocab=text.vocab_size,
                )  # fmt: skip
            if models.tied_head(self.models[0]):
                self.ends = pipeline.ends_of(recipe, self.models)
        self.named = self._named()
        self.optimizers = Optimizers(recipe, self.named)
        copies = {id(p) for p in self.ends.here if _is_head(p, self.models)} if self.ends else set()
        self.normed = [p for p in self.named.values() if id(p) not in copies]

    def _build(self, config: Any, read: models.Read | None) -> None:
        recipe = self.recipe
        layout = recipe.layout
        attention = parallel.attention_for(recipe)
        layers = config.get_text_config().num_hidden_layers
        ranges = pipeline.layers_of_stages(layout, layers)
        whole = models.build(config, attention=attention)
        models.check_count(whole, recipe.parameters)
        for number in pipeline.stages_of_rank(layout, self.at["pp"]):
            model = models.stage_of(whole, *ranges[number]) if layout.pp > 1 else whole
            if recipe.tune == "lora":
                adapted(model, recipe.rank)
            source = read
            if read is not None and number and models.tied_head(model):
                source = _head_from_embedding(read)
            self.stages.append(
                parallel.laid_out(
                    recipe,
                    model,
                    self.meshes,
                    first=number == 0,
                    read=source,
                    filled=self._filled,
                )
            )
            self.models.append(model)
        if layout.pp > 1 and models.tied_head(self.models[0]) and read is None and (self._filled):
            self._same_ends(layers)

    def _same_ends(self, layers: int) -> None:
        """The copy of a tied embedding on the last stage begins as the embedding does."""
        del layers
        for model in self.models:
            head = getattr(model, "lm_head", None)
            weight = getattr(head, "weight", None)
            if weight is None or isinstance(model.base_model.embed_tokens, nn.Embedding):
                continue
            models.begin_as_embedding(model, weight, self.recipe.seed)

    def _named(self) -> dict[str, nn.Parameter]:
        """Parameters by their name in the whole model; the copy of a tied weight has its name."""
        found: dict[str, nn.Parameter] = {}
        for model in self.models:
            for name, p in model.named_parameters():
                copy = self.ends is not None and name == "lm_head.weight"
                key = f"{model.base_model_prefix}.embed_tokens.weight" if copy else name
                found[f"{key}#copy" if key in found else key] = p
        return found

    def batch(self, shards: Shards, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[micro-batches * sequences, tokens] ids and targets of this rank."""
        layout = self.recipe.layout
        mine = layout.micro_batch * layout.num_micro_batches
        rows = range(self.at["dp"] * mine, (self.at["dp"] + 1) * mine)
        drawn = torch.from_numpy(
            shards.sequences(step, rows, seq_len=self.recipe.seq_len, seed=self.recipe.seed)
        )
        tokens = self.recipe.seq_len // layout.cp
        begin = self.at["cp"] * tokens
        ids = drawn[:, begin : begin + tokens].to(self.recipe.device)
        return ids, drawn[:, begin + 1 : begin + tokens + 1].to(self.recipe.device)

    def step(
        self, ids: torch.Tensor, targets: torch.Tensor, number: int, *, stop: bool
    ) -> StepTimes:
        """Forward, backward, exchange and update of step ``number`` (from 0)."""
        recipe = self.recipe
        done = StepTimes(learning_rate=rate_at(recipe, number))
        clock = _Clock(done.parts)
        with products_in(recipe):
            mean = self._forward_backward(ids, targets)
        clock("forward and backward")
        align_gradients(self.named.values())
        if self.ends is not None:
            self.ends.add_up()
        group = self.meshes.group("pp") if self.meshes and recipe.layout.pp > 1 else None
        norm = float(gradient_norm(self.normed, group))
        if 0 < recipe.clip_norm < norm:
            scale_gradients(self.named.values(), recipe.clip_norm / (norm + 1e-6))
        done.gradient_norm = norm
        told = torch.tensor([mean, float(stop)], dtype=torch.float64, device=recipe.device)
        if self.meshes is not None:
            dist.all_reduce(told)
        done.loss, done.stop = float(told[0]), bool(told[1] > 0)
        clock("norm and loss")
        self.optimizers.step(done.learning_rate)
        clock("optimizer")
        return done

    def _forward_backward(self, ids: torch.Tensor, targets: torch.Tensor) -> float:
        """This rank's part of the mean loss: the parts of all ranks add up to it."""
        layout = self.recipe.layout
        share = 1.0 / (layout.dp * layout.cp * layout.tp)
        if self.schedule is not None:
            losses: list[torch.Tensor] = []
            given = (ids,) if self.at["pp"] == 0 else ()
            count = pipeline.stage_count(layout)
            last = count - 1 in pipeline.stages_of_rank(layout, self.at["pp"])
            self.schedule.step(*given, target=targets if last else None, losses=losses)
            return share * float(torch.stack(losses).mean()) if last else 0.0
        module = self.stages[0]
        total = torch.zeros((), device=ids.device)
        runs = layout.num_micro_batches
        for run, (x, y) in enumerate(
            zip(*(torch.split(t, layout.micro_batch) for t in (ids, targets)), strict=True)
        ):
            exchange = run == runs - 1 or (isinstance(module, FSDPModule) and layout.zero >= 2)
            parallel.set_sync(module, exchange)
            loss = loss_of(module(x), y) / runs
            torch.autograd.backward(loss)
            total += loss.detach()
        return share * float(total)


def _is_head(parameter: nn.Parameter, made: list[Any]) -> bool:
    return any(parameter is getattr(m.lm_head, "weight", None) for m in made)


def _head_from_embedding(read: models.Read) -> models.Read:
    def found(name: str) -> torch.Tensor | None:
        return read("model.embed_tokens.weight" if name == "lm_head.weight" else name)

    return found


@contextlib.contextmanager
def products_in(recipe: Recipe) -> Any:
    """While inside, products run in the recipe's format."""
    if recipe.dtype == "bf16":
        with torch.autocast(recipe.device, dtype=torch.bfloat16):
            yield
    else:
        yield


class _Clock:
    """Seconds since the last call, under a name."""

    def __init__(self, parts: dict[str, float]) -> None:
        self._parts = parts
        self._last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self._parts[name] = self._parts.get(name, 0.0) + now - self._last
        self._last = now
