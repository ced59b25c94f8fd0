"""What `weftline catalog` prints, at 80 columns and without colour."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from weftline.catalog import online
from weftline.cli.catalog import app
from weftline.errors import InputError, InputErrors, OfflineError, UnknownNameError
from weftline.report.text import set_colour

DAY = ("--today", "2026-11-30")


@pytest.fixture(autouse=True)
def _no_user_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFTLINE_DATA_DIR", str(tmp_path))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, int]:
    code = 0
    try:
        app(list(words))
    except SystemExit as ended:
        code = int(ended.code or 0)
    return capsys.readouterr().out, code


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("list", "fabrics"),
        ("list", "prices", "--vendor", "aws"),
        ("list", "prices", "--chip", "mi325x", *DAY),
        ("list", "storage"),
        ("show", "h100", *DAY),
        ("show", "trainium3", *DAY),
        ("show", "inferentia3", *DAY),
        ("show", "trn2-ultraserver", *DAY),
        ("compare", "h100", "b200", "trn2", *DAY),
        ("validate", *DAY),
    ],
    ids=" ".join,
)
def test_what_is_printed(
    words: Sequence[str], capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    text, code = run(capsys, *words)
    assert code == 0
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert text == snapshot


def test_trainium3_shows_its_three_link_bandwidths_and_their_sources(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, _ = run(capsys, "show", "trainium3", *DAY)
    for value, source in (
        ("2,560 GB/s", "trainium3.rst, chip page"),
        ("2,048 GiB/s", "trn3-arch.rst, specification table"),
        ("704 GB/s", "trn3-arch.rst, connectivity text"),
    ):
        assert value in text
        assert source in " ".join(text.split())
    assert "promises least of 3 official figures" in " ".join(text.split())


@pytest.mark.parametrize(
    "words", [("list",), ("show", "trainium3", *DAY), ("validate", *DAY)], ids=" ".join
)
def test_json_holds_the_same_fields(
    words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(run(capsys, *words, "--json")[0])
    if words[0] == "list":
        assert data["count"] == len(data["rows"]) == 79
    elif words[0] == "show":
        (links,) = [f for f in data["fields"] if f["field"] == "scale_up"]
        assert [f["taken"] for f in links["facts"]] == [False, False, True]
        assert {f["source"] for f in links["facts"]} <= set(data["sources"])
    else:
        assert data["errors"] == 0
        assert all(k["caught_by"] for k in data["known_faults"])


def test_a_comparison_reads_the_same_in_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    chips = ("h100", "b200", "trn2", "a10g")
    data = json.loads(run(capsys, "compare", *chips, *DAY, "--format", "json")[0])
    assert data == json.loads(run(capsys, "compare", *chips, *DAY, "--json")[0])
    assert data["chips"] == ["h100-sxm", "b200", "trainium2", "a10g"]
    text, _ = run(capsys, "compare", *chips, *DAY, "--format", "csv")
    head, *rows = csv.reader(text.splitlines())
    assert head == ["group", "what", "unit", *data["chips"]]
    told = [[r["group"], r["what"], r["unit"], *(c["text"] for c in r["cells"].values())]
            for r in data["rows"]]  # fmt: skip
    assert rows == told
    page, _ = run(capsys, "compare", *chips, *DAY, "--format", "markdown")
    lines = [x for x in page.splitlines() if x.startswith("|")]
    assert len(lines) == len(rows) + 2
    assert {x.count(" | ") for x in lines} == {len(chips)}


def test_a_comparison_says_how_each_is_sold_and_what_has_no_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = json.loads(run(capsys, "compare", "b200", "trn2", "a10g", *DAY, "--json")[0])
    rows = {r["what"]: r["cells"] for r in data["rows"]}
    assert rows["sold as"]["trainium2"]["text"] == "only spot, capacity block"
    assert rows["on-demand"]["trainium2"]["text"] == "-"
    b200 = rows["on-demand"]["b200"]
    assert b200["low"] <= b200["value"] <= b200["high"]
    assert b200["age_days"] <= 90
    assert rows["network"]["b200"]["text"] == "400"
    unsure = [what for what, cells in rows.items() if cells["a10g"]["text"].endswith("?")]
    assert len(unsure) == len(rows["unconfirmed"]["a10g"]["text"].split(", ")) > 0
    assert rows["training"]["trainium2"]["text"] == "neuronx"


def test_old_prices_of_a_comparison_are_red_on_a_terminal_with_colour(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain, _ = run(capsys, "compare", "h100", "trn2", *DAY)
    set_colour(True)
    try:
        shown, _ = run(capsys, "compare", "h100", "trn2", *DAY)
    finally:
        set_colour(False)
    red = re.findall(r"\x1b\[31m(\d+) days old\x1b\[0m", shown)
    assert {"96", "193", "699"} <= set(red)
    assert min(map(int, red)) > 90
    assert re.sub(r"\x1b\[\d+m", "", shown) == plain


def test_a_chip_that_no_list_names_has_no_price(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "list", "prices", "--chip", "tpu-v5e")[0] == "no price is known\n"


def test_a_comparison_names_every_unknown_chip(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputErrors) as caught:
        app(["compare", "h1000", "b200", "mi9000"])
    assert [e.what for e in caught.value.errors] == [
        "unknown accelerator `h1000`", "unknown accelerator `mi9000`",
    ]  # fmt: skip
    with pytest.raises(InputError, match="two or more"):
        app(["compare", "h100", "h100-sxm"])


def test_a_faulty_catalogue_exits_with_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    snapshot: SnapshotAssertion,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chips.yaml").write_text(
        "accelerators:\n"
        "- id: loom1\n"
        "  facts:\n"
        "  - {field: memroy, value: 96, unit: GB, status: official, source: recall, date: 2026}\n"
        "  - {field: tdp, value: 600, status: rumour, source: recall, date: 2026}\n"
        "figures:\n"
        "- {accelerator: trn2, field: memory, value: 512, unit: GiB}\n"
    )
    text, code = run(capsys, "validate", "chips.yaml", *DAY)
    assert code == 2
    assert text == snapshot


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        app(["show", "tranium3"])
    assert caught.value.exit_code == 2
    assert "did you mean `trainium3`" in caught.value.render()
    with pytest.raises(UnknownNameError, match="nvidia"):
        app(["list", "--vendor", "nvdia"])
    with pytest.raises(UnknownNameError, match="has no vendors"):
        app(["list", "fabrics", "--vendor", "aws"])


def test_a_name_of_a_chip_and_of_a_fabric(capsys: pytest.CaptureFixture[str]) -> None:
    chip, _ = run(capsys, "show", "tpu-v4", *DAY)
    fabric, _ = run(capsys, "show", "tpu-v4", "--kind", "fabric", *DAY)
    assert "275 TFLOP/s bf16" in chip
    assert "ocs_reconfiguration" in fabric


def test_refresh_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_: str) -> str:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(online, "fetch_https", offline)
    with pytest.raises(OfflineError, match="Network is unreachable") as caught:
        app(["refresh", "--source", "skypilot", "--source", "azure"])
    assert caught.value.exit_code == 1


def test_refresh_says_what_it_wrote(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    head = "InstanceType,AcceleratorName,AcceleratorCount,Price,SpotPrice,Region\n"

    def fetch(url: str) -> str:
        if "azure.com" in url:
            raise OSError("Network is unreachable")
        return head + "p5.48xlarge,H100,8,55.04,20.0,us-east-1\n"

    monkeypatch.setattr(online, "fetch_https", fetch)
    with pytest.raises(SystemExit) as ended:
        app(["refresh", "--source", "skypilot", "--source", "azure", "--out", str(tmp_path)])
    assert not ended.value.code
    said = capsys.readouterr()
    assert said.out.startswith("18 prices: 18 from skypilot; 0 faulty")
    assert "warning: azure could not be read: Network is unreachable" in said.err
