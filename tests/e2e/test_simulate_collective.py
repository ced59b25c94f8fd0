"""``weftline simulate collective`` and ``synthesize`` as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from weftline.cli.main import run
from weftline.report.collective import load_picture, render_synthesis

TORUS = ("--on", "torus:4x4x4", "--link", "50GB/s", "--latency", "0.5us")
COLLECTIVE = ("simulate", "collective")
Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """The JSON answer of a command that must work."""

    def asked(*argv: str) -> dict[str, Any]:
        assert run([*argv, "--json"]) == 0
        out, err = capsys.readouterr()
        # On a busy machine a command may say that it still runs.
        assert all(line.startswith("still ") for line in err.splitlines())
        answer: dict[str, Any] = json.loads(out)
        return answer

    return asked


def test_the_first_line_is_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COLLECTIVE, "all-reduce", "1GB", *TORUS, "--vs", "clos:64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("6.")
    assert " ms, 99." in lines[0]
    assert "% of the bound" in lines[0]
    text = "\n".join(lines)
    for part in (
        "algorithm bandwidth", "bus bandwidth", "busiest link", "schedule             proved",
        "exact in the model", "Share of the time busy", "all 4 slices alike", "####",
        "Against clos:64:", "300 GB/s out of each chip",
    ):  # fmt: skip
        assert part in text
    assert max(len(line) for line in lines) <= 80


def test_json_has_what_the_table_has(ask: Ask) -> None:
    answer = ask(*COLLECTIVE, "all_reduce", "1GB", *TORUS, "--algorithm", "bucket")
    assert answer["algorithm"] == "bucket"
    assert answer["evaluator"] in ("closed-form", "orbit")
    assert answer["exact"] is True
    assert answer["proof"]["proved"] is True
    assert answer["size_bytes"] == 1e9
    assert answer["algbw_bytes_per_s"] == pytest.approx(1e9 / answer["time_s"])
    assert answer["busbw_bytes_per_s"] == pytest.approx(2 * 63 / 64 * 1e9 / answer["time_s"])
    assert answer["bound"]["time_s"] / answer["time_s"] == pytest.approx(answer["bound_share"])
    assert answer["bound_share"] > 0.99
    assert answer["network"]["shape"] == [4, 4, 4]
    assert len(answer["links"]["map"]) == 64
    assert answer["seed"] == 0
    assert 0.99 < answer["busiest_link"]["busy_share"] <= 1


def test_failed_links_are_the_seeds_and_cost_time(ask: Ask) -> None:
    asked = (*COLLECTIVE, "all-reduce", "1GB", "--on", "torus:4x4", "--link", "50GB/s",
             "--latency", "0.5us", "--algorithm", "bucket")  # fmt: skip
    whole, broken = ask(*asked), (*asked, "--fail-links", "2")
    one, again, other = ask(*broken), ask(*broken), ask(*broken, "--seed", "4")
    assert one == again
    assert one["network"]["failed_or_slowed_links"] == 4
    assert one["time_s"] > 1.2 * whole["time_s"]
    assert other["links"]["map"] != one["links"]["map"]
    assert other["seed"] == 4
    slow = ask(*asked, "--slow-links", "1@50%")
    assert whole["time_s"] < slow["time_s"] < 2.5 * whole["time_s"]


def test_an_estimate_is_called_one_in_the_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [*COLLECTIVE, "all-reduce", "1GB", *TORUS, "--fail-links", "1", "--algorithm", "bucket"]
    assert run([*asked, "--evaluator", "steps"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("about ")
    assert "(an estimate: " in out.splitlines()[0]
    assert run([*asked, "--evaluator", "steps", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["time_low_s"] < answer["time_s"] < answer["time_high_s"]
    assert run([*asked, "--evaluator", "flow"]) == 0
    out = capsys.readouterr().out
    assert "an estimate" not in out
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize("evaluator", ["flow", "events"])
def test_evaluators_may_be_chosen(ask: Ask, evaluator: str) -> None:
    answer = ask(*COLLECTIVE, "all-gather", "64MB", "--on", "torus:4x4", "--link", "50GB/s",
                 "--latency", "1us", "--algorithm", "bucket", "--evaluator", evaluator)  # fmt: skip
    assert answer["evaluator"] == evaluator
    assert answer["bound_share"] > 0.9


def test_every_collective_runs_on_every_kind_of_network(ask: Ask) -> None:
    for text, link in (("torus:3x4", "50GB/s"), ("switch:4,nvls", "50GB/s"),
                       ("switch:4/clos:2", "450GB/s,50GB/s"), ("dragonfly:1x2x1", "50GB/s"),
                       ("hammingmesh:2x2x1x2", "50GB/s"), ("fat-tree:2", "50GB/s")):  # fmt: skip
        for collective in ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "broadcast",
                           "send"):  # fmt: skip
            answer = ask(*COLLECTIVE, collective, "1MB", "--on", text, "--link", link,
                         "--latency", "1us")  # fmt: skip
            assert 0 < answer["bound_share"] <= 1 + 1e-9, (text, collective)
            assert answer["proof"]["proved"]


def test_a_named_fabric_shows_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COLLECTIVE, "all-reduce", "1GB", "--on", "trn2-ultraserver"]) == 0
    out = capsys.readouterr().out
    assert "What the speeds rest on" in out
    assert "link.z: 64.0 GB/s one direction" in out
    assert "bucket in" in out


def test_synthesis_is_proved_and_held_against_its_bound(ask: Ask) -> None:
    argv = ("simulate", "synthesize", "all-reduce", "100MB", "--on", "torus:3x4", "--link",
            "50GB/s", "--latency", "0.1us", "--fail-links", "1")  # fmt: skip
    answer = ask(*argv)
    assert answer["proof"]["proved"]
    assert 1 - 1e-9 <= answer["ratio_to_bound"] < 1.3
    assert answer["named"]["time_s"] > 0
    assert "x the bound: all-reduce of 100 MB" in render_synthesis(answer)
    group = ask("simulate", "synthesize", "all-gather", "1MB", "--on", "torus:4x4", "--link",
                "50GB/s", "--members", "0-2,5")  # fmt: skip
    assert group["network"]["chips"] == 4


@pytest.mark.parametrize(("argv", "says", "hint"), [
    (("all-reduse", "1GB", *TORUS), "unknown collective `all-reduse`", "did you mean `all-reduce`"),
    (("all-reduce", "1GBs", *TORUS), "`1GBs` is not a size", "1GB or 64MiB"),
    (("all-reduce", "1GB/s", *TORUS), "that is a unit of a rate", "1GB or 64MiB"),
    (("all-reduce", "1GB", "--on", "torus:4x0"), "--on: `torus:4x0`", "torus:8x8x16"),
    (("all-reduce", "1GB", "--on", "torus:4x4"), "has no link speed", "--link 100GB/s"),
    (("all-reduce", "1GB", *TORUS, "--evaluator", "ns3"), "unknown evaluator `ns3`", "flow"),
    (("all-reduce", "1GB", *TORUS, "--algorithm", "rings"), "unknown algorithm `rings`", "`ring`"),
    (("all-to-all", "1GB", *TORUS, "--algorithm", "ring"), "does no all-to-all", "direct"),
    (("all-reduce", "1GB", *TORUS, "--fail-links", "999"), "--fail-links: ", ""),
    (("all-reduce", "1GB", *TORUS, "--fail-links", "188"), "is not connected", "another seed"),
    (("all-reduce", "1GB", *TORUS, "--slow-links", "3"), "slows nothing", "3@50%"),
    (("all-reduce", "1GB", *TORUS, "--seed", "-1"), "--seed: a seed of -1", "from 0"),
    (("all-reduce", "1GB", *TORUS, "--vs", "closs:64"), "--vs: unknown network", "`clos`"),
    (("broadcast", "1GB", *TORUS, "--root", "64"), "chips 0..63, not 64", ""),
])  # fmt: skip
def test_mistakes_are_named(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], says: str, hint: str
) -> None:
    assert run([*COLLECTIVE, *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert hint in err
    assert "Traceback" not in err


def test_mistakes_of_a_group_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["simulate", "synthesize", "all-gather", "1MB", *TORUS, "--members"]
    for members, says in (("0,x", "`x` names no chips"), ("0-99", "chip 64 is none of 0 .. 63"),
                          ("1,1", "named twice")):  # fmt: skip
        assert run([*argv, members]) == 2
        assert says in capsys.readouterr().err
    assert run(["simulate", "collective", "all-reduce", "x", "--on", "torus:4x0"]) == 2
    assert capsys.readouterr().err.count("error:") == 2  # both mistakes at once


def test_the_picture_draws_equal_slices_once() -> None:
    shares = [1.0] * 4 + [0.5] * 4 + [1.0] * 4
    assert load_picture(shares, [3, 2, 2])[1:] == [
        "  2 slices alike: 0; 2", "    ##", "    ##", "  slice 1", "    55", "    55",
    ]  # fmt: skip
    assert load_picture([0.0, 0.949, 0.951], [3])[1:] == ["    .9#"]
    assert load_picture([0.25] * 4, [4, 1])[1:] == ["    2222"]
