"""What a price brings into a plan: its network, its two spans, its age, what has no source."""

from __future__ import annotations

import dataclasses
import datetime
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from weftline import catalog
from weftline.errors import InputError
from weftline.plan import plan_train
from weftline.plan.search.prices import cost_of, networks_of, prices_of, quote_of
from weftline.plan.step.frameworks import framework_for
from weftline.report.offers import age_words, listed, offers_lines, with_age
from weftline.report.text import page, set_colour
from weftline.spec import Estimate, Job, PriceQuote

TODAY = datetime.date(2026, 11, 30)
JOB = Job(model="llama-3.1-8b", tokens=10**10, seq_len=8192, global_batch=512, chips=64,
          accelerators=("b200",))  # fmt: skip


def row(**values: Any) -> catalog.Price:
    base: dict[str, Any] = {
        "date": "2026-11-21", "provider": "loom", "instance": "box.8", "accelerator": "b200",
        "listed_as": "B200", "chips": 8, "region": "unstated", "zone": "",
        "price_type": "on-demand", "usd_per_hour": 40.0, "host_included": True, "nvme_gb": "",
        "network_gbps": None, "source": "lambda-pricing",
    }  # fmt: skip
    return catalog.Price(**{**base, **values})


@pytest.fixture
def market(monkeypatch: pytest.MonkeyPatch) -> Any:
    def only(*rows: catalog.Price) -> None:
        monkeypatch.setattr(sys.modules["weftline.catalog.prices"], "shipped_prices", lambda: rows)

    return only


@pytest.fixture
def red() -> Iterator[None]:
    set_colour(True)
    yield
    set_colour(False)


@pytest.mark.parametrize(("gbps", "expected"), [(None, 50e9), (3200.0, 50e9), (6400.0, 100e9)])
def test_the_network_of_a_plan_is_that_of_the_product_it_pays_for(
    market: Any, gbps: float | None, expected: float
) -> None:
    """The chip's usual 400 Gbit/s, unless the instance that the price is of names another."""
    market(row(network_gbps=gbps))
    plan = plan_train(JOB)
    out = plan.cluster.levels[-1]
    assert out.bandwidth_bytes_per_s == expected
    said = [b for b in json.loads(json.dumps(dict(plan.cluster.basis))).values() if "loom" in b]
    assert bool(said) == (gbps is not None)


def test_no_product_is_named_by_a_price_of_ones_own(market: Any) -> None:
    market(row(network_gbps=6400.0))
    b200 = catalog.accelerator("b200")
    own = dataclasses.replace(JOB, own_prices={"*": 2.0})
    assert networks_of([b200], prices_of([b200], own, TODAY)) == {}
    listed_price = prices_of([b200], JOB, TODAY)
    assert networks_of([b200], listed_price)["b200"].bytes_per_s == 100e9


def test_a_domain_is_rented_whole_where_it_can_be(market: Any) -> None:
    """One chip at 2 $/h is another product than eight in one domain at 40 $/h."""
    single = row(instance="box.1", chips=1, usd_per_hour=2.0)
    market(single, row())
    b200 = catalog.accelerator("b200")
    whole = prices_of([b200], JOB, TODAY)["b200"].choice
    one = prices_of([b200], dataclasses.replace(JOB, chips=1), TODAY)["b200"].choice
    assert whole is not None
    assert one is not None
    assert (whole.price.instance, one.price.instance) == ("box.8", "box.1")
    market(single)
    left = prices_of([b200], JOB, TODAY)["b200"].choice
    assert left is not None
    assert left.price.instance == "box.1"


def test_a_quote_keeps_the_span_of_the_offers_and_a_cost_the_band_of_its_time(market: Any) -> None:
    market(row(), row(provider="warp", usd_per_hour=80.0), row(provider="weft", date="unknown"))
    quote = quote_of(catalog.best_price("b200", today=TODAY), None)
    assert quote is not None
    each = quote.usd_per_chip_hour
    assert (each.low, each.value, each.high) == (5.0, 5.0, 10.0)
    assert (quote.offers, quote.sellers, quote.undated) == (3, 3, 1)
    run = Estimate(value=3600.0, unit="s", low=1800.0, high=7200.0, basis="measured")
    cost = cost_of(each, 8, run)
    assert (cost.low, cost.value, cost.high) == (20.0, 40.0, 80.0)
    said = " ".join(" ".join(offers_lines(quote, "b200", cost)).split())
    assert "$5.00 to $10.00 a chip-hour, 3 offers of 3 sellers, 1 without a day" in said
    assert said.endswith("this plan $40.00 to $80.00")


def test_a_price_without_its_host_says_so_wherever_the_offers_are_shown(market: Any) -> None:
    market(row(host_included=False))
    quote = quote_of(catalog.best_price("b200", today=TODAY), None)
    assert quote is not None
    assert " ".join(offers_lines(quote, "b200")).endswith("host not included")
    plan = plan_train(JOB)
    assert any("host not included" in line for line in plan.why)
    assert plan.ranking[0].note == "host not included"


def test_a_price_of_the_users_has_no_offers() -> None:
    assert offers_lines(quote_of(None, 2.5), "b200") == []
    assert offers_lines(None, "b200") == []


@pytest.mark.parametrize(
    ("date", "said"),
    [
        ("2026-11-30", "0 days old"), ("2026-11-29", "1 day old"), ("2026-09-20", "71 days old"),
        ("2024-12", "at least 699 days old"), ("unknown", "day unknown"), ("", "day unknown"),
        ("2027-01-01", "0 days old"),
    ],
)  # fmt: skip
def test_the_age_of_a_price(date: str, said: str) -> None:
    assert age_words(date, TODAY) == said


def test_days_in_a_text_gain_their_age_once() -> None:
    text = "lambda 8x B200, 2026-09-20; file of 2026-11-28"
    aged = with_age(text)
    assert aged == "lambda 8x B200, 2026-09-20, 71 days old; file of 2026-11-28, 2 days old"
    assert with_age(aged) == aged
    assert listed("price list of 2026-09-20") == "list 71 days old"
    assert listed("price file of 2026-11-28") == "file 2 days old"
    assert listed("price list of unknown day") == "list, day unknown"
    assert listed("given by the user") == "given by the user"


@pytest.mark.usefixtures("red")
def test_only_ages_beyond_ninety_days_are_red_and_only_in_colour() -> None:
    assert page(["90 days old"]) == "90 days old"
    assert page(["91 days old"]) == "\x1b[31m91 days old\x1b[0m"
    assert page(["1,200 days old, 3 days old"]) == "\x1b[31m1,200 days old\x1b[0m, 3 days old"
    set_colour(False)
    assert page(["91 days old"]) == "91 days old"


def test_a_plan_names_the_figures_of_its_chip_that_have_no_source(market: Any) -> None:
    market(row(), row(accelerator="mi250x", listed_as="MI250X"))
    unsure = plan_train(dataclasses.replace(JOB, accelerators=("mi250x",)))
    assert [w for w in unsure.why if w.startswith("unconfirmed: ")] == [
        *catalog.unconfirmed_words(catalog.accelerator("mi250x"))
    ]
    assert "scale-out bandwidth, chips a host of mi250x" in unsure.why[-1]
    assert not any(w.startswith("unconfirmed") for w in plan_train(JOB).why)


def test_on_cpus_no_training_is_planned() -> None:
    """Their makers' software for accelerators is not theirs."""
    epyc = catalog.accelerator("epyc-9965")
    assert not epyc.rentable
    assert epyc.stack == "amd-cpu"
    with pytest.raises(InputError, match="amd-cpu"):
        framework_for("auto", epyc.stack)


def test_what_stands_on_a_desk_is_tried_only_when_named() -> None:
    tried = {a.id for a in catalog.accelerators().values() if a.rentable}
    assert not tried & {"rtx-4090", "gb10", "jetson-thor", "m3-ultra", "epyc-9965"}
    assert {"h100-sxm", "b200", "mi355x", "t4", "tpu-v6e"} <= tried
    assert isinstance(plan_train(dataclasses.replace(JOB, accelerators=("rtx-4090",))).price,
                      PriceQuote)  # fmt: skip
