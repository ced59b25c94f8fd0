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
from weftline.model import Attention, Model
from weftline.model.config import HFConfig
from weftline.model.load import bundled_index, load_config

CONFIGS = Path(weftline.model.__file__).with_name("configs")
SIZES = st.integers(1, 40)
MAYBE = st.none() | SIZES


def seen_by(a: Attention, i: int, s: int) -> int:
    """Entries query ``i`` (from 0) attends to, by walking over every token."""
    if a.cross:
        return s
    if not a.causal:
        return sum(a.window is None or abs(i - j) <= a.window for j in range(s))
    same_chunk = [j for j in range(i + 1) if a.chunk is None or j // a.chunk == i // a.chunk]
    near = [j for j in same_chunk if a.window is None or j > i - a.window]
    entries = len(near) // a.compress
    entries = entries if a.topk is None else min(entries, a.topk)
    local = 0 if a.local_window is None else min(i + 1, a.local_window)
    return entries + local


@given(
    s=st.integers(1, 120), window=MAYBE, chunk=MAYBE, topk=MAYBE, local=MAYBE,
    compress=st.integers(1, 9), causal=st.booleans(), cross=st.booleans(),
)  # fmt: skip
def test_mean_context_is_the_brute_force_mean(
    s: int, window: int | None, chunk: int | None, topk: int | None, local: int | None,
    compress: int, causal: bool, cross: bool,
) -> None:  # fmt: skip
    a = Attention(
        heads=1, kv_heads=1, qk_dim=1, v_dim=1, causal=causal, cross=cross, window=window,
        chunk=chunk, topk=topk, compress=compress, local_window=local,
    )  # fmt: skip
    expected = sum(seen_by(a, i, s) for i in range(s)) / s
    assert abs(a.mean_context(s) - expected) < 1e-9


@given(s=st.integers(1, 4096), window=MAYBE, chunk=MAYBE, topk=MAYBE)
def test_a_mask_only_takes_away(
    s: int, window: int | None, chunk: int | None, topk: int | None
) -> None:
    a = Attention(heads=1, kv_heads=1, qk_dim=1, v_dim=1, window=window, chunk=chunk, topk=topk)
    assert 1 <= a.mean_context(s) <= a.mean_context(s, masked=False) == s


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
