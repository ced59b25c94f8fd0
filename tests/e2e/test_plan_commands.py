"""The commands about training from end to end: a question in, a plan out, the plan read again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from commands import Say

from weftline.spec import Plan
from weftline.spec.serialize import plan_from_json, plan_to_json, read_plan

JOB = ("plan", "train", "llama-3.1-8b", "--tokens", "100B", "--on", "h100,mi300x",
       "--max-chips", "64")  # fmt: skip

pytestmark = pytest.mark.usefixtures("own_folder")


def shell(*argv: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weftline", *argv], capture_output=True, text=True, check=False,
        **settings,
    )  # fmt: skip


def test_the_first_line_is_the_answer_and_notes_go_to_stderr(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    code, out, err = say(*JOB, "-o", str(file))
    assert code == 0
    assert out.startswith("Best: ")
    assert "Why" in out
    assert err == f"plan written to {file}\n"


def test_a_plan_written_is_the_plan_printed_and_the_plan_read(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    _, out, _ = say(*JOB, "--json", "-o", str(file))
    plan = read_plan(file)
    assert plan_from_json(out) == plan
    assert plan_to_json(plan) + "\n" == file.read_text(encoding="utf-8")
    assert plan_from_json(plan_to_json(plan)) == plan
    code, text, _ = say("explain", str(file))
    assert code == 0
    assert text.splitlines()[0] == say(*JOB)[1].splitlines()[0]
    assert say("explain", str(file), "--json")[1] == out


def test_json_has_every_field_of_a_plan(say: Say) -> None:
    found = json.loads(say(*JOB, "--json")[1])
    assert list(found) == [f.name for f in fields(Plan)]
    assert {"step_time", "tokens_per_s", "mfu", "train_time", "effective_train_time", "cost",
            "effective_cost", "energy", "carbon", "memory"} <= set(found["estimates"])  # fmt: skip
    for name, estimate in found["estimates"].items():
        assert set(estimate) == {"value", "unit", "low", "high", "basis"}, name
        assert estimate["low"] <= estimate["value"] <= estimate["high"], name
        assert estimate["unit"], name
        assert estimate["basis"], name


def test_what_a_plan_says_agrees_with_itself(say: Say) -> None:
    plan = plan_from_json(say(*JOB, "--json")[1])
    job, layout, value = plan.job, plan.layout, {k: e.value for k, e in plan.estimates.items()}
    assert layout.chips == plan.cluster.chips <= 64
    assert layout.global_batch == job.global_batch
    assert value["train_time"] == pytest.approx(job.steps * value["step_time"])
    assert value["tokens_per_s"] == pytest.approx(job.tokens_per_step / value["step_time"])
    assert value["effective_train_time"] >= value["train_time"]
    assert plan.price is not None
    rate = plan.price.usd_per_chip_hour.value
    assert value["cost"] == pytest.approx(rate * layout.chips * value["train_time"] / 3600)
    assert sum(p.value for p in plan.step_parts) == pytest.approx(value["step_time"])
    assert sum(p.value for p in plan.memory_parts) == pytest.approx(value["memory"])
    assert sum(p.value for p in plan.cost_parts) == pytest.approx(value["effective_cost"])
    assert value["memory"] <= plan.cluster.memory_bytes
    # MFU as published: 6 FLOP a parameter and token, and attention's full square of scores.
    matrices = plan.parameters - 128256 * 4096  # the embedding is a look-up
    scores = 3 * 4 * 32 * 4096 * job.seq_len
    flops = (6 * matrices + scores) * job.tokens_per_step
    peak = plan.cluster.peak_flops["bf16"] * layout.chips
    assert value["mfu"] == pytest.approx(flops / value["step_time"] / peak, rel=0.005)
    first = plan.ranking[0]
    assert (first.accelerator, first.layout) == (plan.cluster.accelerator, layout)
    ranks = [plan.rank(r) for r in range(layout.chips)]
    assert {r["host"] for r in ranks} == set(range(plan.cluster.hosts))


@pytest.mark.parametrize(
    ("objective", "key"),
    [
        ("time", lambda c: c.train_time_s),
        ("cost", lambda c: c.cost_usd),
        ("energy", lambda c: c.energy_j),
        ("cost-time", lambda c: c.cost_usd * c.train_time_s),
    ],
)
def test_the_ranking_follows_the_objective(
    say: Say, objective: str, key: Callable[[Any], float]
) -> None:
    plan = plan_from_json(say(*JOB[:5], "--on", "h100,mi300x,h200,a100,tpu-v5e", "--max-chips",
                              "64", "--objective", objective, "--json")[1])  # fmt: skip
    known = [key(c) for c in plan.ranking if c.cost_usd is not None]
    assert known == sorted(known)
    assert len(known) >= 3


def test_the_same_question_has_the_same_answer(tmp_path: Path) -> None:
    env = {**os.environ, "WEFTLINE_DATA_DIR": str(tmp_path)}
    runs = [
        shell(*JOB, "--json", env={**env, "PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert json.loads(runs[0])["job"]["tokens"] == 100_000_000_000


def test_a_price_of_ones_own_replaces_the_list(say: Say) -> None:
    plan = plan_from_json(say(*JOB, "--price", "$2.50/h", "--json")[1])
    assert plan.price is not None
    assert plan.price.usd_per_chip_hour.value == 2.5
    assert plan.price.usd_per_chip_hour.basis == "given by the user"
    hours = plan.estimates["train_time"].value / 3600 * plan.layout.chips
    assert plan.estimates["cost"].value == pytest.approx(2.5 * hours)


def test_a_region_without_a_price_leaves_a_plan_with_its_time(say: Say) -> None:
    code, out, _ = say(*JOB[:5], "--on", "tpu-v5p", "--region", "eu-north1", "--max-chips", "64")
    assert code == 0
    assert "No on-demand price in eu-north1 (elsewhere on-demand $" in out
    assert "$" not in out.splitlines()[0]


def test_a_chip_that_no_one_sells_on_demand_says_how_it_is_sold(say: Say) -> None:
    asked = (*JOB[:5], "--on", "trn2", "--max-chips", "64")
    out = " ".join(say(*asked)[1].split())
    assert "on-demand price, sold only as spot or capacity-block (capacity-block $2.2" in out
    plan = plan_from_json(say(*asked, "--price", "any", "--json")[1])
    assert plan.price is not None
    assert plan.price.price_type == "capacity-block"
    assert plan.job.price_type == "any"


def test_the_cost_has_the_band_of_the_time_and_the_offers_stand_apart(say: Say) -> None:
    asked = (*JOB[:5], "--on", "h100", "--max-chips", "64")
    plan = plan_from_json(say(*asked, "--json")[1])
    cost, time = plan.estimates["cost"], plan.estimates["train_time"]
    assert cost.low / cost.value == pytest.approx(time.low / time.value)
    assert cost.high / cost.value == pytest.approx(time.high / time.value)
    assert plan.price is not None
    each = plan.price.usd_per_chip_hour
    assert each.low < each.value < each.high
    assert plan.price.offers >= 40
    out = " ".join(say(*asked)[1].split())
    assert f"offers: h100-sxm on-demand ${each.low:.2f} to ${each.high:.2f} a chip-hour" in out
    assert f"{plan.price.offers} offers of {plan.price.sellers} sellers" in out


def test_an_old_price_is_said_to_be_old(say: Say) -> None:
    _, out, _ = say(*JOB[:5], "--on", "h100", "--price", "capacity-block", "--max-chips", "16")
    assert "price of 2024-12" in out
    assert "old: " in out


def test_limits_that_can_be_kept_are_kept(say: Say) -> None:
    free = plan_from_json(say(*JOB, "--objective", "time", "--json")[1])
    cost, seconds = free.estimates["cost"].value, free.estimates["train_time"].value
    tight = plan_from_json(
        say(*JOB, "--objective", "cost", "--json", "--deadline", f"{seconds * 1.01:.0f}s",
            "--budget", f"${cost * 1.01:.0f}")[1]
    )  # fmt: skip
    assert tight.estimates["train_time"].value <= seconds * 1.01
    assert tight.estimates["cost"].value <= cost * 1.01


def test_a_fixed_count_is_held(say: Say) -> None:
    plan = plan_from_json(say(*JOB[:5], "--on", "h100", "--chips", "48", "--global-batch", "480",
                              "--json")[1])  # fmt: skip
    assert plan.layout.chips == 48
    assert plan.layout.global_batch == 480


def test_a_config_of_ones_own_can_be_planned(say: Say, tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
        "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
        "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }  # fmt: skip
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    plan = plan_from_json(say("plan", "train", str(file), "--tokens", "1B", "--on", "a100",
                              "--chips", "8", "--json")[1])  # fmt: skip
    assert plan.parameters == pytest.approx(1.1e9, rel=0.01)
    assert plan.job.seq_len == 2048


def test_a_pipe_that_closes_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m weftline {' '.join(JOB)} --json | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False,
        env={**os.environ, "WEFTLINE_DATA_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == "{\n"
    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_a_threshold_that_is_crossed_exits_with_4_after_the_score(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text(
        "id,accelerator,n_accel,model,seq_len,gbs,mbs,tp,pp,framework,precision,iter_time_s\n"
        "mine,H100,64,LLAMA3_8B,8192,128,1,1,1,Megatron-Core,bf16,60\n",
        encoding="utf-8",
    )
    code, out, err = say("score", "training", str(file), "--max-mape", "5%")
    assert code == 4
    assert out.startswith("Mean error ")
    assert err.startswith("error: mean error ")
    assert "above 5 %" in err
    assert say("score", "training", str(file), "--max-mape", "100%")[0] == 0
    found = json.loads(say("score", "training", str(file), "--json")[1])
    assert set(found) == {"kind", "format", "summary", "how", "groups", "rows"}
    assert found["summary"]["predicted"] == 1
    assert found["rows"][0]["measured_s"] == 60


def test_runs_of_ones_own_move_the_next_prediction(say: Say, tmp_path: Path) -> None:
    """Three runs that take half as long again as predicted: predictions move towards them."""
    header = "id,accelerator,n_accel,model,seq_len,gbs,mbs,tp,pp,framework,precision,iter_time_s\n"
    shapes = (("64", "128", "1"), ("64", "256", "1"), ("32", "128", "2"))
    file = tmp_path / "runs.csv"

    def write(seconds: list[float]) -> None:
        rows = [
            f"mine-{i},H100,{chips},LLAMA3_8B,8192,{batch},{micro},1,1,Megatron-Core own,bf16,{t}\n"
            for i, ((chips, batch, micro), t) in enumerate(zip(shapes, seconds, strict=True))
        ]
        file.write_text(header + "".join(rows), encoding="utf-8")

    def predictions() -> list[float]:
        rows = json.loads(say("score", "training", str(file), "--json")[1])["rows"]
        return [row["predicted_s"] for row in rows]

    write([1.0, 2.0, 3.0])
    before = predictions()
    write([1.5 * t for t in before])
    code, out, _ = say("calibrate", "--from", str(file), "--json")
    assert code == 0
    done = json.loads(out)
    assert done["rows"] == 3
    assert done["after_mape_pct"] < done["before_mape_pct"]
    after = predictions()
    assert all(a > b for a, b in zip(after, before, strict=True))
    assert say("calibrate", "--reset")[0] == 0
    assert predictions() == pytest.approx(before)


def test_doctor_finds_what_ships_with_it(say: Say) -> None:
    code, out, _ = say("doctor", "--json")
    assert code == 0
    found = {check["name"]: check["status"] for check in json.loads(out)["rows"]}
    assert {found[n] for n in ("catalogue", "models", "calibration", "numpy")} == {"ok"}
