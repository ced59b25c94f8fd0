"""The engine model: what it must obey whatever its constants are."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import weftline.serve
from weftline.errors import InputError, InputErrors, NoFeasiblePlanError, UnknownNameError
from weftline.serve.calibrate.bands import band_of
from weftline.serve.calibrate.intervals import band
from weftline.serve.calibrate.shipped import constants_for, width_of
from weftline.serve.engine.closed_form import HOST_AT, Load, compile_load, solve
from weftline.serve.engine.config import PoolConfig, ServingConfig
from weftline.serve.engine.memory import memory
from weftline.serve.engine.parts import (
    PARTS,
    POPULARITY,
    Iteration,
    _met,
    part_seconds,
    setting_for,
    setting_of,
)
from weftline.serve.engine.stages import stalled
from weftline.serve.engine.work import work_of
from weftline.serve.simulate.step import StepSurface, prefill_surface, surface

CONFIG = ServingConfig(model="llama-3.1-70b", chip="h200", tp=4, gemm_dtype="fp8", kv_dtype="fp8")
DATA = Path(weftline.serve.__file__).parent / "data"
MODELS = ("llama-3.1-70b", "deepseek-r1", "gpt-oss-120b", "qwen3.5-397b-a17b", "glm-5")


@pytest.mark.parametrize("model", MODELS)
def test_the_work_of_a_model_adds_up_to_its_parameters(model: str) -> None:
    """Grouped products and experts hold every matrix weight the model's own count knows."""
    from weftline.model import load_model

    work, whole = work_of(model), load_model(model)
    dense = sum(g.count * g.in_features * g.out_features for g in work.gemms)
    experts = sum(e.count * e.experts * 3 * e.hidden * e.inter for e in work.experts)
    assert dense + experts + work.plain_parameters == pytest.approx(whole.parameters, rel=0.003)


def test_weights_of_every_bundled_model_are_its_parameters() -> None:
    """In 16 bits on one chip: a tied head, a shared layer and a modulation are held once each."""
    from weftline.model import bundled_models, load_model
    from weftline.serve.engine.parts import weight_bytes

    one = np.ones(1)
    for name in bundled_models():
        if name.startswith("gpt-oss"):  # its experts are in 4 bits as published
            continue
        held = float(weight_bytes(setting_of(name, "h100", *("bf16",) * 3), one, one, one, one)[0])
        assert held == 2.0 * load_model(name).parameters, name


@pytest.mark.parametrize("model", MODELS)
def test_more_work_never_takes_less_time(model: str) -> None:
    setting = setting_of(model, "b200", "fp8", "fp8", "fp8")
    batch = np.array([1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512])
    context = np.array([128.0, 1024, 8192, 65536])
    for c in context:
        found = part_seconds(
            setting, Iteration.of(tokens=batch, sequences=batch, context=c, tp=8.0, moe_tp=8.0)
        )
        assert found.shape == (len(batch), len(PARTS))
        assert (found >= 0).all()
        assert (np.diff(found.sum(1)) > -1e-9).all()
    longer = part_seconds(
        setting, Iteration.of(tokens=8.0, sequences=8.0, context=context, tp=8.0, moe_tp=8.0)
    ).sum(1)
    assert (np.diff(longer) > -1e-9).all()


def test_a_decode_step_is_never_faster_than_reading_what_it_must() -> None:
    """Independent bound: weights and cache once over the memory's peak bandwidth."""
    held = memory(CONFIG)
    chip = setting_of("llama-3.1-70b", "h200", "fp8", "fp8", "fp8").operators.chip
    s = surface(CONFIG)
    for batch, context in ((1, 1000), (32, 4000), (128, 8000)):
        read = 0.9 * held.weight_bytes + batch * context * held.kv_bytes_per_token
        least = read / chip.bandwidth_bytes_per_s
        assert s.step_s(0, 0, batch, batch * context) > 0.75 * least


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 300), context=st.integers(1, 30000), chunk=st.integers(1, 8192),
    before=st.integers(0, 20000),
)  # fmt: skip
def test_the_surface_rises_and_mixes_additively(
    batch: int, context: int, chunk: int, before: int
) -> None:
    s = _surface()
    alone = s.step_s(0, 0, batch, batch * context)
    both = s.step_s(chunk, before, batch, batch * context)
    assert alone < both
    assert s.step_s(0, 0, batch + 1, (batch + 1) * context) >= alone - 1e-12
    assert s.step_s(chunk, before + 100, 0, 0) >= s.step_s(chunk, before, 0, 0) - 1e-12


@cache
def _surface() -> StepSurface:
    return surface(CONFIG)


def test_grid_points_of_the_surface_are_the_parts_themselves() -> None:
    """The tables hold what composing the operators at that point gives."""
    s = _surface()
    setting = setting_of("llama-3.1-70b", "h200", "fp8", "fp8", "fp8")
    k = constants_for(CONFIG).parts[0]
    it = Iteration.of(tokens=64.0, sequences=64.0, context=4096.0, tp=4.0)
    at = PARTS.index("decode_attention")
    assert s.decode(64, 4096) == pytest.approx(part_seconds(setting, it)[0, at] * k[at])


def test_tokens_meet_fewer_experts_than_if_all_were_liked_alike() -> None:
    """One token meets its own, all of them meet all; between, as sampling tokens one by one."""
    grid, met = _met(64, 4)
    assert met[0] == pytest.approx(4 / 64)
    assert met[-1] == pytest.approx(1.0, abs=1e-4)
    assert (np.diff(met) >= 0).all()
    alike = 1.0 - (1.0 - 4 / 64) ** np.exp2(grid)
    assert (met <= alike + 1e-12).all()
    dice, chance = np.random.default_rng(0), np.arange(1.0, 65.0) ** -POPULARITY
    chance = np.minimum(4 * chance / chance.sum(), 1.0)
    chance[chance < 1] *= (4 - (chance >= 1).sum()) / chance[chance < 1].sum()
    drawn = [(dice.random((32, 64)) < chance).any(0).mean() for _ in range(400)]
    assert np.interp(5.0, grid, met) == pytest.approx(np.mean(drawn), rel=0.02)


def test_what_a_product_computes_and_what_it_reads_are_its_whole_time() -> None:
    """A decode step's products, in two parts, take what a prompt of as many tokens takes in one."""
    setting = setting_of("llama-3.1-70b", "h200-sxm", "fp8", "fp8", "fp8")
    shape = {"tokens": np.array([1.0, 64.0, 1024.0]), "sequences": 1.0, "tp": 2.0}
    at = [PARTS.index("gemm_8bit"), PARTS.index("gemm_compute")]
    step = part_seconds(setting, Iteration.of(**shape))[:, at]
    prompt = part_seconds(setting, Iteration.of(**shape, prefill_tokens=64.0, prefills=1.0))[:, at]
    assert step.sum(1) == pytest.approx(prompt[:, 0])
    assert (prompt[:, 1] == 0).all()
    assert step[0, 1] == pytest.approx(0.0, abs=1e-9)
    assert step[2, 1] > step[2, 0]


def test_tensorrt_llm_runs_kernels_of_its_own() -> None:
    """XQA on Hopper reads faster than the kernels that were timed, never faster than memory;
    Blackwell's decode attention is the timed one, and its launches overlap."""
    at, launched = PARTS.index("decode_attention"), PARTS.index("kernels")
    shape = {"tokens": 64.0, "sequences": 64.0, "context": 4096.0, "tp": 4.0}
    for chip, hopper in (("h200-sxm", True), ("b200", False)):
        setting = setting_of("llama-3.1-70b", chip, "fp8", "fp8", "fp8")
        plain = part_seconds(setting, Iteration.of(**shape))[0]
        own = part_seconds(setting, Iteration.of(**shape, own=1.0, fused=1.0))[0]
        read = 64 * 4096 * 80 * 2 * 2 * 128 / setting.operators.chip.bandwidth_bytes_per_s
        assert own[at] > read
        assert (own[at] < 0.8 * plain[at]) == hopper
        assert (own[launched] < 0) != hopper


def test_littles_law_holds_in_the_closed_form() -> None:
    """Independent of how the answer was found: in flight = rate x time in the system."""
    setting = setting_of("llama-3.1-70b", "h200-sxm", "fp8", "fp8", "fp8")
    load = Load.of(
        input_tokens=2000.0, output_tokens=500.0, tp=4.0,
        concurrency=np.array([1.0, 8, 64, 512, 4096]),
    )  # fmt: skip
    a = solve(compile_load(setting, load), constants_for(CONFIG))
    requests_per_s = a.output_tokens_per_s * 4 / 500.0
    in_flight = requests_per_s * (a.ttft_s + 499 * a.tpot_s)
    assert in_flight == pytest.approx(load.concurrency, rel=1e-6)
    assert (np.diff(a.tpot_s) > -1e-9).all()
    assert (np.diff(a.ttft_s) > 0).all()
    assert a.batch[-1] < 4096  # the cache holds fewer


def _wait_s(poll: float, gather: float, *, dp: float, in_flight: float) -> tuple[float, float]:
    """First-token time that holding back adds, and one iteration with all in it, seconds."""
    setting = setting_of("deepseek-r1", "b200", "nvfp4", "nvfp4", "fp8")
    config = ServingConfig(model="deepseek-r1", chip="b200", engine="trtllm", dp=8, ep=8,
                           gemm_dtype="nvfp4", kv_dtype="fp8")  # fmt: skip
    shape = {"input_tokens": 1000.0, "output_tokens": 4000.0, "concurrency": in_flight,
             "dp": dp, "tp": 8 / dp, "ep": 8.0}  # fmt: skip
    k = constants_for(config)
    held = solve(compile_load(setting, Load.of(**shape, poll_steps=poll, gather_steps=gather)), k)
    free = solve(compile_load(setting, Load.of(**shape)), k)
    return float(held.ttft_s[0] - free.ttft_s[0]), float(free.tpot_s[0] * k.hold[0])


def test_prompts_held_back_wait_as_long_as_the_rules_say() -> None:
    """Half a poll; all of a gathering that nobody joins; half of one that many join; and no longer
    than it takes until every rank has a prompt."""
    for poll, gather, dp, in_flight, steps in (
        (30.0, 0.0, 1.0, 8.0, 15.0), (0.0, 20.0, 1.0, 1.0, 20.0), (0.0, 4000.0, 1.0, 400.0, 2000.0),
        (0.0, 60.0, 8.0, 8.0, 60.0),
    ):  # fmt: skip
        wait, step = _wait_s(poll, gather, dp=dp, in_flight=in_flight)
        assert wait == pytest.approx(steps * step, rel=0.07), (poll, gather)
    # 1,600 in flight on 8 ranks end one a rank every 20 steps: eight ranks take 2.7 times as long.
    simulated = np.random.default_rng(0).exponential(20.0, (20_000, 8)).max(axis=1).mean()
    wait, step = _wait_s(0.0, 1000.0, dp=8.0, in_flight=1600.0)
    assert wait == pytest.approx(simulated / 2 * step, rel=0.15)


def test_a_burst_waits_as_a_queue_of_batches_does() -> None:
    """All come at once: a hand-run queue of iterations of at most b prompts, mean over requests."""
    setting = setting_of("llama-3.1-70b", "h200-sxm", "fp8", "fp8", "fp8")
    shape = {"input_tokens": 1000.0, "output_tokens": 100_000.0, "tp": 8.0}
    k = replace(constants_for(CONFIG), mixes=np.zeros(1), wait_steps=np.zeros(1),
                wait_prefills=np.array([0.5]))  # fmt: skip
    for n, tokens in ((64.0, 1000.0), (64.0, 8000.0), (6.0, 8000.0)):
        load = Load.of(**shape, concurrency=np.array([1.0, n]), iteration_tokens=tokens)
        c = compile_load(setting, load)
        a = solve(c, k)
        b = min(tokens // 1000.0, n)
        weighed = c.batched[1] * k.prefill_parts[0]
        host = weighed[HOST_AT].sum()
        one = ((host / b) ** 4 + ((weighed.sum() - host) * 1000.0 / tokens) ** 4) ** 0.25
        ends = [b * one * (1 + i // b) for i in range(int(n))]
        assert a.ttft_s[1] - a.ttft_s[0] == pytest.approx(np.mean(ends) - one, rel=0.06)


def test_static_batches_are_prefilled_in_one_go() -> None:
    """Its first tokens come together, after all prompts; no time token waits for other prompts."""
    setting = setting_of("llama-3.1-70b", "h200-sxm", "fp8", "fp8", "fp8")
    shape = {"input_tokens": 1000.0, "output_tokens": 100.0, "tp": 8.0, "concurrency": 16.0}
    k = constants_for(CONFIG)
    static = solve(compile_load(setting, Load.of(**shape, static=1.0)), k)
    closed = solve(compile_load(setting, Load.of(**shape)), k)
    assert static.ttft_s[0] > closed.ttft_s[0]
    assert static.tpot_s[0] < closed.tpot_s[0]
    assert static.tpot_s[0] == pytest.approx(static.decode_s[0], rel=0.05)


def test_the_solver_knows_the_slope_of_its_errors() -> None:
    """The Jacobian by blocks against one difference a constant, on rows of all three engines."""
    from weftline.serve.calibrate.constants import start_of
    from weftline.serve.calibrate.fit import answer_rows, compile_rows, traits_of
    from weftline.serve.calibrate.rows import read_rows
    from weftline.serve.calibrate.solver import Problem

    rows = read_rows(DATA / "serving_silicon.csv.gz")[0][::150]
    assert {r.engine for r in rows} == {"vllm", "sglang", "trtllm"}
    compiled, traits = compile_rows(rows), traits_of(rows)
    measured = np.log([[r.tpot_s or 1.0 for r in rows], [r.ttft_s or 1.0 for r in rows]])

    def gaps(vector: np.ndarray) -> np.ndarray:
        found = answer_rows(compiled, traits, vector)
        return np.log(np.stack([found.tpot_s, found.ttft_s])) - measured

    weight = np.linspace(0.5, 2.0, len(rows))
    problem = Problem(
        gaps=gaps, traits=traits, weight=np.stack([weight, 0.35 * weight]),
        group=np.arange(len(rows)) % 3, groups=3, offset_pull=4.0, outlier=0.12,
    )  # fmt: skip
    x = np.concatenate([start_of(), [0.1, -0.1, 0.2, 0.3, 0.0, -0.2]])
    exact, step = problem.jacobian(x), 1e-4
    for at in range(len(x)):
        moved = x.copy()
        moved[at] += step
        slope = (problem.errors(moved) - problem.errors(x)) / step
        assert exact[:, at] == pytest.approx(slope, abs=2e-3), at


def test_constants_without_rows_are_those_of_a_fit_that_never_saw_them() -> None:
    """One Gauss-Newton step from the whole solution against the fit made anew."""
    from weftline.serve.calibrate.fit import compile_rows, fit_constants
    from weftline.serve.calibrate.pool import unique_rows
    from weftline.serve.calibrate.rows import read_rows

    rows = unique_rows(read_rows(DATA / "serving_silicon.csv.gz")[0])[::12]
    compiled = compile_rows(rows)
    whole, fitted_on = fit_constants(rows, compiled, rounds=20)
    out = [i for i in fitted_on if rows[i].run == "llama-3.1-70b|b200|trtllm"]
    assert 0 < len(out) < 0.15 * len(rows)
    keep = np.array([i for i in range(len(rows)) if i not in set(out)])
    anew = fit_constants([rows[i] for i in keep], compiled.take(keep), start=whole.vector,
                         rounds=20)[0].vector  # fmt: skip
    step = whole.without(np.searchsorted(fitted_on, out))
    moved = np.abs(anew - whole.vector).max()
    assert moved > 0.02, "leaving the run out changes nothing: the test shows nothing"
    assert np.abs(step - anew).max() < 0.5 * moved


def test_a_prefill_pool_bounds_the_rate() -> None:
    setting = setting_of("deepseek-r1", "gb200-nvl72", "nvfp4", "nvfp4", "fp8")
    config = ServingConfig(
        model="deepseek-r1", chip="gb200", engine="sglang", dp=8, ep=8, gemm_dtype="nvfp4",
        kv_dtype="fp8", prefill=PoolConfig(tp=4),
    )  # fmt: skip
    k = constants_for(config)

    def rate(feeders: float) -> float:
        load = Load.of(
            input_tokens=8000.0, output_tokens=200.0, concurrency=4000.0, dp=8.0, ep=8.0,
            prefill_workers=feeders, prefill_tp=4.0, prefill_dp=1.0, prefill_ep=1.0,
            prefill_moe_tp=4.0,
        )  # fmt: skip
        a = solve(compile_load(setting, load), k)
        return float(a.output_tokens_per_s[0]) * (8 + 4 * feeders)

    assert rate(2.0) == pytest.approx(2 * rate(1.0), rel=0.02)
    assert rate(200.0) < 200 * rate(1.0)
    assert prefill_surface(config).step_s(1024, 0, 0, 0) > 0


def test_speculation_yields_more_tokens_and_eviction_keeps_fewer() -> None:
    plain = ServingConfig(model="deepseek-r1", chip="b200", tp=8, gemm_dtype="fp8")
    guess = ServingConfig(model="deepseek-r1", chip="b200", tp=8, gemm_dtype="fp8",
                          spec_method="mtp", spec_tokens=2, spec_acceptance=0.5)  # fmt: skip
    assert guess.tokens_per_step == pytest.approx(1 + 0.5 + 0.25)
    assert surface(guess).step_s(0, 0, 8, 8000) > surface(plain).step_s(0, 0, 8, 8000)
    short = ServingConfig(
        model="llama-3.1-70b", chip="h200", tp=4, policy="window=512,sinks=4,kv=free"
    )
    wide = ServingConfig(model="llama-3.1-70b", chip="h200", tp=4)
    # As a kernel for windows takes: no less than full attention over as many keys, near it.
    cut = surface(short).decode(64, 32768)
    assert surface(wide).decode(64, 516) <= cut < surface(wide).decode(64, 1024)
    assert memory(short).capped_share == 1.0


@pytest.mark.parametrize("pp", [2, 4, 8])
def test_a_traversal_passes_its_stages_once(pp: int) -> None:
    """By arithmetic: a round of ``pp`` micro-batches takes the slowest stage's time ``pp`` times,
    so with even stages the time of one micro-batch through the whole model, the projection to the
    vocabulary counted once a stage."""
    setting = setting_of("llama-3.1-70b", "h200-sxm", "fp8", "fp8", "fp8")
    shape = {"input_tokens": 1000.0, "output_tokens": 200.0, "concurrency": 64.0 * pp}
    k = constants_for(CONFIG)
    staged = solve(compile_load(setting, Load.of(**shape, pp=float(pp), max_batch=64.0 * pp)), k)
    parts = part_seconds(setting, Iteration.of(tokens=64.0, sequences=64.0, context=1100.0))[0]
    weighed = parts * k.parts[0]
    alone = weighed.sum()
    more = (pp - 1) * sum(weighed[PARTS.index(p)] for p in ("head", "iteration", "sequences"))
    stall = float(stalled(np.array([float(pp)]))[0])
    assert 1.0 < stall < 1.5
    assert staged.decode_s[0] == pytest.approx(alone * stall + more, rel=0.05)
    # A prompt occupies each stage for its share of the time: the rate of prompts is pp times that
    # of one chip that held the whole model.
    one = solve(compile_load(setting, Load.of(**shape, max_batch=64.0)), k)
    assert staged.prefill_s[0] == pytest.approx(one.prefill_s[0], rel=0.15)


@pytest.mark.parametrize(
    ("chip", "tp", "pp", "crossing"),
    [("h100-sxm", 8, 2, 1), ("h100-sxm", 4, 4, 1), ("h100-sxm", 2, 4, 0), ("h100-sxm", 8, 4, 3),
     ("gb200-nvl72", 8, 4, 0), ("trainium2", 64, 2, 1)],
)  # fmt: skip
def test_stages_on_two_hosts_send_over_the_network(
    chip: str, tp: int, pp: int, crossing: int
) -> None:
    """By arithmetic: of the ``pp - 1`` sends of a traversal those between stages of two domains
    go out of the host, the others stay on its links."""
    setting = setting_of("llama-3.1-70b", chip, "bf16", "bf16", "bf16")
    shape = {"tokens": 64.0, "sequences": 64.0, "context": 1000.0, "tp": float(tp)}
    at = PARTS.index("all_reduce")
    alone, staged = (
        part_seconds(setting, Iteration.of(**shape, stages=float(stages)))[0, at]
        for stages in (1, pp)
    )
    nbytes = np.array([64.0 * 8192 * 2.0])
    network = setting.operators.network
    inside = float(network.send_s(nbytes, across_hosts=False)[0])
    outside = float(network.send_s(nbytes, across_hosts=True)[0])
    assert outside > 1.5 * inside
    want = crossing * outside + (pp - 1 - crossing) * inside
    assert staged - alone == pytest.approx(want, rel=1e-9)


def test_nothing_is_faster_than_the_peak_whatever_a_fit_says() -> None:
    from dataclasses import replace as changed

    setting = setting_of("llama-3.1-70b", "h200-sxm", "fp8", "fp8", "fp8")
    load = Load.of(input_tokens=4000.0, output_tokens=200.0, concurrency=256.0, tp=2.0)
    k = constants_for(CONFIG)
    absurd = changed(k, parts=k.parts * 0.01, prefill_parts=k.prefill_parts * 0.01)
    answer = solve(compile_load(setting, load), absurd)
    per_token = 2.0 * 69e9 * (4000.0 + 200.0) / 200.0
    assert answer.output_tokens_per_s[0] * per_token <= setting.operators.chip.peak_flops("fp8")


def test_pipeline_stages_share_weights_and_add_up() -> None:
    one = ServingConfig(model="llama-3.1-405b", chip="h200", tp=8, gemm_dtype="fp8")
    two = ServingConfig(model="llama-3.1-405b", chip="h200", tp=8, pp=2, gemm_dtype="fp8")
    assert memory(two).weight_bytes == pytest.approx(memory(one).weight_bytes / 2)
    assert memory(two).kv_capacity_tokens > 2 * memory(one).kv_capacity_tokens
    # 64 sequences in two micro-batches of 32: a round is one of them through all layers.
    round_s, alone_s = surface(two).step_s(0, 0, 64, 64000), surface(one).step_s(0, 0, 32, 32000)
    assert alone_s < round_s < 1.1 * alone_s


@pytest.mark.parametrize("chip", ["epyc-9965", "xeon-6980p", "graviton4"])
def test_a_socket_reads_its_weights_at_its_bandwidth(chip: str) -> None:
    """vLLM on a CPU: an answer alone takes the weights' bytes over the memory's rate, a prompt no
    less than its products at the peak; and no rows say so, hence a band of a factor two."""
    config = ServingConfig(model="llama-3.1-8b", chip=chip)
    found, own = surface(config), setting_for(config).operators.chip
    read_s = 2.0 * 7.5e9 / own.bandwidth_bytes_per_s
    assert read_s < found.step_s(0, 0, 1, 500) < 2.0 * read_s
    assert found.step_s(2000, 0, 0, 0) > 2.0 * 7e9 * 2000 / own.peak_flops("bf16")
    wide = band_of(config, "tpot")
    assert wide.high / wide.low > 3.9
    assert f"no row of vllm on {chip}" in wide.basis


def test_what_does_not_fit_is_an_answer() -> None:
    with pytest.raises(NoFeasiblePlanError, match="GB of weights a chip") as caught:
        memory(ServingConfig(model="deepseek-r1", chip="h100", tp=4, gemm_dtype="fp8"))
    assert "chips instead of 4" in str(caught.value.nearest)


def test_mistakes_of_a_configuration_come_together() -> None:
    with pytest.raises(InputErrors) as caught:
        ServingConfig(model="llama-3.1-70b", chip="h200", engine="vlm", gemm_dtype="fp9", tp=0)
    assert len(caught.value.errors) == 3
    with pytest.raises(UnknownNameError, match="did you mean `vllm`"):
        ServingConfig(model="llama-3.1-70b", chip="h200", engine="vlm")
    with pytest.raises(InputError, match="ep 3 does not divide"):
        ServingConfig(model="deepseek-r1", chip="h200", tp=8, ep=3)


def test_intervals_are_wider_where_nothing_was_measured() -> None:
    known = width_of("tpot", "vllm", "b200", case="seen")
    run = width_of("tpot", "vllm", "b200", case="run")
    nowhere = width_of("tpot", "jetstream", "tpu-v6e", case="harness")
    assert known < run < nowhere
    assert nowhere >= np.log(2.0)
    low, high, basis = band(CONFIG, "tpot")
    assert low < 1 < high
    assert "left out" in basis
