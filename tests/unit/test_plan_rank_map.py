"""The rank map of a plan: every rank on a chip of its own, placed by cost, kept in the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from weftline.errors import InputError
from weftline.fabric import cluster_of
from weftline.model import load_model
from weftline.plan.search.rank_map import rank_map_of, torus_of
from weftline.plan.step.frameworks import framework_for, recipe
from weftline.spec import Layout, RankMap
from weftline.spec.rank_map import runs_of
from weftline.spec.serialize import read_plan, write_plan


def map_for(chip: str, layout: Layout, model: str = "llama-3.1-8b") -> RankMap | None:
    cluster = cluster_of(chip, layout.chips)
    vendor = {"tpu-v5p": "google", "tpu-v5e": "google", "trainium2": "aws"}.get(chip, "nvidia")
    frame = recipe(framework_for("auto", vendor))
    return rank_map_of(load_model(model), cluster, frame, layout, seq_len=8192, precision="bf16")


@pytest.mark.parametrize(
    ("chip", "layout"),
    [
        ("tpu-v5p", Layout(tp=4, dp=64, num_micro_batches=4)),
        ("tpu-v5p", Layout(tp=2, cp=4, dp=16, pp=4, num_micro_batches=8)),
        ("trainium2", Layout(tp=8, dp=8)),
        ("tpu-v5e", Layout(dp=32, zero=3)),
    ],
)
def test_ranks_fill_the_torus_and_lose_nothing_to_jax(chip: str, layout: Layout) -> None:
    found = map_for(chip, layout)
    assert found is not None
    assert sorted(found.chips) == list(range(layout.chips))
    assert found.jax_s is None or found.exchange_s <= found.jax_s * (1 + 1e-9)
    spans = {name: np.prod([s[1] for s in parts]) for name, parts in found.physical.items()}
    assert np.prod(list(spans.values())) == layout.chips


def test_the_trn2_ultraserver_is_one_torus_with_thin_links_along_z() -> None:
    torus = torus_of(cluster_of("trainium2", 64))
    assert torus is not None
    assert torus.grid is not None
    assert torus.grid.shape == (4, 4, 4)
    assert sorted(set(torus.bandwidth_bytes_per_s.tolist())) == [64e9, 128e9]


def test_chips_behind_switches_have_a_map_that_loses_nothing_to_rank_order() -> None:
    found = map_for("h100-sxm", Layout(tp=8, dp=8))
    assert found is not None
    assert found.shape == (8, 8)
    assert found.tiers == ("host", "chip")
    assert found.shares["tp"] == "host"
    assert found.rank_order_s is not None
    assert found.exchange_s <= found.rank_order_s * (1 + 1e-9)
    assert sorted(found.chips) == list(range(64))


def test_a_map_of_many_chips_stays_small() -> None:
    """Ranges, not a list: a plan of 16,384 chips whose ranks lie in order is one range."""
    found = map_for("h100-sxm", Layout(tp=8, dp=128, pp=16, num_micro_batches=32), "llama-3.1-70b")
    assert found is not None
    assert len(found.chips) == 16384
    assert len(found.runs) <= 2048
    assert [found.chip(r) for r in (0, 1, 8191, 16383)] == [
        found.chips[r] for r in (0, 1, 8191, 16383)]  # fmt: skip


def test_groups_that_fill_no_rack_leave_chips_spare() -> None:
    """Expert groups of 64 on racks of 72: eight chips of each rack stay free."""
    found = map_for("gb200-nvl72", Layout(tp=1, dp=128, ep=64), "mixtral-8x7b")
    assert found is not None
    groups = np.asarray(found.chips).reshape(-1, 64) // 72
    assert (groups == groups[:, :1]).all()
    assert found.spare_chips == 16


def test_a_map_that_uses_a_chip_twice_is_refused() -> None:
    found = map_for("trainium2", Layout(tp=8, dp=8))
    assert found is not None
    with pytest.raises(InputError, match="twice"):
        dataclasses.replace(found, runs=runs_of([found.chips[1], *found.chips[1:]]))


def test_a_plan_keeps_its_map_in_the_file(tmp_path: Path) -> None:
    from weftline.plan import plan_train
    from weftline.spec import Job

    job = Job(model="llama-3.1-8b", tokens=10**11, seq_len=8192, global_batch=256,
              accelerators=("tpu-v5p",), max_chips=64)  # fmt: skip
    plan = plan_train(job)
    write_plan(plan, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert again == plan
    assert again.rank_map is not None
    told = again.rank(5)
    assert told["chip"] == again.rank_map.chips[5]
    assert told["coordinate"] == ",".join(map(str, again.rank_map.coordinate(5)))
