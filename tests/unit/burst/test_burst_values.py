"""Plain values come back as they were, and what cannot be stored is refused by its place."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.burst.log.values import MAX_DEPTH, Ref, decode, encode
from weftline.errors import InputError

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary() | st.builds(Ref, st.text()) | st.complex_numbers(allow_nan=False)
)  # fmt: skip
KEYS = (
    st.none() | st.booleans() | st.integers() | st.text() | st.binary()
    | st.tuples(st.integers(), st.text()) | st.just("\x00t")
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda c: (
        st.lists(c, max_size=4) | st.dictionaries(KEYS, c, max_size=4) | st.tuples(c, c)
        | st.sets(KEYS, max_size=4) | st.frozensets(KEYS, max_size=4)
    ),
    max_leaves=20,
)  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type all the way down (1, 1.0 and True are three things)."""
    if type(a) is not type(b) or a != b:
        return False
    if isinstance(a, dict):
        return all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    return True


@given(VALUES)
def test_values_come_back_with_their_types(value: Any) -> None:
    assert same(decode(encode(value)), value)


@given(st.binary(max_size=64))
def test_foreign_bytes_raise_nothing_but_a_clear_error(data: bytes) -> None:
    with suppress(InputError):
        decode(data)


def test_an_ordered_dictionary_keeps_its_order() -> None:
    assert list(decode(encode(OrderedDict([("b", 1), ("a", 2)])))) == ["b", "a"]


@pytest.mark.parametrize("value", [object(), lambda: 0, {"a": [1, {"b": object()}]}])
def test_what_cannot_be_stored_is_named(value: Any) -> None:
    with pytest.raises(InputError, match="cannot be stored"):
        encode(value)
    with pytest.raises(InputError, match=r"opt\.a\[1\]\.b"):
        encode({"a": [1, {"b": object()}]}, where="opt")


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InputError, match=f"deeper than {MAX_DEPTH}"):
        encode(loop)
