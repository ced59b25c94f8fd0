"""Pages of answers: one file, text that stays text, a policy that names its own scripts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest
from hostile import HOSTILE, Elements, poisoned

from weftline.errors import InputError
from weftline.report.page import document, page_of
from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.document import as_data
from weftline.report.page.parts import front_of, stacked

TABLE = Table(columns=("a", "b"), rows=(("x", "1"),), right=frozenset({1}))
CHART = Chart(title="t", kind="bars", table=TABLE, note="n",
              data={"name": "n", "unit": "s", "rows": [{"name": "r", "value": 1.0}]})  # fmt: skip
SECTION = Section(title="s", charts=(CHART,), says=("w",), tables=(TABLE,))
PAGE = Page(title="t", headline="h", lead=("l",), made="m", sections=(SECTION,))


def test_no_text_of_an_answer_becomes_an_element() -> None:
    calm, hostile = Elements(document(PAGE)), Elements(document(poisoned(PAGE)))
    assert hostile.tags == calm.tags
    assert HOSTILE in "".join(hostile.text)  # shown as it is
    assert json.loads(hostile.scripts[0])["charts"][0]["data"]["rows"][0]["name"] == HOSTILE


@pytest.mark.parametrize("text", [HOSTILE, "\u2028\u2029", "<!--<script>", "]]>"])
def test_data_cannot_end_the_element_it_stands_in(text: str) -> None:
    written = as_data({"text": text, text: 1})
    assert not re.search(r"[<>&\u2028\u2029]", written)
    assert json.loads(written) == {"text": text, text: 1}


def test_the_policy_allows_the_two_scripts_and_nothing_else() -> None:
    found = Elements(document(PAGE))
    _, library, drawing = found.scripts
    assert "default-src 'none'" in found.policy
    allowed = re.search(r"script-src ([^;]+);", found.policy)
    assert allowed is not None
    assert allowed[1].split() == [
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in (library, drawing)
    ]
    assert not found.tags["link"] + found.tags["img"] + found.tags["iframe"]


def test_numbers_that_json_lacks_are_refused() -> None:
    chart = replace(CHART, data={"rows": [{"value": float("nan")}]})
    page = replace(PAGE, sections=(Section(title="s", charts=(chart,)),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        document(page)


def test_an_answer_that_no_page_is_for_is_named() -> None:
    with pytest.raises(InputError, match="no command answers"):
        page_of({"anything": 1}, where="x.json")
    broken = {"collective": "all-reduce", "network": {}, "algorithm": "ring", "time_s": 1.0}
    with pytest.raises(InputError, match="a field is missing"):
        page_of(broken, where="x.json")


def test_the_front_is_what_nothing_else_is_below() -> None:
    points = [(3.0, 1.0), (1.0, 5.0), (2.0, 5.0), (2.0, 2.0), (4.0, 1.0)]
    assert front_of(points) == [(1.0, 5.0), (2.0, 2.0), (3.0, 1.0)]


def test_a_stack_keeps_the_sum_of_its_rows() -> None:
    rows = [("a", {"x": 1.0, "dust": 1e-5}), ("b", {"x": 2.0, "y": 3.0})]
    data = stacked(rows, "n", "s")
    for i, (_, parts) in enumerate(rows):
        drawn = sum(part["values"][i] for part in data["parts"])
        assert drawn == pytest.approx(sum(parts.values()))
    assert [p["name"] for p in data["parts"]] == ["x", "y", "other"]
