"""The same plan.json under torchrun, Slurm, Open MPI and Ray: the same map, rank by rank.

Each launcher starts what `weftline export` wrote, and numbers processes in its own way; the plan's
map puts ranks 2, 1, 3, 0 on the chips 0, 1, 2, 3 of two hosts, which none of them does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from launchers import finished, free_port, missing, slurm, small_train_plan, write_plan_file
from placed import SAID

from weftline.launch.export import export_plan, write_folder
from weftline.launch.place import chips_of

RANK = Path(__file__).parents[1] / "support" / "placed.py"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One plan.json for all launchers."""
    return write_plan_file(tmp_path_factory.mktemp("plan"))


def exported(
    plan: Path, to: str, folder: Path, hosts: tuple[str, ...] = (), **settings: str
) -> Path:
    """The folder of an exported job whose processes say where they are."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    job = folder / to
    command = ["python3", str(RANK), str(job), "-", str(out)]
    done = export_plan(plan, to, command=command, hosts=hosts, settings=settings)
    write_folder(done, job)
    return job


def said(folder: Path, restart: int = 0) -> dict[tuple[str, int], int]:
    """(host, local index) -> rank of every process that was placed."""
    lines = [json.loads(p.read_text()) for p in (folder / "out").glob(f"*.{restart}.json")]
    assert len({(line["MASTER_ADDR"], line["MASTER_PORT"]) for line in lines}) == 1, lines
    return {(line["host"], line["local"]): int(line["RANK"]) for line in lines}


def by_slot(found: dict[tuple[str, int], int], hosts: list[str]) -> dict[tuple[int, int], int]:
    return {(hosts.index(host), local): rank for (host, local), rank in found.items()}


def environment(**more: str) -> dict[str, str]:
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("WEFTLINE", "SLURM", "OMPI", "PMIX", "RANK", "TORCHELASTIC"))
    }
    return {**clean, "PATH": f"{BIN}:{os.environ['PATH']}", **more}


def test_torchrun(plan: Path, tmp_path: Path) -> None:
    """Two agents of two, started in the wrong order of hosts: the exported run.sh on each."""
    job = exported(plan, "torchrun", tmp_path)
    port, meet = free_port(), free_port()
    text = (job / "run.sh").read_text().replace("29500", str(port)).replace("29400", str(meet))
    (job / "run.sh").write_text(text)
    agents = [
        subprocess.Popen([str(job / "run.sh"), str(node), "127.0.0.1"],
                         env=environment(WEFTLINE_HOST=name, OMP_NUM_THREADS="1"),
                         stderr=subprocess.PIPE, text=True)
        for node, name in ((0, "n66"), (1, "n7"))
    ]  # fmt: skip
    for agent in agents:
        assert agent.communicate(timeout=180)[1] is not None
        assert agent.returncode == 0
    assert by_slot(said(tmp_path), ["n66", "n7"]) == SAID


@pytest.mark.skipif(bool(missing("mpirun")), reason="Open MPI is not installed (openmpi-bin)")
def test_open_mpi(plan: Path, tmp_path: Path) -> None:
    """mpirun with four processes, two of each `host` by the local index it is given."""
    job = exported(plan, "mpi", tmp_path, hosts=("h0", "h1"))
    # One machine plays both hosts: its name stands twice, and a wrapper says which one it is.
    (job / "hostfile").write_text("localhost slots=4\n")
    wrap = job / "as_host.sh"
    wrap.write_text(
        "#!/bin/bash\nexport WEFTLINE_HOST=h$((OMPI_COMM_WORLD_RANK / 2)) "
        'WEFTLINE_LOCAL_RANK=$((OMPI_COMM_WORLD_RANK % 2))\nexec "$@"\n'
    )
    wrap.chmod(0o755)
    script = (job / "run.sh").read_text()
    script = script.replace("python3 weftline_place.py", "./as_host.sh python3 weftline_place.py")
    (job / "run.sh").write_text(script)
    done = subprocess.run(
        [str(job / "run.sh"), "--allow-run-as-root", "--oversubscribe", "--mca",
         "btl_tcp_if_include", "lo", "--mca", "oob_tcp_if_include", "lo"],
        env=environment(WEFTLINE_RENDEZVOUS=f"127.0.0.1:{free_port()}"), capture_output=True,
        text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert by_slot(said(tmp_path), ["h0", "h1"]) == SAID


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A Slurm cluster of four nodes, for every test of this module."""
    lacks = missing("slurmctld", "slurmd", "sbatch", "srun")
    if lacks or os.geteuid() != 0:
        pytest.skip(f"Slurm is not installed ({lacks}): apt-get install slurmctld slurmd"
                    if lacks else "slurmd runs as root only")  # fmt: skip
    folder = Path("/tmp") / f"weft-slurm-{os.getpid()}"  # noqa: S108  (a short path: socket names)
    folder.mkdir()
    try:
        with slurm(folder) as env:
            yield env
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def submit(job: Path, env: dict[str, str]) -> str:
    done = subprocess.run(["sbatch", "--parsable", "job.sbatch"], cwd=job, env=env,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SLURM = {"slurm": "22.05", "partition": "p", "gres": "none", "time": "0:05"}


@pytest.mark.parametrize("hosts", [(), ("n3", "n1")], ids=["any", "named"])
def test_slurm(plan: Path, tmp_path: Path, cluster: dict[str, str], hosts: tuple[str, ...]) -> None:
    """sbatch of the exported job; with names, planned host 0 is n3 although Slurm starts at n1."""
    job = exported(plan, "slurm", tmp_path, hosts=hosts, **SLURM)
    env = {**environment(), "SLURM_CONF": cluster["SLURM_CONF"]}
    assert finished(env, submit(job, env)) == "COMPLETED", [
        p.read_text() for p in job.glob("*.out")
    ]
    found = said(tmp_path)
    assert by_slot(found, list(hosts) or sorted({host for host, _ in found})) == SAID


def test_slurm_numbers_ranks_itself_by_a_hostfile(tmp_path: Path, cluster: dict[str, str]) -> None:
    """Without place.py: an arbitrary distribution gives SLURM_PROCID the plan's hosts."""
    turned = write_plan_file(tmp_path, small_train_plan((2, 0, 3, 1)))
    job = tmp_path / "job"
    command = ["bash", "-c", 'echo "$SLURM_PROCID $SLURMD_NODENAME $SLURM_LOCALID"']
    write_folder(export_plan(turned, "slurm", command=command, hosts=("n2", "n0"),
                             settings={**SLURM, "distribution": "arbitrary"}), job)  # fmt: skip
    text = (job / "job.sbatch").read_text()
    (job / "job.sbatch").write_text(text.replace("python3 weftline_place.py plan.json -- ", ""))
    env = {**environment(), "SLURM_CONF": cluster["SLURM_CONF"]}
    number = submit(job, env)
    assert finished(env, number) == "COMPLETED"
    lines = next(job.glob("*.out")).read_text().split("\n")
    told = sorted(line for line in lines if line.count(" ") == 2 and line[:1].isdigit())
    # Chips 2 and 3 are on planned host 1, which is n0; local indices in the order of the ranks.
    assert told == ["0 n0 0", "1 n2 0", "2 n0 1", "3 n2 1"]


def test_slurm_ends_a_job_with_a_wrong_host_with_one_line(
    plan: Path, tmp_path: Path, cluster: dict[str, str]
) -> None:
    job = exported(plan, "slurm", tmp_path, hosts=("n0", "n1"), **SLURM)
    (job / "hosts.txt").write_text("n0\nn2\n")
    env = {**environment(), "SLURM_CONF": cluster["SLURM_CONF"]}
    began = time.monotonic()
    number = submit(job, env)
    assert finished(env, number) == "FAILED"
    assert time.monotonic() - began < 10 + 5  # Slurm's own start and end beside the ten seconds
    lines = [line for p in job.glob("*.out") for line in p.read_text().splitlines()
             if line.startswith("weftline: ")]  # fmt: skip
    assert set(lines) == {"weftline: host n1 is not in the plan, which names n0, n2"}
    assert not list((tmp_path / "out").iterdir())


RAY_PYTHON = os.environ.get("WEFTLINE_RAY_PYTHON") or (sys.executable if find_spec("ray") else "")


@pytest.mark.slow
@pytest.mark.skipif(not RAY_PYTHON, reason="`make test-launchers` installs Ray (285 MB)")
def test_ray(plan: Path, tmp_path: Path) -> None:
    """Three nodes in a network namespace; the driver takes two of them by their labels."""
    lacks = missing("unshare", "ip")
    if lacks or os.geteuid() != 0:
        pytest.skip(f"a network namespace needs root and {lacks or 'unshare'}")
    job = exported(plan, "ray", tmp_path, hosts=("beta", "alpha"), gpus="none", cpus="1")
    code = (
        "import os, runpy, sys\nfrom ray.cluster_utils import Cluster\n"
        "c = Cluster(initialize_head=True, head_node_args={'num_cpus': 0})\n"
        "for name in ('alpha', 'gamma', 'beta'):\n"
        "    c.add_node(num_cpus=2, labels={'weftline-host': name})\n"
        "os.environ['RAY_ADDRESS'] = c.address\nos.environ['WEFTLINE_RAY_WAIT_S'] = '60'\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" -c "$1" "$2"',
         RAY_PYTHON, code, str(job / "driver.py")],
        env=environment(RAY_USAGE_STATS_ENABLED="0"), capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert by_slot(said(tmp_path), ["beta", "alpha"]) == SAID


@pytest.mark.slow
def test_a_restart_under_torchrun_takes_the_same_ranks(plan: Path, tmp_path: Path) -> None:
    """The first start fails after it was placed; torchrun's second start has the map again."""
    job = exported(plan, "torchrun", tmp_path)
    meet, port = free_port(), free_port()
    env = environment(WEFTLINE_RENDEZVOUS=f"127.0.0.1:{meet}", FAIL_BEFORE="1", OMP_NUM_THREADS="1")
    agents = [
        subprocess.Popen(
            ["torchrun", "--nnodes", "2", "--nproc-per-node", "2", "--max-restarts", "1",
             "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "j",
             "--monitor-interval", "0.2", str(RANK), str(job), str(job / "plan.json"),
             str(tmp_path / "out")],
            env={**env, "WEFTLINE_HOST": name}, stderr=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]  # fmt: skip
    errors = [agent.communicate(timeout=90)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], errors
    first, second = said(tmp_path, 0), said(tmp_path, 1)
    assert sorted(second.values()) == [0, 1, 2, 3]
    for found in (first, second):  # hosts in the order that torchrun gave them in that start
        orders = [by_slot(found, list(names)) for names in (("a", "b"), ("b", "a"))]
        assert SAID in orders


@pytest.mark.slow
def test_the_example_runs_as_its_page_says(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "launch"
    blocks = re.findall(r"```sh\n(.*?)```", (example / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    shutil.copy(example / "where.py", tmp_path)
    done = subprocess.run(["bash", "-euc", blocks[0]], cwd=tmp_path, env=environment(),
                          capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = re.findall(r"rank (\d) of 4, chip (\d), rank 0 at (\S+)", done.stdout)
    wanted = chips_of(json.loads((tmp_path / "plan.json").read_text()))
    assert {int(rank): int(chip) for rank, chip, _ in said} == dict(enumerate(wanted))
    assert len({where for *_, where in said}) == 1
