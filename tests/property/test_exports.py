"""Whatever the plan, what is exported passes its target's check, or is refused with a reason.

Drawn: degrees, hosts, racks, orders, precision, prices, settings; degrees of serving, engines,
formats, replicas, routing. Kubernetes documents go through strict CRD schemas, CEL rules and
kubernetes-validate on the way (launch/check).
"""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launchers import small_train_plan
from serve_plans import serve_plan

from weftline.errors import InputError, InputErrors
from weftline.launch.check import check_files
from weftline.launch.export import export_plan
from weftline.launch.registry import targets
from weftline.spec import Plan
from weftline.spec.rank_map import RankMap
from weftline.spec.serialize import plan_to_json

TRAIN = sorted(name for name, target in targets().items() if "train" in target.kinds)
SERVE = sorted(name for name, target in targets().items() if "serve" in target.kinds)
EC2 = {"hyperpod", "aws-batch", "parallelcluster"}
COMMAND = ("python", "train.py", "--name", "two words", "--quote", 'it\'s "so"')

pytestmark = pytest.mark.slow
usual = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def base() -> Plan:
    return small_train_plan()


@st.composite
def train_plans(draw: st.DrawFn) -> Plan:
    tp, cp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    pp, dp = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 3, 8]))
    chips = tp * cp * pp * dp
    zero = draw(st.sampled_from([0, 1, 3]))
    layout = replace(
        base().layout, tp=tp, cp=cp, pp=pp, dp=dp, zero=zero, shard=dp, micro_batch=1, vp=1,
        num_micro_batches=draw(st.sampled_from([pp, 4 * pp])),
        order=draw(st.sampled_from([("tp", "cp", "dp", "pp"), ("tp", "cp", "pp", "dp")])),
    )  # fmt: skip
    per_host = draw(st.sampled_from([n for n in (1, 2, 4, 8) if chips % n == 0]))
    hosts = chips // per_host
    domain = draw(st.sampled_from([n for n in (1, 2, 3) if hosts % n == 0]))
    shape, tiers = ((hosts // domain, domain, per_host), ("rack", "host", "chip"))
    own = RankMap(shape=shape, runs=((0, 1, chips),), physical={}, exchange_s=0.0, jax_s=None,
                  basis="test", tiers=tiers if domain > 1 else ())  # fmt: skip
    chip = draw(st.sampled_from(["h100-sxm", "gb200-nvl72", "mi300x", "l4", "trainium2"]))
    cluster = replace(base().cluster, accelerator=chip, chips=chips, chips_per_host=per_host)
    job = replace(base().job, precision=draw(st.sampled_from(["bf16", "fp8"])))
    price = base().price if draw(st.booleans()) else None
    framework = draw(st.sampled_from(["megatron-core", "torchtitan", "maxtext", "neuronx"]))
    return replace(base(), layout=layout, cluster=cluster, rank_map=own, job=job, price=price,
                   framework=framework)  # fmt: skip


def settings_for(draw: st.DrawFn, to: str) -> dict[str, str]:
    known = targets()[to].settings
    may: dict[str, list[str]] = {
        "preflight": ["", "yes"], "queue": ["", "q"], "levels": ["", "rack", "block,rack"],
        "checkpoints": ["", "claim"], "fabric": ["", "efa", "ib", "roce"],
        "autoscaler": ["hpa", "keda", "none"], "max_replicas": ["", "9"],
        "slurm": ["22.05", "25.05"], "namespace": ["default", "team-a"],
    }  # fmt: skip
    found = {name: draw(st.sampled_from(values)) for name, values in may.items() if name in known}
    if to in EC2:
        found["instance"] = draw(st.sampled_from(["p5.48xlarge", "p5en.48xlarge"]))
    return {name: value for name, value in found.items() if value}


def hold(plan: Any, to: str, more: dict[str, Any]) -> dict[str, str]:
    """Export and check; the files, none where the target refuses the plan."""
    with tempfile.TemporaryDirectory() as text:
        path = Path(text, "plan.json")
        path.write_text(plan_to_json(plan), encoding="utf-8")
        try:
            files = export_plan(path, to, image="registry/image:1", **more).written.files
        except (InputError, InputErrors):
            return {}
    assert check_files(to, files) == []
    return dict(files)


@usual
@given(st.data(), train_plans(), st.booleans())
@pytest.mark.parametrize("to", TRAIN)
def test_a_training_export_passes(to: str, data: st.DataObject, plan: Plan, own: bool) -> None:
    more = {"settings": data.draw(st.composite(settings_for)(to)),
            "command": COMMAND if own and to not in ("megatron", "maxtext") else ()}  # fmt: skip
    files = hold(plan, to, more)
    text = "\n".join(files.values())
    if files and more["command"] and "weftline_place.py plan.json -- python" in text:
        plain = text.replace("''", "'").replace('\\"', '"')  # as YAML and JSON write quotes
        assert shlex.join(COMMAND).split()[-1] in plain


@usual
@given(st.data())
@pytest.mark.parametrize("to", SERVE)
def test_a_serving_export_passes(to: str, data: st.DataObject) -> None:
    draw = data.draw
    layout = {"tp": draw(st.sampled_from([1, 2, 4, 8])), "pp": draw(st.sampled_from([1, 2])),
              "dp": draw(st.sampled_from([1, 2, 8])), "ep": 1}  # fmt: skip
    if draw(st.booleans()):
        layout["ep"] = layout["tp"] * layout["dp"]
    if draw(st.booleans()):
        layout |= {"dp": 1, "prefill_workers": draw(st.integers(1, 3)),
                   "decode_workers": draw(st.integers(1, 3))}  # fmt: skip
    plan = serve_plan(
        engine=draw(st.sampled_from(["vllm", "sglang", "trtllm"])), layout=layout,
        weights=draw(st.sampled_from(["bf16", "fp8", "int4", "nvfp4"])),
        kv=draw(st.sampled_from(["bf16", "fp8", "int8"])), replicas=draw(st.integers(1, 5)),
        spares=draw(st.integers(0, 2)),
        routing=draw(st.sampled_from(["least-loaded", "round-robin", "prefix-aware"])),
    )  # fmt: skip
    hold(plan, to, {"settings": draw(st.composite(settings_for)(to))})
