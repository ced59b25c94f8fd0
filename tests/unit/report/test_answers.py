"""Every answer in JSON says what it is of, in which format, and has a page."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from weftline.cli.main import run
from weftline.errors import InputError
from weftline.report.page import document, page_of
from weftline.spec.answers import KINDS, kind_of, stamped
from weftline.spec.serialize import read_answer

CLI = Path(__file__).parents[3] / "src" / "weftline" / "cli"
ASKED = {
    "audit": "audit C07",
    "spot": "simulate spot --work 60h --deadline 4days --spot $1/h --on-demand $3/h --runs 20",
    "doctor": "doctor",
    "memory": "memory llama-3.1-8b",
    "catalog-list": "catalog list storage",
    "catalog-entry": "catalog show h100-sxm",
    "catalog-comparison": "catalog compare h100-sxm h200",
    "rules": "policy rules",
    "collective": "simulate collective all-reduce 1MiB --on torus:4x4 --link 100GB/s "
                  "--latency 1us",
    "burst-advice": "burst advise --state 14TB --nodes 2048",
}  # fmt: skip
"""One cheap command of a kind; the others are asked for where pages are opened."""


def test_every_kind_is_the_answer_of_a_command_and_the_other_way_round() -> None:
    said = {
        call.args[0].value
        for file in CLI.glob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") in ("show", "out", "answer", "stamped")
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }
    assert said == set(KINDS)


@pytest.mark.parametrize("kind", ASKED)
def test_an_answer_begins_with_its_kind_and_has_a_page(
    kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run([*ASKED[kind].split(), "--json"]) == 0
    text = capsys.readouterr().out
    answer = json.loads(text)
    assert list(answer)[:2] == ["kind", "format"]
    assert (answer["kind"], answer["format"]) == (kind, 1)
    (tmp_path / "a.json").write_text(text)
    page = page_of(read_answer(tmp_path / "a.json"), where="a.json")
    assert page.headline
    assert any(s.charts or s.tables for s in page.sections)
    assert document(page).count("<table ") >= 1


@pytest.mark.parametrize("kind", ["audit", "collective", "burst-advice"])
def test_an_answer_of_before_is_known_by_its_fields(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*ASKED[kind].split(), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    before = {name: value for name, value in answer.items() if name not in ("kind", "format")}
    assert kind_of(before) == kind
    assert page_of(before, where="a") == page_of(answer, where="a")


def test_a_list_of_before_is_read(tmp_path: Path) -> None:
    row = {"policy": "dense", "perplexity": 9.0, "needles": 8, "needles_found": 8, "density": 1.0,
           "digits_found": 1.0, "kl_nats": 0.0, "same_choice": 1.0, "predicted_speed": None,
           "measured_speed": None, "model": "m", "texts": 2, "tokens": 2048, "seed": 0,
           "date": "2026-11-30"}  # fmt: skip
    ruled = row | {"policy": "window=4", "perplexity": 12.0, "needles_found": 3, "density": 0.25}
    (tmp_path / "a.json").write_text(json.dumps([row, ruled]))
    page = page_of(read_answer(tmp_path / "a.json"), where="a.json")
    assert "No policy finds what full attention finds" in page.headline
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(InputError, match="no command answers"):
        page_of(read_answer(tmp_path / "b.json"), where="b.json")


@pytest.mark.parametrize("wrong", [{"kind": "audit"}, {"format": "csv"}])
def test_no_field_of_an_answer_takes_the_place_of_its_kind(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="another `kind` or `format`"):
        stamped("doctor", wrong)
