"""A transformers model over a paged cache: its own modules, with attention read from pages.

transformers lets attention be exchanged by name. The function here writes a step's keys and values
into pages and attends through their tables, so weights, norms, rotary positions, experts and heads
are the family's own code, and what a family asks of its attention (window, soft cap, sinks) comes
with the call. One token run through the model tells the shape of every layer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from transformers import AttentionInterface

from weftline.attention import VirtualRequests, virtual_requests
from weftline.attention.kernels.paged import Kernel, Kind, padded
from weftline.errors import InputError
from weftline.runtime.server.engine.summaries import Summaries
from weftline.spec.attention import AttentionPolicy, Rule, Window
from weftline.spec.attention_counts import reach

__all__ = ["NAME", "Batch", "PagedModel"]

NAME: Final = "weftline_paged"
_NOW = threading.local()
_SERVED: Final = {"full_attention", "sliding_attention"}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The rows of one step, requests after each other."""

    tokens: torch.Tensor
    """[rows]"""
    positions: torch.Tensor
    """[rows] in their sequences."""
    slots: Array
    """[rows] int64, page x page size + place in it."""
    starts: Array
    """[requests + 1] int32, first row of each."""
    lengths: Array
    """[requests] int32, tokens up to the last row."""
    tables: Array
    """[requests, width] int32, pages."""
    decoding: Array
    """[requests] bool, whether it is past its prompt."""
    rows: torch.Tensor
    """Rows whose logits are wanted."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one token through the model told of a layer's attention."""

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int


class _Probe:
    """Records the shapes of attention calls, and attends to the token itself."""

    def __init__(self) -> None:
        self.layers: dict[int, _Layer] = {}
        self.calls = 0

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
               **said: Any) -> torch.Tensor:  # fmt: skip
        self.calls += 1
        self.layers[layer] = _Layer(q.shape[1], k.shape[1], k.shape[-1], v.shape[-1],
                                    said["window"])  # fmt: skip
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1).transpose(1, 2)


def _paged(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: object,
    scaling: float | None = None, sliding_window: int | None = None,
    softcap: float | None = None, s_aux: torch.Tensor | None = None, **_: object,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention of transformers' interface; query, key, value [1, heads, rows, dim]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _NOW.step.attend(
        module.layer_idx, query, key, value, scale=scale, window=sliding_window or 0,
        softcap=softcap or 0.0, sinks=s_aux,
    )  # fmt: skip
    return out, None


AttentionInterface.register(NAME, _paged)


@contextmanager
def _step(step: Any) -> Iterator[None]:
    _NOW.step = step
    try:
        yield
    finally:
        _NOW.step = None


class PagedModel:
    """A causal language model of transformers with its cache in pages."""

    def __init__(
        self, model: Any, *, page: int, kind: Kind, policy: AttentionPolicy | None = None,
        compiled: bool = True, clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        """``clock`` tells the time in attention. Raises InputError for a model whose layers are not
        all attention over keys and values."""
        self.model = model.eval()
        self.config = model.config.get_text_config()
        self.page = page
        self.policy = policy or AttentionPolicy()
        model.set_attn_implementation(NAME)
        self._refuse()
        probe = _Probe()
        with torch.inference_mode(), _step(probe):
            model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=False)
        layers = int(self.config.num_hidden_layers)
        if sorted(probe.layers) != list(range(layers)) or probe.calls != layers:
            raise InputError("layers without keys and values of their own: the own engine serves "
                             "attention alone", where=self.config.model_type,
                             hint="--engine vllm")  # fmt: skip
        self.layers = [probe.layers[i] for i in range(layers)]
        self._kernels = [
            Kernel(heads=x.heads, kv_heads=x.kv_heads, dim=padded(max(x.key_dim, x.value_dim)),
                   page=page, kind=kind, compiled=compiled)
            for x in self.layers
        ]  # fmt: skip
        self.clock = clock
        self.attention_s = 0.0
        """Seconds of the last step in attention."""
        self._caches: list[tuple[Array, Array | None]] = []
        self._summaries: list[Summaries | None] = []

    @property
    def page_bytes(self) -> int:
        """Memory of one page over all layers."""
        each = [kernel.cache(1) for kernel in self._kernels]
        return sum(a.nbytes + (0 if b is None else b.nbytes) for a, b in each)

    def allocate(self, pages: int) -> None:
        """Make the cache."""
        self._caches = [kernel.cache(pages) for kernel in self._kernels]
        self._summaries = [
            Summaries(kernel, pages) if self._rules(i)[0].selects or self._rules(i)[1].selects
            else None for i, kernel in enumerate(self._kernels)
        ]  # fmt: skip

    def unseen(self, position: int) -> tuple[int, int]:
        """Keys from the first up to the second are seen by no query from ``position`` on."""
        front, low = 0, position
        for i in range(len(self.layers)):
            for rule in self._rules(i):
                if not rule.positional:
                    return 0, 0
                f, w = reach(rule, np.asarray([position // self.page * self.page]))
                front, low = max(front, int(f[0])), min(low, int(w[0]))
        return front, low

    @property
    def frees(self) -> bool:
        """Whether there ever is a key that no later query sees."""
        free = self.policy.kv == "free" or all(layer.window for layer in self.layers)
        far = 1 << 30
        return free and self.unseen(far)[1] > self.unseen(far)[0]

    @torch.inference_mode()
    def logits(self, batch: Batch) -> torch.Tensor:
        """fp32 logits [wanted rows, vocabulary] of a step."""
        self.attention_s = 0.0
        with _step(_Step(self, batch)):
            out = self.model(
                input_ids=batch.tokens[None], position_ids=batch.positions[None], use_cache=False,
                logits_to_keep=batch.rows,
            )  # fmt: skip
        found: torch.Tensor = out.logits[0].float()
        return found

    def _rules(self, layer: int) -> tuple[Rule, Rule]:
        """Of prefill and decode: the model's own window stands above the policy."""
        own = self.layers[layer].window
        if own:
            return Window(tokens=own), Window(tokens=own)
        return self.policy.rule(layer, "prefill"), self.policy.rule(layer, "decode")

    def _refuse(self) -> None:
        kinds = set(getattr(self.config, "layer_types", None) or ()) - _SERVED
        rope = getattr(self.config, "rope_parameters", None) or {}
        ropes = [rope, *(x for x in rope.values() if isinstance(x, dict))]
        varying = {str(x.get("rope_type")) for x in ropes} & {"dynamic", "longrope"}
        if kinds:
            raise InputError(f"layers of {', '.join(sorted(kinds))}: the own engine has full and "
                             "sliding attention", where=self.config.model_type,
                             hint="--engine vllm")  # fmt: skip
        if varying:
            raise InputError(
                f"{varying.pop()} rotary positions change with a sequence's length, so cached keys "
                "would not hold", where=self.config.model_type, hint="--engine vllm",
            )  # fmt: skip


class _Step:
    """Attention of one step, layer by layer."""

    def __init__(self, paged: PagedModel, batch: Batch) -> None:
        self._paged = paged
        self._batch = batch
        self._virtual: dict[tuple[Rule, Rule], VirtualRequests] = {}

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *,
        scale: float, window: int, softcap: float, sinks: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """Write keys and values, attend; the result is [1, rows, heads, value dim]."""
        paged = self._paged
        begun = paged.clock()
        said: dict[str, Any] = {"scale": scale, "softcap": softcap,
                "sinks": None if sinks is None else sinks.float().numpy()}  # fmt: skip
        out = self._attended(layer, query, key, value, window, said)
        width = paged.layers[layer].value_dim
        found = torch.from_numpy(out)[None, :, :, :width].to(query.dtype)
        paged.attention_s += paged.clock() - begun
        return found

    def _attended(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        window: int, said: dict[str, Any],
    ) -> Array:  # fmt: skip
        paged, batch = self._paged, self._batch
        kernel, cache = paged._kernels[layer], paged._caches[layer]
        q, k, v = (_rows(x, kernel.dim) for x in (query, key, value))
        kernel.write(k, v, cache, batch.slots)
        summaries = paged._summaries[layer]
        if summaries is not None:
            summaries.refresh(cache, batch.tables, batch.starts, batch.lengths)
        prefill, decode = paged._rules(layer)
        if window or prefill == decode == _DENSE:
            return kernel.attend(q, cache, batch.starts, batch.lengths, batch.tables,
                                 window=window, **said)  # fmt: skip
        return _sparse(kernel, cache, q, self._seen(layer, prefill, decode, q), said)

    def _seen(self, layer: int, prefill: Rule, decode: Rule, q: Array) -> VirtualRequests:
        """The step under two rules; made once for all layers where positions alone decide."""
        batch, summaries = self._batch, self._paged._summaries[layer]
        made = self._virtual.get((prefill, decode))
        if made is None or summaries is not None:
            score = None if summaries is None else summaries.scorer(q, batch.tables)
            made = virtual_requests(
                prefill, decode, starts=batch.starts, lengths=batch.lengths, tables=batch.tables,
                page=self._paged.page, score=score, decoding=batch.decoding,
            )  # fmt: skip
            self._virtual[prefill, decode] = made
        return made


_DENSE: Final = AttentionPolicy().prefill


def _rows(x: torch.Tensor, dim: int) -> Array:
    """[1, heads, rows, d] -> fp32 [rows, heads, dim], padded with zeros."""
    x = x[0].transpose(0, 1).float()
    if x.shape[-1] != dim:
        x = torch.nn.functional.pad(x, (0, dim - x.shape[-1]))
    found: Array = x.contiguous().numpy()
    return found


def _sparse(
    kernel: Kernel, cache: tuple[Array, Array | None], q: Array, seen: VirtualRequests,
    said: dict[str, Any],
) -> Array:  # fmt: skip
    """Attention over virtual requests; heads that choose for themselves are requests too."""
    if seen.kv_heads == 1:
        return kernel.attend(q, cache, seen.starts, seen.lengths, seen.tables, **said)
    rows, heads, dim = q.shape
    kv, group = kernel.kv_heads, heads // kernel.kv_heads
    folded = Kernel(heads=group, kv_heads=1, dim=dim, page=kernel.page, kind=kernel.kind,
                    compiled=kernel.compiled)  # fmt: skip
    values, scales = cache
    one = (values.reshape(-1, 1, *values.shape[2:]),
           None if scales is None else scales.reshape(-1, 1, *scales.shape[2:]))  # fmt: skip
    by_head = np.ascontiguousarray(q.reshape(rows, kv, group, dim).transpose(1, 0, 2, 3))
    if said["sinks"] is not None:
        raise InputError("a model with sink logits and a choice of pages by head",
                         hint="share=layer lets all heads of a layer choose together")  # fmt: skip
    out = folded.attend(by_head.reshape(-1, group, dim), one, seen.starts, seen.lengths,
                        seen.tables, **said)  # fmt: skip
    return np.ascontiguousarray(out.reshape(kv, rows, group, dim).transpose(1, 0, 2, 3)).reshape(
        rows, heads, dim
    )


def rows_of(counts: Sequence[int]) -> Array:
    """Starts of requests of so many rows each."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
