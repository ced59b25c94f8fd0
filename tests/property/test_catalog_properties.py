"""Properties of the catalogue that hold for any input."""

from __future__ import annotations

import datetime
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weftline.catalog import accelerator, accelerators, egress
from weftline.catalog.facts import KINDS, STATUSES, Fact, choose
from weftline.catalog.findings import QUARANTINE
from weftline.catalog.formats import SKYPILOT_COLUMNS, parse
from weftline.catalog.online import write_prices
from weftline.catalog.price_rules import PricedRow, check_prices
from weftline.catalog.prices import COLUMNS, PRICE_TYPES, Price, date_span, refreshed_prices
from weftline.catalog.validation import check
from weftline.errors import InputError, UnknownNameError

TODAY = datetime.date(2026, 11, 21)

facts = st.builds(
    Fact,
    field=st.just("peak.bf16"),
    value=st.floats(1, 1e6),
    unit=st.just("TFLOP/s"),
    status=st.sampled_from(STATUSES),
    source=st.sampled_from(["a", "b"]),
    date=st.sampled_from(["2024", "2025-06", "2026-01-01"]),
    kind=st.sampled_from(KINDS),
    scope=st.none() | st.just("one box"),
)
prices = st.builds(
    Price,
    date=st.just("2026-11-01"),
    provider=st.sampled_from(["aws", "gcp"]),
    instance=st.sampled_from(["x.8", "y.8"]),
    accelerator=st.just("h100-sxm"),
    listed_as=st.just("h100"),
    chips=st.just(8),
    region=st.sampled_from(["r1", "r2", "r3", "r4"]),
    zone=st.just(""),
    price_type=st.sampled_from(PRICE_TYPES),
    usd_per_hour=st.none() | st.floats(-10, 1e5, allow_nan=False),
    host_included=st.booleans(),
    nvme_gb=st.just(""),
    network_gbps=st.none() | st.just(400.0),
    source=st.just("aws-karpenter"),
)


@given(st.lists(facts, max_size=8))
def test_what_is_chosen_is_best_in_status_and_never_sparse(given_facts: list[Fact]) -> None:
    choice = choose(given_facts, kind="dense")
    fit = [f for f in given_facts if f.kind == "dense" and f.scope is None]
    if choice is None:
        assert not fit
        return
    best = min(STATUSES.index(f.status) for f in fit)
    assert STATUSES.index(choice.fact.status) == best
    alike = [f for f in fit if (f.status, f.date) == (choice.fact.status, choice.fact.date)]
    assert choice.value == min(f.si for f in alike)
    assert choice.low <= choice.value <= choice.high


@given(st.lists(facts, min_size=1, max_size=8), st.randoms())
def test_the_choice_does_not_depend_on_the_order(given_facts: list[Fact], rnd: object) -> None:
    shuffled = list(given_facts)
    rnd.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = choose(given_facts, kind="dense"), choose(shuffled, kind="dense")
    assert (first and first.value) == (second and second.value)


@given(st.lists(prices, max_size=12))
def test_rules_never_fail_and_find_spot_above_on_demand(rows: list[Price]) -> None:
    placed = [PricedRow(price=p, where=f"x:{n}") for n, p in enumerate(rows)]
    found = check_prices(placed, today=TODAY, max_age_days=365)
    held = {w for f in found if f.rule in QUARANTINE for w in f.where.split(", ")}
    for a in placed:
        if a.price.usd_per_hour is None or a.price.usd_per_hour <= 0:
            assert a.where in held
    free = [r.price for r in placed if r.where not in held]
    for a, b in ((a, b) for a in free for b in free):
        same = (a.provider, a.instance, a.region) == (b.provider, b.instance, b.region)
        if same and (a.price_type, b.price_type) == ("spot", "on-demand"):
            assert (a.usd_per_hour or 0) < (b.usd_per_hour or 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(prices, max_size=6))
def test_what_is_written_is_read_back(tmp_path: Path, rows: list[Price]) -> None:
    write_prices(tmp_path / "prices.csv", rows)
    assert refreshed_prices(tmp_path) == tuple(rows)


@given(st.text(max_size=300), st.sampled_from(["x.yaml", "x.csv", "x.json"]))
def test_any_text_is_read_or_refused_in_our_own_words(text: str, name: str) -> None:
    with suppress(InputError):
        parse(text, name, date="2026-11-21")


@given(st.sampled_from(["skypilot", "ours"]), st.text(max_size=200))
def test_any_row_is_judged_and_never_a_crash(kind: str, text: str) -> None:
    head = ",".join(SKYPILOT_COLUMNS if kind == "skypilot" else COLUMNS)
    with suppress(InputError):
        parsed = parse(f"{head}\n{text}\n", "x.csv", date="2026-11-21")
        check(parsed, TODAY, 365)


def _mostly(good: object) -> st.SearchStrategy[object]:
    return st.just(good) | st.just(good) | st.just(good) | anything


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates()
anything = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
good_fact = {
    "field": "memory", "value": 96, "unit": "GB", "status": "press", "source": "recall",
    "date": "2026", "direction": "uni", "kind": "dense", "note": "x", "scope": "y",
}  # fmt: skip
any_fact = st.fixed_dictionaries({k: _mostly(v) for k, v in good_fact.items()}) | anything
any_record = (
    st.fixed_dictionaries(
        {"id": _mostly("x"), "facts": st.lists(any_fact, max_size=3) | anything},
        optional=dict.fromkeys(("note", "chips", "shape", "topology_shape", "kind"), anything),
    )
    | anything
)
any_price = st.fixed_dictionaries(dict.fromkeys(COLUMNS, anything)) | anything
any_figure = st.fixed_dictionaries(
    {
        "accelerator": _mostly("h100"), "field": _mostly("peak"), "value": _mostly(989),
        "unit": _mostly("TFLOP/s"), "kind": _mostly("dense"),
    }
) | anything  # fmt: skip
any_catalogue = st.fixed_dictionaries(
    {},
    optional={
        "sources": anything,
        "accelerators": st.lists(any_record, max_size=2) | anything,
        "fabrics": st.lists(any_record, max_size=2) | anything,
        "prices": st.lists(any_price, max_size=2) | anything,
        "figures": st.lists(any_figure, max_size=3) | anything,
    },
)


@given(any_catalogue)
def test_any_catalogue_is_judged_and_never_a_crash(document: object) -> None:
    text = yaml.safe_dump(document)
    with suppress(InputError):
        check(parse(text, "x.yaml", date="2026-11-21"), TODAY, 365)


@given(st.text(max_size=20))
def test_any_name_is_found_or_refused(name: str) -> None:
    with suppress(UnknownNameError):
        assert accelerator(name).id in accelerators()


@given(st.dates(datetime.date(2000, 1, 1), datetime.date(2026, 11, 21)))
def test_a_day_lies_in_its_month_and_year(day: datetime.date) -> None:
    for text in (day.isoformat(), f"{day:%Y-%m}", f"{day:%Y}", f"{day:%Y}-xx"):
        first, last, _ = date_span(text)
        assert first <= day <= last


@pytest.mark.parametrize("provider", ["aws", "azure", "gcp", "oci"])
@given(a=st.floats(0, 1e15), b=st.floats(0, 1e15))
def test_egress_never_falls_with_volume(provider: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= egress(provider).usd(low) <= egress(provider).usd(high)
