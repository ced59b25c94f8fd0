"""The container against the reference package, both ways, and against damage."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from weftline.burst.errors import CorruptionError, MismatchError
from weftline.burst.formats.safetensors import Entry, read_safetensors, write_safetensors
from weftline.errors import WeftlineError

DTYPES = ("float32", "float16", "int64", "uint8", "bool", "float64", "int32", "uint16")


def entry(name: str, array: np.ndarray, dtype: str | None = None) -> Entry:
    return Entry(
        name=name, dtype=dtype or array.dtype.name, shape=array.shape,
        data=array.tobytes,
    )  # fmt: skip


arrays = st.builds(
    lambda dtype, shape, seed: (
        np.random.default_rng(seed).integers(0, 2, size=shape or ()).astype(dtype)
        if dtype == "bool"
        else np.frombuffer(
            np.random.default_rng(seed).bytes(math.prod(shape) * np.dtype(dtype).itemsize), dtype
        ).reshape(shape)
    ),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 5), max_size=3).map(tuple),
    st.integers(0, 99),
)
names = st.text(
    st.characters(codec="utf-8", exclude_characters="\\/\x7f", min_codepoint=32),
    min_size=1, max_size=20,
).filter(lambda n: n not in (".", "..", "__metadata__"))  # fmt: skip


@settings(max_examples=40)
@given(state=st.dictionaries(names, arrays, max_size=5))
def test_both_read_what_either_wrote(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, np.ndarray]
) -> None:
    folder = tmp_path_factory.mktemp("st")
    ours, theirs = str(folder / "ours.safetensors"), str(folder / "theirs.safetensors")
    write_safetensors(ours, [entry(n, a) for n, a in state.items()], metadata={"format": "pt"})
    save_file(state, theirs, metadata={"by": "them"})
    read = load_file(ours)
    assert read.keys() == state.keys()
    for name, array in state.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()
    for path, metadata in ((ours, {"format": "pt"}), (theirs, {"by": "them"})):
        found, said = read_safetensors(path)
        assert said == metadata
        assert {n: (s.dtype, s.shape, s.data.tobytes()) for n, s in found.items()} == {
            n: (a.dtype.name, a.shape, a.tobytes()) for n, a in state.items()
        }


def test_dtypes_that_numpy_lacks_are_named_as_the_reference_names_them(tmp_path: Path) -> None:
    path = str(tmp_path / "x.safetensors")
    raw = np.arange(24, dtype=np.uint8)
    wanted = {
        "bfloat16": ("BF16", (12,), [12]), "float8_e4m3fn": ("F8_E4M3", (24,), [24]),
        "float8_e5m2": ("F8_E5M2", (4, 6), [4, 6]), "float8_e8m0fnu": ("F8_E8M0", (24,), [24]),
        "float4_e2m1fn_x2": ("F4", (4, 6), [4, 12]), "complex64": ("C64", (3,), [3]),
    }  # fmt: skip
    write_safetensors(
        path,
        [Entry(name=n, dtype=n, shape=s, data=raw.tobytes) for n, (_, s, _) in wanted.items()],
    )
    with safe_open(path, "np") as theirs:
        for name, (dtype, _, shape) in wanted.items():
            piece = theirs.get_slice(name)
            assert (piece.get_dtype(), piece.get_shape()) == (dtype, shape)
    found, _ = read_safetensors(path)
    assert {n: (s.dtype, s.shape) for n, s in found.items()} == {
        n: (n, shape) for n, (_, shape, _) in wanted.items()
    }


def test_what_the_format_lacks_or_what_breaks_leaves_no_file(tmp_path: Path) -> None:
    path = str(tmp_path / "x.safetensors")
    with pytest.raises(MismatchError, match="cannot hold"):
        write_safetensors(path, [Entry(name="a", dtype="complex32", shape=(1,), data=bytes)])
    with pytest.raises(MismatchError, match="has 0 bytes, not 4"):
        write_safetensors(path, [Entry(name="a", dtype="float32", shape=(1,), data=bytes)])

    def breaks() -> bytes:
        raise KeyError("disk")

    with pytest.raises(KeyError):
        write_safetensors(path, [Entry(name="a", dtype="float32", shape=(1,), data=breaks)])
    assert list(tmp_path.iterdir()) == []


def test_every_way_to_be_cut_short_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(str(path), [entry("a", np.arange(5.0)), entry("b", np.arange(3, dtype="u1"))])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptionError):
            read_safetensors(str(path))
    path.write_bytes(whole + b"x")
    with pytest.raises(CorruptionError, match="accounts for"):
        read_safetensors(str(path))


@pytest.mark.parametrize(
    "head",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"../a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"a": 7},
        [],
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path: Path, head: object) -> None:
    path = tmp_path / "x.safetensors"
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(WeftlineError):
        read_safetensors(str(path))
