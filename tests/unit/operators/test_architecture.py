"""Architecture fit: a share of the ideal whose parts add up, and what it says of odd models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weftline.errors import InputErrors, NoFeasiblePlanError
from weftline.model import load_model
from weftline.model.policy import with_policy
from weftline.operators import SparseUnit, architecture_fit, chip_of
from weftline.operators.architecture import PARTS
from weftline.operators.sparse import parse_unit
from weftline.spec.attention_text import parse_policy

CASES = [
    ("llama-3.1-8b", "h200", "bf16"), ("deepseek-r1", "h200", "fp8_block"),
    ("qwen3.5-397b-a17b", "b200", "nvfp4"), ("gpt-oss-120b", "mi300x", "mxfp4"),
    ("llama-3.1-8b", "inferentia2", "bf16"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "chip", "quantisation"), CASES)
def test_parts_add_up_to_the_time(model: str, chip: str, quantisation: str) -> None:
    found = architecture_fit(load_model(model), chip, quantisation=quantisation)
    for phase in (found.prefill, found.decode):
        assert 0.05 < phase.fit <= 1
        assert set(phase.parts) == set(PARTS)
        assert sum(phase.parts.values()) == pytest.approx(1)
        assert all(v >= -1e-12 for v in phase.parts.values())
        assert sum(t.seconds for t in phase.operators) == pytest.approx(phase.seconds)
    assert found.to_dict()["decode"]["parts"]["memory"] == found.decode.parts["memory"]


def test_prompts_are_bound_by_the_matrix_unit_and_decoding_by_memory() -> None:
    found = architecture_fit(load_model("llama-3.1-8b"), "h200")
    assert found.prefill.parts["matrix"] > 0.5
    assert found.decode.parts["memory"] > 0.5
    # Decoding cannot beat reading the weights once.
    assert found.decode.ideal_s > 0.95 * 2 * 7.5e9 / 4.8e12


def test_scans_on_a_chip_that_runs_them_badly_lower_the_fit() -> None:
    model = load_model("qwen3.5-397b-a17b")
    plain = chip_of("trainium3")
    slow = replace(plain, sparse=(SparseUnit(patterns={}, falls_back={"scan": 10.0}),))
    fits = [architecture_fit(model, c, quantisation="fp8") for c in (plain, slow)]
    assert fits[1].decode.fit < fits[0].decode.fit
    assert fits[1].decode.parts["vector"] > fits[0].decode.parts["vector"]


def test_a_unit_for_selection_pays_in_attention_and_costs_scans_and_experts() -> None:
    """A unit for keys picked one by one: less time for a dense model under a policy, more for one
    of delta nets and experts on a chip that pays for it with what those run on."""
    unit = parse_unit("selected=16,scan=10,routing=3")
    plain = chip_of("trainium3")
    made = replace(plain, sparse=(unit,))
    policy = parse_policy("topk=10%,block=1,score=mean")
    taken = {}
    for name in ("llama-3.1-8b", "qwen3-next-80b-a3b"):
        model = with_policy(load_model(name), policy)
        taken[name] = [
            architecture_fit(model, chip, context=32_000, chips=2).decode.seconds
            for chip in (plain, made)
        ]
    assert taken["llama-3.1-8b"][1] < taken["llama-3.1-8b"][0]
    assert taken["qwen3-next-80b-a3b"][1] > taken["qwen3-next-80b-a3b"][0]
    with pytest.raises(InputErrors) as caught:
        parse_unit("selcted=2,scan=0,window=x")
    assert len(caught.value.errors) == 3


def test_a_model_no_domain_holds() -> None:
    with pytest.raises(NoFeasiblePlanError, match="needs"):
        architecture_fit(load_model("deepseek-r1"), "l40s")
