"""Questions as files, answers in every form, plans turned and compared: as a user runs them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from commands import Say

from weftline.catalog import accelerators
from weftline.cli.app import app
from weftline.serve.engine.engines import PROFILES
from weftline.spec import ServePlan
from weftline.spec.serialize import read_any_plan, read_plan

pytestmark = pytest.mark.usefixtures("own_folder")
ASK = ("plan", "train", "llama-3.1-8b", "--tokens", "10B", "--on", "h100,l4", "--max-chips", "16")


# --- job files ----------------------------------------------------------------------------------


def test_a_job_written_gives_the_same_plan(say: Say, tmp_path: Path) -> None:
    job, first, again, third = (str(tmp_path / n) for n in ("j.yaml", "a.json", "b.json", "c.json"))
    options = ("--layout", "tp=2", "--price", "h100=2.1", "--no-overlap", "--chip-set",
               "l4.memory=48GB")  # fmt: skip
    code, _, err = say(*ASK, *options, "--write-job", job, "-o", first)
    assert code == 0
    assert f"job written to {job}" in err
    assert say("plan", "train", "--job", job, "-o", again)[0] == 0
    assert read_plan(Path(again)) == read_plan(Path(first))
    # From the plan itself, too, with all that was not said.
    assert say("explain", first, "--write-job", job)[0] == 0
    assert say("plan", "train", "--job", job, "-o", third)[0] == 0
    assert read_plan(Path(third)) == read_plan(Path(first))


def test_an_option_that_is_typed_beats_the_file_even_at_its_default(
    say: Say, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "model: llama-3.1-8b\ntokens: 10B\non: [h100]\nchips: 16\nobjective: time\n"
        "overlap: false\nrank: 16\n",
        encoding="utf-8",
    )
    code, out, err = say("plan", "train", "--job", str(job), "--objective", "cost-time",
                         "--overlap", "--json")  # fmt: skip
    assert code == 0
    asked = json.loads(out)["job"]
    assert (asked["objective"], asked["overlap"], asked["chips"]) == ("cost-time", True, 16)
    assert f"note: --objective cost-time as typed, not `time` of {job}:5\n" in err
    assert f"note: --overlap True as typed, not `False` of {job}:6\n" in err
    assert "rank" not in err


def test_all_mistakes_of_a_file_come_at_once_and_nothing_is_written(
    say: Say, tmp_path: Path
) -> None:
    job, plan = tmp_path / "job.yaml", tmp_path / "plan.json"
    job.write_text(
        "model: llama-3.1-8c\n"
        "tokens: 100Q\n"
        "\n"
        "dealine: 3days\n"
        "price: {h1000: 2}\n"
        "offload: 3\n"
        "rate: 3/s\n"
        "on: [h1, h200]\n"
        "layout: {tp: x}\n",
        encoding="utf-8",
    )
    code, out, err = say("plan", "train", "--job", str(job), "--seq", "x", "-o", str(plan))
    assert (code, out, plan.exists()) == (2, "", False)
    told = dict(re.findall(rf"error: (?:{job}:)?(\S+?): (.*)", err))
    assert told["1"] == "unknown model `llama-3.1-8c`"
    assert told["2"].startswith("`100Q` is not a token count")
    assert told["4"] == "unknown field `dealine`"
    assert "did you mean `deadline`" in err
    assert told["5"] == "unknown accelerator `h1000`"
    assert told["6"].startswith("`3`: true or false")
    assert told["7"] == "`rate` is a field of a job to serve"
    assert told["8"] == "unknown accelerator `h1`"
    assert told["9"] == "tp=x: a whole number is needed"
    assert told["--seq"].startswith("`x` is not a count")
    assert len(told) == 9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a job is a mapping of fields"),
        ("- 1", "a job is a mapping of fields"),
        ("tokens: [", "not YAML"),
        ("tokens: 1T\ntokens: 2T", "`tokens` stands twice"),
        ("max-chips: 8\nmax_chips: 9", "`max_chips` stands twice"),
        ("kind: serve\nmodel: llama-3.1-8b\ntokens: 1T", "a job to serve"),
        ("model: llama-3.1-8b\ntokens:", "a text or a number is needed, not nothing"),
    ],
)
def test_a_file_that_is_no_job_says_why(say: Say, tmp_path: Path, text: str, says: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(text, encoding="utf-8")
    code, out, err = say("plan", "train", "--job", str(job))
    assert (code, out) == (2, "")
    assert says in err
    assert f"{job}:" in err


# --- reasons ------------------------------------------------------------------------------------

SERVE = ("plan", "serve", "llama-3.1-8b", "--rate", "5/s", "--ttft", "500ms")


def test_every_chip_is_shown_or_has_a_reason_that_was_counted(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    code, out, _ = say(*SERVE, "-o", str(file))
    assert code == 0
    plan = read_any_plan(file)
    assert isinstance(plan, ServePlan)
    shown = {c.fleet.accelerator for c in plan.ranking}
    lost = {r.accelerator: r.reason for r in plan.without_plan}
    assert not shown & lost.keys()
    assert shown | lost.keys() == {a.id for a in accelerators().values() if a.rentable}
    runs = {v for p in PROFILES.values() for v in p.vendors}
    best = plan.estimates["cost_per_hour"].value
    for chip, reason in lost.items():
        if accelerators()[chip].vendor in runs:
            assert not reason.startswith("no engine"), chip
        if dearer := re.match(r"dearer: \$([\d.]+)(k?)/h", reason):
            assert float(dearer[1]) * (1000 if dearer[2] else 1) >= best * 0.999, chip
        assert re.match(r"dearer: \$|no engine|no unit|does not fit|misses a target|no dense|"
                        r"needs|.* cannot be priced", reason), (chip, reason)  # fmt: skip
    unpriced = [c for c in plan.ranking if c.usd_per_hour is None]
    assert unpriced
    for c in unpriced:
        assert c.note.startswith("no on-demand price")
        assert set(c.reached) == {"p95 ttft"}
        assert c.meets
    row = next(line for line in out.splitlines() if unpriced[0].fleet.accelerator in line)
    assert "  -  " in row


def test_a_chip_that_is_too_small_says_how_many_it_lacks(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    code, _, err = say("plan", "serve", "llama-3.1-405b", "--rate", "1/s", "--on",
                       "h200,l4,gh200,wse3", "-o", str(file))  # fmt: skip
    assert code == 0, err
    plan = read_any_plan(file)
    lost = {r.accelerator: r.reason for r in plan.without_plan}
    for chip in ("l4", "gh200"):
        found = re.match(r"does not fit: needs (\d+) chips? more than a replica's (\d+) "
                         r"\(weights in fp8 take 410 GB\)", lost[chip])  # fmt: skip
        assert found, lost[chip]
        enough = int(found[1]) + int(found[2])
        memory = accelerators()[chip].memory_bytes or 0.0
        # What an engine may take of a chip, less at least a gigabyte for itself.
        assert (enough - 1) * (0.9 * memory - 1e9) < 1.4 * 410e9
        assert enough * 0.9 * memory > 410e9
    assert lost["wse3"] == "no engine: none here runs on chips of cerebras"


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("tp=3", "tp=3 does not divide 32 attention heads"),
        ("ep=8", "ep=8 does not divide 0 experts"),
        ("tp=16,pp=2", "more chips than it can have"),
        ("pp=64", "pp=64 stages for 32 layers"),
    ],
)
def test_a_replica_that_cannot_be_held_says_why(say: Say, layout: str, says: str) -> None:
    code, out, err = say(*SERVE, "--on", "h100", "--layout", layout)
    assert (code, out) == (3, "")
    assert says in err


def test_a_chip_without_a_price_has_its_time_and_the_other_way_to_pay(say: Say) -> None:
    code, out, _ = say("plan", "train", "llama-3.1-8b", "--tokens", "10B", "--on",
                       "h100,trainium2", "--max-chips", "64")  # fmt: skip
    assert code == 0
    row = next(line for line in out.splitlines() if re.match(r"\s*\d+  trainium2", line))
    assert re.search(r" (?:h|days)\s+-$", row)
    assert re.search(r"^No on-demand price, sold only as spot or capacity-block", out, re.M)


def test_a_limit_that_is_missed_is_named_for_each_chip(say: Say) -> None:
    plan = json.loads(say(*ASK, "--objective", "time", "--json")[1])
    by_chip = {c["accelerator"]: c["train_time_s"] for c in plan["ranking"]}
    middle = (by_chip["h100-sxm"] * by_chip["l4"]) ** 0.5
    tight = json.loads(say(*ASK, "--deadline", f"{middle:.0f}s", "--json")[1])
    (lost,) = tight["without_plan"]
    assert lost["accelerator"] == "l4"
    assert lost["reason"].startswith("misses a limit: takes ")


# --- forms and comparisons ----------------------------------------------------------------------


def commands(command: object = app, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every command with the names of its options."""
    if command.default_command is not None and path:  # type: ignore[attr-defined]
        names = {n for a in command.assemble_argument_collection() for n in a.names}  # type: ignore[attr-defined]
        yield path, names
    for name in sorted(n for n in command if not n.startswith("-")):  # type: ignore[attr-defined]
        yield from commands(command[name], f"{path} {name}".strip())  # type: ignore[index]


def test_every_answer_has_every_form() -> None:
    bare = {path for path, names in commands() if ("--json" in names) != ("--format" in names)}
    assert bare == set()
    without = {path for path, names in commands() if "--json" not in names}
    # A drill breaks a run: it has no answer. A page is a form of an answer itself. A server answers
    # those who ask it.
    assert {path for path in without if not path.startswith("inject ")} == {
        "plan schema", "report", "serve", "studio",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (ASK, "ranking"), (("catalog", "list"), "rows"), (("doctor",), None),
        (("memory", "llama-3.1-8b", "--lora", "--on", "h100,l4"), None),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_csv_has_a_line_for_each_row_of_the_answer(
    say: Say, words: tuple[str, ...], table: str | None
) -> None:
    code, out, _ = say(*words, "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows
    if table is not None:
        assert len(rows) == len(json.loads(say(*words, "--json")[1])[table])
    assert say(*words, "--format", "json")[1] == say(*words, "--json")[1]
    marked = say(*words, "--format", "markdown")[1]
    assert marked.count("| --- |") >= 1
    code, out, err = say(*words, "--json", "--format", "csv")
    assert (code, out) == (2, "")
    assert "give one of them" in err


def test_a_difference_beyond_the_limit_exits_with_4_after_the_answer(
    say: Say, tmp_path: Path
) -> None:
    a, b = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    assert say(*ASK, "--price", "$2/h", "-o", a)[0] == 0
    assert say(*ASK, "--price", "$3/h", "-o", b)[0] == 0
    code, out, err = say("diff", a, b, "--fail-if", "cost>5%")
    assert code == 4
    assert out.startswith("Second over first: ")
    assert "cost +50.0%" in out
    assert err.startswith("error: --fail-if: crossed: cost>5% (cost +50.0%)")
    assert say("diff", a, b, "--fail-if", "cost>55%", "--fail-if", "train_time>1%")[0] == 0
    assert say("diff", b, a, "--fail-if", "cost>5%")[0] == 0
    assert say("diff", a, a)[1] == "The same plan\n"
    rows = json.loads(say("diff", a, b, "--json")[1])["moved"]
    assert {r["name"]: r["share"] for r in rows}["cost"] == pytest.approx(0.5)


def test_a_serving_plan_turns_knobs(say: Say, tmp_path: Path) -> None:
    """The turned plan is the one that the same question gets on the plan's chip and engine."""
    file, other = str(tmp_path / "a.json"), tmp_path / "b.json"
    assert say(*SERVE, "--on", "h100,l40s", "-o", file)[0] == 0
    plan = read_any_plan(Path(file))
    assert isinstance(plan, ServePlan)
    code, out, _ = say("explain", file, "--what-if", "rate=20/s,precision=fp8", "--json")
    assert code == 0
    turned = json.loads(out)
    question = ("--on", plan.fleet.accelerator, "--engine", plan.fleet.engine, "--precision", "fp8",
                "--rate", "20/s")  # fmt: skip
    assert (
        say("plan", "serve", "llama-3.1-8b", "--ttft", "500ms", *question, "-o", str(other))[0] == 0
    )
    asked = read_any_plan(other)
    assert isinstance(asked, ServePlan)
    assert turned["usd_per_hour"] == [
        plan.estimates["cost_per_hour"].value, asked.estimates["cost_per_hour"].value
    ]  # fmt: skip
    assert turned["estimates"]["ttft_p50"]["value"][1] == asked.estimates["ttft_p50"].value
    code, out, err = say("explain", file, "--what-if", "chips=0")
    assert (code, out) == (2, "")
    assert "--what-if: `0` is not a count" in err


def test_memory_says_what_holds_a_model_and_what_does_not(say: Say) -> None:
    code, out, _ = say("memory", "llama-3.1-8b", "--serve", "--on", "h100,groq-lpu1", "--weights",
                       "fp8", "--kv", "fp8", "--seq", "8192", "--batch", "4", "--json")  # fmt: skip
    assert code == 0
    answer = json.loads(out)
    (need,) = answer["needs"]
    parts = {p["name"]: p["value"] for p in need["parts"]}
    # 2 x 32 layers x 8 key heads x 128 values a token, one byte each.
    assert parts["KV cache, fp8"] == 4 * 8192 * 2 * 32 * 8 * 128
    assert {p["name"]: p["value"] for p in answer["kv_formats"]}["bf16"] == 2 * parts[
        "KV cache, fp8"
    ]
    assert [h["chips"] for h in need["holdings"]] == [1]
    assert need["without"] == [
        {"accelerator": "groq-lpu1", "reason": "no engine: none here runs on chips of groq"}
    ]
    code, out, err = say("memory", "llama-3.1-8b", "--seq", "1M", "--kv", "fp7", "--optimizer", "x")
    assert (code, out) == (2, "")
    assert err.count("error: ") == 3


def test_the_schema_is_printed_and_written(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "job.schema.json"
    assert say("plan", "schema", "-o", str(file))[0] == 0
    assert say("plan", "schema")[1] == file.read_text(encoding="utf-8")
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["title"] == "weftline job"


def test_where_nothing_runs_the_hint_is_not_more_of_it(say: Say) -> None:
    """More of a chip that nothing runs on, or a shorter sequence on it, leads nowhere."""
    for way, chip, maker in (
        (("train", "--tokens", "1B"), "epyc-9965", "amd-cpu"),
        (("serve", "--rate", "1/s"), "groq-lpu1", "groq"),
    ):
        code, _, err = say("plan", way[0], "llama-3.1-8b", *way[1:], "--on", chip)
        assert code == 3
        assert f"chips of {maker}" in err
        assert "--on" in err.partition("hint:")[2]
        assert "more chips" not in err


def test_a_job_without_own_chips_has_none_in_a_difference(say: Say, tmp_path: Path) -> None:
    plain, changed = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    say(*ASK, "-o", plain)
    say(*ASK, "--chip-set", "h100.memory=96GB", "-o", changed)
    code, out, _ = say("diff", plain, changed, "--json")
    own = {c["field"]: c for c in json.loads(out)["asked"]}["own_chips"]
    assert (code, own["before"], own["after"][:21]) == (0, "none", "h100-sxm+memory=96GB ")


def test_chips_of_ones_own_stand_beside_those_of_the_catalogue(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("id: my-chip\nlike: h100-sxm\nmemory: 192 GB\nprice: $1.80/h\n")
    code, out, _ = say("catalog", "compare", "h100", "b200", "my-chip", "--chip", str(file),
                       "--chip-set", "b200.price=3,b200.tdp=900W", "--json")  # fmt: skip
    rows = {row["what"]: row["cells"] for row in json.loads(out)["rows"]}
    assert code == 0
    assert rows["memory"]["my-chip"]["value"] == 192e9
    assert {k: c.get("value") for k, c in rows["your own"].items()} == {
        "h100-sxm": None, "b200+tdp=900W": 3.0, "my-chip": 1.8,
    }  # fmt: skip
