"""How long prompts and tokens after them take under policies, on the own engine, in this process.

Processor seconds of one thread, which other work on the machine lengthens least. Full attention is
timed at a quarter and a half of the length that is asked about, and one policy that selects at the
half: all that is told of the full length is foretold from those, and then timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

from weftline.attention.forecast import PromptTime
from weftline.attention.speeds import Timed, timed_of
from weftline.errors import InputError
from weftline.runtime.server.engine.linear import quicken
from weftline.runtime.server.engine.loop import Engine
from weftline.runtime.server.engine.model import PagedModel
from weftline.runtime.server.engine.requests import Sampling
from weftline.spec.attention import AttentionPolicy

__all__ = ["timed_here"]

_ANSWER = 9
"""Tokens after a prompt; a step's time is the median of those after the first."""
_PAGES = (64, 32, 16)
_CHUNK = 2048
_LONG = 100_000
"""Tokens after which no prompt is timed: memory, and hours."""


def timed_here(
    model: Any, policies: Sequence[AttentionPolicy], tokens: int,
    progress: Callable[[str], None] | None = None,
) -> Timed:  # fmt: skip
    """Prompts of ``tokens`` under full attention and each of ``policies`` that pages can serve.

    ``model`` is of transformers; it computes through the engine's attention afterwards. Raises
    InputError for a length that the model or this cannot take.
    """
    most = min(int(getattr(model.config, "max_position_embeddings", 0) or _LONG), _LONG)
    if not 512 <= tokens <= most:
        raise InputError(f"prompts of 512 to {most:,} tokens can be timed", where="--speed-tokens")
    if model.device.type != "cpu":
        model = model.float().cpu()
    page = _page(policies)
    dense = AttentionPolicy()
    served = [p for p in policies if not p.is_dense and _served(p, page)]
    chooser = next((p for p in served if p.prefill.selects or p.decode.selects), None)
    tokens -= tokens % 4
    wanted = [(dense, tokens // 4), (dense, tokens // 2)]
    wanted += [(chooser, tokens // 2)] if chooser is not None else []
    wanted += [(policy, tokens) for policy in (dense, *served)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    quicken(model)
    try:
        _timed(model, dense, 256, page)  # compiles, and warms what is compiled
        rows = []
        for policy, count in wanted:
            if progress is not None:
                progress(f"timing {count:,} tokens, {len(rows) + 1} of {len(wanted)}")
            rows.append(_timed(model, policy, count, page))
    finally:
        torch.set_num_threads(threads)
    layers = int(model.config.get_text_config().num_hidden_layers)
    kind = str(model.dtype).rpartition(".")[2].replace("float", "fp").replace("bfp", "bf")
    about = f"own engine, {layers} layers, {kind}, one thread, CPU seconds"
    return timed_of(rows, rows[: 2 + (chooser is not None)], layers=layers, page=page, about=about)


def _page(policies: Sequence[AttentionPolicy]) -> int:
    """The largest page of which the blocks of as many policies as can be are made."""
    blocks = [rule.selects.block for policy in policies for rule in _rules(policy) if rule.selects]
    common = reduce(math.gcd, (block for block in blocks if block % _PAGES[-1] == 0), _PAGES[0])
    return next(page for page in _PAGES if common % page == 0)


def _rules(policy: AttentionPolicy) -> list[Any]:
    return [
        policy.prefill,
        policy.decode,
        *(r for x in policy.layers for r in (x.prefill, x.decode)),
    ]


def _served(policy: AttentionPolicy, page: int) -> bool:
    """Whether pages of this size serve it: no merged entries, no indexer, whole blocks."""
    for rule in _rules(policy):
        chooser = rule.selects
        if chooser is None and not rule.positional:
            return False
        if chooser is not None and (chooser.block % page or chooser.score == "indexer"):
            return False
    return True


def _timed(model: Any, policy: AttentionPolicy, tokens: int, page: int) -> PromptTime:
    kind = "bf16" if model.dtype == torch.bfloat16 else "fp32"
    paged = PagedModel(model, page=page, kind=kind, policy=policy, clock=time.process_time)
    engine = Engine.over(paged, pages=-(-(tokens + _ANSWER) // page) + 2, tokens=_CHUNK,
                         prefix_cache=False)  # fmt: skip
    draw = np.random.default_rng(0).integers(10, min(1000, paged.config.vocab_size), tokens)
    engine.max_len = max(engine.max_len, tokens + _ANSWER)  # for time: the last are extrapolated
    engine.submit(draw.tolist(), Sampling(max_tokens=_ANSWER, temperature=0.0, ignore_eos=True))
    spent: list[tuple[float, float]] = []
    while not engine.idle:
        begun = time.process_time()
        engine.step()
        spent.append((time.process_time() - begun, paged.attention_s))
    prompt, after = np.asarray(spent[: 1 - _ANSWER]), np.asarray(spent[1 - _ANSWER :])
    (total, attention), (step, inside) = prompt.sum(axis=0), np.median(after, axis=0)
    return PromptTime(
        tokens=tokens, total_s=float(total), attention_s=float(attention), policy=policy,
        step_s=float(step), step_attention_s=float(inside),
    )  # fmt: skip
