"""`catalog refresh`: parsing of each source, offline, atomic writing, and what the loader takes."""

from __future__ import annotations

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
from weftline.errors import InputError, OfflineError, UnknownNameError

TODAY = datetime.date(2026, 12, 1)
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
    ",,,H100,8,,70.0,80.0,us-east4,us-east4-a\n",
    "azure": HEAD + "Standard_ND96isr_H100_v5,96,1900,H100,8,,98.32,,eastus,\n",
    "nebius": HEAD + "gpu-h100-sxm_8gpu,128,1600,H100,8,,23.6,10.0,eu-north1,\n",
    "lambda": HEAD + "gpu_8x_h100,208,1800,H100,8,,23.92,,us-west-1,\n",
}


@pytest.fixture(autouse=True)
def _user_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFTLINE_DATA_DIR", str(tmp_path / "data"))


def from_skypilot(url: str) -> str:
    assert url.startswith("https://")
    return SKYPILOT[url.split("/")[-2]]


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
    assert done.rows == {"skypilot": len(rows)} == {"skypilot": 11}
    assert done.path == tmp_path / "prices.csv"
    assert {p.accelerator for p in rows} == {"h100-sxm", "tpu-v5p", "tpu-v6e"}
    chips = {p.listed_as: p.chips for p in rows if p.provider == "gcp"}
    assert chips == {"tpu-v5p-8": 4, "tpu-v6e-4": 4, "H100": 8}  # v5p counts TensorCores
    faulty = [p for p in rows if p.flags]
    assert {p.instance for p in faulty} == {"H100"}
    assert done.faulty == len(faulty) == 2


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
    assert done.failed == {"azure": "Network is unreachable"}
    assert done.rows == {"skypilot": 11}


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
