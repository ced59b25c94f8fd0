"""The capacity search and the two evaluators: what must hold whatever the calibration says."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from weftline.catalog import accelerator
from weftline.cost import Terms
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.serve.calibrate.shipped import constants_for
from weftline.serve.engine.closed_form import Load, compile_load, solve
from weftline.serve.engine.config import PoolConfig, ServingConfig
from weftline.serve.engine.parts import setting_of
from weftline.serve.search.confirm import Promise, middle, run
from weftline.serve.search.economics import Market, power_w, spares_of, token_costs
from weftline.serve.search.lacking import lacking
from weftline.serve.search.launch import launch_settings
from weftline.serve.search.plan import plan_serve
from weftline.serve.search.screen import layouts_of
from weftline.serve.simulate.capacity import capacity_per_s, least_stable
from weftline.serve.simulate.fleet import simulate, simulate_requests
from weftline.serve.simulate.step import surface
from weftline.serve.simulate.traffic import Traffic, at_rate, bundled, poisson
from weftline.spec import ServeJob, ServePlan, ServeSpace, Target
from weftline.spec.serialize import plan_to_json, serve_plan_from_json

ONE = ServingConfig(model="llama-3.1-8b", chip="h100-sxm")
TARGETS = (
    Target(metric="ttft", percentile=99, limit_s=0.6),
    Target(metric="tpot", percentile=50, limit_s=0.03),
)
ASKED = ServeJob(
    model="llama-3.1-8b", targets=TARGETS, rate_per_s=40.0, input_tokens=1000, output_tokens=200,
    space=ServeSpace(chips=("h100", "l40s", "mi300x"), formats=("bf16",), max_replica_chips=2),
)  # fmt: skip


@cache
def _plan() -> ServePlan:
    return plan_serve(ASKED)


# --- closed form and simulation ------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 4.0, 8.0])
def test_closed_form_and_simulation_agree_where_both_apply(rate: float) -> None:
    """Short prompts, long answers, no queue: the closed form's batch is the simulated one."""
    traffic = poisson(rate, 1200, prefill_tokens=100, decode_tokens=1000, seed=1)
    outcome = simulate(ONE, traffic)
    counted = middle(outcome, trace=False)
    in_flight = rate * float(outcome.e2e_s[counted].mean())  # Little's law
    setting = setting_of(ONE.model, ONE.chip, "bf16", "bf16", "bf16")
    load = Load.of(input_tokens=100, output_tokens=1000, concurrency=in_flight, max_batch=256)
    answer = solve(compile_load(setting, load), constants_for(ONE))
    assert answer.tpot_s[0] == pytest.approx(float(outcome.tpot_s[counted].mean()), rel=0.06)
    assert answer.output_tokens_per_s[0] == pytest.approx(rate * 1000, rel=0.08)


def test_alone_a_request_takes_its_steps_and_nothing_else() -> None:
    """No queue and no company: the times are sums of the surface's own step times."""
    s = surface(ONE)
    none = Traffic(name="one", arrived_s=np.zeros(1), prefill_tokens=np.array([700]),
                   decode_tokens=np.array([50]))  # fmt: skip
    found = simulate(ONE, none)
    first = s.front_end_s + s.step_s(700.0, 0.0, 0.0, 0.0)
    rest = sum(s.step_s(0.0, 0.0, 1.0, 700.0 + k + 1.0) for k in range(49))
    assert found.ttft_s[0] == pytest.approx(first, rel=1e-9)
    assert found.e2e_s[0] == pytest.approx(first + rest, rel=1e-9)


def test_disaggregation_hides_prompts_from_answers_and_pays_for_the_transfer() -> None:
    traffic = poisson(9.0, 400, prefill_tokens=6000, decode_tokens=200, seed=5)
    pools = replace(ONE, prefill=PoolConfig(workers=2, max_batch=4), decode_workers=1)
    apart, together = simulate(pools, traffic), simulate(ONE, traffic, replicas=3)
    assert np.nanpercentile(apart.tpot_s, 99) < np.nanpercentile(together.tpot_s, 99)
    s = surface(pools)
    transfer_s = 4000 * s.kv_bytes_per_token / s.kv_transfer_bytes_per_s
    quiet = Traffic(name="one", arrived_s=np.zeros(1), prefill_tokens=np.array([4000]),
                    decode_tokens=np.array([2]))  # fmt: skip
    alone = simulate(pools, quiet)
    step = s.step_s(0.0, 0.0, 1.0, 4001.0)
    assert alone.tpot_s[0] == pytest.approx(transfer_s + step, rel=1e-6)


def test_a_request_longer_than_the_cache_is_said_not_to_fit() -> None:
    s = replace(surface(ONE), kv_capacity_tokens=2000.0)
    found = simulate_requests(
        s, np.zeros(2), np.array([1999, 100]), np.array([100, 5]), max_seqs=4, token_budget=512
    )
    assert found.fits.tolist() == [False, True]
    assert math.isnan(found.ttft_s[0])
    assert found.finished_s[1] > 0


@pytest.mark.parametrize("routing", ["least-loaded", "prefix-aware"])
def test_better_routing_is_better(routing: str) -> None:
    trace = bundled("mooncake-conversation")
    assert trace.hash_starts is not None
    assert trace.hash_ids is not None
    n = 1500
    short = replace(
        at_rate(trace, 9.0), arrived_s=at_rate(trace, 9.0).arrived_s[:n],
        prefill_tokens=trace.prefill_tokens[:n], decode_tokens=trace.decode_tokens[:n],
        hash_starts=trace.hash_starts[: n + 1], hash_ids=trace.hash_ids[: trace.hash_starts[n]],
    )  # fmt: skip
    config = replace(ONE, prefix_cache=True)
    plain = simulate(config, short, replicas=8, routing="round-robin")
    better = simulate(config, short, replicas=8, routing=routing)  # type: ignore[arg-type]
    if routing == "prefix-aware":
        assert better.cached_tokens.sum() > 1.2 * plain.cached_tokens.sum()
    assert np.nanmean(better.ttft_s) < np.nanmean(plain.ttft_s)


# --- money and spares ----------------------------------------------------------------------------


def test_token_prices_add_up_to_the_bill() -> None:
    usd_per_hour, rate = 30.0, 12.0
    costs = token_costs(ONE, usd_per_hour=usd_per_hour, rate_per_s=rate, input_tokens=2000,
                        output_tokens=400, cached_share=0.0, batch=32.0)  # fmt: skip
    paid = rate * 3600 * (2000 * costs.input_usd + 400 * costs.output_usd) / 1e6
    assert paid == pytest.approx(usd_per_hour, rel=1e-9)
    cached = token_costs(ONE, usd_per_hour=usd_per_hour, rate_per_s=rate, input_tokens=2000,
                         output_tokens=400, cached_share=0.5, batch=32.0)  # fmt: skip
    paid = rate * 3600 * (1000 * cached.input_usd + 1000 * cached.cached_usd
                          + 400 * cached.output_usd) / 1e6  # fmt: skip
    assert paid == pytest.approx(usd_per_hour, rel=1e-9)
    assert 0 < cached.cached_usd < cached.input_usd


def test_spares_are_the_fewest_that_keep_enough_up() -> None:
    rng = np.random.default_rng(0)
    down = 1 - math.exp(-64 * 0.474e-3 / 24)
    for replicas in (1, 10, 60):
        spares = spares_of(replicas, 64)
        lost = rng.binomial(replicas + spares, down, 200_000)
        assert (lost <= spares).mean() >= 0.9985
        if spares:
            fewer = rng.binomial(replicas + spares - 1, down, 200_000)
            assert (fewer <= spares - 1).mean() < 0.9995


def test_whole_instances_are_paid() -> None:
    market = Market(accelerator("h100"), "on-demand", Terms())
    three, row = market.cheapest(3, 1)
    assert row is not None
    assert row.usd_per_hour is not None
    assert three == pytest.approx(math.ceil(3 / row.chips) * row.usd_per_hour)
    assert Market(accelerator("h100"), "on-demand", Terms(own_prices={"*": 2.0})).cheapest(
        3, 1
    ) == (6.0, None)


def test_a_busy_fleet_draws_more_and_stays_under_its_design_power() -> None:
    chip = accelerator("h100")
    idle, busy = power_w(chip, 8, 0.0), power_w(chip, 8, 1.0)
    assert idle is not None
    assert busy is not None
    assert 0 < idle[0] < busy[1] < busy[0] < busy[2]


# --- the search ----------------------------------------------------------------------------------


def test_layouts_stay_within_the_machine() -> None:
    for name in ("h100", "mi300x", "tpu-v5e", "gb200", "trn2"):
        chip = accelerator(name)
        for layout in layouts_of("deepseek-v3", chip, ServeSpace()):
            assert layout["tp"] * layout["dp"] % layout["ep"] == 0
            assert layout["tp"] <= max(chip.scale_up_domain or 1, chip.chips_per_host or 8)


def test_the_plan_meets_its_targets_and_one_replica_less_does_not() -> None:
    plan = _plan()
    best = plan.ranking[0]
    assert best.fleet == plan.fleet
    assert all(best.reached[f"p{t.percentile:g} {t.metric}"] <= t.limit_s for t in TARGETS)
    config = ServingConfig(
        model=plan.demand.model, chip=plan.fleet.accelerator, engine=plan.fleet.engine,
        tp=plan.fleet.layout["tp"], max_batch=plan.fleet.max_batch,
        chunk_tokens=plan.fleet.chunk_tokens,
    )  # fmt: skip
    traffic = poisson(40.0, plan.demand.requests, prefill_tokens=1000, decode_tokens=200,
                      seed=plan.demand.seed or 0)  # fmt: skip
    fewer = plan.fleet.replicas - 1
    for replicas, meets in ((plan.fleet.replicas, True), (fewer, False)):
        if replicas:
            each = capacity_per_s(config, traffic)
            promise = Promise(
                targets=TARGETS, within=0.95, least=least_stable(40.0, each, 0.2),
                routing="least-loaded", trace=False,
            )  # fmt: skip
            assert run(config, traffic, promise, replicas).meets is meets


def test_the_winner_is_the_cheapest_and_the_front_has_no_beaten_fleet() -> None:
    plan = _plan()
    costs = [c.usd_per_hour for c in plan.ranking if c.meets and c.usd_per_hour is not None]
    assert costs == sorted(costs)
    assert plan.pareto
    assert min(c.usd_per_hour or math.inf for c in plan.pareto) == costs[0]
    assert plan.why
    assert any(text.startswith("rate:") for text in plan.flips)
    assert {r.accelerator for r in plan.without_plan} | {
        c.fleet.accelerator for c in plan.ranking
    } == {"h100-sxm", "l40s", "mi300x"}


def test_a_price_can_flip_the_winner() -> None:
    """What the plan says of prices is true: below that price the second chip wins."""
    plan = _plan()
    flips = [text for text in plan.flips if text.startswith("price:")]
    assert flips
    second = flips[0].split()[1]
    costs = {c.fleet.accelerator: c.usd_per_hour for c in plan.ranking if c.meets}
    fleets = {c.fleet.accelerator: c.fleet for c in plan.ranking}
    below = float(flips[0].split("$")[1].split()[0])
    chips = fleets[second].chips
    row = Market(accelerator(second), "on-demand", Terms()).cheapest(chips, 1)[1]
    assert row is not None
    assert below * math.ceil(chips / row.chips) * row.chips == pytest.approx(
        costs[plan.fleet.accelerator] or 0.0, rel=0.01
    )


def test_a_plan_is_the_same_after_a_round_trip() -> None:
    plan = _plan()
    assert serve_plan_from_json(plan_to_json(plan)) == plan


def test_what_no_chip_can_do_says_what_limits_it() -> None:
    with pytest.raises(NoFeasiblePlanError) as caught:
        plan_serve(replace(ASKED, targets=(Target(metric="tpot", percentile=50, limit_s=1e-4),)))
    assert caught.value.nearest is not None
    assert "a token" in caught.value.nearest
    assert "a decode step there takes" in (caught.value.hint or "")


def test_a_model_that_fits_nowhere_says_what_is_missing() -> None:
    small = ServeSpace(chips=("l40s",), formats=("bf16",), max_replica_chips=2)
    with pytest.raises(NoFeasiblePlanError) as caught:
        plan_serve(replace(ASKED, model="llama-3.1-405b", space=small))
    assert "does not fit" in caught.value.what
    assert "l40s" in (caught.value.nearest or "")


def test_a_limit_on_chips_is_kept() -> None:
    with pytest.raises(NoFeasiblePlanError) as caught:
        plan_serve(replace(ASKED, rate_per_s=4000.0, max_chips=2))
    assert "chips more than --max-chips 2" in (caught.value.nearest or "")


@pytest.mark.parametrize("targets", [(), (Target(metric="tpot", percentile=50, limit_s=0.1),)])
def test_a_fleet_without_a_target_on_the_wait_keeps_up_all_the_same(
    targets: tuple[Target, ...],
) -> None:
    """One H100 holds 70B in fp8 and answers one request in ten seconds: one comes in two."""
    asked = ServeJob(
        model="llama-3.1-70b", targets=targets, rate_per_s=0.5,
        input_tokens=2000, output_tokens=400, space=ServeSpace(chips=("h100",), formats=("fp8",)),
    )  # fmt: skip
    plan = plan_serve(asked)
    assert plan.estimates["ttft_p99"].value < 10.0
    with pytest.raises(NoFeasiblePlanError) as caught:
        plan_serve(replace(asked, max_chips=1))
    said = str(caught.value)
    assert "the queue would grow without end" in said
    assert "requests/s at most" in said, "the capacity is not said"


def test_chips_that_no_engine_runs_on_do_not_name_formats_that_would() -> None:
    chip = accelerator("groq-lpu1")
    assert lacking(chip, ServeSpace()).startswith("no engine")


def test_a_rate_too_large_to_simulate_whole_costs_in_proportion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A burst shorter than an answer shows no queue: the parts must span as long a time."""
    monkeypatch.setattr("weftline.serve.search.plan.MOST_REQUESTS", 6000)
    asked = replace(ASKED, space=replace(ASKED.space, chips=("h100",)), own_prices={"*": 1.0})
    small, large = (plan_serve(replace(asked, rate_per_s=rate)) for rate in (40.0, 4000.0))
    assert small.demand.cells == 1
    assert large.demand.cells == 80
    assert large.fleet.replicas % 80 == 0
    each = [p.estimates["cost_per_hour"].value / p.demand.rate_per_s for p in (small, large)]
    assert each[1] == pytest.approx(each[0], rel=0.3)  # a part has a few replicas, whole ones
    assert large.estimates["rate_most"].value >= 4000.0


def test_ways_to_pay_compete_and_spot_is_flagged() -> None:
    asked = replace(ASKED, space=replace(ASKED.space, chips=("h100",)))
    plan = plan_serve(replace(asked, price_types=("on-demand", "spot")))
    costs = {c.price_type: c.usd_per_hour for c in plan.ranking}
    assert set(costs) == {"on-demand", "spot"}
    assert plan.estimates["cost_per_hour"].value == min(c for c in costs.values() if c)
    flagged = any(text.startswith("spot:") for text in plan.why)
    assert flagged is (plan.ranking[0].price_type == "spot")
    assert [c.note.startswith("spot:") for c in plan.ranking] == [
        c.price_type == "spot" for c in plan.ranking
    ]


@pytest.mark.parametrize("discounts", [{}, {"*": 0.15}])
def test_any_way_to_pay_costs_a_fleet_no_more_than_each_alone(discounts: dict[str, float]) -> None:
    """The cheapest spot row is of eight chips: a fleet of one is cheaper on demand."""
    asked = replace(ASKED, rate_per_s=2.0, discounts=discounts,
                    space=replace(ASKED.space, chips=("h100",)))  # fmt: skip
    ways = ("any", "on-demand", "spot")
    cost = {way: plan_serve(replace(asked, price_types=(way,))).estimates["cost_per_hour"].value
            for way in ways}  # fmt: skip
    assert cost["any"] == pytest.approx(min(cost["on-demand"], cost["spot"]))


def test_requests_in_the_queue_and_the_batch_are_those_in_the_system() -> None:
    """Little's law over the timeline, at idle and overloaded replicas."""
    traffic = poisson(40.0, 1500, prefill_tokens=1000, decode_tokens=200, seed=3, spread=0.5)
    for replicas in (1, 3, 12):
        outcome = simulate(ONE, traffic, replicas=replicas)
        line = outcome.timeline
        inside = float((line.running + line.waiting).sum()) * line.width_s
        stayed = outcome.finished_s - outcome.arrived_s - surface(ONE).front_end_s
        assert inside == pytest.approx(float(stayed.sum()), rel=0.01)


@pytest.mark.parametrize(
    ("engine", "said"),
    [("vllm", {"--speculative-config": '{"method": "mtp", "num_speculative_tokens": 2}'}),
     ("sglang", {"--speculative-algorithm": "NEXTN", "--speculative-num-draft-tokens": "3"}),
     ("trtllm", {"speculative_config.decoding_type": "MTP",
                 "speculative_config.num_nextn_predict_layers": "2"})],
)  # fmt: skip
def test_engines_are_started_with_the_drafting_that_was_simulated(
    engine: str, said: dict[str, str]
) -> None:
    config = replace(ONE, engine=engine, spec_method="mtp", spec_tokens=2)
    assert said.items() <= launch_settings(config).items()
    assert not said.keys() & launch_settings(replace(ONE, engine=engine)).keys()


def test_an_old_release_is_planned_as_slower() -> None:
    asked = replace(ASKED, rate_per_s=10.0, space=replace(
        ASKED.space, chips=("h100",), engines=("vllm",), max_replica_chips=1))  # fmt: skip
    old, new = (plan_serve(replace(asked, space=replace(asked.space, engine_version=v)))
                for v in ("0.10.1", "0.19.0"))  # fmt: skip
    assert old.estimates["tpot_p50"].value > 1.05 * new.estimates["tpot_p50"].value
    for engines, version in (((), "0.10.1"), (("vllm",), "newest")):
        with pytest.raises(InputError):
            plan_serve(replace(asked, space=replace(asked.space, engines=engines,
                                                    engine_version=version)))  # fmt: skip
