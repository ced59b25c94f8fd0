"""Portfolios: against enumeration, laws that every optimum keeps, supply that ends, mistakes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.cli.main import run
from weftline.decide.portfolio.plan import plan_portfolio
from weftline.decide.portfolio.read import parse_portfolio, read_portfolio
from weftline.decide.portfolio.solve import QUARTER_H, Problem, solve
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.spec.portfolio import CapacityDemand, CapacityOffer

EXAMPLES = Path(__file__).parents[3] / "examples" / "portfolio"


def problem(seed: int, quarters: int = 2) -> Problem:
    """Serving over a few quarters and scenarios, two commitments and two ways to buy later."""
    rng = np.random.default_rng(seed)
    offers = tuple(
        CapacityOffer(
            name=f"o{i}", vendor=f"v{i}", way=way, unit_chips=1,
            usd_per_chip_hour=float(rng.uniform(*price)), term=int(rng.integers(1, quarters + 1)),
            lead=int(rng.integers(0, 2)) if way == "reserved" else 0,
            supply=(float(rng.integers(1, 4)),) if way != "on-demand" else (),
        )
        for i, (way, price) in enumerate([("reserved", (1, 3)), ("reserved", (1, 3)),
                                          ("on-demand", (2.5, 5)), ("on-demand", (2.5, 5))])
    )  # fmt: skip
    kinds = (CapacityDemand(name="serving", chips=(1.0,) * quarters),)
    work = rng.uniform(0, 6, (3, 1, quarters))
    chance = rng.dirichlet(np.ones(3))
    return Problem(offers=offers, kinds=kinds, work=work, chance=chance)


def by_enumeration(p: Problem) -> float:
    """Every first stage; what is missing is bought from the cheapest that sells on demand."""
    starts = [(j, t) for j in (0, 1) for t in range(p.offers[j].lead, p.quarters)]
    later = min(p.offers[2].usd_per_chip_hour, p.offers[3].usd_per_chip_hour)
    best = np.inf
    for units in itertools.product(*(range(int(p.offers[j].supply[0]) + 1) for j, _ in starts)):
        have = np.zeros(p.quarters)
        usd, allowed = 0.0, True
        held = np.zeros((2, p.quarters))
        for (j, t), n in zip(starts, units, strict=True):
            end = min(p.quarters, t + p.offers[j].term)
            have[t:end] += n
            held[j, t:end] += n
            usd += n * p.offers[j].usd_per_chip_hour * QUARTER_H * p.offers[j].term
        for j in (0, 1):
            allowed &= bool((held[j] <= p.offers[j].supply[0]).all())
        if allowed:
            missing = np.maximum(0.0, p.work[:, 0] - have).sum(axis=1)
            best = min(best, usd + later * QUARTER_H * float(p.chance @ missing))
    return best


@pytest.mark.parametrize("seed", range(50))
def test_the_optimum_is_that_of_enumeration(seed: int) -> None:
    p = problem(seed, quarters=2 + seed % 2)
    assert solve(p).usd == pytest.approx(by_enumeration(p), rel=1e-6)


@given(st.integers(0, 10_000), st.floats(0, 3))
@settings(max_examples=10)
def test_more_demand_never_costs_less(seed: int, more: float) -> None:
    p = problem(seed)
    assert solve(replace(p, work=p.work + more)).usd >= solve(p).usd * (1 - 1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_a_longer_horizon_never_lowers_the_total(seed: int) -> None:
    p = problem(seed, quarters=3)
    kinds = (replace(p.kinds[0], chips=(1.0, 1.0)),)
    assert solve(p).usd >= solve(replace(p, work=p.work[:, :, :2], kinds=kinds)).usd * (1 - 1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_a_dominated_offer_is_never_bought(seed: int) -> None:
    p = problem(seed)
    worse = replace(p.offers[0], name="worse", supply=(),
                    usd_per_chip_hour=p.offers[0].usd_per_chip_hour * 1.1)  # fmt: skip
    free = replace(p.offers[0], supply=())
    found = solve(replace(p, offers=(free, *p.offers[1:], worse)))
    assert all(j != 4 for j, _ in found.units)


def test_work_that_may_wait_moves_to_where_chips_are_free() -> None:
    """Two quarters of serving leave room in the second; research that waits needs nothing more."""
    offers = (
        CapacityOffer(name="r", vendor="v", way="reserved", unit_chips=1, term=2,
                      usd_per_chip_hour=1.0),
        CapacityOffer(name="d", vendor="v", way="on-demand", usd_per_chip_hour=9.0),
    )  # fmt: skip
    kinds = (
        CapacityDemand(name="s", chips=(10.0, 4.0)),
        CapacityDemand(name="r", chips=(6.0, 0.0), wait=1, firm=False),
    )
    work = np.array([[k.chips for k in kinds]])
    p = Problem(offers=offers, kinds=kinds, work=work, chance=np.ones(1))
    assert solve(p).usd == pytest.approx(10 * 2 * QUARTER_H)
    now = replace(p, kinds=(kinds[0], replace(kinds[1], wait=0)))
    assert solve(now).usd > solve(p).usd


def test_spot_serves_no_firm_work() -> None:
    offers = (
        CapacityOffer(name="s", vendor="v", way="spot", usd_per_chip_hour=1.0, available=0.5),
        CapacityOffer(name="d", vendor="v", way="on-demand", usd_per_chip_hour=4.0),
    )
    firm = CapacityDemand(name="serving", chips=(8.0,))
    loose = CapacityDemand(name="research", chips=(8.0,), firm=False)
    work = np.array([[[8.0]]])
    usd = [solve(Problem(offers=offers, kinds=(kind,), work=work, chance=np.ones(1))).usd
           for kind in (firm, loose)]  # fmt: skip
    assert usd == pytest.approx([8 * 4 * QUARTER_H, 8 * 1 * QUARTER_H])


SMALL = """\
demand:
  - {name: serving, chips: [64, 640, 64]}
spread: 0%
scenarios: 2
fresh: 10
offers:
  - {name: cloud, vendor: aws, way: on-demand, price: $4/h, supply: [100]}
  - {name: year, vendor: gcp, way: reserved, price: $2/h, term: 4, lead: 2, supply: [512]}
"""


def test_where_supply_ends_quarter_and_vendor_are_named() -> None:
    with pytest.raises(NoFeasiblePlanError) as told:
        plan_portfolio(parse_portfolio(SMALL, "p.yaml"))
    said = told.value.render()
    for part in (
        "serving lacks 540 chips in Q2",
        "aws (cloud: 100 chips)",
        "year of gcp comes in Q3",
    ):
        assert part in said, said


def test_the_command_and_its_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(SMALL.replace("supply: [100]", "supply: [1000]"))
    assert run(["plan", "portfolio", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {p["name"] for p in found["policies"]} >= {"stochastic programme", "nothing signed",
                                                      "greedy with headroom"}  # fmt: skip
    assert min(p["regret"] for p in found["policies"]) == pytest.approx(0, abs=1e-9)
    assert run(["plan", "portfolio", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Best: sign for")
    assert max(map(len, out.splitlines())) <= 80
    with pytest.raises(InputError) as told:
        parse_portfolio("demand:\n  - {name: a, chips: [x]}\noffers:\n  - {name: o, vendor: v, "
                        "way: rent, price: $1/h}\n  - {name: p, vendor: v, way: spot}\n"
                        "colour: 3\n", "p.yaml")  # fmt: skip
    for part in ("p.yaml:2: `chips`", "p.yaml:4: unknown way to buy `rent`", "p.yaml:5: `price`",
                 "p.yaml:6: unknown field `colour`"):  # fmt: skip
        assert part in told.value.render(), told.value.render()


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_programme_has_the_least_regret_on_fresh_scenarios(file: Path) -> None:
    found = plan_portfolio(read_portfolio(str(file)))
    by_name = {p.name: p for p in found.policies}
    assert by_name["stochastic programme"].regret < 0.03
    assert by_name["nothing signed"].regret > by_name["stochastic programme"].regret
