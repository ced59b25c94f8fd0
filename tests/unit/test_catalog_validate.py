"""`catalog validate`: each kind of fault, seeded alone into a clean catalogue, is found alone."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from weftline.catalog import Finding, known_faults, validate
from weftline.catalog.findings import QUARANTINE, RULES
from weftline.catalog.prices import COLUMNS
from weftline.errors import InputError

TODAY = datetime.date(2026, 11, 21)
Document = dict[str, Any]


def _fact(field: str, value: float, unit: str, **more: str) -> Document:
    out = {
        "field": field, "value": value, "unit": unit, "status": "official", "source": "sheet",
        "date": "2026-11-01",
    }  # fmt: skip
    return {**out, **more}


def _price(region: str, kind: str, cost: float | None, **more: Any) -> Document:
    out = {
        "date": "2026-11-01", "provider": "aws", "instance": "box.8", "accelerator": "h100",
        "chips": 8, "region": region, "price_type": kind, "usd_per_hour": cost, "source": "sheet",
    }  # fmt: skip
    return {**out, **more}


def clean() -> Document:
    """A small catalogue without a fault."""
    return {
        "sources": {"sheet": {"title": "a data sheet"}, "page": {"title": "a web page"}},
        "accelerators": [
            {
                "id": "loom1",
                "vendor": "acme",
                "facts": [
                    _fact("peak.bf16", 500, "TFLOP/s", kind="dense"),
                    _fact("peak.fp8", 1000, "TFLOP/s", kind="dense"),
                    _fact("memory", 96, "GB"),
                    _fact("memory_bandwidth", 4000, "GB/s"),
                    _fact("scale_up", 400, "GB/s", direction="uni"),
                    _fact("tdp", 600, "W"),
                ],
            }
        ],
        "prices": [
            _price("r1", "on-demand", 40.0),
            _price("r1", "spot", 16.0),
            _price("r2", "on-demand", 44.0),
            _price("r3", "on-demand", 42.0),
            _price("r1", "on-demand", 48.0, provider="gcp"),
        ],
        "figures": [
            {"accelerator": "h100", "field": "memory", "value": 80, "unit": "GB"},
            {"accelerator": "h100", "field": "peak.bf16", "value": 989, "unit": "TFLOP/s",
             "kind": "dense"},
        ],
    }  # fmt: skip


def _facts(d: Document) -> list[Document]:
    facts: list[Document] = d["accelerators"][0]["facts"]
    return facts


def _set(n: int, **values: Any) -> Callable[[Document], None]:
    return lambda d: _facts(d)[n].update(values)


def _drop(n: int, key: str) -> Callable[[Document], None]:
    return lambda d: _facts(d)[n].pop(key)


def _add(**values: Any) -> Callable[[Document], None]:
    return lambda d: _facts(d).append(_fact(**values))


def _set_price(n: int, **values: Any) -> Callable[[Document], None]:
    return lambda d: d["prices"][n].update(values)


def _add_price(*args: Any, **values: Any) -> Callable[[Document], None]:
    return lambda d: d["prices"].append(_price(*args, **values))


def _figure(**values: Any) -> Callable[[Document], None]:
    return lambda d: d["figures"].append(values)


SEEDS: list[tuple[str, Callable[[Document], object]]] = [
    ("unit-missing", _drop(2, "unit")),
    ("unit-missing", _set(2, unit="gigs")),
    ("unit-mismatch", _set(2, unit="GB/s")),
    ("unit-mismatch", _set(0, unit="W")),
    ("not-positive", _set(2, value=0)),
    ("not-positive", _set(2, value=-96)),
    ("not-positive", _set(2, value=float("inf"))),
    ("not-readable", _set(2, value="96 GB")),
    ("missing-key", _drop(2, "value")),
    ("missing-key", _drop(2, "field")),
    ("not-readable", lambda d: d["prices"].append("free")),
    ("not-readable", lambda d: d.update(fabrics={"x": 1})),
    ("not-positive", _figure(accelerator="h100", field="memory", value=-80, unit="GB")),
    ("unknown-key", _set(2, vlaue=3)),
    ("unknown-key", _set(2, field="memroy")),
    ("unknown-key", lambda d: d.update(acclerators=[])),
    ("label-missing", _drop(0, "kind")),
    ("label-missing", _drop(4, "direction")),
    ("status-unknown", _set(2, status="rumour")),
    ("source-dangling", _set(2, source="nowhere")),
    ("source-dangling", _drop(2, "source")),
    ("date-missing", _drop(2, "date")),
    ("date-missing", _set(2, date="last year")),
    ("duplicate", lambda d: d["accelerators"].append({"id": "loom1", "facts": []})),
    ("sparse-as-dense", _add(field="peak.bf16", value=500, unit="TFLOP/s", kind="sparse")),
    ("sparse-as-dense", _add(field="peak.bf16", value=1000, unit="TFLOP/s", kind="dense",
                             source="page")),
    ("value-spread", _add(field="scale_up", value=1200, unit="GB/s", direction="uni")),
    ("peak-order", _set(1, value=300)),
    ("wrong-memory", _figure(accelerator="trn2", field="memory", value=524288, unit="MiB")),
    ("wrong-memory", _figure(accelerator="h200", field="memory", value=80, unit="GB")),
    ("sparse-as-dense", _figure(accelerator="b200", field="peak.fp16", value=4500, unit="TFLOP/s")),
    ("sparse-as-dense", _figure(accelerator="h100", field="peak.bf16", value=1979, unit="TFLOP/s",
                                kind="dense")),
    ("unlabelled-peak", _figure(accelerator="gaudi3", field="peak", value=1835, unit="TFLOP/s")),
    ("unknown-accelerator", _figure(accelerator="zx9", field="memory", value=1, unit="GB")),
    ("missing-key", _figure(accelerator="h100", field="memory", value=80)),
    ("spot-above-on-demand", _set_price(1, usd_per_hour=41.0)),
    ("spot-equals-on-demand", _add_price("r2", "spot", 44.0)),
    ("sentinel-price", _add_price("r4", "on-demand", 5600.0)),
    ("low-on-demand", _add_price("r4", "on-demand", 17.0)),
    ("missing-price", _add_price("r4", "on-demand", None)),
    ("not-positive", _add_price("r4", "on-demand", -1.0)),
    ("stale-price", _add_price("r4", "on-demand", 41.0, date="2024-12")),
    ("date-future", _add_price("r4", "on-demand", 41.0, date="2027-01-01")),
    ("date-missing", _set_price(3, date=None)),
    ("price-spread", _set_price(4, usd_per_hour=150.0)),
    ("unknown-accelerator", _add_price("r4", "on-demand", 40.0, accelerator="zx9")),
    ("missing-key", _add_price("", "on-demand", 40.0)),
    ("unknown-key", _add_price("r4", "on-demand", 40.0, colour="red")),
    ("not-readable", _add_price("r4", "on-demand", 40.0, chips="many")),
    ("not-readable", _add_price("r4", "on-demand", 40.0, chips=0)),
    ("not-readable", _add_price("r4", "on-demand", "free")),
    ("not-readable", _add_price("r4", "hourly", 40.0)),
    ("not-readable", _add_price("r4", "on-demand", 40.0, channel="street")),
    ("not-readable", _add_price("r4", "on-demand", 40.0, date_of="birth")),
    ("not-readable", _add_price("r4", "on-demand", 40.0, host_usd_per_hour="some")),
    ("host-missing", _add_price("r4", "on-demand", 40.0, host_included="no")),
    ("host-above-price", _add_price("r4", "on-demand", 40.0, host_usd_per_hour=41.0)),
    ("low-on-demand", _add_price("r4", "on-demand", 40.0, host_usd_per_hour=20.0)),
    ("spot-above-on-demand", _add_price("r3", "spot", 43.0, host_usd_per_hour=0.5)),
    ("not-an-offer", _add_price("r4", "on-demand", 40.0, channel="index")),
    ("marked-stale", _add_price("r4", "on-demand", 40.0, note="STALE: 48.0 on 2026-11-10")),
    ("marked-suspect", _add_price("r4", "on-demand", 40.0, note="from an ad; SUSPECT")),
    ("marked-outlier", _add_price("r4", "on-demand", 40.0, note="OUTLIER: 3 times the median")),
    ("day-unknown", _add_price("r4", "on-demand", 40.0, date="unknown")),
]  # fmt: skip


def _check(document: Document, tmp_path: Path) -> list[Finding]:
    path = tmp_path / "chips.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return validate(path, today=TODAY)


def test_a_clean_catalogue_has_no_finding(tmp_path: Path) -> None:
    assert _check(clean(), tmp_path) == []


@pytest.mark.parametrize(
    ("rule", "seed"), SEEDS, ids=[f"{n}-{r}" for n, (r, _) in enumerate(SEEDS)]
)
def test_a_seeded_fault_is_found_and_nothing_else(
    rule: str, seed: Callable[[Document], object], tmp_path: Path
) -> None:
    document = clean()
    seed(document)
    found = _check(document, tmp_path)
    assert [f.rule for f in found] == [rule]
    assert found[0].severity == RULES[rule][0]


def test_every_rule_is_seeded() -> None:
    apart = {"provider-missing", "flag-mismatch"}  # of grid tables and of the shipped rows
    assert {rule for rule, _ in SEEDS} | apart == set(RULES)
    assert set(RULES) >= QUARANTINE


def test_all_seeded_faults_together_are_all_found(tmp_path: Path) -> None:
    seeds = {rule: seed for rule, seed in SEEDS if rule in QUARANTINE}
    document = clean()
    for seed in seeds.values():
        seed(document)
    assert set(seeds) <= {f.rule for f in _check(document, tmp_path)}


def test_a_finding_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "chips.yaml"
    path.write_text(
        "sources: {sheet: {title: x}}\n"
        "accelerators:\n"
        "- id: loom1\n"
        "  facts:\n"
        "  - {field: memory, value: 96, unit: GB, status: official, source: sheet, date: 2026}\n"
        "  - {field: tdp, value: 600, status: official, source: sheet, date: 2026}\n"
    )
    (found,) = validate(path, today=TODAY)
    assert found.where == f"{path}:6"
    assert found.what == "loom1 tdp has no unit"


def test_every_known_fault_of_public_catalogues_is_caught() -> None:
    faults = known_faults()
    assert len(faults) == 13
    for fault in faults:
        assert fault.finding is not None, fault.claim
        assert ":" in fault.finding.where


def test_the_shipped_catalogue_is_sound_and_its_faulty_rows_are_flagged() -> None:
    found = validate(today=TODAY)
    assert [f for f in found if f.severity == "error"] == []
    rules = {f.rule for f in found}
    assert rules >= {
        "spot-above-on-demand", "spot-equals-on-demand", "sentinel-price", "low-on-demand",
        "price-spread", "value-spread", "stale-price", "sparse-as-dense",
    }  # fmt: skip


def test_the_shipped_catalogue_gets_no_error_by_growing_old() -> None:
    later = datetime.date(2029, 1, 1)
    assert not [f for f in validate(today=later) if f.severity == "error"]


def _skypilot(*rows: tuple[str, ...]) -> str:
    head = ("InstanceType", "vCPUs", "MemoryGiB", "AcceleratorName", "AcceleratorCount", "GpuInfo",
            "Price", "SpotPrice", "Region", "AvailabilityZone")  # fmt: skip
    out = io.StringIO()
    csv.writer(out).writerows([head, *rows])
    return out.getvalue()


def test_skypilots_format_is_read(tmp_path: Path) -> None:
    gpu = "{'Gpus': [{'Name': 'H100', 'MemoryInfo': {'SizeInMiB': 40960}}]}"
    text = _skypilot(
        ("p5.48xlarge", "192", "2048", "H100", "8", gpu, "55.04", "60.0", "us-east-1", "a"),
        ("m5.large", "2", "8", "", "", "", "0.1", "0.04", "us-east-1", "a"),
        ("trn2.48xlarge", "192", "2048", "Trainium2", "16", "", "", "20.7", "us-east-2", "a"),
    )
    path = tmp_path / "aws.csv"
    path.write_text(text)
    found = validate(path, today=TODAY)
    assert {(f.rule, f.where.removeprefix(str(path))) for f in found} == {
        ("spot-above-on-demand", ":2"),
        ("wrong-memory", ":2"),
        ("missing-price", ":4"),
    }


def test_our_csv_is_read(tmp_path: Path) -> None:
    row = {**dict.fromkeys(COLUMNS, ""), **_price("r1", "on-demand", 8.0)}
    path = tmp_path / "prices.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([row, {**row, "usd_per_hour": ""}])
    assert [f.rule for f in validate(path, today=TODAY)] == ["missing-price"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x.yaml", "a: [1, 2", "not YAML"),
        ("x.yaml", "a: 1\na: 2\n", "stands twice"),
        ("x.yaml", "- 1\n", "a catalogue is a mapping"),
        ("x.json", '{"a": ', "not YAML"),
        ("x.csv", "a,b\n1,2\n", "these columns are of no catalogue"),
        ("x.csv", "", "these columns are of no catalogue"),
    ],
)
def test_what_is_no_catalogue_is_refused_with_file_and_line(
    name: str, text: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        validate(path, today=TODAY)
    assert str(caught.value.where).startswith(f"{path}:")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        validate(tmp_path / "none.yaml", today=TODAY)
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        validate(tmp_path / "x.csv", today=TODAY)


def test_an_empty_file_is_an_empty_catalogue(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("")
    assert validate(tmp_path / "x.yaml", today=TODAY) == []
