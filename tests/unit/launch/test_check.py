"""`export --check`: mistakes seeded into exported files are found, each with its place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from launchers import small_train_plan
from serve_plans import serve_plan

from weftline.launch.check.run import report_of
from weftline.launch.check.schema import schemas
from weftline.launch.export import export_plan
from weftline.spec import Plan
from weftline.spec.rank_map import RankMap
from weftline.spec.serialize import plan_to_json

SETTINGS = {"jobset": {"queue": "q", "levels": "block,rack"},
            "hyperpod": {"instance": "p5.48xlarge"}}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Sound exports by target."""
    folder = tmp_path_factory.mktemp("exports")
    train = small_train_plan()
    racks = RankMap(shape=(2, 2, 2), runs=((0, 1, 8),), physical={}, exchange_s=0.0, jax_s=None,
                    basis="test", tiers=("rack", "host", "chip"))  # fmt: skip
    layout = replace(train.layout, dp=8, tp=1, pp=1, cp=1, shard=8, num_micro_batches=8,
                     micro_batch=1)  # fmt: skip
    wide = replace(train, layout=layout, rank_map=racks, cluster=replace(train.cluster, chips=8))
    plans: dict[str, Plan | object] = {"train": wide, "serve": serve_plan()}
    for name, plan in plans.items():
        (folder / f"{name}.json").write_text(plan_to_json(plan))  # type: ignore[arg-type]
    found = {}
    for to in ("jobset", "slurm", "skypilot", "hyperpod", "torchrun", "vllm", "lws", "kserve",
               "kuberay", "megatron"):  # fmt: skip
        kind = "serve" if to in ("vllm", "lws", "kserve") else "train"
        done = export_plan(folder / f"{kind}.json", to, image="i:1", settings=SETTINGS.get(to, {}))
        found[to] = dict(done.written.files)
    return found


MISTAKES = {
    "a misspelt field": ("jobset", "job.yaml", "backoffLimit:", "backofLimit:",
                         "unknown field `spec.replicatedJobs[0].template.spec.backofLimit`",
                         "backoffLimit"),
    "a misspelt word of a pod": ("jobset", "job.yaml", "restartPolicy: Never",
                                 "restartPolicy: Nevr", "restartPolicy is `Nevr`", "Never"),
    "a misspelt completion mode": ("jobset", "job.yaml", "completionMode: Indexed",
                                   "completionMode: Indexd", "completionMode is `Indexd`",
                                   "Indexed"),
    "text for a number": ("jobset", "job.yaml", "parallelism: 4", "parallelism: four",
                          "is not of type 'integer'", ""),
    "the hostname as two levels": ("jobset", "kueue.yaml", "nodeLabel: block",
                                   "nodeLabel: kubernetes.io/hostname",
                                   "must be unique", ""),
    "a slice without a size": ("jobset", "job.yaml",
                               "kueue.x-k8s.io/podset-slice-size: '2'", "other: '2'",
                               "a slice topology needs a slice size", "slice-size"),
    "fewer pods than the plan": ("jobset", "job.yaml", "parallelism: 4", "parallelism: 2",
                                 "2 pods of 2 chips for the plan's 8 ranks", ""),
    "replicas beside scaling": ("kserve", "serve.yaml", "  scaling:", "  replicas: 4\n  scaling:",
                                "replicas and scaling are mutually exclusive", ""),
    "a required field gone": ("lws", "serve.yaml", "leaderWorkerTemplate:", "workerTemplate:",
                              "leaderWorkerTemplate", ""),
    "a misspelt flag of vLLM": ("vllm", "serve.sh", "--max-num-seqs", "--max-nun-seqs",
                                "vllm 0.32.0 knows no --max-nun-seqs", "--max-num-seqs"),
    "a word for a number in a flag": ("lws", "serve.yaml", "--max-num-seqs 256",
                                      "--max-num-seqs many", "wants a whole number", ""),
    "a choice that a flag has not": ("vllm", "serve.sh", "--no-enable-prefix-caching",
                                     "--kv-cache-dtype fp9", "no choice `fp9`", ""),
    "a misspelt option of sbatch": ("slurm", "job.sbatch", "--ntasks-per-node",
                                    "--ntask-per-node", "sbatch knows no --ntask-per-node",
                                    "--ntasks-per-node"),
    "an option after the first command": ("slurm", "job.sbatch", "set -euo pipefail",
                                          "set -euo pipefail\n#SBATCH --qos=high",
                                          "after the first command", ""),
    "a misspelt key of SkyPilot": ("skypilot", "task.yaml", "num_nodes:", "num_node:",
                                   "SkyPilot knows no `num_node`", "num_nodes"),
    "a misspelt key of HyperPod": ("hyperpod", "hyperpod.json", '"replica_count"',
                                   '"replicas_count"', "replicas_count", "replica_count"),
    "fewer processes than ranks": ("torchrun", "run.sh", "--nnodes 4", "--nnodes 3",
                                   "3 x 2 processes for the plan's 8 ranks", ""),
    "a script cut short": ("torchrun", "run.sh", 'cd "$(dirname "$0")"', 'cd "$(dirname "$0"',
                           "no shell script", ""),
    "an indent lost": ("kuberay", "job.yaml", "  rayClusterSpec:", " rayClusterSpec:",
                       "no YAML", ""),
    "a flag that Megatron has not": ("megatron", "megatron.args", "--micro-batch-size",
                                     "--microbatch-size", "knows no --microbatch-size",
                                     "--micro-batch-size"),
    "a mount of nothing": ("jobset", "job.yaml", "- name: shm\n", "- name: shn\n",
                           "which is no volume of the pod", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_seeded_mistake_is_found(name: str, files: dict[str, dict[str, str]]) -> None:
    to, file, sound, broken, expected, hint = MISTAKES[name]
    assert report_of(to, files[to]).findings == []
    text = files[to][file]
    assert sound in text, text[-3000:]
    found = report_of(to, {**files[to], file: text.replace(sound, broken, 1)}).findings
    said = [f for f in found if expected in f.what]
    assert said, found
    assert said[0].where.startswith(file) or said[0].where.startswith(file.split("/")[0])
    assert hint in said[0].hint


def test_a_mistake_is_placed_at_its_line(files: dict[str, dict[str, str]]) -> None:
    text = files["jobset"]["job.yaml"].replace("restartPolicy: Never", "restartPolicy: Nevr")
    line = 1 + text.splitlines().index(
        next(row for row in text.splitlines() if "restartPolicy: Nevr" in row)
    )
    found = report_of("jobset", {**files["jobset"], "job.yaml": text}).findings
    assert f"job.yaml:{line}" in {f.where for f in found}


def test_the_schemas_are_strict() -> None:
    """Every CRD refuses an unknown field at the top, which as published they do not."""
    from jsonschema import Draft202012Validator

    for (api, kind), schema in schemas().items():
        value = {"apiVersion": api, "kind": kind, "metadata": {}, "speck": {}}
        errors = list(Draft202012Validator(schema).iter_errors(value))
        assert any("speck" in e.message for e in errors), kind


def test_cel_rules_run(files: dict[str, dict[str, str]]) -> None:
    said = " ".join(report_of("kserve", files["kserve"]).checks)
    assert "CEL rules" in said
    assert "CRD schema, 0 CEL" not in said


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    from weftline.errors import InputError
    from weftline.launch.check import check_folder

    with pytest.raises(InputError, match="no exported job"):
        check_folder(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({"format": 1, "target": "slurm",
                                                      "sha256": {"gone.txt": ""}}))  # fmt: skip
    with pytest.raises(InputError, match=r"gone.txt is gone"):
        check_folder(tmp_path)
