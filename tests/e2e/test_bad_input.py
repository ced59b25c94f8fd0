"""What a user can get wrong: a clear message, a hint, the right exit code, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weftline.cli.main import run

TRAIN = ("plan", "train")
JOB = (*TRAIN, "llama-3.1-8b", "--tokens", "100B")
SMALL = (*JOB, "--on", "h100", "--max-chips", "64")

Fail = Callable[..., tuple[int, str]]
pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fail:
    """Run a command that must fail without a traceback, without output, and without a file."""

    def failed(*argv: str) -> tuple[int, str]:
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        code = run(list(argv))
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        return code, err

    return failed


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        ((*TRAIN, "llama-3.1-8c", "--tokens", "1T"), "unknown model `llama-3.1-8c`",
         "did you mean `llama-3.1-8b`"),
        ((*JOB, "--on", "h101"), "--on: unknown accelerator `h101`", "did you mean `h100`?"),
        ((*JOB, "--on", ","), "--on: no accelerator is named", "--on h100,mi300x or all"),
        ((*JOB, "--framework", "megatron"), "--framework: unknown framework `megatron`",
         "`megatron-core`"),
        ((*JOB, "--optimizer", "adam"), "--optimizer: unknown optimizer `adam`", "adamw, "),
        ((*JOB, "--objective", "speed"), "--objective: unknown objective `speed`", "cost-time"),
        ((*JOB, "--precision", "fp6"), "--precision: unknown precision `fp6`", "bf16, fp8"),
        ((*JOB, "--price", "spott"), "--price: unknown price type `spott`", "did you mean `spot`?"),
        ((*JOB, "--price", "$2.50"), "--price: `$2.50` has no period", "$2.50/h"),
        ((*JOB, "--region", "us-west-9"), "--region: unknown region `us-west-9`", "us-west-2"),
        ((*JOB, "--budget", "30days"), "that is a unit of a time", "$1.5M"),
        ((*JOB, "--deadline", "$5M"), "--deadline: `$5M` is not a time", "30min"),
        ((*JOB, "--deadline", "30"), "--deadline: `30` has no unit", "the unit decides"),
        ((*JOB, "--deadline", "3 GB"), "that is a unit of a size", "30min"),
        ((*JOB, "--chips", "0"), "--chips: `0` is not a count", None),
        ((*JOB, "--chips", "2.5"), "--chips: `2.5` is not a count", None),
        ((*JOB, "--chips", "8", "--max-chips", "64"), "--chips fixes the count", "one of them"),
        ((*TRAIN, "llama-3.1-8b", "--tokens", "many"), "--tokens: `many` is not a token count",
         "2T, 300B"),
        ((*TRAIN, "llama-3.1-8b", "--tokens", "1000"), "--tokens: 1,000 tokens are less than one",
         "--seq"),
        ((*JOB, "--seq", "262144"), "--seq: a sequence of 262,144 tokens is longer", "131072"),
        ((*TRAIN, "gpt:layers=2,hiden=64", "--tokens", "1B"), "unknown key `hiden`",
         "did you mean `hidden`?"),
        ((*TRAIN, "llama-3.1-8b"), "--tokens requires an argument", "`weftline plan train --help`"),
        ((*JOB, "--wat"), "unknown option --wat\n", "`weftline plan train --help`"),
        (("plan", "trian"), "Did you mean \"train\"", "`weftline plan --help`"),
        (("explian", "x"), "Unknown command", "`weftline --help`"),
        (("calibrate", "--reset", "--from", "runs.csv"), "say one of --plan, --from-run", None),
        (("explain", "none.json"), "none.json: No such file", "weftline plan train MODEL"),
        (("score", "training", "none.csv"), "none.csv: No such file", None),
        (("score", "training", "none.csv", "--folds", "1"), "--folds needs at least 2", None),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_bad_input_is_named_with_a_way_out(
    fail: Fail, words: tuple[str, ...], says: str, hint: str | None
) -> None:
    code, err = fail(*words)
    assert code == 2
    assert err.startswith("error: ")
    assert says in err
    if hint is not None:
        assert hint in err.split("hint:", 1)[1]


def test_all_mistakes_of_a_command_line_come_at_once(fail: Fail) -> None:
    code, err = fail(
        *TRAIN, "lama-9", "--tokens", "1X", "--on", "h100x,mi301", "--seq", "-3", "--budget",
        "3days", "--deadline", "5", "--objective", "foo", "--framework", "megatron", "--precision",
        "int3", "--price", "foo", "--region", "nowhere", "--optimizer", "sgd",
    )  # fmt: skip
    assert code == 2
    assert err.count("error: ") == 13
    for place in ("--tokens", "--on", "--seq", "--budget", "--deadline", "--objective",
                  "--framework", "--precision", "--price", "--region", "--optimizer"):  # fmt: skip
        assert f"error: {place}: " in err
    assert "`h100x`" in err
    assert "`mi301`" in err


def config(tmp_path: Path, **changes: Any) -> str:
    fields: dict[str, Any] = {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
        "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
        "vocab_size": 32000, "max_position_embeddings": 2048,
    }  # fmt: skip
    fields.update(changes)
    file = tmp_path / "config.json"
    text = json.dumps({k: v for k, v in fields.items() if v is not None}, indent=1)
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_config_that_lacks_fields_names_them_all(fail: Fail, tmp_path: Path) -> None:
    file = config(tmp_path, hidden_size=None, num_hidden_layers=None)
    code, err = fail(*TRAIN, file, "--tokens", "1B")
    assert code == 2
    assert "hidden_size" in err
    assert "num_hidden_layers" in err
    assert "config.json" in err


def test_a_config_that_contradicts_itself_says_how(fail: Fail, tmp_path: Path) -> None:
    code, err = fail(*TRAIN, config(tmp_path, num_key_value_heads=5), "--tokens", "1B")
    assert code == 2
    assert "32" in err
    assert "5" in err


@pytest.mark.parametrize("text", ["{", "[]", "", '{"model_type": "nope"}'])
def test_a_config_that_is_none(fail: Fail, tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    code, err = fail(*TRAIN, str(file), "--tokens", "1B")
    assert code == 2
    assert "config.json" in err


@pytest.mark.parametrize(
    ("words", "says", "nearest"),
    [
        (("llama-3.1-405b", "--tokens", "1T", "--on", "l4", "--chips", "8"),
         "no layout of llama-3.1-405b runs on any of 1 accelerator",
         "l4 does not fit: needs 1,016 chips more, 1,024 in all (at least "),
        (("llama-3.1-8b", "--tokens", "1T", "--on", "h100", "--chips", "37"),
         "no layout", "no degrees multiply to 37 chips and divide a batch of 512 sequences"),
        (("llama-3.1-8b", "--tokens", "1T", "--on", "h100", "--chips", "7", "--global-batch", "13",
          "--framework", "maxtext"),
         "no layout", "no degrees multiply to 7 chips and divide a batch of 13 sequences"),
        (("llama-3.1-70b", "--tokens", "1T", "--on", "h100", "--max-chips", "4"),
         "no layout", "h100-sxm does not fit: needs 20 chips more, 24 in all (at least "),
        (("llama-3.1-8b", "--tokens", "1T", "--on", "a100", "--precision", "fp8"),
         "no layout", "has no fp8 peak"),
        (("llama-3.1-8b", "--tokens", "1T", "--on", "h100", "--max-chips", "64", "--deadline",
          "1h"), "keeps the limits", "deadline 60.0 min"),
        (("llama-3.1-8b", "--tokens", "1T", "--on", "h100", "--max-chips", "64", "--budget", "$10"),
         "keeps the limits", "budget $10.00"),
        (("llama-3.1-8b", "--tokens", "1T", "--on", "h100", "--max-chips", "64", "--budget", "$10",
          "--deadline", "1h"), "keeps the limits", " x h100-sxm "),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_no_feasible_plan_is_an_answer_with_the_nearest_miss(
    fail: Fail, tmp_path: Path, words: tuple[str, ...], says: str, nearest: str
) -> None:
    code, err = fail(*TRAIN, *words, "-o", str(tmp_path / "plan.json"))
    assert code == 3
    assert err.startswith("no feasible plan: ")
    assert says in err
    assert nearest in err.split("nearest miss: ", 1)[1]
    assert "hint: " in err


def test_a_budget_for_a_chip_without_a_price_is_missed_not_met(fail: Fail) -> None:
    code, err = fail(*JOB, "--on", "trn3", "--max-chips", "72", "--budget", "$100M")
    assert code == 3
    assert "has no price to hold against the budget" in err


def test_a_failure_leaves_the_old_file_as_it_was(fail: Fail, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text("precious", encoding="utf-8")
    assert fail(*SMALL, "--deadline", "1s", "-o", str(file))[0] == 3
    assert fail(*SMALL, "--deadline", "1", "-o", str(file))[0] == 2
    assert file.read_text(encoding="utf-8") == "precious"


def test_a_place_that_cannot_be_written_is_bad_input(fail: Fail, tmp_path: Path) -> None:
    code, err = fail(*SMALL, "-o", str(tmp_path / "no" / "such" / "plan.json"))
    assert code == 2
    assert "cannot write there" in err


@pytest.fixture
def plan_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    file = tmp_path / "plan.json"
    assert run([*SMALL, "-o", str(file)]) == 0
    capsys.readouterr()
    return file


def edited(file: Path, edit: Callable[[dict[str, Any]], object]) -> str:
    raw = json.loads(file.read_text(encoding="utf-8"))
    edit(raw)
    file.write_text(json.dumps(raw), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda p: p.update(format=99), "plan format 99 is not known, this version reads 1"),
        (lambda p: p.update(extra=1), "extra: "),
        (lambda p: p["layout"].update(tp=3), "layout: "),
        (lambda p: p["job"].update(tokens="lots"), "job.tokens: "),
        (lambda p: p["estimates"]["mfu"].update(low=2.0), "outside its band"),
    ],
)
def test_a_plan_that_was_edited_is_refused_where_it_is_wrong(
    fail: Fail, plan_file: Path, edit: Callable[[dict[str, Any]], object], says: str
) -> None:
    code, err = fail("explain", edited(plan_file, edit))
    assert code == 2
    assert says in err
    assert "plan.json: " in err


def test_every_wrong_field_of_a_plan_is_named(fail: Fail, plan_file: Path) -> None:
    def edit(raw: dict[str, Any]) -> None:
        raw["job"]["tokens"] = "lots"
        raw["layout"]["tp"] = None
        del raw["cluster"]["chips"]

    code, err = fail("explain", edited(plan_file, edit))
    assert code == 2
    for field in ("job.tokens", "layout.tp", "cluster.chips"):
        assert f"plan.json: {field}: " in err


def test_a_plan_cut_short_names_the_line(fail: Fail, plan_file: Path) -> None:
    text = plan_file.read_text(encoding="utf-8")
    plan_file.write_text(text[: len(text) // 2], encoding="utf-8")
    code, err = fail("explain", str(plan_file))
    assert code == 2
    last = text[: len(text) // 2].count("\n") + 1
    assert f"plan.json:{last}: not JSON" in err


def test_an_export_that_cannot_be_writes_nothing(fail: Fail, plan_file: Path) -> None:
    """A target of another kind, hosts that do not fit, a plan of a newer format."""
    for words, says in (
        (("--to", "vllm"), "vLLM takes plans for serving, not for training"),
        (("--to", "slurm", "--hosts", "n0,n9"), "2 different host names for the 8 hosts"),
        (("--to", "slurm", "--set", "fabric=token-ring"), "token-ring"),
    ):
        code, err = fail("export", str(plan_file), *words, "-o", str(plan_file.parent / "job"))
        assert code == 2
        assert says in err
    newer = edited(plan_file, lambda p: p.update(format=99))
    code, err = fail("export", newer, "--to", "slurm", "-o", str(plan_file.parent / "job"))
    assert code == 2
    assert "plan format 99 is not known" in err


def rows(tmp_path: Path, *lines: str) -> str:
    header = "id,accelerator,n_accel,model,seq_len,gbs,tp,pp,framework,iter_time_s"
    file = tmp_path / "runs.csv"
    file.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("command", [("score", "training"), ("calibrate", "--from")])
def test_every_bad_cell_of_a_file_is_named_by_line(
    fail: Fail, tmp_path: Path, command: tuple[str, ...]
) -> None:
    file = rows(
        tmp_path,
        "a,H100,sixty,LLAMA3_8B,8192,128,1,1,x,1.0",
        "b,H100,64,LLAMA3_8B,8192,128,1,1,x,1.0",
        "c,H100,64,LLAMA3_8B,8192,128,1,1,x,-1",
        "d,H100,64,LLAMA3_8B,8192,nan,1,1,x,1.0",
    )
    code, err = fail(*command, file)
    assert code == 2
    assert "runs.csv:2: `n_accel` is `sixty`: a number is needed" in err
    assert "runs.csv:4: `iter_time_s` is -1" in err
    assert "runs.csv:5: `gbs` is nan" in err
    assert err.count("error: ") == 3


def test_a_file_without_rows_or_columns(fail: Fail, tmp_path: Path) -> None:
    assert "no rows" in fail("score", "training", rows(tmp_path))[1]
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    code, err = fail("score", "training", str(file))
    assert code == 2
    assert "other.csv:1: columns missing: accelerator" in err
    file.write_bytes(b"\xff\xfe\x00")
    assert "not a text file" in fail("score", "training", str(file))[1]


def test_runs_that_contradict_each_other_are_refused(fail: Fail, tmp_path: Path) -> None:
    file = rows(
        tmp_path,
        "a,H100,64,LLAMA3_8B,8192,128,1,1,x,1.0",
        "b,H100,64,LLAMA3_8B,8192,128,1,1,x,2.0",
    )
    code, err = fail("calibrate", "--from", file)
    assert code == 2
    assert "rows a and b are one configuration and take 1 and 2 s" in err
    assert "hint: " in err


def test_runs_without_a_time_teach_nothing(fail: Fail, tmp_path: Path) -> None:
    code, err = fail("calibrate", "--from", rows(tmp_path, "a,H100,64,LLAMA3_8B,8192,128,1,1,x,"))
    assert code == 2
    assert "no row states a measured step time" in err


def test_too_few_rows_cannot_be_held_out(fail: Fail, tmp_path: Path) -> None:
    file = rows(tmp_path, "a,H100,64,LLAMA3_8B,8192,128,1,1,x,1.0")
    code, err = fail("score", "training", file, "--held-out")
    assert code == 2
    assert "1 measured rows are too few for 5 folds" in err


def test_a_broken_calibration_of_ones_own_is_named(fail: Fail, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "calibration_published.json").write_text("{", encoding="utf-8")
    code, err = fail(*SMALL)
    assert code == 2
    assert "calibration_published.json" in err
    assert "weftline calibrate --reset" in err
