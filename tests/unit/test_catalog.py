"""The shipped catalogue: what it must hold, how conflicts are settled, how names are found."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest

from weftline import catalog
from weftline.catalog._read import DATA_DIR, data_rows
from weftline.catalog.accelerators import ALIASES
from weftline.catalog.facts import STATUSES, UNITS, Fact, choose
from weftline.catalog.prices import date_span, shipped_prices
from weftline.catalog.schema_rules import good_date
from weftline.errors import InputError, UnknownNameError

TODAY = datetime.date(2026, 11, 30)


@pytest.fixture(autouse=True)
def _no_user_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFTLINE_DATA_DIR", str(tmp_path))


def test_the_promised_amounts() -> None:
    assert len(catalog.accelerators()) >= 75
    assert len(catalog.fabrics()) >= 20
    assert len(shipped_prices()) >= 1300
    assert len({p.provider for p in shipped_prices()}) >= 30
    assert {p.price_type for p in shipped_prices()} == {
        "on-demand", "spot", "reserved", "capacity-block",
    }  # fmt: skip
    assert len(catalog.storage_tiers()) == 14
    assert len(catalog.llm_api_prices()) == 3728
    assert len(catalog.claims()) == 49


@pytest.mark.parametrize(
    "name",
    [
        "a100", "h100", "h200", "b200", "b300", "gb200", "gb300", "mi300x", "mi325x", "mi355x",
        "tpu-v4", "v5e", "v5p", "v6e", "tpu-v7", "trn1", "trn2", "trn3", "inf1", "inf2", "inf3",
        "maia100", "maia200", "gaudi3",
        "t4", "a40", "a100-pcie", "h20", "l20", "rtx-3090", "rtx-4090", "rtx-5090", "rtx-pro-6000",
        "rtx-6000-ada", "gb10", "mi308x", "mi350x", "mi430x", "mi440x", "mi455x", "rubin-cpx",
        "vr200", "tpu-8t", "tpu-8i", "jetson-orin", "jetson-thor", "m3-ultra", "m4-max",
        "epyc-9965", "xeon-6980p", "graviton4", "910b", "910c",
    ],
)  # fmt: skip
def test_the_promised_chips_are_there(name: str) -> None:
    assert catalog.accelerator(name).all_facts


def test_every_fact_has_unit_label_status_source_and_date() -> None:
    known = catalog.sources()
    things = [*catalog.accelerators().values(), *catalog.fabrics().values()]
    things += [*catalog.storage_tiers().values()]  # type: ignore[list-item]
    facts = [f for t in things for f in t.all_facts]
    assert len(facts) > 500
    for f in facts:
        assert f.unit in UNITS
        assert f.status in STATUSES
        assert f.source in known
        assert good_date(f.date)
        assert (f.kind is not None) == f.field.startswith("peak.")
        if f.field in ("scale_up", "scale_out", "link", "chip_egress"):
            assert f.direction is not None


def test_every_row_names_a_listed_source_and_chip() -> None:
    known = catalog.sources()
    for p in shipped_prices():
        assert p.source in known
        assert not p.accelerator or p.accelerator in catalog.accelerators()
        assert p.usd_per_chip_hour > 0
        assert p.date == "unknown" or good_date(p.date)
        assert not p.dated or p.age_days(TODAY) is not None
        assert "xx" not in p.date
    assert all(r["source"] in known for r in data_rows("grid_intensity.csv"))


def test_every_alias_leads_to_a_chip() -> None:
    assert set(ALIASES.values()) <= set(catalog.accelerators())
    assert not set(ALIASES) & set(catalog.accelerators())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("H100", "h100-sxm"), ("trn2", "trainium2"), ("TPU v5p", "tpu-v5p"), ("V5P", "tpu-v5p"),
     ("gb200", "gb200-nvl72"), ("A100", "a100-80-sxm"), ("tpu_v6e", "tpu-v6e")],
)  # fmt: skip
def test_names_forgive_case_and_punctuation(name: str, wanted: str) -> None:
    assert catalog.accelerator(name).id == wanted


def test_an_unknown_chip_is_bad_input_and_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        catalog.accelerator("trainum2")
    assert caught.value.exit_code == 2
    assert "trainium2" in caught.value.nearest
    with pytest.raises(UnknownNameError, match="nvlink4-nvswitch"):
        catalog.fabric("nvlink4")


def test_trainium3_keeps_three_link_bandwidths_and_takes_the_least() -> None:
    chip = catalog.accelerator("trainium3")
    facts = chip.facts("scale_up")
    assert [(f.value, f.unit) for f in facts] == [(2560, "GB/s"), (2048, "GiB/s"), (704, "GB/s")]
    assert len({f.source for f in facts}) == 3
    choice = chip.choice("scale_up")
    assert choice is not None
    assert choice.fact.value == 704
    assert choice.value == chip.scale_up_bytes_per_s == 352e9
    assert (choice.low, choice.high) == (352e9, 1280e9)
    assert "promises least of 3 official figures" in choice.why


@pytest.mark.parametrize(
    ("name", "field", "value", "others", "why"),
    [
        ("tpu-v5p", "scale_up", 600, {540}, "official outranks press"),
        ("gaudi3", "peak.bf16", 1835, {1856, 1678}, "promises least"),
        ("gaudi2", "peak.fp8", 835, {865}, "press outranks unconfirmed"),
        ("b200", "memory", 180, {192}, "official outranks unconfirmed"),
        ("b200", "memory_bandwidth", 7700, {8000}, "official outranks unconfirmed"),
        ("vr200-nvl72", "peak.fp4", 25000, {50000}, "promises least"),
        ("b200", "scale_out", 400, {800}, "the newest of official figures"),
        ("vr200-nvl72", "memory_bandwidth", 22000, {13000}, "the newest of press figures"),
    ],
)
def test_known_conflicts_are_kept_and_settled(
    name: str, field: str, value: float, others: set[float], why: str
) -> None:
    chip = catalog.accelerator(name)
    choice = chip.choice(field)
    assert choice is not None
    assert choice.fact.value == value
    assert why in choice.why
    assert {f.value for f in chip.facts(field)} - {value} == others


def test_unlabelled_and_sparse_peaks_are_never_taken_for_dense() -> None:
    assert catalog.accelerator("wse3").peak_flops("fp16") is None
    assert catalog.accelerator("trainium2").peak_flops("fp8") == 1299e12
    assert catalog.accelerator("mi355x").peak_flops("fp4") == 10066e12
    assert catalog.accelerator("h100").peak_flops("fp4") is None
    assert catalog.accelerator("h100").peak_flops("BF16") == 989e12


def test_units_become_si() -> None:
    chip = catalog.accelerator("trainium2")
    assert chip.memory_bytes == 96 * 2**30
    assert chip.scale_up_bytes_per_s == 640e9  # 1280 of unstated direction, halved
    assert chip.scale_out_bytes_per_s == 25e9  # 200 Gbit/s
    assert catalog.accelerator("h100").memory_bytes == 80e9
    assert catalog.accelerator("h100").scale_up_bytes_per_s == 450e9


def test_a_figure_of_one_product_is_not_taken_for_the_chip() -> None:
    chip = catalog.accelerator("trainium1")
    assert {f.value for f in chip.facts("scale_up")} == {384, 768}
    assert chip.scale_up_bytes_per_s == 192e9


def test_inferentia3_is_hypothetical_and_nothing_else_is() -> None:
    found = [a for a in catalog.accelerators().values() if a.hypothetical]
    assert [a.id for a in found] == ["inferentia3"]
    assert {f.status for f in found[0].all_facts} == {"hypothetical"}
    assert not found[0].trains
    assert not found[0].purchasable


def test_what_can_train() -> None:
    assert catalog.accelerator("trn2").trains
    assert not catalog.accelerator("inf2").trains
    assert not catalog.accelerator("trainium4").trains


def _fact(value: float, status: str, date: str, **more: str) -> Fact:
    return Fact(
        field="memory", value=value, unit="GB", status=status, source="x", date=date, **more,
    )  # type: ignore[arg-type]  # fmt: skip


def test_the_rule_of_choice_step_by_step() -> None:
    official, press = _fact(80, "official", "2024"), _fact(96, "press", "2026")
    newer, scoped = _fact(90, "official", "2025"), _fact(1, "official", "2026", scope="one box")
    pick = choose([press, official])
    assert pick is not None
    assert pick.fact is official
    pick = choose([official, newer])
    assert pick is not None
    assert pick.fact is newer
    pick = choose([scoped, press])
    assert pick is not None
    assert pick.fact is press
    assert choose([scoped]) is None
    assert choose([]) is None


def test_fabrics_give_si_and_ring_latency() -> None:
    torus = catalog.fabric("tpu-v5p")
    assert torus.shape == (16, 20, 28)
    assert torus.chip_egress_bytes_per_s == 600e9
    assert catalog.fabric("trn2-ultraserver").link_bytes_per_s == 64e9
    assert catalog.fabric("efa-v3-p5en-trn2").alpha_s == pytest.approx(15e-6)
    assert catalog.nccl_constants_us()["hw_net"]["ring"] == [2.7, 4.0, 14.0]
    assert "ring" in catalog.closed_forms()
    for f in catalog.fabrics().values():
        assert set(f.chips) <= set(catalog.accelerators())


def test_best_price_is_the_cheapest_sound_row_with_its_span() -> None:
    best = catalog.best_price("h100", "on-demand", today=TODAY)
    sound = [
        p for p in catalog.prices("h100", "on-demand")
        if p.usd_per_hour is not None and not p.flags and p.host_included
    ]  # fmt: skip
    newer = {(p.provider, p.instance, p.chips, p.region, p.zone, p.accelerator): p.date
             for p in sorted(sound, key=lambda p: p.date)}  # fmt: skip
    recent = [
        p.usd_per_chip_hour for p in sound
        if (age := p.age_days(TODAY)) is not None and age <= 90 and p.channel != "marketplace"
        and p.date == newer[p.provider, p.instance, p.chips, p.region, p.zone, p.accelerator]
    ]  # fmt: skip
    assert best.usd_per_chip_hour == min(recent)
    assert best.low <= best.usd_per_chip_hour <= best.high
    assert (best.low, best.high) == (
        min(p.usd_per_chip_hour for p in sound), max(p.usd_per_chip_hour for p in sound),
    )  # fmt: skip
    assert best.sellers == len({p.provider for p in sound})
    assert best.rejected > 20
    assert "dated within 90 days" in best.why
    assert not best.stale


def test_faulty_rows_are_never_taken() -> None:
    v6e = catalog.best_price("tpu-v6e", today=TODAY)
    assert v6e.high < 5  # the 700.0 sentinel is out
    gcp = catalog.best_price("h100", today=TODAY, provider="gcp")
    assert gcp.low > 9  # and so is the queued product listed as on-demand


def test_tpu_v5p_prices_are_for_a_chip_and_not_for_a_core() -> None:
    best = catalog.best_price("v5p", today=TODAY)
    assert best.price.chips == 6144
    assert best.usd_per_chip_hour == pytest.approx(4.2)


def test_a_changed_price_counts_once() -> None:
    block = catalog.best_price("h200", "capacity_block", today=TODAY)
    assert block.low == pytest.approx(4.975)  # after the rise of January 2026


def test_a_missing_price_is_bad_input_and_says_what_is_known() -> None:
    with pytest.raises(InputError) as caught:
        catalog.best_price("trn2", "on-demand", today=TODAY)
    assert caught.value.exit_code == 2
    assert "no on-demand price for `trn2`" in caught.value.what
    assert "capacity-block is known: $2.2" in str(caught.value.hint)
    assert "--price any" in str(caught.value.hint)
    with pytest.raises(InputError, match="--price"):
        catalog.best_price("trainium3", today=TODAY)
    with pytest.raises(UnknownNameError, match="on-demand"):
        catalog.best_price("h100", "on-demnd", today=TODAY)


def test_an_old_price_says_so() -> None:
    best = catalog.best_price("h100", "capacity-block", today=TODAY)
    assert best.stale
    assert best.age_days == (TODAY - datetime.date(2024, 12, 31)).days
    assert "old: 699 days" in best.why


@pytest.mark.parametrize(
    ("text", "first", "last", "precision"),
    [
        ("2026-07-20", "2026-07-20", "2026-07-20", "day"),
        ("2024-12", "2024-12-01", "2024-12-31", "month"),
        ("2024-02", "2024-02-01", "2024-02-29", "month"),
        ("2024", "2024-01-01", "2024-12-31", "year"),
        ("2026-xx", "2026-01-01", "2026-11-30", "year"),
        ("2026", "2026-01-01", "2026-11-30", "year"),
    ],
)
def test_vague_dates_keep_their_precision(text: str, first: str, last: str, precision: str) -> None:
    span = date_span(text)
    assert [str(span[0]), str(span[1]), span[2]] == [first, last, precision]


def test_surroundings() -> None:
    assert catalog.pue("gcp", "us-east4").value == 1.08
    azure = catalog.pue("azure")
    assert (azure.value, azure.low, azure.high) == (1.185, 1.12, 1.185)
    grid = catalog.grid_intensity("gcp", "us-central1")
    assert (grid.low, grid.gco2e_per_kwh) == (430, 479)
    assert catalog.grid_intensity("country", "fra").gco2e_per_kwh > 0
    assert catalog.embodied()["per_gpu_card"].value == 150
    assert catalog.energy_price().low < catalog.energy_price().high
    price = catalog.storage_tiers()["aws.s3.standard"].usd_per_byte_month
    assert price == pytest.approx(0.023e-9)
    assert catalog.reliability()["failure_rates"][0]["unexpected"] == 419
    assert catalog.policy()["thresholds"]
    assert catalog.cpus()["graviton5"]["cores"] == 192
    with pytest.raises(UnknownNameError):
        catalog.pue("awss")
    with pytest.raises(UnknownNameError, match="us-central1"):
        catalog.grid_intensity("gcp", "us-centrl1")


def test_egress_fills_the_steps_in_order() -> None:
    aws = catalog.egress("aws")
    assert aws.usd(100e9) == 0
    assert aws.usd(10_100e9) == pytest.approx(900)
    assert aws.usd(50_100e9) == pytest.approx(900 + 40_000 * 0.085)
    assert catalog.egress("oci").usd(10e12) == 0


def test_the_public_names_are_what_all_says() -> None:
    assert sorted(catalog.__all__) == catalog.__all__
    assert all(hasattr(catalog, name) for name in catalog.__all__)


def test_loading_is_quick() -> None:
    code = (
        "import time, weftline.catalog as c\n"
        "a = time.process_time(); c.accelerators(); c.fabrics()\n"
        "b = time.process_time(); c.prices()\n"
        "print(b - a, time.process_time() - b)\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        for _ in range(3)
    ]
    chips, prices = (min(float(r.stdout.split()[n]) for r in runs) for n in (0, 1))
    assert chips < 0.06
    assert prices < 0.06


def test_the_data_names_no_private_place() -> None:
    for path in DATA_DIR.rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("/work", "/home", "/tmp", "../shared"))  # noqa: S108


def _row(**values: object) -> catalog.Price:
    base: dict[str, object] = {
        "date": "2026-11-01", "provider": "p", "instance": "i", "accelerator": "h100-sxm",
        "listed_as": "H100", "chips": 8, "region": "r", "zone": "", "price_type": "on-demand",
        "usd_per_hour": 16.0, "host_included": True, "nvme_gb": "", "network_gbps": None,
        "source": "s",
    }  # fmt: skip
    return catalog.Price(**{**base, **values})  # type: ignore[arg-type]


def _only(monkeypatch: pytest.MonkeyPatch, *rows: catalog.Price) -> None:
    # By name the room's function is found, not the module of the same name.
    monkeypatch.setattr(sys.modules["weftline.catalog.prices"], "shipped_prices", lambda: rows)


def test_dated_rows_are_taken_before_cheaper_ones_of_unknown_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undated = _row(date="unknown", provider="u", usd_per_hour=8.0)
    older = _row(date="2026-05-01", provider="o", usd_per_hour=9.0)
    market = _row(provider="m", channel="marketplace", usd_per_hour=4.0)
    recent = _row(provider="c", usd_per_hour=24.0)
    _only(monkeypatch, undated, older, market, recent)
    best = catalog.best_price("h100", today=TODAY)
    assert best.price is recent
    assert (best.low, best.high, best.rows, best.sellers, best.undated) == (0.5, 3.0, 4, 4, 1)
    for left, taken in ((3, market), (2, older), (1, undated)):
        _only(monkeypatch, *(undated, older, market)[:left])
        assert catalog.best_price("h100", today=TODAY).price is taken
    assert catalog.best_price("h100", today=TODAY).age_days is None


def test_marked_rows_are_taken_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = _row(provider="m", usd_per_hour=4.0, flags=("marked-stale",))
    index = _row(provider="x", usd_per_hour=2.0, flags=("not-an-offer",))
    sound = _row()
    _only(monkeypatch, marked, index, sound)
    assert catalog.best_price("h100", today=TODAY).price is sound
    assert catalog.best_price("h100", today=TODAY, marked=True).price is marked
    _only(monkeypatch, marked)
    with pytest.raises(InputError, match="faulty, marked"):
        catalog.best_price("h100", today=TODAY)


def test_no_marked_row_and_no_average_is_ever_taken_from_the_shipped_ones() -> None:
    for chip in catalog.accelerators():
        for choice in catalog.ways_to_pay(chip, today=TODAY).values():
            p = choice.price
            assert not p.flags
            assert p.channel != "index"
            assert not any(m in p.note for m in ("STALE", "SUSPECT", "OUTLIER"))


def test_at_least_32_chips_can_be_paid_for() -> None:
    payable = [a for a in catalog.accelerators() if catalog.ways_to_pay(a, today=TODAY)]
    assert len(payable) >= 32


def test_any_takes_the_cheapest_way_to_pay_and_says_which() -> None:
    ways = catalog.ways_to_pay("trn2", today=TODAY)
    assert set(ways) == {"spot", "capacity-block"}
    assert catalog.sold_only_as("trn2", today=TODAY) == "spot, capacity block"
    assert catalog.sold_only_as("h100", today=TODAY) == ""
    best = catalog.best_price("trn2", "any", today=TODAY)
    assert best.price.price_type == "capacity-block"  # dated; the spot rows say no day
    h100 = catalog.best_price("h100", "any", today=TODAY)
    assert h100.usd_per_chip_hour == min(
        c.usd_per_chip_hour for c in catalog.ways_to_pay("h100", today=TODAY).values()
        if c.age_days is not None and c.age_days <= 90
    )  # fmt: skip
    with pytest.raises(InputError, match="no price of any kind"):
        catalog.best_price("trainium3", "any", today=TODAY)


def test_a_chip_sold_apart_from_its_host_is_priced_with_it() -> None:
    best = catalog.best_price("a100-40", today=TODAY, provider="gcp")
    assert best.price.host_included
    assert best.price.chips_usd_per_hour == pytest.approx(2.93, abs=0.01)
    assert best.price.host_usd_per_hour == pytest.approx(0.74, abs=0.01)
    assert best.usd_per_chip_hour == pytest.approx(3.67, abs=0.01)
    assert "for their host" in best.why
    # The file of that version lists no host where this one stands.
    (bare,) = [
        p for p in catalog.prices("h100", "on-demand", "gcp", "asia-northeast3") if p.region != "*"
    ]
    assert not bare.host_included
    alone = catalog.best_price("h100", today=TODAY, provider="gcp", region="asia-northeast3")
    assert "host not included" in alone.why


def test_the_product_decides_the_network() -> None:
    b200 = catalog.accelerator("b200")
    assert b200.scale_out_bytes_per_s == 50e9  # 400 Gbit/s where no product says more
    named = _row(accelerator="b200", instance="hgx-b200-800g", network_gbps=6400.0)
    found = catalog.network_of(b200, named)
    assert found is not None
    assert found.bytes_per_s == 100e9
    aws = _row(accelerator="b200", instance="p6-b200.48xlarge")
    scoped = catalog.network_of(b200, aws)
    assert scoped is not None
    assert scoped.bytes_per_s == 50e9
    assert catalog.network_of(b200, _row(accelerator="b200")) is None
    assert catalog.network_of(b200, None) is None


def test_what_plans_rest_on_is_confirmed_but_for_less_than_one_in_twenty() -> None:
    share = catalog.unconfirmed_share()
    assert share.facts > 500
    assert share.unconfirmed == len(share.which)
    assert share.fraction < 0.05
