"""Job files: every option is a field, a plan's question is written and asks the same again."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.plan import job_of
from weftline.plan.search.asked import options_of
from weftline.serve.search.asked import options_of as serve_options_of
from weftline.serve.search.asked import question_of, serve_job_of
from weftline.spec import Job, ServeJob, Target
from weftline.spec.job_file import (
    OPTIONS,
    SCHEMA_FILE,
    JobKind,
    job_schema,
    job_text,
    job_values,
    read_job_file,
)
from weftline.spec.options import FleetOptions, JobOptions, ServingOptions, TrafficOptions

TRAIN = JobOptions(tokens="100B")


def test_the_schema_that_ships_is_current() -> None:
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == job_schema(), (
        "run `weftline plan schema -o src/weftline/spec/job.schema.json`"
    )


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_option_is_a_field_that_the_schema_explains(kind: JobKind) -> None:
    form = next(s for s in job_schema()["oneOf"] if s["title"].endswith(kind))
    for options in OPTIONS[kind]:
        for f in fields(options):
            held = form["properties"][f.name]
            assert held["description"], f.name
            assert (f.name in form["required"]) == (f.default is MISSING)


TYPES = {"string": str, "number": (int, float), "object": dict, "array": list, "boolean": bool}


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """The keywords of JSON Schema that the schema uses, no others."""
    used = {"$schema", "title", "description", "default", "oneOf", "anyOf", "const", "enum",
            "type", "items", "properties", "required", "additionalProperties"}  # fmt: skip
    assert set(schema) <= used
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    properties = schema.get("properties", {})
    if "oneOf" in schema and sum(valid(value, s) for s in schema["oneOf"]) != 1:
        return False
    if "anyOf" in schema and not any(valid(value, s) for s in schema["anyOf"]):
        return False
    if schema.get("const", value) != value or value not in schema.get("enum", [value]):
        return False
    fits = [isinstance(value, TYPES[k]) and (k == "boolean" or not isinstance(value, bool))
            for k in kinds]  # fmt: skip
    if kinds and not any(fits):
        return False
    if "items" in schema and not all(valid(item, schema["items"]) for item in value):
        return False
    if not properties:
        return True
    named = set(schema["required"]) <= set(value) <= set(properties)
    return named and all(valid(value[k], properties[k]) for k in value)


def test_the_schema_takes_what_is_read_and_refuses_what_is_not(tmp_path: Path) -> None:
    good = {
        "kind": "train", "model": "llama-3.1-8b", "tokens": "1T", "on": ["h100", "mi300x"],
        "global-batch": 512, "layout": {"tp": 8}, "price": {"h100": 2.1}, "offload": True,
    }  # fmt: skip
    file = tmp_path / "job.yaml"
    for change, right in (({}, True), ({"dealine": "3days"}, False), ({"offload": "yes"}, False)):
        job = {**good, **change}
        file.write_text(yaml.safe_dump(job), encoding="utf-8")
        assert valid(job, job_schema()) is right
        assert (read_job_file(str(file), "train")[1] == []) is right


def test_a_file_is_read_as_the_command_line_is(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "model: llama-3.1-8b\ntokens: 1T\non: [h100, mi300x]\nprice: {h100: 2.1, b200: $4/h}\n"
        "max-chips: 64\nlayout: {tp: 8, pp: 2}\noverlap: false\n",
        encoding="utf-8",
    )
    found, wrong = read_job_file(str(file), "train")
    assert wrong == []
    assert found.values == {
        "model": "llama-3.1-8b", "tokens": "1T", "on": "h100,mi300x", "max_chips": "64",
        "price": "h100=2.1,b200=$4/h", "layout": "tp=8,pp=2", "overlap": False,
    }  # fmt: skip
    assert found.place("layout") == f"{file}:6"


CHIP = {"id": "test-chip", "like": "h100-sxm", "memory": "96 GB", "peak.bf16": "800 TFLOP/s"}
ASKED = st.fixed_dictionaries({}, optional={
    "seq": st.sampled_from(["4096", "2k"]), "global_batch": st.just("96"),
    "on": st.sampled_from(["h100,a100", "mi300x"]), "max_chips": st.just("64"),
    "budget": st.sampled_from(["$2.5M", "$0.1"]), "deadline": st.sampled_from(["30days", "1.3h"]),
    "price": st.sampled_from(["spot", "$2.1/h", "h100=2.1,b200=$4/h", "reserved,h200=3"]),
    "discount": st.sampled_from(["20%", "aws=12.5%,nebius=3%"]),
    "objective": st.sampled_from(["chips", "time"]), "tune": st.sampled_from(["lora", "qlora"]),
    "layout": st.sampled_from(["tp=8,pp=2", "zero=3,recompute=full"]),
    "offload": st.booleans(), "overlap": st.booleans(), "allow_long": st.booleans(),
    "chip": st.just(json.dumps([CHIP])),
    "chip_set": st.sampled_from(["h100.memory=96GB", "h100.price=2,a100.tdp=300W"]),
})  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(asked=ASKED)
def test_a_training_job_written_is_the_job(asked: dict[str, str]) -> None:
    job = job_of("llama-3.1-8b", replace(TRAIN, **asked))  # type: ignore[arg-type]
    assert job_of("llama-3.1-8b", options_of(job)) == job


@settings(max_examples=20, deadline=None)
@given(
    fleet=st.fixed_dictionaries({}, optional={
        "ttft": st.just("500ms"), "tpot": st.just("41.7ms"), "p99": st.just("ttft=1s,e2e=20s"),
        "on": st.just("h100,l4"), "engine": st.just("vllm,sglang"), "precision": st.just("fp8"),
        "price": st.sampled_from(["spot,on-demand", "all", "$3/h", "h100=2"]),
        "layout": st.just("tp=2"), "max_chips": st.just("8"), "disaggregated": st.booleans(),
    }),
    traffic=st.fixed_dictionaries({}, optional={
        "input": st.just("1k"), "burstiness": st.just(2.5), "seed": st.integers(0, 9),
        "trace": st.just("azure-2023-code"),
    }),
    serving=st.fixed_dictionaries({}, optional={
        "kv": st.just("fp8"),
        "policy": st.sampled_from(["window=4096", "topk=10%,block=64"]),
        "speculate": st.sampled_from(["mtp:3", "draft:2:0.55"]), "prefix_cache": st.booleans(),
    }),
)  # fmt: skip
def test_a_serving_job_written_is_the_job(
    fleet: dict[str, str], traffic: dict[str, object], serving: dict[str, str]
) -> None:
    job = serve_job_of(
        "llama-3.1-8b", FleetOptions(**fleet), TrafficOptions(rate="700/min", **traffic),  # type: ignore[arg-type]
        ServingOptions(**serving),  # type: ignore[arg-type]
    )  # fmt: skip
    again = serve_job_of("llama-3.1-8b", *serve_options_of(job))
    # Traces are arrays: equal where they come from one file at one rate.
    assert replace(again, trace=None) == replace(job, trace=None)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    options = JobOptions(tokens="2T", on="h100,b200", chips="64", layout="tp=8", overlap=False)
    file.write_text(job_text(job_values("train", "llama-3.1-8b", options)), encoding="utf-8")
    found, wrong = read_job_file(str(file), "train")
    assert wrong == []
    values = {k: v for k, v in found.values.items() if k != "model"}
    assert JobOptions(**values) == options  # type: ignore[arg-type]


def test_a_file_of_unknown_type_is_taken_the_same_way_again(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    written = job_values("train", "as=llama:odd.json", JobOptions(tokens="2T"))
    assert (written["model"], written["as"]) == ("odd.json", "llama")
    file.write_text(job_text(written), encoding="utf-8")
    found, wrong = read_job_file(str(file), "train")
    assert (wrong, found.values["as"]) == ([], "llama")


def test_every_field_of_a_job_is_reached_by_an_option() -> None:
    """A noun's field that no option can set could not be written into a job file."""
    named = {"model", "seq_len", "accelerators", "budget_usd", "deadline_s", "price_type",
             "own_prices", "discounts", "own_chips"}  # fmt: skip
    assert {f.name for f in fields(Job)} - {f.name for f in fields(JobOptions)} == named
    assert "trace_from" in {f.name for f in fields(ServeJob)}


def test_a_question_that_options_cannot_ask_is_not_kept_as_another() -> None:
    job = serve_job_of("llama-3.1-8b", FleetOptions(ttft="1s"), TrafficOptions(rate="1/s"),
                       ServingOptions())  # fmt: skip
    assert question_of(job)["ttft"] == "1.0s"
    nine = replace(job, targets=(Target(metric="ttft", percentile=90.0, limit_s=1.0),))
    assert question_of(nine) == {}
