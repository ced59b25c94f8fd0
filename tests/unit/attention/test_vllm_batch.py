"""What the vLLM plugin makes of a step, on torch alone: pages' summaries, folded heads, batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from weftline.attention.pages import chosen_blocks, cut
from weftline.attention.vllm.plugin import asked_policy, layer_rules
from weftline.errors import InputError
from weftline.spec.attention import DENSE, TopK, Window
from weftline.spec.attention_text import POLICY_FIELD, POLICY_VARIABLE

torch = pytest.importorskip("torch")
PAGE, KV, HEADS, DIM = 4, 2, 4, 3


def test_where_a_policy_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(additional_config={POLICY_FIELD: "window=512,sinks=4"})
    assert asked_policy(SimpleNamespace(additional_config={})) is None
    monkeypatch.setenv(POLICY_VARIABLE, "topk=10%,dense=0-1")
    found = asked_policy(config)
    assert layer_rules(found, 0) == (Window(tokens=512, sinks=4),) * 2
    found = asked_policy(SimpleNamespace(additional_config=None))
    assert layer_rules(found, 1) == (DENSE, DENSE)
    assert layer_rules(found, 2) == (TopK(fraction=0.1),) * 2
    mistakes = {"window=9,kv=free": "frees", "compress=4": "merged", "wndow=4": "wndow",
                "topk=4,score=indexer": "trained weights"}  # fmt: skip
    for bad, said in mistakes.items():
        monkeypatch.setenv(POLICY_VARIABLE, bad)
        with pytest.raises(InputError, match=said) as caught:
            asked_policy(SimpleNamespace(additional_config=None))
        assert POLICY_VARIABLE in caught.value.render()


@pytest.mark.parametrize("score", ["minmax", "mean"])
@pytest.mark.parametrize("share", ["kv_head", "layer"])
def test_scores_of_blocks_are_those_of_their_keys(score: Any, share: Any) -> None:
    """Written in chunks, over pages that held others before: as computed from the keys at once."""
    from weftline.attention.vllm.summaries import Summaries

    rng = np.random.default_rng(3)
    rule = TopK(block=8, count=2, score=score, share=share, queries=2)
    summaries = Summaries(16, KV, DIM, mean=score == "mean")
    old = torch.from_numpy(rng.normal(size=(64, KV, DIM)) * 9)
    summaries.write(old, torch.arange(64), PAGE)
    tables = rng.permutation(16)[:12].reshape(2, 6)
    lengths = (21, 18)
    keys = [rng.normal(size=(n, KV, DIM)) for n in lengths]
    for r, n in enumerate(lengths):
        slots = np.array([tables[r][t // PAGE] * PAGE + t % PAGE for t in range(n)])
        for part in (slice(0, 7), slice(7, n)):
            padded = torch.from_numpy(np.concatenate([keys[r][part], keys[r][:2]]))
            summaries.write(padded, torch.from_numpy(slots[part]), PAGE)
    starts = [0, 5, 6]
    pieces = cut(starts, lengths, page=PAGE, piece=2)
    query = rng.normal(size=(6, HEADS, DIM))
    found = summaries.score(rule, pieces, torch.from_numpy(query), torch.from_numpy(tables))
    for i in range(len(pieces)):
        own = int(pieces.first[i]) // rule.block
        rows = slice(int(pieces.row[i]), int(pieces.row[i] + pieces.queries[i]))
        for block in range(own):  # its own is kept whatever it scores
            k = keys[pieces.request[i]][block * 8 : block * 8 + 8]
            q = query[rows].reshape(-1, KV, HEADS // KV, DIM)
            if score == "mean":
                each = np.einsum("tkgd,kd->k", q, k.mean(0))
            else:
                bound = np.maximum(q * k.max(0)[None, :, None], q * k.min(0)[None, :, None])
                each = bound.sum(axis=(0, 2, 3))
            expected = each if share == "kv_head" else [each.sum()]
            assert np.allclose(found[i, :, block], expected, atol=1e-4)
    assert chosen_blocks(rule, pieces.first, found).shape[1] == len(found[0])


def test_folded_heads_come_back() -> None:
    from weftline.attention.vllm.batch import folded, unfolded

    query = torch.arange(5 * HEADS * DIM).view(5, HEADS, DIM)
    laid = folded(query, KV)
    assert laid.shape == (5 * KV, HEADS // KV, DIM)
    assert (laid[5 + 1] == query[1, 2:]).all()  # row 1 of the second kv head
    assert (unfolded(laid, KV) == query).all()


def test_layers_of_one_rule_share_a_batch_and_selecting_ones_do_not() -> None:
    from weftline.attention.vllm.batch import Layer, once

    class Metadata(SimpleNamespace):
        query_start_loc = torch.tensor([0, 6, 7])
        seq_lens = torch.tensor([10, 9])
        block_table = torch.arange(8).view(2, 4)

    step, query = Metadata(), torch.randn(7, HEADS, DIM)
    window = Window(tokens=3, sinks=1)
    first, second = Layer(window, DENSE), Layer(window, DENSE)
    virtual = first.batch(step, query, PAGE)
    assert second.batch(step, query, PAGE) is virtual
    assert virtual.lengths.tolist() == [8, 10, 9]
    assert once(step, virtual, lambda: [1]) is once(step, virtual, lambda: [2])
    chooser = TopK(block=PAGE, count=2, queries=4)
    layers = [Layer(chooser, chooser) for _ in range(2)]
    for layer in layers:
        keys = torch.randn(8, KV, DIM)
        layer.written(keys, torch.arange(8), 8, PAGE)
    found = [layer.batch(step, query, PAGE) for layer in layers]
    assert found[0] is not found[1]
    assert found[0].kv_heads == KV
    assert found[0].starts[-1] == 7 * KV
