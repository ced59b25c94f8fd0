"""`catalog refresh`: parsing of each source, offline, atomic writing, and what the loader takes."""

from __future__ import annotations

import csv
import datetime
import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from weftline import catalog
from weftline.catalog import online
from weftline.catalog.date import CATALOG_DATE
from weftline.catalog.prices import refreshed_prices
from weftline.catalog.skypilot import PROVIDERS
from weftline.errors import InputError, OfflineError, UnknownNameError

TODAY = datetime.date(2026, 12, 1)
FIXTURES = Path(__file__).parent / "data"
HEAD = (
    "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Price,SpotPrice,"
    "Region,AvailabilityZone\n"
)
SKYPILOT = {
    "aws": HEAD + "p5.48xlarge,192,2048,H100,8,,55.04,20.0,us-east-1,use1-az1\n"
    "m5.large,2,8,,,,0.096,0.04,us-east-1,use1-az1\n"
    "g4dn.xlarge,4,16,T4,1,,0.526,0.2,us-east-1,use1-az1\n",
    "gcp": HEAD + ",,,tpu-v5p-8,1,,16.8,3.0,us-east5,us-east5-a\n"
    "TPU-VM,,,tpu-v6e-4,1,,10.8,,us-east5,us-east5-a\n"
    "a2-highgpu-1g,12,85,,,,0.73948,0.38812,us-central1,us-central1-a\n"
    ",,,A100,1,,2.93391,1.5399,us-central1,us-central1-a\n"
    ",,,L4,1,,0.56,,us-central1,us-central1-a\n"
    "a4-highgpu-8g,224,3968,,,,0.0,0.0,us-central1,us-central1-b\n"
    ",,,B200,8,,80.0,,us-central1,us-central1-b\n"
    ",,,H100,8,,70.0,80.0,us-east4,us-east4-a\n",
    "azure": HEAD + "Standard_ND96isr_H100_v5,96,1900,H100,8,,98.32,,eastus,\n"
    "Standard_NC40ads_H100_v5,40,320,H100,1,,6.98,,eastus,\n"
    "Standard_NC24ads_A100_v4,24,220,A100-80GB,1,,3.67,,eastus,\n",
    "nebius": HEAD + "gpu-h100-sxm_8gpu,128,1600,H100,8,,23.6,10.0,eu-north1,\n",
    "lambda": HEAD + "gpu_8x_h100,208,1800,H100,8,,23.92,,us-west-1,\n",
    "hyperstack": (FIXTURES / "skypilot_v8_hyperstack.csv").read_text(encoding="utf-8"),
    "vast": HEAD + "1x-RTX_4090-32-65536,32,64,RTX4090,1,,0.4,0.0,US-NC,\n"
    "8x-H100,32,64,H100,8,,16.0,,US-NC,\n",
    "runpod": HEAD + "1x_A100-80GB_COMMUNITY,8,80,A100-80GB,1,,1.19,,CA,\n",
}
OLDER = {"hyperstack", "vast", "runpod"}  # stand in v8 only


@pytest.fixture(autouse=True)
def _user_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFTLINE_DATA_DIR", str(tmp_path / "data"))


def from_skypilot(url: str) -> str:
    """As the public files answer: a seller stands in one version, its history tells the day."""
    assert url.startswith("https://")
    if url.startswith(online.SKYPILOT_HISTORY):
        seller = url.split("/")[-2]
        if seller == "nebius":
            raise OSError(403, "rate limit exceeded")
        return json.dumps([{"commit": {"committer": {"date": "2026-11-29T04:00:00Z"}}}])
    version, seller = url.split("/")[-3:-1]
    if seller not in SKYPILOT or (version == "v9") == (seller in OLDER):
        raise OSError(404, "Not Found")
    return SKYPILOT[seller]


def offline(url: str) -> str:
    raise OSError("Network is unreachable")


def _item(**values: Any) -> dict[str, Any]:
    out = {
        "currencyCode": "USD", "retailPrice": 98.32, "armRegionName": "eastus", "type":
        "Consumption", "unitOfMeasure": "1 Hour", "productName": "NDsr H100 v5 Series",
        "skuName": "ND96isrH100v5", "armSkuName": "Standard_ND96isr_H100_v5",
    }  # fmt: skip
    return {**out, **values}


def from_azure(url: str) -> str:
    """Two pages for the H100 machine, none for the others, as the API pages them."""
    if "ND96isr_H100_v5" not in urllib.parse.unquote(url):
        return json.dumps({"Items": [], "NextPageLink": None})
    if "skip" in url:
        items = [
            _item(retailPrice=30.0, skuName="ND96isrH100v5 Spot"),
            _item(retailPrice=438_000.0, type="Reservation", reservationTerm="1 Year"),
            _item(productName="NDsr H100 v5 Series Windows", retailPrice=120.0),
            _item(skuName="ND96isrH100v5 Low Priority", retailPrice=20.0),
        ]
        return json.dumps({"Items": items, "NextPageLink": None})
    more = "https://prices.azure.com:443/api/retail/prices?Standard_ND96isr_H100_v5&$skip=1000"
    return json.dumps({"Items": [_item()], "NextPageLink": more})


class AwsClient:
    """Answers as boto3's pricing client does, in two pages for one instance."""

    def get_products(self, **asked: Any) -> dict[str, Any]:
        assert asked["ServiceCode"] == "AmazonEC2"
        machine = next(f["Value"] for f in asked["Filters"] if f["Field"] == "instanceType")
        if machine != "trn2.48xlarge":
            return {"PriceList": []}
        product = {
            "product": {"attributes": {"regionCode": "us-east-2"}},
            "terms": {"OnDemand": {"a": {"priceDimensions": {
                "b": {"unit": "Hrs", "pricePerUnit": {"USD": "46.4"}},
                "c": {"unit": "Hrs", "pricePerUnit": {"USD": "0.0"}},
            }}}},
        }  # fmt: skip
        if "NextToken" in asked:
            return {"PriceList": [json.dumps(product)]}
        return {"PriceList": [], "NextToken": "more"}


def test_skypilots_catalogue_is_read_and_flagged(tmp_path: Path) -> None:
    done = online.refresh(["skypilot"], tmp_path, today=TODAY, fetch=from_skypilot)
    rows = refreshed_prices(tmp_path)
    assert done.rows == {"skypilot": len(rows)}
    assert done.path == tmp_path / "prices.csv"
    chips = {p.listed_as: p.chips for p in rows if p.provider == "gcp"}
    assert chips == {  # v5p counts TensorCores
        "tpu-v5p-8": 4, "tpu-v6e-4": 4, "A100": 1, "L4": 1, "B200": 8, "H100": 8,
    }  # fmt: skip
    faulty = [p for p in rows if p.flags]
    assert {p.instance for p in faulty} == {"a3-highgpu-8g"}
    assert done.faulty == len(faulty) == 2


def test_every_seller_that_can_be_had_is_read_with_the_day_of_its_file(tmp_path: Path) -> None:
    done = online.refresh(["skypilot"], tmp_path, today=TODAY, fetch=from_skypilot)
    rows = refreshed_prices(tmp_path)
    assert {p.provider for p in rows} == set(SKYPILOT)
    assert set(done.failed) == {f"skypilot {p}" for p in PROVIDERS if p not in SKYPILOT}
    for p in rows:
        dated = ("unknown" if p.provider == "nebius" else "2026-11-29", "file")
        assert (p.date, p.date_of) == dated
    assert {p.provider for p in rows if p.channel == "marketplace"} == {"vast", "runpod"}
    assert not [p for p in rows if p.price_type == "spot" and p.usd_per_hour == 0]


def test_the_form_of_a_chip_is_read_from_name_machine_and_seller(tmp_path: Path) -> None:
    online.refresh(["skypilot"], tmp_path, today=TODAY, fetch=from_skypilot)
    found = {(p.provider, p.instance): p.accelerator for p in refreshed_prices(tmp_path)}
    assert found["azure", "Standard_ND96isr_H100_v5"] == "h100-sxm"
    assert found["azure", "Standard_NC40ads_H100_v5"] == "h100-nvl"
    assert found["azure", "Standard_NC24ads_A100_v4"] == "a100-80-pcie"
    assert found["hyperstack", "n3-H100x8"] == "h100-pcie"
    assert found["hyperstack", "n3-H100-SXM5x8"] == "h100-sxm"
    assert found["hyperstack", "n3-RTX-A6000x8"] == "rtx-a6000"
    assert found["runpod", "1x_A100-80GB_COMMUNITY"] == "a100-80-pcie"
    assert found["vast", "1x-RTX_4090-32-65536"] == "rtx-4090"
    assert ("vast", "8x-H100") not in found  # SXM or PCIe: nothing says which


def test_google_chips_are_joined_with_their_machines(tmp_path: Path) -> None:
    online.refresh(["skypilot"], tmp_path, today=TODAY, fetch=from_skypilot)
    rows = {(p.listed_as, p.price_type): p for p in refreshed_prices(tmp_path)
            if p.provider == "gcp"}  # fmt: skip
    a100 = rows["A100", "on-demand"]
    assert (a100.instance, a100.host_included) == ("a2-highgpu-1g", True)
    assert a100.usd_per_hour == pytest.approx(2.93391 + 0.73948)
    assert a100.host_usd_per_hour == pytest.approx(0.73948)
    assert rows["A100", "spot"].usd_per_hour == pytest.approx(1.5399 + 0.38812)
    b200 = rows["B200", "on-demand"]  # Google prices the whole machine at the chips
    assert (b200.usd_per_hour, b200.host_included) == (80.0, True)
    assert not rows["L4", "on-demand"].host_included  # one of several machines
    assert not rows["H100", "on-demand"].host_included  # its machine is not listed there


def test_azure_is_read_page_by_page(tmp_path: Path) -> None:
    online.refresh(["azure"], tmp_path, today=TODAY, fetch=from_azure)
    rows = {p.price_type: p for p in refreshed_prices(tmp_path)}
    assert {k: p.usd_per_hour for k, p in rows.items()} == {
        "on-demand": 98.32, "spot": 30.0, "reserved": 50.0,
    }  # fmt: skip
    assert all(p.accelerator == "h100-sxm" and p.chips == 8 for p in rows.values())


def test_azure_may_not_send_us_elsewhere(tmp_path: Path) -> None:
    page = json.dumps({"Items": [], "NextPageLink": "https://example.com/api/retail/prices"})
    with pytest.raises(OfflineError, match="not on the price API"):
        online.refresh(["azure"], tmp_path, today=TODAY, fetch=lambda _: page)


def test_aws_is_read_through_boto3(tmp_path: Path) -> None:
    online.refresh(["aws"], tmp_path, today=TODAY, aws=AwsClient)
    (row,) = refreshed_prices(tmp_path)
    assert (row.accelerator, row.chips, row.usd_per_hour) == ("trainium2", 16, 46.4)


def test_offline_says_which_source_and_what_stays_in_use(tmp_path: Path) -> None:
    def no_boto3() -> Any:
        raise ImportError("No module named 'boto3'")

    with pytest.raises(OfflineError) as caught:
        online.refresh(out_dir=tmp_path, today=TODAY, fetch=offline, aws=no_boto3)
    said = caught.value.render()
    assert caught.value.exit_code == 1
    for name in ("skypilot: Network is unreachable", "azure: Network is unreachable", "aws: boto3"):
        assert name in said
    assert CATALOG_DATE in said
    assert list(tmp_path.glob("*.csv")) == []


def test_one_source_is_enough(tmp_path: Path) -> None:
    def half(url: str) -> str:
        return from_skypilot(url) if "skypilot" in url else offline(url)

    done = online.refresh(["skypilot", "azure"], tmp_path, today=TODAY, fetch=half)
    assert done.failed["azure"] == "Network is unreachable"
    assert "skypilot" not in done.failed
    assert done.rows["skypilot"] > 20


@pytest.mark.parametrize("text", ["", "<html>no</html>", "a,b\n1,2\n"])
def test_an_answer_that_is_no_catalogue_is_a_failure(text: str, tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match="could not be read"):
        online.refresh(["skypilot", "azure"], tmp_path, today=TODAY, fetch=lambda _: text)


def test_a_failed_refresh_leaves_the_earlier_one(tmp_path: Path) -> None:
    online.refresh(["skypilot"], tmp_path, today=TODAY, fetch=from_skypilot)
    before = (tmp_path / "prices.csv").read_bytes()
    with pytest.raises(OfflineError):
        online.refresh(["skypilot"], tmp_path, today=TODAY, fetch=offline)
    assert (tmp_path / "prices.csv").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["prices.csv"]


def test_a_write_that_fails_midway_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.refresh(["skypilot"], tmp_path, today=TODAY, fetch=from_skypilot)
    before = (tmp_path / "prices.csv").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(online.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        online.refresh(["skypilot"], tmp_path, today=TODAY, fetch=from_skypilot)
    assert (tmp_path / "prices.csv").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["prices.csv"]


def test_refreshed_prices_are_used_and_shipped_ones_untouched() -> None:
    with pytest.raises(InputError, match="no on-demand price"):
        catalog.best_price("trn2", today=TODAY)
    shipped = len(catalog.prices())
    online.refresh(["aws"], today=TODAY, aws=AwsClient)
    best = catalog.best_price("trn2", today=TODAY)
    assert best.usd_per_chip_hour == pytest.approx(2.9)
    assert best.age_days == 0
    assert len(catalog.prices()) == shipped + 1


def test_a_broken_user_file_is_bad_input_with_its_line(tmp_path: Path) -> None:
    online.refresh(["aws"], tmp_path, today=TODAY, aws=AwsClient)
    path = tmp_path / "prices.csv"
    path.write_text(path.read_text().replace("46.4", "dear"))
    with pytest.raises(InputError) as caught:
        refreshed_prices(tmp_path)
    assert caught.value.where == f"{path}:2"
    path.write_text("a,b\n")
    with pytest.raises(InputError, match="not a price file"):
        refreshed_prices(tmp_path)


def test_an_unknown_source() -> None:
    with pytest.raises(UnknownNameError, match="skypilot"):
        online.refresh(["skypliot"], today=TODAY, fetch=offline)


@pytest.mark.parametrize("url", ["http://example.com/x", "file:///etc/passwd", "ftp://x/y"])
def test_only_https_is_fetched(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        online.fetch_https(url)


class _Answer:
    def __init__(self, body: bytes, url: str = "https://example.com/") -> None:
        self.body, self.url = body, url

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def geturl(self) -> str:
        return self.url

    def read(self, count: int) -> bytes:
        return self.body[:count]


def test_fetching_is_bounded_and_stays_on_https(monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    answers = {"answer": _Answer(b"fine")}

    def urlopen(request: Any, timeout: float) -> _Answer:
        assert timeout == online.TIMEOUT_S
        return answers["answer"]

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert online.fetch_https("https://example.com/") == "fine"
    monkeypatch.setattr(online, "BYTES_MAX", 3)
    with pytest.raises(ValueError, match="larger"):
        online.fetch_https("https://example.com/")
    answers["answer"] = _Answer(b"x", "http://example.com/")
    with pytest.raises(ValueError, match="away from https"):
        online.fetch_https("https://example.com/")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("date", "2026-13-45", "month must be in 1..12"), ("price_type", "lease", "price type"),
        ("chips", "0", "0 chips"), ("usd_per_hour", "cheap", "cheap"),
    ],
)  # fmt: skip
def test_an_edited_price_file_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, value: str, said: str
) -> None:
    monkeypatch.setenv("WEFTLINE_DATA_DIR", str(tmp_path))
    online.refresh(["skypilot"], tmp_path, today=TODAY, fetch=from_skypilot)
    file = tmp_path / "prices.csv"
    head, first, *others = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
    first[head.index(column)] = value
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([head, first, *others])
    with pytest.raises(InputError, match=said) as caught:
        catalog.best_price("h100", today=TODAY)
    assert caught.value.where == f"{file}:2"
