"""Lifecycles: published cluster totals, closed forms against samples, placing, moves, mistakes."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.catalog import egress
from weftline.cli.main import run
from weftline.decide.lifecycle.bands import Sampler, analytic_mean, flips_between, total_at
from weftline.decide.lifecycle.plan import plan_lifecycle
from weftline.decide.lifecycle.read import parse_life, read_life
from weftline.decide.lifecycle.schema import life_schema
from weftline.decide.lifecycle.timing import spread
from weftline.errors import InputError
from weftline.report.cyclonedx import cyclonedx_json
from weftline.report.focus import focus_csv
from weftline.spec.lifecycle import Driver, Lifecycle, LifeLine

LIFE = Path(__file__).parents[3] / "examples" / "life"
RENT = """\
model: llama-3.1-8b
samples: 2000
places:
  - {name: here, chip: h100, price: $2/h, seller: aws, region: us-east-1}
  - {name: there, chip: b200, price: $4/h, seller: gcp}
stages:
  - {kind: rent, name: a, chips: 64, months: 6}
  - {kind: rent, name: b, chips: 8, months: 12}
"""


def planned(text: str) -> Lifecycle:
    return plan_lifecycle(parse_life(text, "life.yaml"))


def at(life: Lifecycle, name: str) -> float:
    return next(w.usd for w in life.ways if w.name == f"all on {name}")


# --- published totals ---------------------------------------------------------------------------


def test_the_calculator_of_semianalysis_comes_out() -> None:
    life = plan_lifecycle(read_life(str(LIFE / "cluster-calculator.yaml")))
    published = {"gold": 199_408_973, "hyperscaler": 251_618_208, "silver": 223_224_957}
    for name, usd in published.items():
        assert at(life, name) == pytest.approx(usd, rel=1e-5)  # its shares have four digits


@pytest.mark.parametrize(
    ("file", "ratios"),
    [
        ("cluster-pretrain", {"hyperscaler": 1.10, "silver": 1.15}),
        ("cluster-rl", {"hyperscaler": 1.61}),
        ("cluster-serving", {"hyperscaler": 1.59}),
    ],
)
def test_the_three_scenarios_of_semianalysis(file: str, ratios: dict[str, float]) -> None:
    life = plan_lifecycle(read_life(str(LIFE / f"{file}.yaml")))
    for name, ratio in ratios.items():
        assert at(life, name) / at(life, "gold") == pytest.approx(ratio, rel=0.10)


# --- bands --------------------------------------------------------------------------------------


@given(st.floats(0.2, 1), st.floats(1, 5), st.sampled_from([-2.0, -1.0, 0.5, 1.0]))
@settings(max_examples=40)
def test_moments_are_those_of_a_numeric_integral(low: float, high: float, power: float) -> None:
    driver = Driver(name="d", low=low, high=high, basis="")
    below, above = driver.spreads
    z = np.linspace(-12, 12, 200_001)
    x = np.exp(np.where(z < 0, below, above) * z)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    assert driver.moment(power) == pytest.approx(np.trapezoid(x**power * density, z), rel=1e-6)


def test_samples_keep_percentiles_and_their_mean_is_the_closed_form() -> None:
    drivers = [Driver(name="p", low=0.7, high=1.6, basis=""),
               Driver(name="q", low=0.5, high=1.2, basis="")]  # fmt: skip
    base: dict[str, Any] = {"stage": "s", "part": "x", "place": "", "seller": "", "formula": "",
                            "basis": ""}  # fmt: skip
    lines = [LifeLine(usd=5.0, drivers={"p": 1.0, "q": -1.0}, **base),
             LifeLine(usd=1.0, drivers={"p": 1.0}, **base), LifeLine(usd=2.0, **base)]  # fmt: skip
    sampler = Sampler.draw(drivers, 200_000, 1)
    one = np.exp(sampler.logs[:, 0])
    assert np.percentile(one, (5, 50, 95)) == pytest.approx([0.7, 1.0, 1.6], rel=0.01)
    by_name = {d.name: d for d in drivers}
    usd = sampler.usd(lines)
    mean = analytic_mean(lines, by_name)
    assert abs(usd.mean() - mean) < 4 * usd.std() / math.sqrt(len(usd))
    # A flip is where both cost the same, inside the span.
    other = [LifeLine(usd=9.0, **base)]
    for driver, factor in flips_between(lines, other, by_name):
        assert total_at(lines, driver.name, factor) == pytest.approx(9.0, rel=1e-6)


def test_ten_thousand_samples_of_a_plan_have_the_mean_of_the_closed_form() -> None:
    text = RENT.replace("$2/h", "on-demand").replace("samples: 2000", "samples: 10000")
    life = planned(text)
    spread_usd = life.estimates["cost"].high - life.estimates["cost"].low
    assert life.mean_usd != life.analytic_mean_usd
    assert abs(life.mean_usd - life.analytic_mean_usd) < spread_usd / 3.3 / 100 * 4
    assert planned(text) == life  # the seed repeats it


# --- placing ------------------------------------------------------------------------------------


def test_each_stage_at_its_best_is_the_best_of_all_combinations() -> None:
    """By hand: every combination costs its lines, and one set-up a place."""
    life = planned(RENT)
    where = ("here", "there")
    sums = {}
    for combination in itertools.product(where, where):
        chips = dict(zip(("a", "b"), combination, strict=True))
        total = 0.0
        for name, count, months in (("a", 64, 6), ("b", 8, 12)):
            rate = 2.0 if chips[name] == "here" else 4.0
            usd = rate * count * months * 730
            beside = (0.453125 + 0.810059) * count * months + 82 * months
            total += usd * (1 + 0.02052) + beside + 0.05 * (usd + beside) + 16667 * months
        for place in set(combination):
            largest = max(n for s, n in (("a", 64), ("b", 8)) if chips[s] == place)
            total += largest * 365 * (2.0 if place == "here" else 4.0) + 66667
        sums[combination] = total
    best = min(sums, key=lambda c: sums[c])
    assert tuple(life.ways[0].places.values()) == best
    assert life.ways[0].usd == pytest.approx(sums[best], rel=1e-9)
    assert at(life, "there") == pytest.approx(sums["there", "there"], rel=1e-9)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 2000), st.integers(0, 2000))
@settings(max_examples=15)
def test_more_and_longer_never_cost_less(
    months: int, more_months: int, chips: int, more_chips: int
) -> None:
    def cost(n: int, m: int) -> float:
        text = RENT.replace("chips: 64, months: 6", f"chips: {n}, months: {m}")
        return planned(text.replace("samples: 2000", "samples: 100")).estimates["cost"].value

    least = cost(chips, months)
    assert cost(chips + more_chips, months) >= least - 1e-6
    assert cost(chips, months + more_months) >= least - 1e-6


def test_months_add_up_to_the_whole() -> None:
    life = planned(RENT)
    assert sum(m.usd for m in life.months) == pytest.approx(life.estimates["cost"].value)
    assert sum(line.usd for line in life.lines) == pytest.approx(life.estimates["cost"].value)
    for line in life.lines:
        assert sum(line.by_month) == pytest.approx(1.0)


@given(st.floats(0, 1e8), st.floats(0, 3e8))
def test_a_stage_is_spread_over_its_months(starts: float, lasts: float) -> None:
    first, shares = spread(starts, lasts)
    assert first == int(starts / 2_628_000)
    assert sum(shares) == pytest.approx(1.0)
    assert len(shares) <= lasts / 2_628_000 + 2


# --- stages that are planned ---------------------------------------------------------------------

SMALL = """\
model: llama-3.1-8b
on: [h100, tpu-v6e]
price: on-demand
samples: 500
stages:
  - {kind: preprocess, tokens: 100B}
  - {kind: train, name: pre, tokens: 100B, chips: 64}
  - {kind: store, of: pre, copies: 2}
  - {kind: evaluate, times: 10, tokens: 1M}
  - {kind: finetune, times: 4, tokens: 100M, tune: lora, chips: 8}
  - {kind: serve, tokens_per_day: 50M, months: 12, growth: 100%, input: 500, output: 100,
     ttft: 2s, tpot: 100ms}
"""


@pytest.fixture(scope="module")
def small() -> Lifecycle:
    return planned(SMALL)


def test_a_life_from_text_to_serving(small: Lifecycle) -> None:
    assert [s.kind for s in small.stages] == [
        "preprocess", "train", "store", "evaluate", "finetune", "serve",
    ]  # fmt: skip
    assert small.ways[0].usd == min(w.usd for w in small.ways)
    assert abs(sum(w.cheapest_share for w in small.ways) - 1) < 0.01
    chips = {s.name: s for s in small.stages}
    train = next(x for x in small.lines if x.stage == "pre" and x.part == "chips")
    hours = float(train.formula.split(" x ")[1].split()[0].replace(",", ""))
    rate = float(train.formula.rpartition("$")[2])
    assert train.usd == pytest.approx(
        chips["pre"].chips * hours * rate, rel=0.01
    )  # the formula is the number
    # Traffic doubles over the year, so the last month costs at least the first.
    serve = next(x for x in small.lines if x.stage == "serve" and x.part == "chips")
    assert serve.by_month[-1] >= serve.by_month[0]
    served = 50e6 * 730 / 24 * sum(2 ** (m / 12) for m in range(12))
    per = small.estimates["cost_per_m_tokens"].value
    assert per == pytest.approx(small.estimates["cost"].value / served * 1e6, rel=1e-9)


def test_tokens_are_moved_where_they_do_not_lie(small: Lifecycle) -> None:
    """100 billion tokens of four bytes leave aws at its list price, wherever they are trained."""
    move = next(x for x in small.lines if "of tokens" in x.formula)
    assert move.seller == "aws"
    assert move.usd == pytest.approx(egress("aws").usd(4e11), rel=1e-9)


@pytest.mark.parametrize("version", ["1.2", "1.4"])
def test_focus_columns_add_up_and_are_marked_as_a_forecast(
    small: Lifecycle, version: Literal["1.2", "1.4"]
) -> None:
    """By the specification's tables: the FinOps foundation's validator runs on later Pythons."""
    text = focus_csv(small, version)
    if version == "1.2":  # the rest of a row is the same
        assert {"ProviderName", "PublisherName"} < set(text.partition("\n")[0].split(","))
        text = text.replace("ProviderName", "HostProviderName", 1)
        text = text.replace("PublisherName", "ServiceProviderName", 1)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert sum(float(r["BilledCost"]) for r in rows) == pytest.approx(
        small.estimates["cost"].value, abs=0.01
    )
    assert {r["x_Forecast"] for r in rows} == {"true"}
    assert {r["ChargeCategory"] for r in rows} == {"Usage"}
    assert all(r["ChargePeriodStart"] < r["ChargePeriodEnd"] for r in rows)
    spec = json.loads((Path(__file__).parents[2] / "data" / "focus.json").read_text())
    ours = [name for name in rows[0] if not name.startswith("x_")]
    assert set(spec["mandatory"]) <= set(ours) <= {*spec["mandatory"], *spec["others"]}
    for row in rows:
        assert all(row[name] for name in spec["not_null"]), row
        assert row["ServiceCategory"] in spec["service_category"]
        assert row["ChargeFrequency"] in spec["charge_frequency"]
        # A charge of use is priced by a quantity, and what has one has a price of a SKU.
        assert float(row["PricingQuantity"]) > 0
        assert row["PricingUnit"]
        assert row["SkuId"]
        assert row["SkuPriceId"]
        assert bool(row["ConsumedQuantity"]) == bool(row["ConsumedUnit"])


def test_the_model_card_keeps_the_schema_of_cyclonedx(small: Lifecycle) -> None:
    """By the schemas that OWASP's own library ships, through its strict validator."""
    dark = cyclonedx_json(small)  # the power of its chip is not public
    small = planned(SMALL.replace("[h100, tpu-v6e]", "[h100]"))
    validators = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    text = cyclonedx_json(small)
    strict = validators.JsonStrictValidator(schema.SchemaVersion.V1_7)
    assert strict.validate_str(dark) is None
    assert strict.validate_str(text) is None
    wrong = text.replace('"kWh"', '"MWh"', 1)
    assert strict.validate_str(wrong) is not None
    card = json.loads(text)["metadata"]["component"]["modelCard"]
    used = card["considerations"]["environmentalConsiderations"]["energyConsumptions"]
    total = sum(u["activityEnergyCost"]["value"] for u in used) * 3.6e6
    assert total == pytest.approx(small.estimates["energy"].value, rel=1e-4)
    tonnes = sum(u["co2CostEquivalent"]["value"] for u in used)
    assert tonnes * 1000 == pytest.approx(small.estimates["carbon"].value, rel=1e-4)
    for u in used:
        provided = sum(p["energyProvided"]["value"] for p in u["energyProviders"])
        assert provided == pytest.approx(u["activityEnergyCost"]["value"], rel=1e-4)


# --- files and commands ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(LIFE.glob("*.yaml")), ids=lambda p: p.stem)
def test_examples_keep_the_schema(file: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    # By our own reader: to YAML 1.1, which PyYAML reads, `on` is true.
    jsonschema.validate(read_life(str(file)).plain, life_schema())


def test_every_mistake_is_named_with_its_line() -> None:
    text = """\
model: llama-3.1-8b
on: [h101, h100]
begin: 2027-01
start: 2027-13
stages:
  - {kind: train, tokens: 1T, layers: 7}
  - {kind: tune}
  - {kind: serve, tokens_per_day: 1B, rate: 7/s}
  - {name: x}
"""
    with pytest.raises(InputError) as told:
        parse_life(text, "life.yaml")
    said = told.value.render()
    for part in ("life.yaml:3: unknown field `begin`", "life.yaml:4: `2027-13` is not a month",
                 "life.yaml:6: unknown field `layers`", "life.yaml:7: unknown kind of stage",
                 "life.yaml:8: unknown field `rate`", "life.yaml:9: a stage needs"):  # fmt: skip
        assert part in said, said
    for field, wrong in (("on: [h100]", "on: [h101]"), ("tokens: 1T", "tokens: many"),
                         ("seed: 0", "seed: x"), ("samples: 100", "samples: 3")):  # fmt: skip
        good = "model: llama-3.1-8b\non: [h100]\nseed: 0\nsamples: 100\nstages:\n" \
               "  - {kind: train, tokens: 1T}\n"  # fmt: skip
        with pytest.raises(InputError) as error:
            planned(good.replace(field, wrong))
        line = next(i for i, x in enumerate(good.splitlines(), 1) if field.split(":")[0] in x)
        assert f"life.yaml:{line}" in error.value.render()


def test_plan_keep_explain_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, more = tmp_path / "a.yaml", tmp_path / "b.yaml"
    file.write_text(RENT)
    more.write_text(RENT.replace("chips: 64", "chips: 128"))
    assert run(["plan", "lifecycle", str(file), "-o", str(tmp_path / "a.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Best: ")
    assert max(map(len, out.splitlines())) <= 80
    focus = str(tmp_path / "focus.csv")
    arguments = ["plan", "lifecycle", str(more), "--json", "-o", str(tmp_path / "b.json")]
    assert run([*arguments, "--focus", focus]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["kind"] == "lifecycle"
    assert answer["seed"] == 0
    assert run(["explain", str(tmp_path / "a.json")]) == 0
    told = capsys.readouterr().out
    for line in answer["lines"]:
        assert line["part"] in told
    assert told.count("rests on") >= len(answer["lines"])
    both = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert run(["diff", *both]) == 0
    assert "stages.a.chips" in capsys.readouterr().out
    assert run(["diff", *both, "--fail-if", "cost>10%"]) == 4
    assert run(["diff", *both, "--format", "markdown"]) == 0


@pytest.mark.slow
def test_the_whole_life_of_a_70b_model_on_four_chips(tmp_path: Path) -> None:
    """15T tokens, 24 fine-tunes, three years of 2 billion tokens a day, in under 20 s of CPU."""
    import time

    began = time.process_time()
    life = plan_lifecycle(read_life(str(LIFE / "llama-70b.yaml")))
    assert time.process_time() - began < 20
    names = {w.name for w in life.ways}
    assert {f"all on {n}" for n in ("trainium2", "tpu-v6e", "h100-sxm", "b200")} <= names
    assert life.without_plan == ()
    assert all(line.basis and line.formula for line in life.lines)
