"""Text to tokens and back; a batch is a function of seed and step; a second run makes the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import byte_shards

from weftline.errors import InputError
from weftline.runtime.data.corpus import pieces_of
from weftline.runtime.data.prepare import prepare
from weftline.runtime.data.shards import open_shards

TEXT = b"\n".join(
    p.read_bytes() for p in sorted((Path(__file__).parents[3] / "docs").glob("*.md"))
)[:60_000]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_shards(tmp_path_factory.mktemp("data"), TEXT, cuts=(7, 7, 20_000, 20_001))


@given(st.integers(0, len(TEXT) - 1), st.integers(1, 50_000))
def test_reads_go_over_the_ends_of_shards(data: Path, begin: int, count: int) -> None:
    count = min(count, len(TEXT) - begin)
    found = open_shards(data, seq_len=8).read(begin, count)
    assert bytes(found.astype(np.uint8)) == TEXT[begin : begin + count]


def test_a_batch_depends_on_seed_step_and_row_alone(data: Path) -> None:
    shards = open_shards(data, seq_len=32)
    whole = shards.sequences(3, range(8), seq_len=32, seed=1)
    parts = [shards.sequences(3, range(a, a + 2), seq_len=32, seed=1) for a in (0, 2, 4, 6)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, shards.sequences(4, range(8), seq_len=32, seed=1))
    assert not np.array_equal(whole, shards.sequences(3, range(8), seq_len=32, seed=2))
    begins = {bytes(row.tobytes()) for s in range(40) for row in
              shards.sequences(s, range(8), seq_len=32, seed=0)}  # fmt: skip
    assert len(begins) > 310  # 320 draws of 60,000 places


def test_what_is_prepared_decodes_to_the_text_it_was_made_of(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    for name, text in (("a.md", TEXT[:20_000]), ("b.txt", TEXT[20_000:30_000])):
        (tmp_path / name).write_bytes(text)
    (tmp_path / "binary.bin").write_bytes(b"\0\1\2")
    (tmp_path / "c.txt").write_bytes(b"\0")
    out = tmp_path / "out"
    made = prepare([str(tmp_path)], out, vocab=400, shard_bytes=15_000)
    assert (made.shards, made.made) == (2, 2)
    shards = open_shards(out, seq_len=8)
    coder = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    text = coder.decode(shards.read(0, shards.tokens).tolist(), skip_special_tokens=False)
    files = (TEXT[:20_000], TEXT[20_000:30_000])
    wanted = "".join(t.decode("utf-8", "replace") + "<|end|>" for t in files)
    assert text == wanted
    # Again: nothing to do. A shard cut short, and an index gone: that shard alone.
    assert prepare([str(tmp_path)], out, vocab=400, shard_bytes=15_000).made == 0
    shard = out / "shard-00001.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    with pytest.raises(InputError, match="its index says"):
        open_shards(out, seq_len=8)
    assert prepare([str(tmp_path)], out, vocab=400, shard_bytes=15_000).made == 1
    assert shard.read_bytes() == whole
    # Another text: everything of it, by the same number of processes or more.
    (tmp_path / "b.txt").write_bytes(TEXT[30_000:40_000])
    again = prepare([str(tmp_path)], out, vocab=400, shard_bytes=15_000, processes=2)
    assert again.made == 1


def test_bad_input_leaves_nothing_usable(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    out = tmp_path / "out"
    for sources, what in ((["nowhere"], "no such file"), ([str(tmp_path)], "no text found")):
        with pytest.raises(InputError, match=what):
            prepare(sources, out)
        assert not out.exists()
    (tmp_path / "a.txt").write_text("words " * 100, encoding="utf-8")
    (tmp_path / "tok.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="not a tokenizer"):
        prepare([str(tmp_path / "a.txt")], out, tokenizer=tmp_path / "tok.json")
    assert not (out / "index.json").exists()
    with pytest.raises(InputError, match="weftline prepare"):
        open_shards(out, seq_len=8)
    (out / "index.json").write_text(json.dumps({"format": 1}), encoding="utf-8")
    with pytest.raises(InputError, match="not an index"):
        open_shards(out, seq_len=8)


def test_the_standard_library_is_text(tmp_path: Path) -> None:
    pieces = pieces_of(["stdlib"])
    assert sum(p.end - p.begin for p in pieces) > 5e6
    assert not any("site-packages" in p.path for p in pieces)
    big = tmp_path / "big.txt"
    big.write_bytes(b"a line of text\n" * 700_000)
    cut = pieces_of([str(big)])
    assert len(cut) == 3
    assert "".join(p.text() for p in cut).encode() == big.read_bytes()
    assert all(p.text().endswith("\n") for p in cut)
