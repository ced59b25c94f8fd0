"""The process group between real processes: right numbers, clear failures, nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from group_ranks import fuzzed, met, together

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402

from weftline.fabric import evaluate, parse_topology  # noqa: E402
from weftline.runtime.group.arena import Arena, Peer, RankMissingError, ended, host_here  # noqa: E402
from weftline.runtime.group.collectives import scheduled  # noqa: E402
from weftline.runtime.group.group import prepare, register  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compiled once, before ranks are forked."""
    prepare()


def fine(found: list[Any]) -> list[Any]:
    for one in found:
        if isinstance(one, Exception):
            raise one
    return found


@pytest.mark.parametrize(("ranks", "hosts"), [(4, 1), (3, 2)])
def test_all_families_types_and_sizes_share_one_memory(
    ranks: int, hosts: int, tmp_path: Path
) -> None:
    assert fine(together(ranks, tmp_path, fuzzed, 1, 120, 40_000, hosts=hosts)) == [120] * ranks


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "hosts", "cases"), [
    (2, 1, 3000), (3, 1, 2000), (4, 1, 3000), (2, 2, 500), (3, 2, 500), (4, 2, 500), (4, 4, 500),
])  # fmt: skip
def test_ten_thousand_random_collectives(
    ranks: int, hosts: int, cases: int, tmp_path: Path
) -> None:
    seed = int(os.environ.get("WEFTLINE_SEED", "2"))
    found = together(ranks, tmp_path, fuzzed, seed, cases, 300_000, hosts=hosts, timeout_s=1800)
    assert fine(found) == [cases] * ranks


def surface(store: Any, rank: int, ranks: int, backend: str) -> dict[str, Any]:
    """Every call torch's features make, on numbers that depend on the rank."""
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks,
                            timeout=timedelta(seconds=30))  # fmt: skip
    n, many = 1003, ranks
    x = torch.arange(n, dtype=torch.float32) * (rank + 1)
    out: dict[str, Any] = {}

    def kept(name: str, value: Any) -> None:
        out[name] = value.float().numpy().copy() if isinstance(value, torch.Tensor) else value

    for name in ("SUM", "PRODUCT", "MIN", "MAX"):
        y = x[:50].clone() / 50
        dist.all_reduce(y, op=getattr(dist.ReduceOp, name))
        kept(f"all_reduce {name}", y)
    for name in ("BAND", "BOR", "BXOR"):
        y = torch.tensor([rank + 1, 6, 5])
        dist.all_reduce(y, op=getattr(dist.ReduceOp, name))
        kept(f"all_reduce {name}", y)
    y = x.view(17, 59).t()
    dist.all_reduce(y)  # not dense
    kept("strided", y.contiguous())
    y = x.bfloat16()[:64]
    dist.all_reduce(y)
    kept("bf16", y)
    y = torch.complex(x, -x)
    dist.all_reduce(y)
    kept("complex", torch.view_as_real(y))
    y = x.clone()
    dist.reduce(y, dst=1)
    kept("reduce", y if rank == 1 else x)
    y = x.clone()
    dist.broadcast(y, src=many - 1)
    kept("broadcast", y)
    parts = [torch.empty(n) for _ in range(many)]
    dist.all_gather(parts, x)
    kept("all_gather", torch.stack(parts))
    whole = torch.empty(n * many)
    dist.all_gather_single(whole, x)
    kept("all_gather_single", whole)
    y = torch.empty(n)
    dist.reduce_scatter_single(y, torch.cat([x + r for r in range(many)]))
    kept("reduce_scatter_single", y)
    dist.reduce_scatter(y, [x * r for r in range(many)])
    kept("reduce_scatter", y)
    dist.scatter(y, [x + r for r in range(many)] if rank == 0 else None, src=0)
    kept("scatter", y)
    parts = [torch.empty(n) for _ in range(many)]
    dist.gather(x, parts if rank == 0 else None, dst=0)
    kept("gather", torch.stack(parts) if rank == 0 else x)
    given = torch.arange(many * (many + 1) // 2 * 3).float().view(-1, 3) + 100 * rank
    sizes = [r + 1 for r in range(many)]
    y = torch.empty((rank + 1) * many, 3)
    dist.all_to_all_single(y, given, [rank + 1] * many, sizes)
    kept("all_to_all_single", y)
    dist.barrier()
    objects: list[Any] = [None] * many
    dist.all_gather_object(objects, {"rank": rank, "text": "x" * rank})
    kept("objects", objects)
    ahead, behind = (rank + 1) % many, (rank - 1) % many
    big, y = x.repeat(2000), torch.empty(n * 2000)  # 8 MB: more than a letter box holds
    work = dist.batch_isend_irecv([dist.P2POp(dist.isend, big, ahead),
                                   dist.P2POp(dist.irecv, y, behind)])  # fmt: skip
    for one in work:
        one.wait()
    kept("exchange", y[::997])
    if rank == 0:
        dist.send(x, 1)
    elif rank == 1:
        dist.recv(y[:n], 0)
    kept("recv", y[:n] if rank == 1 else x)
    mesh = dist.device_mesh.init_device_mesh("cpu", (many,), mesh_dim_names=("d",))
    import torch.distributed._functional_collectives as functional

    kept("functional", functional.all_reduce(x, "sum", mesh["d"]) + 0)
    kept("functional gather", functional.all_gather_single(x[:4], 0, mesh["d"]) + 0)
    with dist._coalescing_manager():
        y, z = x.clone(), x * 2
        dist.all_reduce(y)
        dist.all_reduce(z)
    kept("coalesced", torch.stack([y, z]))
    dist.destroy_process_group()
    return out


def test_every_call_gives_what_gloo_gives(tmp_path: Path) -> None:
    register()
    found = {}
    for backend in ("gloo", "weftline"):
        (tmp_path / backend).mkdir()
        found[backend] = fine(together(2, tmp_path / backend, surface, backend))
    for mine, theirs in zip(found["weftline"], found["gloo"], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(mine[name], value, rtol=1e-6, err_msg=name)
            else:
                assert mine[name] == value


def in_order(store: Any, rank: int, ranks: int) -> bool:
    """Sums of numbers that round: those of rank 0, 1, 2, ... one after the other."""
    group = met(store, rank, ranks)
    right = True
    for dtype, code, kind in ((torch.float32, 0, np.float32), (torch.bfloat16, 2, np.uint16),
                              (torch.float16, 3, np.float16)):  # fmt: skip
        every = [torch.randn(5000, generator=torch.Generator().manual_seed(r)).to(dtype)
                 for r in range(ranks)]  # fmt: skip
        every[0][0], every[1][1] = float("inf"), float("nan")
        want = every[0]
        for other in every[1:]:
            want = want + other
        y = every[rank].clone()
        del kind
        group.run(group.program("all-reduce", 1), y.data_ptr(), y.data_ptr(), 5000,
                  y.element_size(), code)  # fmt: skip
        right &= torch.equal(torch.nan_to_num(y, nan=7.0), torch.nan_to_num(want, nan=7.0))
    return bool(right)


def test_sums_are_made_in_rank_order(tmp_path: Path) -> None:
    assert fine(together(3, tmp_path, in_order)) == [True] * 3


def refused(store: Any, rank: int, ranks: int) -> list[str]:
    register()
    dist.init_process_group("weftline", store=store, rank=rank, world_size=ranks)
    said = []
    for call in (
        lambda: dist.recv(torch.zeros(1)),
        lambda: dist.all_reduce(torch.zeros(2).to(torch.float8_e4m3fn)),
        lambda: dist.all_reduce(torch.zeros(2), op=dist._make_nccl_premul_sum(2.0)),
    ):
        try:
            call()
        except NotImplementedError as error:
            said.append(str(error))
    return said


def test_what_is_not_served_is_refused_by_name(tmp_path: Path) -> None:
    for said in fine(together(2, tmp_path, refused)):
        assert len(said) == 3
        assert all("process group `weftline` does not serve" in text for text in said)


def left_alone(store: Any, rank: int, ranks: int, how: str) -> tuple[str, float]:
    group = met(store, rank, ranks, timeout_s=1.0)
    group.barrier()
    if rank == 1:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(4)
        return "", 0.0
    begin = time.monotonic()
    x = np.ones(100_000, np.float32)
    try:
        group.run(group.program("all-reduce", 1), x.ctypes.data, x.ctypes.data, len(x), 4, 0)
    except RankMissingError as error:
        return str(error), time.monotonic() - begin
    return "no error", 0.0


@pytest.mark.parametrize(("how", "words"), [
    ("dies", "rank 1 (process {pid}) has ended"), ("sleeps", "rank 1 (process {pid}) did not come"),
])  # fmt: skip
def test_who_does_not_come_is_named(how: str, words: str, tmp_path: Path) -> None:
    found = together(3, tmp_path, left_alone, how, timeout_s=10 if how == "sleeps" else 5)
    for said, took in (found[0], found[2]):
        before, after = words.split("{pid}")
        assert before in said
        assert after in said
        assert took < 3


def absent(store: Any, rank: int, ranks: int) -> str:
    if rank == 1:
        return ""
    try:
        met(store, rank, ranks, timeout_s=0.5)
    except RankMissingError as error:
        return str(error)
    return "no error"


def test_who_does_not_join_is_named(tmp_path: Path) -> None:
    found = fine(together(2, tmp_path, absent))
    assert "rank 1 did not come within 0 s" in found[0] or "rank 1 did not come" in found[0]


def killed(store: Any, rank: int, ranks: int, ready: Path) -> None:
    register()
    dist.init_process_group("weftline", store=store, rank=rank, world_size=ranks)
    group: Any = dist.distributed_c10d._get_default_group()
    x = torch.ones(1 << 20)
    assert group.share(x)
    (ready / str(os.getpid())).touch()
    while True:
        dist.all_reduce(x)


def test_a_kill_of_all_in_the_middle_leaves_no_segment(tmp_path: Path) -> None:
    shared = Path("/dev/shm")  # noqa: S108  (what must stay as it is)
    before = set(shared.iterdir())
    pids: list[int] = []

    def wait() -> None:
        while len(pids) < 2:
            pids[:] = [int(p.name) for p in (tmp_path / "ready").iterdir()]
            time.sleep(0.02)
        time.sleep(0.1)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    (tmp_path / "ready").mkdir()
    killer = threading.Thread(target=wait)
    killer.start()
    found = together(2, tmp_path, killed, tmp_path / "ready", timeout_s=30)
    assert [type(one) for one in found] == [EOFError] * 2
    killer.join()
    deadline = time.monotonic() + 5
    while not all(ended(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(shared.iterdir()) <= before


def test_memory_of_an_older_generation_is_not_taken_for_a_rank() -> None:
    """A process number and file that now mean another file: the nonce tells."""
    old, new = Arena(1, 4096, 2), Arena(1, 4096, 2)
    host = host_here()
    peers = [
        Peer(rank=rank, host=host, pid=os.getpid(), file=file, nonce=nonce, cores=1, beside=0)
        for rank, (file, nonce) in enumerate(((new.file, new.nonce.hex()), (old.file, "ab" * 16)))
    ]
    new.open(0, peers, host)
    with pytest.raises(RankMissingError, match="rank 1 has ended"):
        new.check(peers)


def pinned(store: Any, rank: int, ranks: int) -> bool:
    """Rank 1 may use one core alone, as under a launcher that binds; several pieces."""
    if rank == 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    group = met(store, rank, ranks, timeout_s=10)
    x = np.full(1 << 20, rank + 1.0, np.float32)
    group.run(group.program("all-reduce", x.nbytes), x.ctypes.data, x.ctypes.data, len(x), 4, 0)
    return bool((x == 3.0).all())


def test_ranks_that_may_use_different_cores_cut_alike(tmp_path: Path) -> None:
    assert fine(together(2, tmp_path, pinned, timeout_s=20)) == [True, True]


def waited(store: Any, rank: int, ranks: int) -> float:
    """Seconds of its core that rank 0 takes while rank 1 lets it wait for one."""
    group = met(store, rank, ranks)
    group.barrier()
    if rank == 1:
        time.sleep(1.0)
    begin = time.process_time()
    group.barrier()
    return time.process_time() - begin


def test_who_waits_sleeps(tmp_path: Path) -> None:
    assert fine(together(2, tmp_path, waited))[0] < 0.06


def posted(store: Any, rank: int, ranks: int) -> bool:
    """Rank 0's pushing thread has looked for the last time but not ended when it sends again."""
    group = met(store, rank, ranks, timeout_s=10)
    size = 6 << 20  # more than a letter box holds
    if rank == 1:
        for _ in range(2):
            x = np.zeros(size, np.uint8)
            group.letters.wait(group.letters.receive(0, 0, x.ctypes.data, size, x))
        return bool(x[0] == 2 and x[-1] == 2)
    push, over = group.letters._push_all, threading.Event()

    def slow_to_end() -> None:
        push()
        over.set()
        time.sleep(30)

    group.letters._push_all = slow_to_end  # type: ignore[method-assign]
    for value in (1, 2):
        x = np.full(size, value, np.uint8)
        group.letters.send(1, 0, x.ctypes.data, size, x)
        if value == 1:
            over.wait(10)
    time.sleep(3)  # in its own code, and in no call on the group
    return True


def test_what_is_sent_while_a_pushing_thread_ends_still_goes_out(tmp_path: Path) -> None:
    assert fine(together(2, tmp_path, posted, timeout_s=20)) == [True, True]


def tagged(store: Any, rank: int, ranks: int) -> list[int]:
    """Messages asked for in another order than sent, by tag."""
    group = met(store, rank, ranks)
    if rank == 0:
        for tag in (3, 1, 2):
            x = np.full(1000, tag, np.int64)
            group.letters.wait(group.letters.send(1, tag, x.ctypes.data, x.nbytes, x))
        group.barrier()
        return [1, 2, 3]
    found = []
    for tag in (1, 2, 3):
        x = np.zeros(1000, np.int64)
        group.letters.wait(group.letters.receive(0, tag, x.ctypes.data, x.nbytes, x))
        found.append(int(x[0]) if (x == x[0]).all() else -1)
    group.barrier()
    return found


@pytest.mark.parametrize("hosts", [1, 2])
def test_messages_are_matched_by_tag(hosts: int, tmp_path: Path) -> None:
    assert fine(together(2, tmp_path, tagged, hosts=hosts)) == [[1, 2, 3]] * 2


def emulated(store: Any, rank: int, ranks: int, form: str, link: str, size: int) -> list[float]:
    """Seconds of all-reduces over an emulated network."""
    group = met(store, rank, ranks, network=parse_topology(form, link, "200us"), algorithm="auto")
    x = np.ones(size // 4, np.float32)
    program, took = group.program("all-reduce", size), []
    for _ in range(4):
        x[:] = 1
        group.barrier()
        begin = time.perf_counter()
        group.run(program, x.ctypes.data, x.ctypes.data, len(x), 4, 0)
        took.append(time.perf_counter() - begin)
        assert (x == ranks).all()
    return took[1:]


TORUS, CLOS = "torus:2x2", "clos:4,leaf=2,oversubscription=2"


def beside(folder: Path, form: str, link: str, size: int) -> tuple[float, float]:
    """Simulated and measured seconds: the last rank's, the best of the rounds."""
    topology = parse_topology(form, link, "200us")
    folder.mkdir()
    found = fine(together(topology.ranks, folder, emulated, form, link, size))
    made = scheduled(topology, "all-reduce", size)
    simulated = evaluate(topology, made, size).time_s
    return simulated, min(max(each) for each in zip(*found, strict=True))


def test_an_emulated_network_is_as_fast_as_simulated(tmp_path: Path) -> None:
    """A loud machine can only be late: never faster than the links, and in their order."""
    torus, clos = (beside(tmp_path / form[:4], form, "20MB/s", 1 << 20) for form in (TORUS, CLOS))
    for simulated, measured in (torus, clos):
        assert measured > 0.97 * simulated
    assert torus[0] < clos[0]
    assert torus[1] < clos[1]


@pytest.mark.slow
def test_a_torus_beside_a_clos_as_simulated_within_a_tenth(tmp_path: Path) -> None:
    torus, clos = (beside(tmp_path / form[:4], form, "10MB/s", 4 << 20) for form in (TORUS, CLOS))
    assert torus[1] / clos[1] == pytest.approx(torus[0] / clos[0], rel=0.1)


def emulated_message(store: Any, rank: int, ranks: int) -> float:
    """Seconds of a message over one emulated link of 10 MB/s."""
    group = met(store, rank, ranks, network=parse_topology("ring:2", "10MB/s", "1ms"))
    x = np.arange(1 << 17, dtype=np.int64)
    group.barrier()
    begin = time.perf_counter()
    if rank == 0:
        group.letters.wait(group.letters.send(1, 0, x.ctypes.data, x.nbytes, x))
        group.barrier()
        return 0.0
    y = np.zeros_like(x)
    group.letters.wait(group.letters.receive(0, 0, y.ctypes.data, y.nbytes, y))
    took = time.perf_counter() - begin
    assert (x == y).all()
    group.barrier()
    return took


def test_messages_cross_the_emulated_links_too(tmp_path: Path) -> None:
    took = fine(together(2, tmp_path, emulated_message))[1]
    assert took > 0.97 * ((1 << 20) / 10e6 + 1e-3)
