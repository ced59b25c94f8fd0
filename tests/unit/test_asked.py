"""Questions as people write them: one definition of an option, one check of a job."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from weftline.errors import InputError, InputErrors
from weftline.plan import job_of, plan_train
from weftline.serve.search.asked import serve_job_of
from weftline.serve.search.plan import plan_serve
from weftline.spec import Job, ServeJob, ServeSpace, Target
from weftline.spec.options import (
    FleetOptions,
    JobOptions,
    ReplicaOptions,
    ServingOptions,
    TrafficOptions,
)

JOB = Job(model="llama-3.1-8b", tokens=10**11, seq_len=8192, global_batch=512, chips=16)
SERVED = ServeJob(
    model="llama-3.1-8b", targets=(Target(metric="tpot", percentile=50, limit_s=0.04),),
    rate_per_s=2.0, input_tokens=1000, output_tokens=200,
    space=ServeSpace(chips=("h100",), formats=("bf16",), max_replica_chips=1),
)  # fmt: skip


def said(error: InputError) -> str:
    return " / ".join(e.what for e in getattr(error, "errors", [error]))


@pytest.mark.parametrize(
    "options", [JobOptions, FleetOptions, TrafficOptions, ServingOptions, ReplicaOptions]
)
def test_every_option_is_explained_where_it_is_defined(options: type) -> None:
    explained = [
        line.strip() for line in (options.__doc__ or "").partition("----------")[2].splitlines()
        if line.strip() and line.startswith("    ") and not line.startswith("     ")
    ]  # fmt: skip
    assert explained == [f.name for f in fields(options)]


def test_text_becomes_the_noun() -> None:
    job = job_of(
        "llama-3.1-8b",
        JobOptions(tokens="100B", seq="8k", global_batch="512", on="h100,a100", chips="16",
                   price="$2.50/h", deadline="30days", budget="$1M", objective="Cost"),
    )  # fmt: skip
    assert job == replace(
        JOB, seq_len=8000, accelerators=("h100-sxm", "a100-80-sxm"), deadline_s=30 * 86400.0,
        budget_usd=1e6, objective="cost", own_prices={"*": 2.5},
    )  # fmt: skip


def test_all_mistakes_are_told_with_the_place_they_were_written_in() -> None:
    wrong = JobOptions(tokens="5Q", seq="x", objective="cheap", optimizer="sgd", on="h1000")
    with pytest.raises(InputErrors) as told:
        job_of("llama-3.1-8b", wrong, where=lambda name: f"job.yaml:{name}")
    places = {e.where for e in told.value.errors}
    assert {f"job.yaml:{n}" for n in ("tokens", "seq", "objective", "optimizer")} < places


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "cheap"}, "unknown objective `cheap`"),
        ({"precision": "fp7"}, "unknown precision `fp7`"),
        ({"price_type": "free"}, "unknown price type `free`"),
        ({"framework": "torchtian"}, "unknown framework `torchtian`"),
        ({"region": "mars"}, "unknown region `mars`"),
        ({"accelerators": ("h1000",)}, "unknown accelerator `h1000`"),
        ({"global_batch": 0, "chips": -1}, "0 is not 1 or more / -1 is not 1 or more"),
    ],
)
def test_a_job_from_python_is_checked_as_one_from_the_command_line(
    change: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError) as told:
        plan_train(replace(JOB, **change))  # type: ignore[arg-type]
    assert said(told.value) == says


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"engines": ("vlm",), "kv": "fp7"},
            "unknown engine `vlm` / unknown KV cache format `fp7`",
        ),
        ({"chips": ("h1000",)}, "unknown accelerator `h1000`"),
        ({"formats": ("fp7",)}, "unknown number format `fp7`"),
        ({"chips": ("tpu-v5p",), "engines": ("trtllm",)}, "TensorRT-LLM does not run on tpu-v5p"),
    ],
)
def test_a_fleet_from_python_is_checked_as_one_from_the_command_line(
    change: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError) as told:
        plan_serve(replace(SERVED, space=replace(SERVED.space, **change)))  # type: ignore[arg-type]
    assert said(told.value) == says
    with pytest.raises(InputError):
        plan_serve(replace(SERVED, rate_per_s=0.0))


def test_a_serving_question_has_what_was_written() -> None:
    job = serve_job_of(
        "llama-3.1-8b",
        FleetOptions(tpot="40ms", p99="ttft=1s", on="h100", engine="vllm,sglang", max_chips="8"),
        TrafficOptions(rate="120/min", input="1k", output="200"),
        ServingOptions(kv="fp8", policy="window=4096,sinks=4,kv=free", speculate="mtp:3"),
    )
    assert (job.rate_per_s, job.input_tokens, job.output_tokens) == (2.0, 1000, 200)
    assert [t.short() for t in job.targets] == ["p95 tpot 40.0 ms", "p99 ttft 1.00 s"]
    space = job.space
    assert (space.chips, space.engines, space.kv) == (("h100-sxm",), ("vllm", "sglang"), "fp8")
    assert space.policy == "window=4096,sinks=4,kv=free"
    assert (space.spec_method, space.spec_tokens) == ("mtp", 3)
    assert job.max_chips == 8


def test_a_use_stands_for_all_its_chips() -> None:
    from weftline.catalog.asked import parse_accelerators

    cpus = parse_accelerators("CPU")
    assert "graviton4" in cpus
    assert "h100-sxm" not in cpus
    assert parse_accelerators("h100, edge, cpu, graviton4") == (
        "h100-sxm", *parse_accelerators("edge"), *cpus)  # fmt: skip
