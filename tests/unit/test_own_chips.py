"""Chips of one's own, changed figures, own prices and discounts: what is asked is what counts."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from weftline.catalog import accelerator, accelerators, best_price, own_chips, prices
from weftline.catalog.date import CATALOG_DATE
from weftline.catalog.offers import RECENT_DAYS
from weftline.catalog.own import changed_figures, chip_texts, read_own_chips
from weftline.cost import Terms, no_price
from weftline.errors import InputError, InputErrors, UnknownNameError
from weftline.fabric import cluster_of, predict
from weftline.operators.chips import chip_of
from weftline.operators.collectives import Network
from weftline.plan import job_of, plan_train
from weftline.spec import Plan
from weftline.spec.options import JobOptions

DAY = datetime.date.fromisoformat(CATALOG_DATE)


def planned(**asked: Any) -> Plan:
    return plan_train(job_of("llama-3.1-8b", JobOptions(tokens="10B", max_chips="16", **asked)))


def test_a_chip_that_is_like_another_plans_as_it_does() -> None:
    ours = '{"id": "twin-chip", "like": "h100-sxm"}'
    plan = planned(on="h100,twin-chip", chip=ours, price="$2/h")
    by_name = {c.accelerator: c for c in plan.ranking}
    twin, shipped = by_name["twin-chip"], by_name["h100-sxm"]
    assert twin.layout == shipped.layout
    # Its own name is no measured one, so near runs say a little less of it.
    assert twin.step_time_s == pytest.approx(shipped.step_time_s, rel=0.1)
    assert "twin-chip" not in accelerators()


def test_a_changed_figure_is_the_one_that_counts() -> None:
    plan = planned(on="h100", chip_set="h100-sxm.memory=192GB,h100.peak.bf16=2PFLOP/s")
    assert plan.cluster.memory_bytes == 192e9
    assert plan.cluster.peak_flops["bf16"] == 2e15
    assert plan.cluster.accelerator == "h100-sxm+memory=192GB;peak.bf16=2000TFLOP/s"
    assert plan.cluster.basis["memory"].startswith("given: the user")
    assert plan.price is not None
    assert plan.price.usd_per_chip_hour.value == best_price("h100", today=DAY).usd_per_chip_hour
    assert accelerator("h100").memory_bytes == 80e9
    assert plan_train(plan.job) == plan


def test_no_change_of_a_figure_that_nothing_reads_moves_the_time() -> None:
    plain, changed = planned(on="h100"), planned(on="h100", chip_set="h100.tdp=700W")
    assert changed.estimates["step_time"].value == plain.estimates["step_time"].value
    assert changed.estimates["energy"].value == pytest.approx(plain.estimates["energy"].value)


def test_the_way_of_its_hosts_slows_what_leaves_them_for_trainer_server_and_collective() -> None:
    def seen() -> tuple[float, float, float, float]:
        network = Network(chip_of("h100"))
        inside, beyond = (float(network.seconds("all_to_all", 2.8e7, n)) for n in (8.0, 16.0))
        named = predict("all-reduce", 1e8, None, "h100-clos:16").time_s
        return inside, beyond, named, cluster_of(accelerator("h100"), 64).host == "tcp"

    plain = seen()
    with own_chips(changed_figures("h100-sxm.host=tcp")[0]):
        changed = seen()
    assert changed[0] == plain[0]
    assert changed[1] > 1.2 * plain[1]
    assert changed[2] > 1.2 * plain[2]
    assert (plain[3], changed[3]) == (False, True)


def test_a_file_is_read_with_all_its_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "chips.yaml"
    file.write_text(
        "chips:\n"
        "  - {id: h100-sxm, memory: 192 GB}\n"
        "  - id: other\n"
        "    vendor: nvidia\n"
        "    memroy: 3 GB\n"
        "    memory: 3 GB/s\n"
        "    price: 3 apples\n"
        "  - {id: bare, vendor: nvidia}\n"
        "  - {like: h1000}\n",
        encoding="utf-8",
    )
    with pytest.raises(InputErrors) as told:
        read_own_chips(f"{file},{tmp_path / 'none.yaml'}")
    said = {(e.where or "").rpartition("/")[2]: e.what for e in told.value.errors}
    assert said["chips.yaml:2"] == "`h100-sxm` is in the catalogue already"
    assert said["chips.yaml:5"] == "unknown field `memroy`"
    assert said["chips.yaml:6"].startswith("`3 GB/s` is not a size")
    assert said["chips.yaml:7"].startswith("`3 apples` is not an amount of money")
    assert said["chips.yaml:8"] == "`bare` has no memory, memory_bandwidth, peak.bf16"
    assert "chips.yaml:9" in said
    assert any("No such file" in what for what in said.values())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("h1.memory=3GB", "unknown accelerator `h1`"),
        ("h100.memory=3GB/s", "is not a size"),
        ("h100.colour=red", "unknown figure `colour`"),
        ("h100=3", "is not chip.figure=value"),
        ("h100.tdp=-3W", "it must be above zero"),
        ("h100.host=carrier-pigeon", "unknown host"),
    ],
)
def test_a_figure_that_cannot_be_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        changed_figures(text)


def test_what_is_written_of_a_chip_is_the_chip() -> None:
    text = json.dumps([{
        "id": "written-chip", "vendor": "nvidia", "memory": "96.5 GB", "scale_up": "450 GB/s",
        "memory_bandwidth": "4.1 TB/s", "peak.bf16": "812 TFLOP/s", "chips_per_host": "4",
    }])  # fmt: skip
    own, _ = read_own_chips(text)
    changed, _ = changed_figures(
        "h100.memory=96GB,h100.scale_out=800Gbit/s,l4.tdp=1.5kW,h200.host=tcp"
    )
    again, again_changed = chip_texts([*own, *changed])
    assert read_own_chips(again)[0] == own
    assert changed_figures(again_changed)[0] == changed


def test_a_name_means_one_chip_in_a_process() -> None:
    record = {"id": "one-chip", "like": "h100-sxm", "memory": 96e9}
    with own_chips([record]):
        assert accelerator("one-chip").memory_bytes == 96e9
    with pytest.raises(InputError, match="was another chip"), own_chips([{**record, "tdp": 1.0}]):
        pass
    with pytest.raises(UnknownNameError):
        accelerator("one-chip")


# --- prices -------------------------------------------------------------------------------------


def test_own_prices_are_paid_as_they_are_and_others_as_listed() -> None:
    plan = planned(on="h100,b200,a100", price="h100=2.1,b200=$4/h", discount="10%")
    each = {c.accelerator: c.cost_usd / (c.train_time_s * c.chips / 3600)  # type: ignore[operator]
            for c in plan.ranking}  # fmt: skip
    assert each["h100-sxm"] == pytest.approx(2.1)
    assert each["b200"] == pytest.approx(4.0)
    listed = best_price("a100", today=DAY).usd_per_chip_hour
    assert each["a100-80-sxm"] == pytest.approx(0.9 * listed)


@pytest.mark.parametrize("chip", ["h100-sxm", "a100-80-sxm", "h200-sxm", "b200"])
def test_the_best_after_discounts_is_the_cheapest_row_after_discounts(chip: str) -> None:
    """Against every row taken one by one: no seller's discount hides a cheaper offer."""
    discounts = {"aws": 0.6, "*": 0.05}
    terms = Terms(discounts=discounts)
    rows = [
        p for p in prices(chip, "on-demand")
        if p.usd_per_hour is not None and not p.flags and p.host_included
        and (age := p.age_days(DAY)) is not None and age <= RECENT_DAYS
        and p.channel != "marketplace"
    ]  # fmt: skip
    # A list of a later day replaces the same offer's earlier one.
    newest = {(p.provider, p.instance, p.chips, p.region, p.zone): p
              for p in sorted(rows, key=lambda p: p.date)}  # fmt: skip
    least = min(p.usd_per_chip_hour * (1 - terms.discount(p.provider)) for p in newest.values())
    found = terms.best(chip, "on-demand", DAY)
    assert found.usd_per_chip_hour <= least * (1 + 1e-9)
    assert found.low <= found.usd_per_chip_hour <= found.high
    assert "off" in found.why


def test_without_terms_the_list_holds() -> None:
    assert Terms().best("h100", "on-demand", DAY) == best_price("h100", today=DAY)
    assert Terms().own("h100-sxm") is None


def test_what_has_no_price_says_what_is_known_instead() -> None:
    assert no_price("trainium2", "on-demand").startswith(
        "no on-demand price, sold only as spot or capacity-block ("
    )
    assert "$" in no_price("trainium2", "on-demand")
    plan = planned(on="trainium2,h100")
    note = next(c.note for c in plan.ranking if c.accelerator == "trainium2")
    assert note == no_price("trainium2", "on-demand")


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("price", "h1=2", "unknown accelerator `h1`"),
        ("price", "h100=x", "is not an amount of money"),
        ("price", "spot,on-demand", "paid for in one way"),
        ("discount", "0%", "takes off nothing, or all"),
        ("discount", "100%", "takes off nothing, or all"),
        ("discount", "nobody=3%", "unknown seller `nobody`"),
    ],
)
def test_terms_that_cannot_be_are_refused(option: str, text: str, says: str) -> None:
    with pytest.raises(InputError) as told:
        planned(on="h100", **{option: text})
    assert says in told.value.render()


def test_terms_from_python_are_checked_as_those_of_the_command_line() -> None:
    job = job_of("llama-3.1-8b", JobOptions(tokens="10B", on="h100", max_chips="16"))
    named = plan_train(replace(job, own_prices={"h100": 2.0}))
    assert named.job.own_prices == {"h100-sxm": 2.0}
    assert named.price is not None
    assert named.price.usd_per_chip_hour.value == 2.0
    with pytest.raises(InputErrors) as told:
        plan_train(replace(job, own_prices={"h1": 2.0, "*": -1.0},
                           discounts={"nobody": 0.5, "aws": 1.5}))  # fmt: skip
    assert len(told.value.errors) == 4
