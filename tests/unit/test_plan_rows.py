"""What is made of a measured run's row: degrees, recomputation, routing that it does not state."""

from __future__ import annotations

import numpy as np
import pytest

from weftline.plan.calibrate.predict import compile_row
from weftline.plan.calibrate.row import Row
from weftline.plan.calibrate.rows import rows_of
from weftline.plan.step.compiled import RECOMPUTE_FULL, RECOMPUTE_NONE, RECOMPUTE_SELECTIVE
from weftline.plan.step.constants import PRIOR
from weftline.plan.step.timing import time_step

AUTOMODEL = {
    "id": "a", "accelerator": "H100", "n_accel": "64", "model": "DeepSeek-V3", "seq_len": "4096",
    "gbs": "512", "mbs": "1", "tp": "1", "pp": "4", "vp": "8", "cp": "1", "ep": "64",
    "precision": "bf16", "framework": "NeMo AutoModel (PyTorch FSDP2)", "iter_time_s": "8",
}  # fmt: skip
BRIDGE = {
    **AUTOMODEL, "model": "GPT OSS 120B", "accelerator": "B200", "pp": "1", "vp": "", "ep": "8",
    "framework": "Megatron-Bridge 26.04",
}  # fmt: skip


def row(**cells: str) -> Row:
    """One row of an AutoModel run with some cells changed."""
    found, left = rows_of([{**AUTOMODEL, **cells}], vtrain=False, where="rows.csv")
    assert not left
    return found[0]


def test_a_switch_for_all_blocks_is_on_where_a_run_did_not_fit_without() -> None:
    """Of 64 H100 that hold DeepSeek-V3 none can keep its activations; of a small model all can."""
    big = row(n_accel="256").layout
    assert (big.recompute[0], big.recompute_share[0]) == (RECOMPUTE_FULL, 1.0)
    small = row(model="LLAMA3_8B", pp="1", vp="", ep="").layout
    assert small.recompute[0] == RECOMPUTE_NONE


def test_a_known_product_of_two_degrees_is_split_so_that_the_run_fits() -> None:
    """70B weights in bf16 are 141 GB: on chips of 80 GB some tensor parallelism there must be."""
    cells = {"model": "llama-2-70b", "framework": "NeMo/Megatron-Core", "ep": "", "pp": "1",
             "vp": "", "tp": "1", "cp": "8", "gbs": "8", "precision": "fp8", "seq_len": "8192",
             "source": "mlcommons/training_results_v5.1 llama2_70b_lora"}  # fmt: skip
    split = row(**cells, notes="tp x cp = 8 taken as cp").layout
    assert split.tp[0] * split.cp[0] == 8
    assert split.tp[0] > 1
    assert row(**cells, notes="").layout.tp[0] == 1


def test_recomputing_an_expert_layer_sends_its_tokens_again() -> None:
    """Megatron's `moe` holds dispatch and combine; `moe_act` is the activation alone."""
    times = []
    for modules in ("", "selective: moe_act", "selective: moe"):
        found = row(**BRIDGE, recompute=modules)
        assert found.layout.recompute[0] == (RECOMPUTE_SELECTIVE if modules else RECOMPUTE_NONE)
        times.append(float(time_step(compile_row(found), PRIOR).ep_s[0]))
    assert times[0] == times[1]
    assert times[2] == pytest.approx(1.5 * times[0])


def test_a_balanced_gate_sends_a_token_to_neighbours() -> None:
    """8 of 256 experts side by side lie on 2 of 64 ranks and on 1 of 8 nodes; drawn at random from
    4 of 8 groups they lie on nearly as many ranks as there are experts, and on 3.6 nodes."""
    fake = compile_row(row(n_accel="256", notes="balanced gate, no gradient clipping"))
    real = compile_row(row(n_accel="256"))
    assert fake.once_a_rank[0] * 8 == 2
    assert fake.once_a_node[0] * 8 == 1
    assert real.once_a_rank[0] * 8 == pytest.approx(32 * (1 - (31 / 32) ** 8))
    assert real.once_a_node[0] * 8 == pytest.approx(4 * (1 - (3 / 4) ** 8))
    assert np.all(real.once_a_node <= 4 / 8)
