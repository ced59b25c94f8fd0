"""Exports: every target takes the plans it says it takes, whole, and says what it cannot."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from launchers import small_train_plan
from serve_plans import serve_plan

from weftline.errors import InputError
from weftline.launch.check import check_files, check_folder
from weftline.launch.export import Exported, export_plan, write_folder
from weftline.launch.registry import targets
from weftline.serve.engine.config import ServingConfig
from weftline.serve.search.launch import launch_settings
from weftline.spec import Plan, ServePlan
from weftline.spec.rank_map import RankMap
from weftline.spec.serialize import plan_to_json

TRAIN = [name for name, target in targets().items() if "train" in target.kinds]
SERVE = [name for name, target in targets().items() if "serve" in target.kinds]
SETTINGS: dict[str, dict[str, str]] = {
    "hyperpod": {"instance": "p5.48xlarge"}, "aws-batch": {"instance": "p5.48xlarge"},
    "parallelcluster": {"instance": "p5.48xlarge"},
    "jobset": {"queue": "q", "levels": "block,rack"},
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Plan:
    return small_train_plan()


def rack_plan(small: Plan) -> Plan:
    """144 chips in two racks of 18 hosts: tp 4, cp 2, pp 9, dp 2."""
    layout = replace(small.layout, tp=4, cp=2, pp=9, dp=2, zero=1, shard=4, num_micro_batches=32,
                     micro_batch=1)  # fmt: skip
    first = small.cluster.levels[0]
    levels = (replace(first, name="rack", kind="switch", size=72),
              replace(first, name="scale-out", kind="clos", size=144))  # fmt: skip
    cluster = replace(small.cluster, accelerator="gb200-nvl72", chips=144, chips_per_host=4,
                      levels=levels)  # fmt: skip
    own = RankMap(shape=(2, 18, 4), runs=((0, 1, 144),), physical={}, exchange_s=0.0, jax_s=None,
                  basis="test", tiers=("rack", "host", "chip"))  # fmt: skip
    return replace(small, layout=layout, cluster=cluster, rank_map=own)


def tpu_plan(small: Plan) -> Plan:
    cluster = replace(small.cluster, accelerator="tpu-v5p", chips_per_host=4)
    return replace(small, cluster=cluster, framework="maxtext", price=None)


def exported(plan: Plan | ServePlan, to: str, folder: Path, **more: Any) -> Exported:
    path = folder / "plan.json"
    path.write_text(plan_to_json(plan), encoding="utf-8")
    settings = {**SETTINGS.get(to, {}), **more.pop("settings", {})}
    return export_plan(path, to, image="registry/image:1", settings=settings, **more)


@pytest.mark.parametrize("to", [t for t in TRAIN if t != "tpu"])
@pytest.mark.parametrize("which", ["small", "rack"])
def test_a_training_plan_passes_its_targets_check(
    small: Plan, to: str, which: str, tmp_path: Path
) -> None:
    plan = small if which == "small" else rack_plan(small)
    done = exported(plan, to, tmp_path)
    assert check_files(to, done.written.files) == []
    write_folder(done, tmp_path / "out")
    assert check_folder(tmp_path / "out").findings == []
    for name in done.written.programs:
        assert (tmp_path / "out" / name).stat().st_mode & 0o111
        assert subprocess.run(["bash", "-n", str(tmp_path / "out" / name)]).returncode == 0  # noqa: PLW1510


def test_a_tpu_plan_becomes_a_queued_resource(small: Plan, tmp_path: Path) -> None:
    done = exported(tpu_plan(small), "tpu", tmp_path)
    assert "--accelerator-type v5p-8" in done.written.files["create.sh"]
    # Ranks 0..3 run on chips 2, 1, 3, 0 of a line of four.
    mesh = json.loads(done.written.files["mesh.json"])
    assert mesh["coordinates"] == [[2, 0, 0], [1, 0, 0], [3, 0, 0], [0, 0, 0]]
    with pytest.raises(InputError, match="is of TPUs, the plan is for h100-sxm"):
        exported(small, "tpu", tmp_path)


LAYOUTS = {
    "one host": {"tp": 4, "pp": 1, "dp": 1, "ep": 1},
    "two hosts": {"tp": 8, "pp": 2, "dp": 1, "ep": 1},
    "experts": {"tp": 1, "pp": 1, "dp": 8, "ep": 8},
    "pools": {"tp": 4, "pp": 1, "dp": 1, "ep": 1, "prefill_workers": 1, "decode_workers": 2},
}


@pytest.mark.parametrize("to", SERVE)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_serving_plan_passes_its_targets_check(
    to: str, layout: dict[str, int], tmp_path: Path
) -> None:
    engine = to if to in ("sglang", "trtllm") else "vllm"
    done = exported(serve_plan(engine=engine, layout=layout), to, tmp_path)
    assert check_files(to, done.written.files) == []


def test_serving_numbers_are_the_plans(tmp_path: Path) -> None:
    """24 requests/s over 4 replicas are 6 each; 50 running at 5 a replica are 60 at 6."""
    files = exported(serve_plan(), "lws", tmp_path).written.files
    numbers = json.loads(files["scaling.json"])
    assert numbers["requests_per_s_a_replica_at_most"] == 6.0
    assert numbers["scale_up_above_running_requests_a_replica"] == 60
    hpa = yaml.safe_load(files["hpa.yaml"])["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (4, 5)
    assert hpa["metrics"][0]["pods"]["target"]["averageValue"] == "60"
    keda = exported(serve_plan(), "lws", tmp_path, settings={"autoscaler": "keda"})
    triggers = yaml.safe_load(keda.written.files["keda.yaml"])["spec"]["triggers"]
    assert [t["metadata"]["threshold"] for t in triggers] == ["60", "1"]


# --- what stands where --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "file", "said"),
    [("vllm", "serve.sh", ("--max-num-seqs 32", "--data-parallel-size 8",
                           "--speculative-config")),
     ("sglang", "serve.sh", ("--max-running-requests 256", "--speculative-num-steps 2")),
     ("trtllm", "llm.yaml", ("decoding_type: MTP", "free_gpu_memory_fraction: 0.9"))],
)  # fmt: skip
def test_engines_start_with_what_was_simulated(
    engine: str, file: str, said: tuple[str, ...], tmp_path: Path
) -> None:
    """Sequences of eight attention ranks together are an eighth on each where an engine counts by
    rank, and settings that no flag of ours writes are the plan's."""
    config = ServingConfig(
        model="deepseek-v3", chip="b200", engine=engine, dp=8, ep=8, max_batch=256,
        gemm_dtype="fp8", spec_method="mtp", spec_tokens=2,
    )  # fmt: skip
    plan = serve_plan(engine=engine, layout={"tp": 1, "pp": 1, "dp": 8, "ep": 8})
    plan = replace(plan, fleet=replace(plan.fleet, max_batch=256), launch=launch_settings(config))
    text = exported(plan, engine, tmp_path).written.files[file]
    assert all(words in text.replace("'", "") for words in said), text


def test_slurm_keeps_racks_whole_where_it_can(small: Plan, tmp_path: Path) -> None:
    new = exported(rack_plan(small), "slurm", tmp_path).written
    assert "#SBATCH --segment=18" in new.files["job.sbatch"]
    old = exported(rack_plan(small), "slurm", tmp_path, settings={"slurm": "22.05"}).written
    assert "--segment" not in old.files["job.sbatch"]
    assert any("22.05 has no --segment" in note for note in old.notes)


def test_kueue_gets_the_rack_as_a_slice(small: Plan, tmp_path: Path) -> None:
    files = exported(rack_plan(small), "jobset", tmp_path).written.files
    job = next(d for d in yaml.safe_load_all(files["job.yaml"]) if d["kind"] == "JobSet")
    spec = job["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert spec["template"]["metadata"]["annotations"] == {
        "kueue.x-k8s.io/podset-required-topology": "block",
        "kueue.x-k8s.io/podset-slice-required-topology": "rack",
        "kueue.x-k8s.io/podset-slice-size": "18",
    }
    levels = next(d for d in yaml.safe_load_all(files["kueue.yaml"]) if d["kind"] == "Topology")
    assert [lv["nodeLabel"] for lv in levels["spec"]["levels"]] == [
        "block", "rack", "kubernetes.io/hostname"]  # fmt: skip


def test_fabrics_bring_their_environment(small: Plan, tmp_path: Path) -> None:
    def env(plan: Plan, **settings: str) -> str:
        return exported(plan, "torchrun", tmp_path, settings=settings).written.files["job.env"]

    rack = env(rack_plan(small))
    assert "NCCL_MNNVL_ENABLE:-1" in rack
    assert "NCCL_CUMEM_ENABLE:-1" in rack
    efa = env(rack_plan(small), fabric="efa")
    assert 'NCCL_NET="${NCCL_NET:-AWS Libfabric}"' in efa
    assert "FI_PROVIDER:-efa" in efa
    assert "FI_PROVIDER" not in env(rack_plan(small), fabric="roce")
    assert "NCCL_NET" not in env(replace(small, cluster=replace(small.cluster, chips_per_host=8)))
    with pytest.raises(InputError, match="unknown fabric `myrinet`"):
        env(rack_plan(small), fabric="myrinet")


def test_every_row_of_the_environment_has_a_source() -> None:
    from weftline.launch.environment import variables

    assert len(variables()) > 15
    for row in variables():
        assert row.source
        assert row.why
        assert row.date.startswith("2026-")


def test_every_target_says_what_it_maps_and_where_that_was_read() -> None:
    assert len(targets()) == 24
    for target in targets().values():
        assert target.maps
        assert target.version
        assert target.source
        assert target.how


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "more", "expected"),
    [
        ("slrum", {}, "unknown target `slrum`"),
        ("slurm", {"settings": {"partitoin": "p"}}, "unknown setting of slurm `partitoin`"),
        ("slurm", {"settings": {"slurm": "new"}}, "`new` is no Slurm version"),
        ("slurm", {"settings": {"distribution": "arbitrary"}}, "which a hostfile cannot say"),
        ("vllm", {}, "vLLM takes plans for serving, not for training"),
        ("torchrun", {"hosts": ["a"]}, "1 different host names for the 2 hosts"),
        ("torchrun", {"hosts": ["a", "a"]}, "1 different host names for the 2 hosts"),
        ("torchrun", {"name": "Bad Name"}, "`Bad Name` cannot name a job"),
        ("jobset", {"settings": {"levels": "kubernetes.io/hostname,rack"}},
         "is no level above another"),
        ("hyperpod", {"settings": {"instance": "m5.large"}}, "is no EC2 instance of this plan"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused(
    small: Plan, to: str, more: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        exported(small, to, tmp_path, **more)
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


def test_containers_want_an_image(small: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_to_json(small))
    with pytest.raises(InputError, match="the target runs containers"):
        export_plan(path, "jobset")


def test_a_plan_of_a_newer_format_is_refused(small: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_to_json(replace(small, format=99)))
    with pytest.raises(InputError, match="plan format 99 is not known"):
        export_plan(path, "slurm")


def test_a_folder_appears_whole_or_not_at_all(
    small: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = exported(small, "slurm", tmp_path)
    write_folder(done, tmp_path / "job")
    before = {p.name: p.read_text() for p in (tmp_path / "job").iterdir()}
    real, written = Path.write_text, []

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        written.append(self)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    for folder in ("job", "new"):
        written.clear()
        with pytest.raises(InputError, match="No space left on device"):
            write_folder(done, tmp_path / folder)
    monkeypatch.undo()
    assert {p.name: p.read_text() for p in (tmp_path / "job").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["job", "plan.json"]


def test_an_earlier_export_is_replaced_and_nothing_else(small: Plan, tmp_path: Path) -> None:
    write_folder(exported(small, "slurm", tmp_path), tmp_path / "job")
    write_folder(exported(small, "mpi", tmp_path), tmp_path / "job")
    assert (tmp_path / "job" / "run.sh").exists()
    assert not (tmp_path / "job" / "job.sbatch").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="there is something else already"):
        write_folder(exported(small, "mpi", tmp_path), tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
