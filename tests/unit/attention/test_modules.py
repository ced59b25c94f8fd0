"""Policies on transformers' own modules: measured by an exact mask, and trained."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weftline.attention.masks import mask
from weftline.errors import InputError
from weftline.spec.attention import DENSE, AttentionPolicy, LayerRules, TopK, Window
from weftline.spec.attention_text import parse_policy

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
SHAPE = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def tiny(kind: str, **more: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(5)
    config = AutoConfig.for_model(kind, **SHAPE, **more)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def logits(model: Any, ids: Any, policy: str | None = None, prompt: int | None = None) -> Any:
    from weftline.runtime.quality.attend import under

    with torch.no_grad():
        if policy is None:
            return model(ids[None]).logits[0]
        with under(model, parse_policy(policy), prompt or len(ids)):
            return model(ids[None]).logits[0]


def test_a_window_is_the_models_own_window_and_all_blocks_are_full_attention() -> None:
    ids = torch.arange(50) % 61
    dense, windowed = tiny("mistral", sliding_window=None), tiny("mistral", sliding_window=7)
    own = logits(windowed, ids)
    assert torch.allclose(logits(dense, ids, "window=7"), own, atol=1e-5)
    assert torch.allclose(logits(windowed, ids, "window=3"), own, atol=1e-5)  # it keeps its own
    assert not torch.allclose(logits(dense, ids), own, atol=1e-3)
    for policy in ("topk=100%,block=8", "window=60", "dense", "topk=99,block=4,share=layer"):
        for prompt in (50, 20):
            assert torch.allclose(logits(dense, ids, policy, prompt), logits(dense, ids), atol=1e-5)
    late = logits(dense, ids, "window=7,phase=decode", 20)
    assert torch.allclose(late[:20], logits(dense, ids)[:20], atol=1e-5)
    assert not torch.allclose(late[20:], logits(dense, ids)[20:], atol=1e-3)


def test_measuring_chooses_the_blocks_that_scores_say() -> None:
    from weftline.runtime.quality.attend import Under, _kept

    rng = np.random.default_rng(2)
    query, key = (torch.from_numpy(rng.normal(size=(h, 30, 8))) for h in (4, 2))
    rule = TopK(block=4, count=3, queries=2)
    policy = AttentionPolicy(
        prefill=rule, decode=rule, layers=(LayerRules(layers=(1,), prefill=DENSE, decode=DENSE),)
    )
    kept = _kept(Under(policy, 20), 0, query, key)
    blocks = [key[:, b * 4 : b * 4 + 4] for b in range(8)]
    bound = torch.stack([
        torch.maximum(query.view(2, 2, 30, 8) * b.amax(1)[:, None, None],
                      query.view(2, 2, 30, 8) * b.amin(1)[:, None, None]).sum((1, 3))
        for b in blocks
    ], dim=-1)  # fmt: skip  # [kv heads, queries, blocks]
    prompt = bound[:, :20].view(2, 10, 2, 8).sum(2).numpy()
    assert (kept[:, :20].numpy() == mask(rule, 32, np.pad(prompt, ((0, 0), (0, 6), (0, 0))))
            [:, :20, :30]).all()  # fmt: skip
    alone = TopK(block=4, count=3, queries=1)
    assert (kept[:, 20:].numpy() == mask(alone, 30, bound.numpy())[:, 20:]).all()
    assert (_kept(Under(policy, 20), 1, query, key) == torch.ones(30, 30).tril().bool()).all()


def test_training_follows_the_policy() -> None:
    from weftline.runtime.train.sequence import ATTENTION, place

    ids = torch.arange(50) % 61
    model, windowed = tiny("mistral", sliding_window=None), tiny("mistral", sliding_window=7)
    model.set_attn_implementation(ATTENTION)
    try:
        place.policy = AttentionPolicy(prefill=Window(tokens=7))
        found = model(ids[None]).logits[0]
        place.policy = parse_policy("window=4,sinks=2,dense=0")
        other = model(ids[None]).logits[0]
    finally:
        place.policy = None
    assert torch.allclose(found, logits(windowed, ids), atol=1e-5)
    model.set_attn_implementation("sdpa")
    assert torch.allclose(other, logits(model, ids, "window=4,sinks=2,dense=0"), atol=1e-5)


def test_texts_hide_and_ask_for_every_fact() -> None:
    from weftline.runtime.quality.texts import NAMES, made_text

    def encode(text: str) -> list[int]:
        return list(text.encode())

    text = made_text(encode, 4096, document=1, seed=3)
    said = bytes(text.ids).decode(errors="replace")
    assert len(text.ids) == 4096 == len(text.prose)
    assert len(text.answers) == len(NAMES)
    for first, count in text.answers:
        code = bytes(text.ids[first : first + count]).decode()
        assert said.count(code) == 2
        assert not any(text.prose[first : first + count])
    assert made_text(encode, 4096, document=1, seed=3) == text
    assert made_text(encode, 4096, document=2, seed=3).ids != text.ids
    with pytest.raises(ValueError, match="room"):
        made_text(encode, 200, document=0, seed=0)


def test_a_folder_without_a_model_is_said_so(tmp_path: Path) -> None:
    from weftline.runtime.quality import Question, measured

    with pytest.raises(InputError, match=r"config\.json"):
        measured(Question(model=tmp_path, policies=()))


@pytest.mark.parametrize("text", ["window=9,sinks=2", "chunk=11", "topk=2,block=8,queries=4"])
def test_flex_attention_takes_the_mask_and_its_blocks(text: str) -> None:
    from torch.nn.attention.flex_attention import BlockMask, create_mask, flex_attention

    from weftline.attention.masks import block_mask, choices, mask_mod
    from weftline.spec.attention_text import parse_rule

    rule, tokens, heads, kv_heads = parse_rule(text), 64, 4, 2
    scores = None
    chosen = tensor = None
    if rule.selects is not None:
        scores = np.random.default_rng(1).normal(size=(kv_heads, 16, 8))
        chosen = choices(rule, scores)
        tensor = torch.from_numpy(chosen)
    mod = mask_mod(rule, tensor, group=heads // kv_heads)
    own = torch.from_numpy(mask(rule, tokens, scores).copy())
    own = own.repeat_interleave(heads // len(own), 0)
    assert (create_mask(mod, 1, heads, tokens, tokens, device="cpu")[0] == own).all()
    blocks = block_mask(rule, tokens, 16, chosen)

    def spread(values: Any) -> Any:
        found = torch.from_numpy(values)
        return found.repeat_interleave(heads // found.shape[1], 1)

    made = BlockMask.from_kv_blocks(
        spread(blocks.partial_counts), spread(blocks.partial), spread(blocks.full_counts),
        spread(blocks.full), BLOCK_SIZE=16, mask_mod=mod,
    )  # fmt: skip
    q, k, v = (torch.randn(1, heads, tokens, 8) for _ in range(3))
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=own[None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said once a process: slow unless compiled
        found = flex_attention(q, k, v, block_mask=made)
    assert torch.allclose(found, plain, atol=1e-5)
