"""One pipeline as events: times of the published schedules, and a trace that viewers read."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.plan.search.asked import job_of
from weftline.plan.search.train import plan_train
from weftline.report.page.document import MOST_BYTES, document
from weftline.report.page.money import _flows
from weftline.report.page.training import training_page
from weftline.report.pictures import render_pictures
from weftline.report.pipeline import Event, events_of
from weftline.report.trace import trace_of
from weftline.spec import Plan
from weftline.spec.drawn import Pipeline
from weftline.spec.options import JobOptions


def pipeline(p: int, v: int, m: int, *, send_s: float = 0.0, zero_bubble: bool = False) -> Pipeline:
    return Pipeline(
        micro_batches=m, chunks=v, zero_bubble=zero_bubble, forward_s=(1.0 / v,) * p,
        backward_s=(2.0 / v,) * p, send_s=send_s, rest_s={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_train(job_of("llama-3.1-70b", JobOptions(tokens="2T", on="h100", chips="256")))


@given(p=st.integers(1, 8), v=st.integers(1, 4), rounds=st.integers(1, 4))
def test_equal_stages_take_what_the_papers_say(p: int, v: int, rounds: int) -> None:
    v = v if p > 1 else 1
    m = rounds * p
    ends = max(e.ends_s for e in events_of(pipeline(p, v, m)))
    assert ends == pytest.approx(3.0 * m + (p - 1) * 3.0 / v)  # arXiv:2104.04473, section 2.2


@given(p=st.integers(2, 8), rounds=st.integers(2, 4))
def test_a_zero_bubble_schedule_stands_idle_a_third_as_long(p: int, rounds: int) -> None:
    m = rounds * p
    ends = max(e.ends_s for e in events_of(pipeline(p, 1, m, zero_bubble=True)))
    assert ends == pytest.approx(3.0 * m + (p - 1) * 1.0)  # ZB-H1, arXiv:2401.10241, table 2


@given(p=st.integers(1, 6), v=st.integers(1, 3), m=st.integers(1, 13), send=st.floats(0, 2),
       zero=st.booleans())  # fmt: skip
def test_events_keep_their_order(p: int, v: int, m: int, send: float, zero: bool) -> None:
    v = v if p > 1 and not zero else 1
    line = pipeline(p, v, m, send_s=send, zero_bubble=zero)
    events = events_of(line)
    assert len(events) == p * v * m * (3 if zero else 2)
    at = {(e.stage, e.what, e.chunk, e.micro_batch): e for e in events}
    assert len(at) == len(events)
    for stage in range(p):
        own = sorted((e for e in events if e.stage == stage), key=lambda e: e.starts_s)
        assert all(a.ends_s <= b.starts_s + 1e-9 for a, b in pairwise(own))  # one at a time
    for e in events:
        for before in _needs(e, line):
            wait = send if before[0] != e.stage else 0.0
            assert at[before].ends_s + wait <= e.starts_s + 1e-9


def _needs(e: Event, line: Pipeline) -> list[tuple[int, str, int, int]]:
    place = e.chunk * line.stages + e.stage  # where the model's chunks stand, first to last
    last = line.stages * line.chunks - 1
    if e.what == "weights":
        return [(e.stage, "backward", e.chunk, e.micro_batch)]
    found = [(e.stage, "forward", e.chunk, e.micro_batch)] if e.what == "backward" else []
    other = place + (-1 if e.what == "forward" else 1)
    if 0 <= other <= last:
        found.append((other % line.stages, e.what, other // line.stages, e.micro_batch))
    return found


def test_a_trace_keeps_the_rules_of_its_format(plan: Plan) -> None:
    # The Trace Event Format's document: complete events have ts and dur in microseconds, threads
    # of a process are named by metadata, and events of one thread nest or stand apart.
    trace = json.loads(trace_of(plan))
    assert trace["displayTimeUnit"] in ("ms", "ns")
    rows = trace["traceEvents"]
    named = {(r["pid"], r["tid"]) for r in rows if r["ph"] == "M" and r["name"] == "thread_name"}
    spans = [r for r in rows if r["ph"] == "X"]
    assert {r["ph"] for r in rows} == {"M", "X"}
    assert {(r["pid"], r["tid"]) for r in spans} == named
    for thread in named:
        own = sorted((r["ts"], r["ts"] + r["dur"]) for r in spans if (r["pid"], r["tid"]) == thread)
        assert all(a[1] <= b[0] + 1e-3 for a, b in pairwise(own))
        assert own[0][0] >= 0
    assert plan.pipeline is not None
    of_stages = [r for r in spans if r["pid"] == 1]
    line = plan.pipeline
    assert len(of_stages) == 2 * line.stages * line.chunks * line.micro_batches
    shown = sum(r["dur"] for r in spans if r["pid"] == 2 and r["tid"] == 1)
    assert shown / 1e6 == pytest.approx(sum(p.value for p in plan.step_parts if p.value > 0))


def test_a_plan_of_before_has_no_trace(plan: Plan) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="keeps no pipeline"):
        trace_of(replace(plan, pipeline=None))


def test_a_plan_keeps_what_its_pictures_need(plan: Plan) -> None:
    shown = {p.name: p.value for p in plan.step_parts}
    assert {x.axis for x in plan.exchanges} == {"tp", "pp", "dp"}
    for x in plan.exchanges:
        assert x.shown_s == pytest.approx(shown[x.part])
        assert x.hidden_s > 0
    stages = plan.stage_memory
    assert len(stages) == plan.layout.pp
    assert max(m.total_bytes for m in stages) == pytest.approx(plan.estimates["memory"].value)
    fullest = max(stages, key=lambda m: m.total_bytes)
    assert fullest.parts == pytest.approx({p.name: p.value for p in plan.memory_parts})
    # Passes of the pipeline are the step without what comes after it, up to bubble and sends.
    line = plan.pipeline
    assert line is not None
    middle = line.chunks * (line.forward_s[1] + line.backward_s[1]) * line.micro_batches
    body = sum(p.value for p in plan.step_parts) - sum(line.rest_s.values())
    near = next((p.value for p in plan.step_parts if p.name.startswith("what near")), 0.0)
    assert middle < body - near < 1.2 * middle


def test_money_that_flows_in_flows_out(plan: Plan) -> None:
    links = _flows(plan)
    for node in {x["from"] for x in links} & {x["to"] for x in links}:
        into = sum(x["value"] for x in links if x["to"] == node)
        assert into == pytest.approx(sum(x["value"] for x in links if x["from"] == node))
    whole = sum(x["value"] for x in links if x["from"] == "the run")
    beside = sum(p.value for p in plan.beside_parts)
    assert whole == pytest.approx(plan.estimates["effective_cost"].value + beside)
    assert {p.name for p in plan.beside_parts} == {"storage of checkpoints", "egress of the model"}
    titles = [c.title for s in training_page(plan).sections for c in s.charts]
    assert len(set(titles)) == len(titles) >= 10


def test_what_drives_the_cost_holds_the_cost(plan: Plan) -> None:
    cost = plan.estimates["effective_cost"].value
    widths = [s.high_usd - s.low_usd for s in plan.swings]
    assert widths == sorted(widths, reverse=True)
    assert all(s.low_usd <= cost * (1 + 1e-9) and cost <= s.high_usd * (1 + 1e-9)
               for s in plan.swings)  # fmt: skip


def test_loads_of_a_level_are_the_bytes_of_its_schedules(plan: Plan) -> None:
    by = {(x.level, x.axis, x.collective): x for x in plan.link_loads}
    # TP 4 lies inside a host: nothing of it crosses; data-parallel groups do.
    assert not any(axis == "tp" and level == "scale-out" for level, axis, _ in by)
    inside = by["8-chip switched domain", "dp", "reduce-scatter"].sent_bytes
    across = by["scale-out", "dp", "reduce-scatter"].sent_bytes
    # 16 ranks, two a host: half of the buffer inside, then 7 of 8 parts of that half across.
    assert plan.layout.dp == 16
    assert plan.layout.tp == 4
    assert across / inside == pytest.approx(7 / 8)


def test_a_terminal_draws_what_the_plan_keeps(plan: Plan) -> None:
    lines = render_pictures(plan).splitlines()
    assert all(len(line) <= 80 for line in lines)
    stages = [line for line in lines if line.startswith("stage ")]
    assert len(stages) == plan.layout.pp
    assert all({"F", "B"} <= set(row.partition("|")[2]) for row in stages)
    # The first stage begins, the last ones wait for it.
    begins = [row.partition("|")[2].index("F") for row in stages]
    assert begins == sorted(begins)


def test_the_page_of_the_largest_plan_can_be_mailed(plan: Plan) -> None:
    # Forty accelerators, sixteen stages, more micro-batches than are drawn.
    assert plan.pipeline is not None
    line, stage = plan.pipeline, plan.stage_memory[0]
    large = replace(
        plan, ranking=plan.ranking * 40,
        stage_memory=tuple(replace(stage, stage=i) for i in range(16)),
        pipeline=replace(line, micro_batches=256, chunks=4, forward_s=line.forward_s[:1] * 16,
                         backward_s=line.backward_s[:1] * 16),
    )  # fmt: skip
    assert len(document(training_page(large)).encode()) < MOST_BYTES
