"""The own engine against transformers, and against itself one request at a time."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from tiny_models import FAMILIES, engine_over, tiny

from weftline.errors import InputError
from weftline.runtime.server.engine import linear as linears
from weftline.runtime.server.engine.linear import make_int8, quicken
from weftline.runtime.server.engine.loop import Busy, Engine
from weftline.runtime.server.engine.requests import Request, Sampling

GREEDY = Sampling(max_tokens=8, temperature=0.0)


def answers(engine: Engine) -> None:
    for _ in range(10_000):
        if engine.idle:
            engine.pages.check()
            assert engine.pages.held == 0
            return
        engine.step()
    raise AssertionError("the engine does not come to an end")


def teacher_forced(engine: Engine, ids: list[int]) -> torch.Tensor:
    wish = Sampling(max_tokens=0, logprobs=0, prompt_logprobs=True)
    request = engine.submit(ids, wish)
    answers(engine)
    return torch.tensor([p.logprob for p in request.prompt_logprobs[1:]])


def true_logprobs(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float()
    return torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_transformers(family: str) -> None:
    """Prompts in chunks through pages against one plain forward: window, soft cap, sinks, MLA."""
    model = tiny(family)
    ids = torch.randint(3, 128, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    want = true_logprobs(model, ids)
    got = teacher_forced(engine_over(model, tokens=37), ids)
    assert (got - want).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_smaller_caches_lose_little(kind: str) -> None:
    model = tiny("llama")
    ids = list(range(3, 120))
    want = true_logprobs(model, ids)
    got = teacher_forced(engine_over(model, kind=kind), ids)
    assert 0 < (got - want).abs().mean() < 0.05 * want.abs().mean()


def test_policies_of_all_pages_change_nothing_and_windows_mask() -> None:
    """A policy that keeps every page is dense; a window of pages is transformers' own window."""
    dense, ids = tiny("llama"), [3 + i * 7 % 120 for i in range(150)]
    want = true_logprobs(dense, ids)
    for policy in (
        "window=4096",
        "topk=100%,block=16",
        "topk=100%,block=32,score=mean,share=layer",
    ):
        got = teacher_forced(engine_over(dense, policy=policy, tokens=50), ids)
        assert (got - want).abs().max() < 1e-4, policy
    sparse = teacher_forced(engine_over(tiny("llama"), policy="topk=30%,block=16"), ids)
    assert (sparse - want).abs().max() > 1e-2


def test_a_window_frees_its_pages() -> None:
    """A long answer of a model with windows everywhere fits a cache that it exceeds many times."""
    model = tiny("mistral")
    engine = engine_over(model, pages=8, tokens=32, max_len=400)
    engine.max_len = 400
    request = engine.submit([5, 6, 7], replace(GREEDY, max_tokens=300))
    most = 0
    while not engine.idle:
        engine.step()
        most = max(most, engine.pages.held)
    assert request.generated == 300
    assert most <= 4
    with torch.no_grad():
        want = model_greedy(tiny("mistral"), [5, 6, 7], 60)
    assert request.tokens[:63] == want


def model_greedy(model, ids: list[int], count: int) -> list[int]:
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids


def _prompts(draw: random.Random, count: int) -> list[list[int]]:
    """Prompts that share beginnings of various lengths."""
    roots = [[draw.randrange(3, 128) for _ in range(90)] for _ in range(2)]
    found = []
    for _ in range(count):
        begin = draw.choice(roots)[: draw.choice([0, 5, 16, 33, 64, 90])]
        found.append([*begin, *(draw.randrange(3, 128) for _ in range(draw.randrange(1, 40)))])
    return found


def _wish(draw: random.Random) -> Sampling:
    hot = draw.random() < 0.5
    return Sampling(
        max_tokens=draw.randrange(1, 12), temperature=0.9 if hot else 0.0,
        top_p=draw.choice([1.0, 0.9]), top_k=draw.choice([0, 20]), seed=draw.randrange(1 << 40),
        presence_penalty=draw.choice([0.0, 0.5]), stop_ids=frozenset({2, 17}),
    )  # fmt: skip


def mixed(model, seed: int) -> int:
    """One random mix: joins at random steps, chunks, cache hits, cancels, too few pages."""
    draw = random.Random(seed)
    said = {"tokens": draw.choice([7, 16, 50, 200]), "sequences": draw.choice([1, 2, 4, 8]),
            "pages": draw.choice([14, 20, 60]), "prefix_cache": draw.random() < 0.8}  # fmt: skip
    policy = draw.choice(["", "", "window=48,sinks=4", "window=32,kv=free", "chunk=64"])
    prompts = _prompts(draw, draw.randrange(2, 9))
    wishes = [_wish(draw) for _ in prompts]
    mix = engine_over(model, policy=policy, **said)
    coming = list(zip(prompts, wishes, strict=True))
    requests: list[Request] = []
    while coming or not mix.idle:
        while coming and draw.random() < 0.4:
            requests.append(mix.submit(*coming.pop(0)))
        running = [r for r in requests if r in mix.scheduler.running]
        if running and draw.random() < 0.04:
            mix.cancel(draw.choice(running))
        mix.step()
        mix.pages.check()
    assert mix.pages.held == 0
    checked = 0
    for request in requests:
        alone = engine_over(model, policy=policy, pages=60, tokens=1000, prefix_cache=False)
        single = alone.submit(request.prompt, request.sampling)
        answers(alone)
        told = request.tokens
        assert told == single.tokens[: len(told)], (seed, said)
        assert request.cancelled or len(told) == len(single.tokens), (seed, said)
        checked += request.generated
    return checked


def test_mixes_give_what_each_request_gives_alone() -> None:
    model = tiny("llama")
    assert sum(mixed(model, seed) for seed in range(6)) > 50


@pytest.mark.slow
def test_500_mixes() -> None:
    models = [tiny("llama"), tiny("gemma3"), tiny("mistral"), tiny("qwen3_moe")]
    assert sum(mixed(models[seed % 4], 1000 + seed) for seed in range(500)) > 5000


def test_prefix_hits_are_counted_and_shared() -> None:
    engine = engine_over(tiny("llama"))
    prompt = list(range(3, 73))
    first = engine.submit(prompt, GREEDY)
    answers(engine)
    second = engine.submit([*prompt, 5], GREEDY)
    answers(engine)
    assert (first.cached_tokens, second.cached_tokens) == (0, 64)


@pytest.mark.slow
def test_numba_gives_the_same() -> None:
    model = tiny("gemma2")
    ids = list(range(3, 60))
    want = true_logprobs(model, ids)
    got = teacher_forced(engine_over(model, compiled=False, tokens=20), ids)
    assert (got - want).abs().max() < 1e-4


def test_what_cannot_be_served_is_refused() -> None:
    engine = engine_over(tiny("llama"), pages=5, max_waiting=1)
    with pytest.raises(ValueError, match="64 with its answer"):
        engine.submit([3] * 64, GREEDY)
    with pytest.raises(ValueError, match="no tokens"):
        engine.submit([], GREEDY)
    engine.submit([3], GREEDY)
    with pytest.raises(Busy):
        engine.submit([3], GREEDY)
    dynamic = tiny("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0,
                                             "rope_theta": 1e4})  # fmt: skip
    with pytest.raises(InputError, match="rotary"):
        engine_over(dynamic)


def test_int8_weights_lose_little_and_batches_agree() -> None:
    """Rows of decoding through the compiled product, a long prompt through widened weights."""
    model, ids = tiny("llama"), list(range(3, 60))
    want = true_logprobs(model, ids)
    make_int8(model)
    wide = teacher_forced(engine_over(model, tokens=200), ids)
    few = teacher_forced(engine_over(model, tokens=7), ids)
    assert 0 < (wide - want).abs().mean() < 0.1 * want.abs().mean()
    assert (wide - few).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_our_products_of_few_rows_are_torchs(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that fill blocks of four and rows that do not, widths of no whole vector, a bias."""
    monkeypatch.setattr(linears, "_wins", lambda *_: frozenset({1, 4, 8, 16, 32}))
    plain = torch.nn.Sequential(torch.nn.Linear(70, 37), torch.nn.Linear(37, 9, bias=False))
    plain = plain.to(dtype)
    plain.get_output_embeddings = lambda: plain[1]
    rows = torch.randn(33, 70, dtype=dtype)
    with torch.inference_mode():
        wanted = [plain(rows[:n]) for n in range(1, 34)]
        said = quicken(plain)
        assert "1, 4, 8, 16, 32 rows" in said
        assert type(plain[0]) is not torch.nn.Linear
        off = 1e-5 if dtype == torch.float32 else 2e-2
        for n, want in enumerate(wanted, 1):
            assert torch.allclose(plain(rows[:n][None])[0], want, atol=off, rtol=off), n
