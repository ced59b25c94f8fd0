"""Co-design: designs of equal worth, the planners' own numbers, laws that are arithmetic alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.cli.main import run
from weftline.decide.codesign import codesign_of, plan_codesign
from weftline.decide.codesign.law import NAMES, law_of
from weftline.decide.codesign.variants import shape_of, sized, turned, worth
from weftline.errors import InputError, WeftlineError
from weftline.model import load_model
from weftline.plan import job_of, plan_train
from weftline.spec.codesign import Codesign
from weftline.spec.decide_options import CodesignOptions
from weftline.spec.options import JobOptions

CHINCHILLA = "1.69 + 406.4/params**0.34 + 410.7/tokens**0.28"
SMALL = "gpt:layers=16,hidden=2048,heads=16,kv_heads=8,head_dim=128,ffn=8192,vocab=32000," \
        "seq=8192,gated=true,tied=false,bias=false,positions=rope,norm=rms"  # fmt: skip


# --- models by numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "mistral-7b-v0.1", "yi-6b"])
def test_a_decoder_is_its_numbers(name: str) -> None:
    """The line that is read off a model counts what the model's own builder counts."""
    model = load_model(name)
    shape, said = shape_of(model)
    again = load_model(shape.line)
    assert said == ""
    assert again.parameters == model.parameters
    assert again.active_parameters == model.active_parameters
    for length in (2048, 8192):
        assert again.training_flops_per_token(length) == model.training_flops_per_token(length)
        assert again.kv_bytes_per_token() == model.kv_bytes_per_token()


def test_layers_that_keep_a_state_are_counted_by_hand() -> None:
    """Mamba-2 of 64 heads of 64, one group, a convolution of four: the widths of Granite 4."""
    model = load_model(f"{SMALL},state_layers=12")
    kinds = [layer.kind for layer in model.layers]
    assert kinds.count("mamba2+mlp") == 12
    assert [i for i, k in enumerate(kinds) if k == "gqa+mlp"] == [3, 7, 11, 15]
    ssm = [op for op in model.layers[0].operators if op.name.startswith("ssm.")]
    # Projections in and out, convolution, A, D, step bias and the gate's norm, by hand.
    inner, mixed = 4096, 4096 + 2 * 128
    by_hand = 2048 * (inner + mixed + 64) + inner * 2048 + mixed * 5 + 3 * 64 + inner + 2048
    assert sum(op.parameters for op in ssm) == by_hand
    assert model.kv_bytes_per_token() == load_model(SMALL).kv_bytes_per_token() * 4 / 16


def test_windows_of_all_but_each_sixth_layer() -> None:
    model = load_model(f"{SMALL},window=1024,full_every=4")
    assert [layer.kind for layer in model.layers] == (["swa+mlp"] * 3 + ["gqa+mlp"]) * 4
    # A window as long as the sequence is full attention, and costs as much.
    options = JobOptions(tokens="100B", on="h100", chips="16")
    costs = [plan_train(job_of(spec, options)).estimates["cost"].value
             for spec in (SMALL, f"{SMALL},window=8192")]  # fmt: skip
    assert costs[1] == pytest.approx(costs[0], rel=0.02)


@pytest.mark.parametrize(
    ("words", "part"),
    [("full_every=2", "needs `window`"), ("state=64", "needs `state_layers`"),
     ("state_layers=17", "exceeds `layers=16`"), ("window=0", "`window=0`")],
)  # fmt: skip
def test_numbers_that_contradict_each_other(words: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        load_model(f"{SMALL},{words}")


# --- worth ----------------------------------------------------------------------------------------


@given(st.sampled_from(["window=1024/6", "heads=16:1", "heads=32:4", "experts=8:2", "state=75%"]),
       st.sampled_from(["parameters", "active", "effective", CHINCHILLA]))  # fmt: skip
@settings(max_examples=20)
def test_every_design_is_worth_the_same(change: str, quality: str) -> None:
    base, _ = shape_of(load_model(SMALL))
    law = law_of(quality)
    target = worth(base, law, 1e12)
    knob, _, text = change.partition("=")
    found = sized(turned(base, knob, text), law, 1e12, target)
    assert found is not None
    # One step of the width more or less is further off.
    off = abs(worth(found, law, 1e12) - target)
    for ffn in (found.ffn - 64, found.ffn + 64):
        if ffn > 0:
            assert abs(worth(replace(found, ffn=ffn), law, 1e12) - target) >= off
    if quality != CHINCHILLA:
        assert worth(found, law, 1e12) == pytest.approx(target, rel=0.01)


def test_a_law_is_arithmetic_and_nothing_else() -> None:
    facts = dict.fromkeys(NAMES, 1e9)
    assert law_of(CHINCHILLA).value(facts) == pytest.approx(
        1.69 + 406.4 / 1e9**0.34 + 410.7 / 1e9**0.28
    )
    assert law_of("-max(log(params), sqrt(window))").value(facts) == pytest.approx(-(1e9**0.5))
    for text in ("__import__('os')", "params.real", "(lambda: 1)()", "[1][0]", "params if 1 else 2",
                 "'a'", "1 +", "parms", "9.0**9.0**9.0**9.0", "log(0-params)", "-" * 1900 + "1",
                 "True", "open", "max(1, key=1)", "1/(params-params)", "(0-1)**0.5",
                 "x" * 3000):  # fmt: skip
        with pytest.raises(WeftlineError):
            law_of(text)


# --- answers --------------------------------------------------------------------------------------


def asked(**more: str) -> CodesignOptions:
    return CodesignOptions(**{
        "vary": "window=full+512,heads=16:8+16:1", "on": "h100,tpu-v6e", "tokens": "100B",
        "max_chips": "16", "rate": "8/s", **more,
    })  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture(scope="module")
def answer() -> Codesign:
    return plan_codesign(codesign_of(SMALL, asked()))


def test_every_cost_is_the_planners_own(answer: Codesign) -> None:
    found = next(c for c in answer.costs if (c.design, c.chip) == ("window=512", "h100-sxm"))
    spec = next(d.spec for d in answer.designs if d.name == "window=512")
    plan = plan_train(job_of(spec, JobOptions(tokens="100B", on="h100", max_chips="16",
                                              price="any", objective="cost")))  # fmt: skip
    assert found.train_usd_per_m == plan.estimates["effective_cost"].value / 100e9 * 1e6
    assert found.usd is not None
    assert found.serve_usd_per_m is not None
    assert found.usd == pytest.approx((found.train_usd_per_m + found.serve_usd_per_m) * 1e5)


def test_who_favours_what_follows_from_the_costs(answer: Codesign) -> None:
    usd = {(c.design, c.chip): c.usd for c in answer.costs}
    names = [d.name for d in answer.designs]
    assert set(names) == {"base", "window=512", "heads=16:1", "window=512, heads=16:1"}
    for chip, best in answer.favoured.items():
        assert usd[best, chip] == min(usd[n, chip] for n in names)
        assert answer.fragmentation[chip][chip] == 0
    worst = {n: max(usd[n, c] / usd[answer.favoured[c], c] for c in answer.chips) for n in names}
    assert answer.portable is not None
    assert worst[answer.portable] == min(worst.values())
    for chip in answer.chips:
        loss = usd[answer.portable, chip] / usd[answer.favoured[chip], chip] - 1
        assert answer.portable_loss[chip] == pytest.approx(loss)
    # Keys and values fewer never cost more to serve at the same number of parameters.
    served = {(c.design, c.chip): c.serve_usd_per_m for c in answer.costs}
    for chip in answer.chips:
        assert served["heads=16:1", chip] <= served["base", chip] * 1.001
    assert any("does not move with window, heads" in n for n in answer.notes)


def test_iso_cost_gives_the_base_back() -> None:
    found = plan_codesign(codesign_of(SMALL, asked(
        vary="heads=16:8+16:1", on="h100", sizes="0.5,2", served="0")))  # fmt: skip
    base = next(p for p in found.iso if p.design == "base")
    assert base.size == pytest.approx(1, rel=0.02)
    assert base.parameters == pytest.approx(load_model(SMALL).parameters, rel=0.02)
    # What is trained alone costs nearly the same with fewer keys: it is worth as much, or more.
    other = next(p for p in found.iso if p.design == "heads=16:1")
    assert other.parameters == pytest.approx(base.parameters, rel=0.1)
    assert all(c.serve_usd_per_m is None for c in found.costs)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["codesign", SMALL, "--vary", "heads=16:8+16:1", "--on", "h100", "--tokens", "100B",
             "--max-chips", "16", "--rate", "8/s"]  # fmt: skip
    file = tmp_path / "answer.json"
    assert run([*words, "-o", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Best: ")
    assert "Fragmentation" in out
    assert max(map(len, out.splitlines())) <= 80
    assert json.loads(file.read_text())["kind"] == "codesign"
    assert run(["codesign", "deepseek-v3", "--vary", "heads,colour,window=x", "--on", "h100x",
                "--quality", "a+", "--sizes", "0"]) == 2  # fmt: skip
    said = capsys.readouterr().err
    for part in ("not a plain decoder", "h100x", "`a+` is no expression", "sizes from"):
        assert part in said, said
    assert run(["codesign", SMALL, "--vary", "heads=7:2,colour,window=x", "--on", "h100"]) == 2
    said = capsys.readouterr().err
    for part in ("`heads=7:2`", "unknown knob `colour`", "`window=x`"):
        assert part in said, said
