"""Lock-in: what leaving a place costs, by hand and by laws that every answer keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.cli.main import run
from weftline.decide.lifecycle.plan import plan_lifecycle
from weftline.decide.lifecycle.read import parse_life
from weftline.errors import InputError
from weftline.spec.lifecycle import Leaving, Lifecycle

BARE = "goodput_loss: 0, support: 0, setup_idle: 0, setup_staff: 0, debugging: 0, storage: 0, " \
       "network: 0, cpu_nodes: 0, control_plane: 0"  # fmt: skip
FREE = "{origin: here, parallel: 0, retune: 0, lost: 0%, egress: $0}"


def life(leave: str, here: float = 4.0, there: float = 2.0, months: int = 24) -> Lifecycle:
    """A hundred chips for two years at one of two places without overheads."""
    text = f"""\
model: llama-3.1-8b
samples: 200
places:
  - {{name: here, chip: h100, price: ${here}/h, seller: aws, region: us-east-1, {BARE}}}
  - {{name: there, chip: b200, price: ${there}/h, seller: gcp, {BARE}}}
stages:
  - {{kind: rent, name: a, chips: 100, months: {months}, restarts: false}}
leave: {leave}
"""
    return plan_lifecycle(parse_life(text, "life.yaml"))


def left(leave: str, here: float = 4.0, there: float = 2.0) -> Leaving:
    return life(leave, here, there).leaving[0]


def test_where_leaving_costs_nothing_one_leaves_at_once_for_what_is_cheaper() -> None:
    found = left(FREE)
    assert (found.pays, found.month, found.cost_usd) == (True, 0, 0.0)
    assert found.leave_usd == pytest.approx(100 * 24 * 730 * 2.0)
    assert found.stay_usd == pytest.approx(100 * 24 * 730 * 4.0)
    assert found.break_even_month == 0
    assert found.last_month == 23
    dearer = left(FREE, here=2.0, there=2.5)
    assert not dearer.pays
    assert dearer.break_even_month is None
    assert dearer.last_month is None


def test_the_cost_of_leaving_by_hand() -> None:
    """A month's bill is 292,000 here and 146,000 there."""
    a, b = 100 * 730 * 4.0, 100 * 730 * 2.0
    found = left("{origin: here, month: 3, contract: 10, owed: 50%, parallel: 2, retune: 1000, "
                 "people: $100, lost: 20%, tuning: 4, egress: $7000}")  # fmt: skip
    by_hand = {m: 3 * a + m * a + (24 - 3 - m) * b + 2 * a + 0.5 * max(0, 10 - 3 - m - 2) * a
               + 4 * b * 0.25 + 100_000 + 7000 for m in range(3)}  # fmt: skip
    for m, usd in by_hand.items():
        assert found.by_month[m] == pytest.approx(usd)
    parts = {x.part: 0.0 for x in found.costs}
    for x in found.costs:
        parts[x.part] += x.usd
    assert parts == pytest.approx({
        "two stacks": 2 * a, "contract": 0.5 * (10 - found.month - 2) * a, "missing speed": b,
        "re-tuning": 100_000, "egress": 7000,
    })  # fmt: skip
    assert found.leave_usd == pytest.approx(min(found.by_month))
    # 146,000 a month are saved from the month of leaving on: the cost is paid back in that many.
    months = found.cost_usd / (a - b)
    assert found.break_even_month is not None
    assert months - 1.01 <= found.break_even_month - found.month <= months + 1.01


TERMS = st.fixed_dictionaries({
    "contract": st.integers(0, 30), "parallel": st.integers(0, 5), "retune": st.integers(0, 9000),
    "lost": st.integers(0, 60).map(lambda n: f"{n}%"), "month": st.integers(0, 23),
    "owed": st.integers(0, 100).map(lambda n: f"{n}%"),
})  # fmt: skip


@given(TERMS, st.sampled_from(["contract", "parallel", "retune"]), st.integers(1, 12),
       st.floats(0.5, 6))  # fmt: skip
@settings(max_examples=25)
def test_what_binds_more_never_makes_leaving_cheaper(
    terms: dict[str, object], which: str, more: int, there: float
) -> None:
    def by_month(given_terms: dict[str, object]) -> Leaving:
        text = ", ".join(f"{k}: {v}" for k, v in given_terms.items())
        return left(f"{{origin: here, {text}}}", there=there)

    one = by_month(terms)
    two = by_month(terms | {which: int(str(terms[which])) + more})
    for a, b in zip(one.by_month, two.by_month, strict=True):
        assert b >= a * (1 - 1e-12)
    assert two.leave_usd >= one.leave_usd * (1 - 1e-12) or not one.pays
    assert one.pays or not two.pays
    # Whatever is paid for leaving is at least what the answer calls its cost.
    assert one.cost_usd >= 0
    assert one.pays == (min(one.by_month) < one.stay_usd * (1 - 1e-12))


def test_bytes_that_are_kept_are_moved_at_the_sellers_price() -> None:
    from weftline.catalog import egress

    text = f"""\
model: llama-3.1-8b
samples: 200
places:
  - {{name: here, chip: h100, price: $4/h, seller: aws, region: us-east-1, {BARE}}}
  - {{name: there, chip: b200, price: $2/h, seller: gcp, {BARE}}}
stages:
  - {{kind: store, size: 500TB, copies: 2, months: 24}}
  - {{kind: rent, name: a, chips: 100, months: 24, restarts: false}}
leave: {{origin: here, retune: 0}}
"""
    found = plan_lifecycle(parse_life(text, "life.yaml"))
    move = next(x for x in found.leaving[0].costs if x.part == "egress")
    assert move.usd == pytest.approx(egress("aws").usd(1e15 + 8_030_261_248 * 2), rel=1e-9)
    # What was spent before and beside is the same whether one leaves or not.
    assert found.leaving[0].stay_usd == pytest.approx(
        next(w.usd for w in found.ways if w.name == "all on here")
    )


def test_a_portable_model_beside_the_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two lives of rented chips cost the same to stay; leaving is cheaper by what it is tuned."""
    portable = "{model: qwen3-8b, retune: 100, parallel: 0, lost: 0%}"
    found = life(f"{{origin: here, retune: 1100, parallel: 1, lost: 0%, portable: {portable}}}")
    beside = found.portable
    assert beside is not None
    assert beside.usd == beside.own_usd
    assert (beside.premium_usd, beside.chance) == (0, 0)
    # The weights of both are within the 100 GB that leave aws for nothing.
    assert beside.worth_usd == pytest.approx(1000 * 100 + 100 * 730 * 4.0)
    file = tmp_path / "l.yaml"
    file.write_text("model: llama-3.1-8b\nplaces:\n  - {name: x, chip: h100, price: $2/h}\n"
                    "  - {name: y, chip: b200, price: $1/h}\n"
                    "stages:\n  - {kind: rent, chips: 8, months: 24}\n"
                    f"leave: {{origin: x, contract: 6, portable: {portable}}}\n")  # fmt: skip
    answer = tmp_path / "l.json"
    assert run(["plan", "lifecycle", str(file), "-o", str(answer)]) == 0
    out = capsys.readouterr().out
    assert "Leaving x while it is served" in out
    assert "Portable: qwen3-8b" in out
    assert max(map(len, out.splitlines())) <= 80
    assert run(["explain", str(answer)]) == 0
    assert "leaving x for y in month" in capsys.readouterr().out
    kept = json.loads(answer.read_text())
    assert kept["leaving"][0]["origin"] == "x"
    assert run(["report", str(answer), "-o", str(tmp_path / "l.html")]) == 0
    assert "What binds to x" in (tmp_path / "l.html").read_text()


def test_mistakes_name_their_lines() -> None:
    with pytest.raises(InputError) as told:
        life("{origin: nowhere, contract: x, owed: 200%, people: many}")
    said = told.value.render()
    for part in ("life.yaml:8: `x`: months", "life.yaml:8: `200%`", "life.yaml:8: `many`"):
        assert part in said, said
    for leave, part in (("{origin: nowhere}", "unknown place `nowhere`"),
                        ("{to: [there, mars]}", "unknown place `mars`"),
                        ("{month: 24}", "month 24: serving has 24"),
                        ("{colour: 3}", "unknown field `colour`"),
                        ("{portable: {retune: 3}}", "`model` is missing"),
                        ("{portable: {model: nix}}", "unknown model `nix`")):  # fmt: skip
        with pytest.raises(InputError, match=part):
            life(leave)
