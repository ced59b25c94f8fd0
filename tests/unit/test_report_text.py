"""Tables and names as the terminal has room for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from weftline.report.text import in_words, model_label, page, set_width, table


@pytest.fixture(autouse=True)
def _back() -> Iterator[None]:
    yield
    set_width(80)


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("llama-3.1-8b", "llama-3.1-8b"), ("gpt:layers=96,heads=96", "gpt:layers=96,heads=96"),
        ("/models/my-70b/config.json", "my-70b"), ("my-70b.json", "my-70b"),
        ("config.json", "config.json"),
    ],
)  # fmt: skip
def test_a_model_given_as_a_file_is_called_by_its_short_name(model: str, label: str) -> None:
    assert model_label(model) == label


def test_names_that_only_files_know_are_left_out() -> None:
    assert in_words("official: a table (NVIDIA) [aic]") == "official: a table (NVIDIA)"
    assert in_words("calibrated n=42") == "calibrated n=42"


def test_a_folded_column_loses_no_word() -> None:
    said = "rests on something that takes many words to say and then some more"
    for columns in (40, 60, 100):
        set_width(columns)
        lines = table(("", "a", "b"), [("row", "1.00 s", said)], fold=True)
        assert max(map(len, lines)) <= columns
        assert " ".join(" ".join(lines).split()).endswith(said)


def test_a_line_too_long_goes_on_below() -> None:
    set_width(60)
    text = page(["short", "  " + "word " * 30])
    assert max(map(len, text.splitlines())) <= 60
    assert text.split() == ["short", *["word"] * 30]
