"""What a practitioner would ask of a training plan, asked on the command line.

``data/plan_sanity.yaml`` has the questions with the range of right answers. A check that the answer
does not meet yet stands there as ``pending`` with what it says instead, and here as a strict xfail.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from weftline.cli.main import run
from weftline.plan.calibrate.calibration import calibrated

CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "data" / "plan_sanity.yaml").read_text(encoding="utf-8")
)
WORDS = ("id", "ask", "right", "pending")
DAY_S = 86400.0


def checks() -> list[Any]:
    """One parameter a case and thing that it checks."""
    found = []
    for case in CASES:
        names = [n for n in case if n not in WORDS and n != "layout"]
        names += [f"layout.{part}" for part in case.get("layout", {})]
        for name in names:
            late = case.get("pending", {}).get(name)
            marks = [pytest.mark.xfail(strict=True, reason=str(late))] if late else []
            found.append(pytest.param(case, name, id=f"{case['id']} {name}", marks=marks))
    return found


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every question's answer, with shipped constants alone."""
    found = {}
    folder = tmp_path_factory.mktemp("plans")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFTLINE_DATA_DIR", str(folder))
        calibrated.cache_clear()
        for case in CASES:
            file = folder / f"{case['id']}.json"
            words = shlex.split(case["ask"])
            assert run(["plan", "train", *words, "--output", str(file)]) == 0, case["id"]
            found[case["id"]] = json.loads(file.read_text(encoding="utf-8"))
    calibrated.cache_clear()
    return found


def said(plan: dict[str, Any], name: str) -> float:
    """A number of an answer by the name of the check."""
    estimates, chips = plan["estimates"], plan["cluster"]["chips"]
    if name.startswith("layout."):
        held = {**plan["layout"]}
        held["tp_cp"], held["pp_cp"] = held["tp"] * held["cp"], held["pp"] * held["cp"]
        return float(held[name.removeprefix("layout.")])
    step = estimates["step_time"]
    values = {
        "mfu": estimates["mfu"]["value"],
        "mfu_causal": estimates["mfu_causal"]["value"],
        "step_s": step["value"],
        "band": step["high"] / step["low"],
        "days": estimates["train_time"]["value"] / DAY_S,
        "memory_gb": estimates["memory"]["value"] / 1e9,
        "tokens_per_s_a_chip": estimates["tokens_per_s"]["value"] / chips,
        "batch_tokens": plan["job"]["global_batch"] * plan["job"]["seq_len"],
        "bubble": sum(p["value"] for p in plan["step_parts"] if p["name"] == "pipeline bubble")
        / step["value"],
    }
    return float(values[name])


@pytest.mark.parametrize(("case", "name"), checks())
def test_an_answer_is_one_a_practitioner_would_not_laugh_at(
    case: dict[str, Any], name: str, plans: dict[str, dict[str, Any]]
) -> None:
    plan = plans[case["id"]]
    if name == "says":
        assert any(case["says"] in text for text in plan["why"])
    elif name == "recompute":
        assert plan["layout"]["recompute"] == case["recompute"]
    elif name == "in_band_step_s":
        step = plan["estimates"]["step_time"]
        assert step["low"] <= case["in_band_step_s"] <= step["high"]
    elif name == "mfu_band":
        low, high = case["mfu_band"]
        assert plan["estimates"]["mfu"]["low"] <= high
        assert plan["estimates"]["mfu"]["high"] >= low
    else:
        layout = name.startswith("layout.")
        low, high = case["layout"][name.removeprefix("layout.")] if layout else case[name]
        assert low <= said(plan, name) <= high, case["right"]
