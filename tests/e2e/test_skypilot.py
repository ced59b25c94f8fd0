"""SkyPilot's own optimizer, fed our prices, beside the seller that the plan named.

SkyPilot looks for clouds and for itself on the network: its environment is apart from ours
(`make test-launchers`), and WEFTLINE_SKYPILOT_PYTHON is its interpreter.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from weftline.errors import NoFeasiblePlanError
from weftline.launch.check.skypilot import parser_findings
from weftline.launch.export import export_plan
from weftline.launch.targets.clouds.skypilot import CLOUDS
from weftline.plan import plan_train
from weftline.spec import Job
from weftline.spec.serialize import plan_to_json

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from skypilot_choice import choice_of

PYTHON = os.environ.get("WEFTLINE_SKYPILOT_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="`make test-launchers` installs SkyPilot"),
]
JOBS = (("h100-sxm", 8), ("h100-sxm", 32), ("h200-sxm", 8), ("b200", 8), ("a100-80-sxm", 8),
        ("l4", 4))  # fmt: skip


def written(folder: Path, chip: str, chips: int) -> Path:
    """plan.json for the chip; skips where the model does not fit."""
    path = folder / "plan.json"
    try:
        plan = plan_train(Job(model="llama-3.2-1b", tokens=10**9, seq_len=4096, global_batch=64,
                              accelerators=(chip,), chips=chips))  # fmt: skip
    except NoFeasiblePlanError as error:
        pytest.skip(str(error))
    path.write_text(plan_to_json(plan))
    return path


@pytest.mark.parametrize(("chip", "chips"), JOBS)
def test_skypilot_picks_the_seller_that_the_plan_named(
    chip: str, chips: int, tmp_path: Path
) -> None:
    """Or, where it starts no machines of that seller, one of the cheapest of those it does."""
    found = choice_of(written(tmp_path, chip, chips), PYTHON)
    assert found.theirs in found.expected, found
    assert found.theirs_usd == pytest.approx(found.listed[found.theirs])
    if CLOUDS.get(found.ours) == found.theirs:
        assert found.theirs_usd == pytest.approx(found.ours_usd, rel=0.01)


def test_skypilots_own_parser_takes_the_task_and_refuses_a_broken_one(tmp_path: Path) -> None:
    text = export_plan(written(tmp_path, "h100-sxm", 32), "skypilot").written.files["task.yaml"]
    assert parser_findings("task.yaml", text) == ([], "")
    found, why_not = parser_findings("task.yaml", text.replace("num_nodes", "num_node"))
    assert found
    assert not why_not
