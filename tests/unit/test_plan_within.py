"""Planning again for the hosts that are there: `plan train --within`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from weftline.cli.main import run
from weftline.errors import InputError, InputErrors, NoFeasiblePlanError
from weftline.plan import plan_train
from weftline.plan.search.within import plan_within, sizes_of
from weftline.spec import Job, Plan
from weftline.spec.hosts_there import HostsThere, read_hosts_there
from weftline.spec.serialize import plan_to_json, read_plan
from weftline.spec.step_parts import slowed

JOB = Job(model="llama-3.2-1b", tokens=10**10, seq_len=4096, global_batch=512,
          accelerators=("h100-sxm",), chips=64)  # fmt: skip


def there(hosts: int, **slow: float) -> HostsThere:
    return HostsThere(chip="h100-sxm", chips_per_host=8, slow=slow,
                      hosts=tuple(f"n{n}" for n in range(hosts)))  # fmt: skip


@pytest.fixture(scope="module")
def old() -> Plan:
    """What ran before: 8 hosts of 8."""
    return plan_train(JOB)


def step_s(plan: Plan) -> float:
    return plan.estimates["step_time"].value


def test_all_hosts_and_round_numbers_below_are_tried() -> None:
    assert sizes_of(there(11)) == [11, 10, 8, 7, 6]
    # Two that are slow, one more than the other: without them, with one and with both.
    assert {9, 10, 11} <= set(sizes_of(there(11, n3=1.2, n4=2.0)))


def test_with_every_host_there_the_old_plan_comes_out(old: Plan) -> None:
    again = plan_within(JOB, there(8), old)
    assert again.layout == old.layout
    assert step_s(again) == step_s(old)
    assert "as before" in " ".join(again.why)


def test_half_of_the_hosts_keep_the_models_cut(old: Plan) -> None:
    again = plan_within(JOB, there(4), old)
    kept = ("tp", "cp", "pp", "ep")
    assert [getattr(again.layout, n) for n in kept] == [getattr(old.layout, n) for n in kept]
    assert again.layout.chips == 32
    assert again.layout.global_batch == JOB.global_batch
    assert 1.7 * step_s(old) < step_s(again) < 2.2 * step_s(old)


@pytest.mark.parametrize("hosts", [3, 7])
def test_no_smaller_number_of_hosts_would_be_faster(hosts: int, old: Plan) -> None:
    chosen = plan_within(JOB, there(hosts), old)
    for fewer in range(1, hosts + 1):
        try:
            other = plan_train(replace(JOB, chips=8 * fewer))
        except NoFeasiblePlanError:
            continue
        assert step_s(chosen) <= step_s(other) * 1.021  # what cannot be told apart


def test_a_slow_host_stays_while_it_helps(old: Plan) -> None:
    """Eight hosts, one slow: a little slower it stays, much slower it goes, and that is said."""
    with_it = plan_within(JOB, there(8, n3=1.1), old)
    assert with_it.layout.chips == 64
    assert f"{slowed(with_it, work=1.1):.2f} times that of equal hosts" in with_it.why[0]
    without = plan_within(JOB, there(8, n3=3.0), old)
    assert without.layout.chips < 64
    assert "left out: n3" in " ".join(without.why)
    assert step_s(without) < step_s(old) * slowed(old, work=3.0)
    assert "n3" not in next(w for w in without.why if w.startswith("hosts in the plan's order"))


def test_what_cannot_be_is_said(old: Plan) -> None:
    with pytest.raises(InputError, match=r"the plan before is of llama-3\.2-1b"):
        plan_within(replace(JOB, model="llama-3.1-8b"), there(2), old)
    with pytest.raises(NoFeasiblePlanError):
        plan_within(replace(JOB, model="llama-3.1-405b", global_batch=64), there(1))


def test_every_mistake_of_the_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text('{"chip": 3, "chips_per_host": 0,\n "hosts": ["a", "a"], "slwo": {},\n'
                    ' "slow": {"b": 0.5}}')  # fmt: skip
    with pytest.raises(InputErrors) as caught:
        read_hosts_there(path)
    said = [(e.where, e.what) for e in caught.value.errors]
    assert (f"{path}:2", "unknown field `slwo`") in said
    assert (f"{path}:2", "host `a` stands twice") in said
    assert (f"{path}:3", "host `b` is `0.5` times slower: 1 or more is wanted") in said
    assert len(said) == 6


def test_the_command_takes_its_job_from_the_plan_before(
    old: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan train --within cluster.json` alone; what is typed beats the plan, and that is said."""
    (tmp_path / "plan.json").write_text(plan_to_json(old))
    said: dict[str, Any] = {"chip": "h100-sxm", "chips_per_host": 8, "hosts": ["a", "b", "d"],
                            "plan": "plan.json"}  # fmt: skip
    cluster, out = tmp_path / "cluster.json", tmp_path / "new.json"
    cluster.write_text(json.dumps(said))
    assert run(["plan", "train", "--within", str(cluster), "--tokens", "5B", "-o", str(out)]) == 0
    new = read_plan(out)
    assert new.job.tokens == 5 * 10**9
    assert new.job.global_batch == JOB.global_batch
    assert new.layout.chips <= 24
    assert "--tokens 5B as typed" in capsys.readouterr().err
    assert run(["plan", "train", "--within", str(tmp_path / "none.json")]) == 2
