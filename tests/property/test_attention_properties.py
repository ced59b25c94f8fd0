"""Attention policies against a walk over every key: masks, pages, rewritten batches and counts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.attention import (
    block_mask,
    cut,
    density,
    kept_pages,
    mask,
    paged_density,
    virtual_requests,
)
from weftline.attention.masks import choices
from weftline.attention.pages import piece_length
from weftline.errors import InputError, InputErrors
from weftline.spec import attention_counts as counts
from weftline.spec.attention import (
    DENSE,
    AttentionPolicy,
    Chunk,
    Compress,
    LayerRules,
    Rule,
    TopK,
    Union,
    Window,
)
from weftline.spec.attention_text import (
    parse_policy,
    parse_rule,
    policy_table,
    policy_text,
    rule_text,
)

SMALL = st.integers(1, 40)
WINDOWS = st.builds(Window, tokens=SMALL, sinks=st.integers(0, 9))
POSITIONAL = st.one_of(st.just(DENSE), WINDOWS, st.builds(Chunk, tokens=SMALL))


@st.composite
def topks(draw: Any, blocks: tuple[int, ...] = (1, 4, 8, 16)) -> TopK:
    block = draw(st.sampled_from(blocks))
    by_count = draw(st.booleans())
    return TopK(
        block=block, count=draw(st.integers(1, 6)) if by_count else None,
        fraction=None if by_count else draw(st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1.0])),
        floor=draw(st.integers(0, 4)), first=draw(st.integers(0, 2)),
        recent=draw(st.integers(1, 2)), share=draw(st.sampled_from(["kv_head", "layer"])),
        score=draw(st.sampled_from(["minmax", "mean"])),
        queries=draw(st.sampled_from([q for q in (None, 1, 2, 4) if not q or block % q == 0])),
    )  # fmt: skip


RULES = st.one_of(
    POSITIONAL, topks(),
    st.builds(lambda a, b: Union(rules=(a, b)), WINDOWS, st.one_of(topks(), POSITIONAL)),
)  # fmt: skip


def oracle(rule: Rule, tokens: int, scores: Any = None) -> Any:
    """[heads, tokens, tokens] by walking over queries and keys, as the rules are written down."""
    heads = 1 if scores is None else len(scores)
    seen = np.zeros((heads, tokens, tokens), dtype=bool)
    for h in range(heads):
        for q in range(tokens):
            for k in range(q + 1):
                seen[h, q, k] = _positional(rule, q, k)
            chooser = rule.selects
            if chooser is not None:
                for block in _picked(rule, chooser, q, scores[h]):
                    end = min((block + 1) * chooser.block, q + 1)
                    seen[h, q, block * chooser.block : end] = True
                others = set(np.flatnonzero(seen[h, q]) // chooser.block)
                assert q // chooser.block in others
    return seen


def _positional(rule: Rule, q: int, k: int) -> bool:
    match rule:
        case Window():
            return q - k < rule.tokens or k < rule.sinks
        case Chunk():
            return q // rule.tokens == k // rule.tokens
        case Union() if rule.selects is None:
            return any(_positional(each, q, k) for each in rule.rules)
        case _:
            return rule == DENSE


def _picked(rule: Rule, chooser: TopK, q: int, scores: Any) -> set[int]:
    """Blocks: those forced, then the best of the rest while places last."""
    own = q // chooser.block
    mine = {b for b in range(own + 1) if b < chooser.first or b > own - chooser.recent}
    start = q // chooser.piece * chooser.piece
    beside = {
        k // chooser.block
        for each in getattr(rule, "rules", ())
        if each is not chooser
        for k in range(start + 1)
        if _positional(each, start, k)
    } | {own for each in getattr(rule, "rules", ())}
    asked = chooser.count
    if asked is None:
        asked = next(n for n in range(own + 3) if n >= chooser.fraction * (own + 1) - 1e-9)
    places = max(asked, chooser.floor, len(mine)) - min(own + 1, chooser.first + chooser.recent)
    forced = mine | beside
    rest = sorted(set(range(own + 1)) - forced, key=lambda b: (-scores[q // chooser.piece, b], b))
    return forced | set(rest[: max(places, 0)])


def scores_for(rule: Rule, tokens: int, seed: int) -> Any:
    chooser = rule.selects
    if chooser is None:
        return None
    heads = 1 if chooser.share == "layer" else 2
    shape = (heads, -(-tokens // chooser.piece), -(-tokens // chooser.block))
    return np.random.default_rng(seed).integers(0, 5, shape).astype(float)  # with ties


@settings(max_examples=80, deadline=None)
@given(rule=RULES, tokens=st.integers(1, 32), seed=st.integers(0, 99))
def test_masks_and_counts_are_what_a_walk_over_keys_finds(
    rule: Rule, tokens: int, seed: int
) -> None:
    scores = scores_for(rule, tokens, seed)
    expected = oracle(rule, tokens, scores)
    found = mask(rule, tokens, scores)
    assert (found == expected).all()
    assert not np.triu(found[0], 1).any()
    seen = expected.sum(axis=2)
    assert (seen == counts.seen(rule, np.arange(tokens))).all()
    assert np.allclose(
        counts.total(rule, np.arange(tokens + 1.0)), np.concatenate([[0], np.cumsum(seen[0])])
    )
    after = tokens // 3
    causal = sum(range(after + 1, tokens + 1))
    assert density(rule, tokens - after, after) == pytest.approx(seen[0, after:].sum() / causal)
    chosen = None if scores is None else choices(rule, scores)
    blocks = block_mask(rule, tokens, 8, chosen)
    assert (spread(blocks, tokens, expected) == expected).all()


def spread(blocks: Any, tokens: int, expected: Any) -> Any:
    """A block mask element by element: full blocks whole, partial ones as ``expected`` says."""
    out = np.zeros_like(expected)
    for h in range(len(out)):
        for q in range(blocks.full.shape[2]):
            rows = slice(q * blocks.block, (q + 1) * blocks.block)
            for k in blocks.full[0, h, q, : blocks.full_counts[0, h, q]]:
                out[h, rows, k * blocks.block : (k + 1) * blocks.block] = True
            for k in blocks.partial[0, h, q, : blocks.partial_counts[0, h, q]]:
                columns = slice(k * blocks.block, (k + 1) * blocks.block)
                assert expected[h, rows, columns].any()
                out[h, rows, columns] = expected[h, rows, columns]
    return out


@settings(max_examples=80, deadline=None)
@given(
    rule=st.one_of(POSITIONAL, topks((4, 8)), st.builds(
        lambda a, b: Union(rules=(a, b)), WINDOWS, st.one_of(topks((4, 8)), POSITIONAL))),
    tokens=st.integers(1, 36), before=st.integers(0, 30), seed=st.integers(0, 99),
)  # fmt: skip
def test_pages_are_the_cover_of_the_mask(rule: Rule, tokens: int, before: int, seed: int) -> None:
    before = min(before, tokens - 1)
    page = 4
    step = piece_length(rule, page)
    pieces = cut([0, tokens - before], [tokens], page=page, piece=step)
    scores = scores_for(rule, tokens, seed)
    given_ = None
    if scores is not None and rule.selects is not None:
        given_ = scores[:, pieces.first // rule.selects.piece].transpose(1, 0, 2)
    kept = kept_pages(rule, pieces, given_)
    seen = oracle(rule, tokens, scores)
    assert pieces.queries.sum() == tokens - before
    for i in range(len(pieces)):
        first, last = pieces.first[i], pieces.first[i] + pieces.queries[i]
        assert first // page == (last - 1) // page == pieces.own[i]
        for h in range(kept.heads):
            edge = first // step * step  # where the piece began had it not been cut by a chunk
            needed = set(np.flatnonzero(seen[h, edge:last].any(axis=0)) // page)
            pages = kept.of(i, h)
            assert pages == sorted(set(pages))
            assert pages[-1] == pieces.own[i]
            if rule.selects is None or before % rule.selects.piece == 0:
                assert set(pages) == needed
            if rule.selects is None and before == 0:
                each = zip(range(len(pieces)), pieces.queries, strict=True)
                paged = sum((len(kept.of(j)) - 1) * page + q + 1 for j, n in each for q in range(n))
                assert paged_density(rule, tokens, page=page) == pytest.approx(
                    paged / (tokens * (tokens + 1) / 2)
                )


@given(rule=POSITIONAL, tokens=st.integers(1, 60), at=st.integers(0, 59))
def test_chunks_change_nothing_of_what_a_query_meets(rule: Rule, tokens: int, at: int) -> None:
    """Cut anywhere, or decoded alone: the pages of a query's piece are the same."""
    at = min(at, tokens - 1)
    whole, page = cut([0, tokens], [tokens], page=4), 4
    meets = {int(own): kept_pages(rule, whole).of(i) for i, own in enumerate(whole.own)}
    for count in (1, tokens - at):
        part = cut([0, count], [at + count], page=page)
        kept = kept_pages(rule, part)
        for i, own in enumerate(part.own):
            assert kept.of(i) == meets[int(own)]


def attend(
    q: Any, keys: Any, values: Any, starts: Any, lengths: Any, tables: Any, page: int
) -> Any:
    """What every paged kernel computes: causal attention, aligned at the last key."""
    out = np.zeros_like(q)
    group = q.shape[1] // keys.shape[1]
    for r in range(len(lengths)):
        rows = range(starts[r], starts[r + 1])
        slots = np.concatenate([np.arange(page) + p * page for p in tables[r]])[: lengths[r]]
        for i, row in enumerate(rows):
            reach = lengths[r] - len(rows) + i + 1
            for h in range(q.shape[1]):
                k, v = keys[slots[:reach], h // group], values[slots[:reach], h // group]
                weight = np.exp(k @ q[row, h])
                out[row, h] = weight @ v / weight.sum()
    return out


@settings(max_examples=30, deadline=None)
@given(
    prefill=st.one_of(POSITIONAL, topks((4, 8))), decode=st.one_of(POSITIONAL, topks((4, 8))),
    shapes=st.lists(st.tuples(st.integers(1, 14), st.integers(0, 20)), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_rewritten_batch_gives_masked_attention(
    prefill: Rule, decode: Rule, shapes: list[tuple[int, int]], seed: int
) -> None:
    """Mixed batches of random chunks: the kernel on virtual requests equals a masked softmax."""
    rng = np.random.default_rng(seed)
    page, kv, heads, dim = 4, 2, 4, 3
    starts = np.concatenate([[0], np.cumsum([n for n, _ in shapes])])
    lengths = np.array([n + before for n, before in shapes])
    width = -(-int(lengths.max()) // page)
    tables = rng.permutation(len(shapes) * width).reshape(len(shapes), width)
    keys = rng.normal(size=(len(shapes) * width * page, kv, dim))
    values, q = rng.normal(size=keys.shape), rng.normal(size=(int(starts[-1]), heads, dim))

    def score(rule: Rule, pieces: Any) -> Any:
        chooser = rule.selects
        assert chooser is not None
        count = 1 if chooser.share == "layer" else kv
        return np.random.default_rng(7).normal(size=(len(pieces), count, width))

    seen = []

    def kept(rule: Rule, pieces: Any) -> Any:
        seen.append((rule, pieces, score(rule, pieces)))
        return seen[-1][2]

    virtual = virtual_requests(prefill, decode, starts=starts, lengths=lengths, tables=tables,
                               page=page, score=kept)  # fmt: skip
    folded = virtual.kv_heads
    n = len(q)
    laid = (
        q.reshape(n, folded, heads // folded, dim)
        .transpose(1, 0, 2, 3)
        .reshape(n * folded, -1, dim)
    )
    if folded > 1:  # the cache as pages of one head
        k2 = keys.reshape(-1, page, kv, dim).transpose(0, 2, 1, 3).reshape(-1, 1, dim)
        v2 = values.reshape(-1, page, kv, dim).transpose(0, 2, 1, 3).reshape(-1, 1, dim)
    else:
        k2, v2 = keys, values
    out = attend(laid, k2, v2, virtual.starts, virtual.lengths, virtual.tables, page)
    out = out.reshape(folded, n, heads // folded, dim).transpose(1, 0, 2, 3).reshape(n, heads, dim)
    for r, (count, before) in enumerate(shapes):
        rule = decode if count == 1 else prefill
        pieces = cut([0, count], [count + before], page=page, piece=piece_length(rule, page))
        scores = None
        for its, every, given_ in seen:
            if its == rule and (every.request == r).any():
                scores = given_[every.request == r]
        pages = kept_pages(rule, pieces, scores)
        for i in range(len(pieces)):
            for at in range(int(pieces.queries[i])):
                row = starts[r] + int(pieces.row[i]) + at
                position = int(pieces.first[i]) + at
                for h in range(heads):
                    mine = pages.of(i, h * kv // heads if pages.heads > 1 else 0)
                    see = [k for k in range(position + 1) if k // page in mine]
                    slots = tables[r][np.array(see) // page] * page + np.array(see) % page
                    weight = np.exp(keys[slots, h // (heads // kv)] @ q[row, h])
                    expected = weight @ values[slots, h // (heads // kv)] / weight.sum()
                    assert np.allclose(out[row, h], expected)


def test_all_pages_kept_is_the_batch_itself() -> None:
    """Whole requests come back when nothing is dropped, whatever the rule is called."""
    starts, lengths, tables = [0, 9, 10], [9, 30], np.arange(32).reshape(2, 16)
    for rule in (DENSE, Window(tokens=99), TopK(block=4, fraction=1.0, share="layer")):
        found = virtual_requests(
            rule, rule, starts=starts, lengths=lengths, tables=tables, page=4,
            score=lambda _, pieces: np.zeros((len(pieces), 1, 8)),
        )  # fmt: skip
        assert found.lengths[-1] == 30
        assert found.tables[-1, :8].tolist() == tables[1][:8].tolist()
        assert found.starts[-1] == 10


COMPRESSED = st.builds(Compress, tokens=SMALL, topk=st.none() | SMALL, local=SMALL)


@given(rule=st.one_of(RULES, COMPRESSED),
       dense=st.lists(st.integers(0, 9), max_size=4), kv=st.sampled_from(["keep", "free"]),
       phase=st.sampled_from(["both", "prefill", "decode"]))  # fmt: skip
def test_text_of_a_policy_is_read_back(rule: Rule, dense: list[int], kv: Any, phase: str) -> None:
    assert parse_rule(rule_text(rule)) == rule
    kv = "keep" if rule.selects else kv
    layers = tuple(sorted(set(dense)))
    own = (LayerRules(layers=layers, prefill=DENSE, decode=DENSE),) if layers else ()
    policy = AttentionPolicy(
        prefill=DENSE if phase == "decode" else rule, decode=DENSE if phase == "prefill" else rule,
        layers=own, kv=kv,
    )  # fmt: skip
    text = policy_text(policy)
    assert parse_policy(text) == policy
    assert parse_policy(json.dumps(policy_table(policy))) == policy
    two = replace(policy, prefill=Window(tokens=7), decode=Chunk(tokens=9), kv="keep")
    assert parse_policy(policy_text(two)) == two


def test_a_policy_file_says_all_its_mistakes(tmp_path: Any) -> None:
    good = tmp_path / "policy.yaml"
    good.write_text(
        "prefill: window=512,sinks=4\ndecode: topk=12.5%\n"
        "layers:\n- layers: 0-1, 5\n  rule: dense\n"
    )
    policy = parse_policy(str(good))
    assert policy.rule(5, "prefill") == policy.rule(1, "decode") == DENSE
    assert policy.rule(2, "decode") == TopK(fraction=0.125)
    bad = tmp_path / "bad.yaml"
    bad.write_text("prefil: dense\ndecode: window=0,sinks=4\nkv: fre\nlayers:\n- layers: 3-1\n")
    with pytest.raises(InputErrors) as caught:
        parse_policy(str(bad))
    said = caught.value.render()
    for part in ("bad.yaml:1", "prefil", "bad.yaml:2", "bad.yaml:5", "`fre`", "`3-1`"):
        assert part in said
    with pytest.raises(InputError, match="nothing can be freed"):
        parse_policy("topk=10%,kv=free")
    with pytest.raises(InputError, match="whole pages of 16"):
        kept_pages(TopK(block=24, count=2), cut([0, 9], [9], page=16, piece=8), np.zeros((2, 1, 1)))
    with pytest.raises(InputErrors) as caught:
        parse_policy("window=x,snks=3+chunk=,kv=no")
    assert len(caught.value.errors) == 4
