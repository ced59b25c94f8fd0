"""Closed forms against brute force, and configs of any content against the error tree."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import weftline.model
from weftline.errors import InputError
from weftline.model import Attention, Model, load_model
from weftline.model.config import HFConfig
from weftline.model.load import bundled_index, load_config
from weftline.model.policy import changed_layers, policy_of, with_policy
from weftline.spec.attention import DENSE, Chunk, Compress, Rule, TopK, Window
from weftline.spec.attention_text import parse_policy

CONFIGS = Path(weftline.model.__file__).with_name("configs")
SIZES = st.integers(1, 40)


def seen_by(a: Attention, i: int, s: int) -> int:
    """Entries query ``i`` (from 0) attends to, by walking over every token."""
    if a.cross:
        return s
    reach = a.rule.tokens if isinstance(a.rule, Window) else s
    if not a.causal:
        return sum(abs(i - j) <= reach for j in range(s))
    if isinstance(a.rule, Compress):
        entries = (i + 1) // a.rule.tokens
        entries = entries if a.rule.topk is None else min(entries, a.rule.topk)
        return entries + min(i + 1, a.rule.local)
    if isinstance(a.rule, TopK):
        return min(i + 1, a.rule.count or s)
    if isinstance(a.rule, Chunk):
        return sum(j // a.rule.tokens == i // a.rule.tokens for j in range(i + 1))
    return sum(j > i - reach for j in range(i + 1))


RULES = st.one_of(
    st.just(DENSE), st.builds(Window, tokens=SIZES), st.builds(Chunk, tokens=SIZES),
    st.builds(lambda k: TopK(block=1, count=k, first=0, score="indexer"), SIZES),
    st.builds(Compress, tokens=st.integers(1, 9), topk=st.none() | SIZES, local=SIZES),
)  # fmt: skip


@given(s=st.integers(1, 120), rule=RULES, causal=st.booleans(), cross=st.booleans())
def test_mean_context_is_the_brute_force_mean(
    s: int, rule: Rule, causal: bool, cross: bool
) -> None:
    a = Attention(heads=1, kv_heads=1, qk_dim=1, v_dim=1, causal=causal, cross=cross, rule=rule)
    expected = sum(seen_by(a, i, s) for i in range(s)) / s
    assert abs(a.mean_context(s) - expected) < 1e-9


@given(s=st.integers(1, 4096), rule=RULES)
def test_a_mask_only_takes_away(s: int, rule: Rule) -> None:
    a = Attention(heads=1, kv_heads=1, qk_dim=1, v_dim=1, rule=rule)
    if not isinstance(rule, Compress):
        assert 1 <= a.mean_context(s) <= a.mean_context(s, masked=False) == s


@given(policy=st.sampled_from(["window=64,sinks=4", "topk=10%", "chunk=99,kv=free"]),
       name=st.sampled_from(["llama-3.1-8b", "gemma-3-1b", "gpt-oss-20b", "qwen3-next-80b-a3b"]),
       context=st.integers(1, 9000))  # fmt: skip
def test_a_policy_takes_keys_from_full_attention_only(policy: str, name: str, context: int) -> None:
    model, parsed = load_model(name), parse_policy(policy)
    under = with_policy(model, parsed)
    changed = changed_layers(model, parsed)
    assert under.parameters == model.parameters
    trained = policy_of(model)
    for before, after in zip(model.layers, under.layers, strict=True):
        assert (before.operators != after.operators) == (before.index in changed)
        for one, two in zip(before.operators, after.operators, strict=True):
            assert one.forward_flops_per_token(context) >= two.forward_flops_per_token(context)
            if one.attention is not None:
                assert trained.rule(before.index, "prefill") == one.attention.rule
    kept = parsed.kv == "keep"
    assert (under.kv_bytes(context) == model.kv_bytes(context)) or not kept
    assert under.kv_bytes(context) <= model.kv_bytes(context)


RAW = {
    entry.file: json.loads((CONFIGS / entry.file).read_text())
    for entry in bundled_index().values()
    if entry.file
}
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=3),
    st.lists(st.integers(-2, 200) | st.text(max_size=2) | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just([[0]]), st.just(2**60), st.just({"sparse_attention_freq": [[1]]}),
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_no_config_ends_in_a_traceback(data: st.DataObject) -> None:
    """Fields of real configs replaced or dropped: a Model or an InputError, nothing else."""
    fields: dict[str, Any] = json.loads(json.dumps(RAW[data.draw(st.sampled_from(sorted(RAW)))]))
    part = fields.get("text_config", fields)
    for key in data.draw(st.lists(st.sampled_from(sorted(part)), min_size=1, max_size=4)):
        if data.draw(st.booleans()):
            part.pop(key, None)
        else:
            part[key] = data.draw(JUNK)
    model: Model | None = None
    with suppress(InputError):
        model = load_config(HFConfig(json.dumps(fields), "config.json"))
    assert model is None or model.parameters > 0
