"""An answer in every form has the same fields; two plans beside each other."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.plan import job_of, plan_train
from weftline.report.forms import as_csv, as_markdown, main_table
from weftline.spec import Plan
from weftline.spec.difference import difference, parse_limits
from weftline.spec.options import JobOptions

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
CELL = st.one_of(st.none(), st.booleans(), st.integers(), TEXT)
ROWS = st.lists(
    st.dictionaries(st.text("abc_", min_size=1, max_size=4), CELL, min_size=1, max_size=4),
    min_size=1, max_size=6,
)  # fmt: skip


def shown(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@given(rows=ROWS)
def test_csv_holds_every_cell(rows: list[dict[str, object]]) -> None:
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    for row, back in zip(rows, read, strict=True):
        assert {k: v for k, v in back.items() if v} == {
            k: shown(v) for k, v in row.items() if shown(v)
        }


@given(rows=ROWS)
def test_a_markdown_table_has_as_many_cells_in_every_line(rows: list[dict[str, object]]) -> None:
    lines = as_markdown(rows).splitlines()
    assert len(lines) == len(rows) + 2
    bars = {line.replace("\\|", "").count("|") for line in lines}
    assert len(bars) == 1


def test_the_main_table_is_the_one_named_then_the_longest_then_the_fields() -> None:
    data = {"name": "x", "few": [{"a": 1}], "many": [{"b": {"c": 2}}, {"b": {"c": [3, 4]}}]}
    assert main_table(data, "few") == [{"a": "1"}]
    assert main_table(data) == [{"b.c": "2"}, {"b.c": "3; 4"}]
    assert main_table({"x": 1.5, "y": None}) == [
        {"field": "x", "value": "1.5"}, {"field": "y", "value": ""}
    ]  # fmt: skip
    text = as_markdown(data, "few")
    assert text.index("## few") < text.index("## many") < text.index("## fields")


# --- two plans ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_train(
        job_of("llama-3.1-8b", JobOptions(tokens="10B", on="h100", max_chips="16", price="$2/h"))
    )


def test_a_plan_beside_itself_differs_in_nothing(plan: Plan) -> None:
    found = difference(plan, plan)
    assert (found.asked, found.chosen) == ((), ())
    assert all(m.share == 0 and not m.apart for m in found.moved)


def test_a_dearer_chip_hour_moves_money_alone(plan: Plan) -> None:
    dearer = plan_train(replace(plan.job, own_prices={"*": 3.0}))
    found = difference(plan, dearer)
    moved = {m.name: m.share for m in found.moved if m.share}
    assert moved == pytest.approx({"cost": 0.5, "effective_cost": 0.5})
    assert [c.field for c in found.asked] == ["own_prices"]
    assert [(c.before, c.after) for c in found.chosen] == [
        ("2 USD/chip-hour", "3 USD/chip-hour")
    ]  # fmt: skip
    back = {m.name: m.share for m in difference(dearer, plan).moved}
    for name, share in moved.items():
        assert (1 + share) * (1 + (back[name] or 0)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("limit", "crossed"),
    [
        ("cost>5%", True), ("cost>50%", False), ("cost>60%", False), ("cost<-1%", False),
        ("time>0%", False), ("train-time<0%", False), ("memory>1e9", True), ("memory<1e9", False),
    ],
)  # fmt: skip
def test_a_limit_is_crossed_where_it_is(plan: Plan, limit: str, crossed: bool) -> None:
    dearer = plan_train(replace(plan.job, own_prices={"*": 3.0}))
    ((found, moved),) = parse_limits([limit], difference(plan, dearer))
    assert found.crossed(moved) is crossed


def test_a_number_that_went_missing_crosses_any_limit(plan: Plan) -> None:
    without = {k: v for k, v in plan.estimates.items() if k != "cost"}
    ((found, moved),) = parse_limits(
        ["cost>90%"], difference(plan, replace(plan, estimates=without))
    )
    assert found.crossed(moved)


def test_limits_that_cannot_be_are_all_told(plan: Plan) -> None:
    with pytest.raises(InputError) as told:
        parse_limits(["cost", "spped>3%,cost>x%"], difference(plan, plan))
    assert told.value.render().count("error: --fail-if: ") == 3
