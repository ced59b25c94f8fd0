"""The commands about serving from end to end: a question in, a plan out, one fleet simulated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Say

from weftline.spec import ServePlan
from weftline.spec.serialize import read_any_plan

ASK = ("plan", "serve", "llama-3.1-8b", "--rate", "40/s", "--input", "1000", "--output", "200",
       "--ttft", "300ms", "--p99", "ttft=600ms,tpot=40ms", "--on", "h100,mi300x",
       "--precision", "bf16")  # fmt: skip
SIMULATE = ("simulate", "serving", "llama-3.1-8b", "--on", "h100", "--rate", "8/s",
            "--requests", "600", "--input", "1000", "--output", "200")  # fmt: skip


def test_a_question_becomes_a_plan_that_explain_reads(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    code, out, err = say(*ASK, "-o", str(file))
    assert code == 0
    assert out.startswith("Best: ")
    assert "What would flip it" in out
    assert "seed 0" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert err == f"plan written to {file}\n"
    plan = read_any_plan(file)
    assert isinstance(plan, ServePlan)
    assert [t.short() for t in plan.demand.targets] == [
        "p95 ttft 300 ms", "p99 ttft 600 ms", "p99 tpot 40.0 ms"
    ]  # fmt: skip
    code, out, _ = say("explain", str(file))
    assert code == 0
    assert "One decode step at the mean batch" in out
    assert "KV cache in use" in out
    code, out, _ = say("explain", str(file), "--json")
    assert json.loads(out)["kind"] == "serve"
    code, out, _ = say("explain", str(file), "--what-if", "price=$1/h")
    assert code == 0
    assert out.splitlines()[0].endswith("cheaper")
    code, _, err = say("explain", str(file), "--what-if", "recompute=full")
    assert code == 2
    assert "the knobs are accelerator, " in err


def test_json_has_what_the_text_has(say: Say) -> None:
    code, out, _ = say(*ASK, "--json", "--price", "$2/h")
    assert code == 0
    plan = json.loads(out)
    fleet = plan["fleet"]
    chips = (fleet["replicas"] + fleet["spares"]) * fleet["chips_per_replica"]
    assert plan["estimates"]["cost_per_hour"]["value"] == pytest.approx(2.0 * chips)
    for estimate in plan["estimates"].values():
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
        assert estimate["unit"]
        assert estimate["basis"]


def test_a_simulation_draws_its_curves_and_repeats_itself(say: Say) -> None:
    code, out, _ = say(*SIMULATE)
    assert code == 0
    assert "Share of requests by first token" in out
    assert "KV full |" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    first, second = (json.loads(say(*SIMULATE, "--seed", "7", "--json")[1]) for _ in range(2))
    first.pop("wall_s")
    second.pop("wall_s")
    assert first == second
    assert first["seed"] == 7
    other = json.loads(say(*SIMULATE, "--seed", "8", "--json")[1])
    assert other["ttft_s"]["mean"] != first["ttft_s"]["mean"]


def test_a_trace_file_is_played(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    rows = "".join(f"{k * 0.1:.1f},{500 + k},{20 + k % 7}\n" for k in range(100))
    file.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
    code, out, _ = say("simulate", "serving", "llama-3.1-8b", "--trace", str(file), "--json")
    assert code == 0
    assert json.loads(out)["requests"] == 100


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("--rate", "12"), 2, "not a rate of requests"),
        ((), 2, "no traffic is given"),
        (("--rate", "1/s", "--tpot", "40"), 2, "has no unit"),
        (("--rate", "1/s", "--p99", "tpt=1s"), 2, "did you mean `tpot`"),
        (("--rate", "1/s", "--engine", "vlm"), 2, "did you mean `vllm`"),
        (("--rate", "1/s", "--precision", "fp7"), 2, "unknown number format"),
        (("--rate", "1/s", "--on", "h100", "--precision", "nvfp4"), 2, "no unit for nvfp4"),
        (("--rate", "1/s", "--on", "a100", "--precision", "fp8"), 2, "on this chip: bf16"),
        (("--rate", "1/s", "--price", "spot,odd"), 2, "unknown price type `odd`"),
        (("--rate", "1/s", "--spread", "9"), 2, "a spread of 9"),
        (("--rate", "1/s", "--on", "tpu-v5e", "--engine", "trtllm"), 2, "does not run on"),
        (("--trace", "mooncake"), 2, "mooncake-conversation"),
        (("--rate", "1/s", "--tpot", "1us"), 3, "nearest miss"),
    ],
)
def test_what_cannot_be_says_why(say: Say, argv: tuple[str, ...], code: int, says: str) -> None:
    found, out, err = say("plan", "serve", "llama-3.1-8b", *argv)
    assert found == code
    assert says in err
    assert "Traceback" not in err
    assert out == ""


def test_the_fit_of_a_model_on_chips_is_shown_by_part(say: Say) -> None:
    asked = ("catalog", "fit", "gpt-oss-120b", "--on", "h100,trainium2,l4")
    code, out, _ = say(*asked)
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "l4: `gpt-oss-120b` in bf16 needs" in " ".join(out.split())
    answer = json.loads(say(*asked, "--json")[1])
    assert [f["chip"] for f in answer["fits"]] == [
        f["chip"] for f in sorted(answer["fits"], key=lambda f: -f["fit"])
    ]
    for fit in answer["fits"]:
        for phase in (fit["prefill"], fit["decode"]):
            assert sum(phase["parts"].values()) == pytest.approx(1.0)
    code, _, err = say("catalog", "fit", "llama-3.1-405b", "--on", "l4")
    assert code == 3
    assert "needs" in err


def test_a_malformed_trace_is_named_by_line_and_column(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,5\n1,many,5\n2,5\n")
    code, _, err = say("simulate", "serving", "llama-3.1-8b", "--trace", str(file))
    assert code == 2
    assert f"{file}:3: column 2 (num_prefill_tokens): `many`, expected a whole number" in err
    assert f"{file}:4: 2 columns, expected 3" in err


def test_a_model_that_does_not_fit_is_no_traceback(say: Say) -> None:
    code, _, err = say("simulate", "serving", "llama-3.1-405b", "--on", "h100", "--rate", "1/s")
    assert code == 3
    assert err.startswith("no feasible plan: ")


def test_an_edited_plan_is_told_what_is_wrong(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    assert say(*ASK, "-o", str(file))[0] == 0
    raw = json.loads(file.read_text())
    raw["fleet"]["replicas"] = "many"
    file.write_text(json.dumps(raw))
    code, _, err = say("explain", str(file))
    assert code == 2
    assert "fleet.replicas" in err
    raw["format"] = 99
    file.write_text(json.dumps(raw))
    assert "plan format 99 is not known" in say("explain", str(file))[2]
