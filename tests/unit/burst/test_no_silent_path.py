"""Paths that would lie: a lost identity, a damaged newest checkpoint, a rank that is elsewhere."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint import SavePlan
from torch.distributed.checkpoint import async_save as dcp_async_save
from torch.distributed.checkpoint import load as dcp_load
from torch.distributed.checkpoint import save as dcp_save
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import AsyncStager

from weftline import burst
from weftline.burst import Options, Retention, Store
from weftline.burst.errors import CorruptionError, NotAStoreError
from weftline.burst.pytorch import BurstStorageReader, BurstStorageWriter, load, save
from weftline.cli.main import run
from weftline.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
SMALL = Options(chunk_bytes=1 << 16, segment_bytes=1 << 20, io_threads=2, copy_threads=1)


def filled(path: Path, *steps: int) -> Path:
    with Store.open(path, options=SMALL) as store:
        for step in steps:
            store.save({"w": np.full(100_000, step, np.float32)}, step, wait=True)
    return path


def record(store: Path, step: int) -> Path:
    return store / "commits" / f"step-{step:020d}.commit"


def spoil(file: Path, *, share: float = 1.0) -> None:
    data = bytearray(file.read_bytes())
    for at in range(0, int(len(data) * share), 7):
        data[at] ^= 0xFF
    file.write_bytes(bytes(data))


# --- the identity -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_lost_identity_is_that_of_the_commits(tmp_path: Path, how: str) -> None:
    store = filled(tmp_path / "s", 1, 2)
    before = (store / "BURST").read_bytes()
    if how == "gone":
        (store / "BURST").unlink()
    else:
        spoil(store / "BURST")
    with Store.open(store, read_only=True) as reader:
        assert reader.load()["w"][0] == 2
        assert [f.file for f in reader.verify()] == [str(store / "BURST")]
    with Store.open(store, options=SMALL) as again:
        assert any("all checkpoints name was written anew" in notice for notice in again.notices)
        again.save({"w": np.full(100_000, 3, np.float32)}, 3, wait=True)
        again.gc(Retention(last=3))
        assert [again.load(step)["w"][0] for step in (1, 2, 3)] == [1, 2, 3]
        assert again.verify() == []
    assert (store / "BURST").read_bytes() == before


def test_a_sealed_share_says_whose_store_it_is(tmp_path: Path) -> None:
    """A node that lost its identity before its first commit."""
    with Store.open(tmp_path / "s", options=SMALL) as store:
        share = store.prepare({"w": np.zeros(100_000)}, 1, rank=0, world=2, attempt="a")
    (tmp_path / "s" / "BURST").unlink()
    with Store.open(tmp_path / "s", options=SMALL) as store:
        assert store.view.store_id == share.store_id


def test_without_anything_that_says_it_nothing_is_made_up(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", options=SMALL) as store:
        store.prepare({"w": np.zeros(100_000)}, 1, rank=0, world=2, attempt="a")
    (tmp_path / "s" / "BURST").unlink()
    for log in (tmp_path / "s" / "writers" / "w0").glob("*.wal"):
        log.unlink()
    kept = {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()}
    with pytest.raises(CorruptionError, match="identity of the store is lost"):
        Store.open(tmp_path / "s", options=SMALL)
    assert {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()} == kept


def test_commits_that_disagree_are_believed_in_nothing(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "one", 1), filled(tmp_path / "other", 2)
    shutil.copy(record(other, 2), record(one, 2))
    (one / "BURST").unlink()
    with pytest.raises(CorruptionError, match="do not agree"):
        Store.open(one, options=SMALL)


# --- the newest ---------------------------------------------------------------------------------


def every_newest(store: Path) -> dict[str, int]:
    """What each way to load the newest gives; the errors pass."""
    into = {"w": torch.zeros(100_000)}
    dcp_load(into, storage_reader=BurstStorageReader(store))
    with Store.open(store, read_only=True) as opened:
        return {
            "store": int(opened.load()["w"][0]), "pytorch": int(load(store)["w"][0]),
            "dcp": int(into["w"][0]), "record": opened.read_commit().step,
        }  # fmt: skip


def test_the_newest_is_the_last_commit_for_everyone(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 5, 9, 7)
    assert set(every_newest(store).values()) == {7}
    with Store.open(store, options=SMALL) as opened:
        assert opened.next_step() == 10


@pytest.mark.parametrize("what", ["record", "data"])
def test_a_damaged_newest_is_said_by_everyone(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = filled(tmp_path / "s", 1, 2)
    with Store.open(store, read_only=True) as opened:
        (rank,) = opened.read_commit(2).ranks
        chunk = opened.view.manifest(opened.read_commit(2), rank).parts[0].chunks[0]
        segment = Path(opened.reader.path(rank.writer, chunk.segment))
    if what == "record":
        spoil(record(store, 2))
    else:
        data = bytearray(segment.read_bytes())
        data[chunk.offset_bytes + chunk.head_bytes] ^= 0xFF
        segment.write_bytes(bytes(data))
    readers = {
        "store": lambda: Store.open(store, read_only=True).load(),
        "pytorch": lambda: load(store),
        "dcp": lambda: dcp_load(
            {"w": torch.zeros(100_000)}, storage_reader=BurstStorageReader(store)
        ),
    }
    for reader in readers.values():  # torch wraps what its readers raise
        with pytest.raises((CorruptionError, CheckpointException)):
            reader()
    assert run(["burst", "verify", str(store)]) != 0
    assert run(["burst", "restore", str(store), "--to", str(tmp_path / "out")]) != 0
    capsys.readouterr()
    with Store.open(store, read_only=True) as opened:
        loaded = opened.load(allow_older=True)
        assert (loaded.step, loaded["w"][0]) == (1, 1)
        assert any("passed over" in notice for notice in opened.notices)
    assert load(store, allow_older=True)["w"][0] == 1
    run(["burst", "ls", str(store), "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert len(listed["damaged"]) == (1 if what == "record" else 0)


def test_a_new_save_never_takes_the_place_of_a_damaged_newest(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", 1, 2)
    spoil(record(store, 2))
    spoilt = record(store, 2).read_bytes()
    save({"w": torch.ones(10)}, store)
    assert record(store, 2).read_bytes() == spoilt
    assert record(store, 3).exists()


# --- what is elsewhere --------------------------------------------------------------------------


def test_verify_reports_what_a_load_could_not_have(tmp_path: Path) -> None:
    """A rank that was saved to another machine's store, which nobody here can reach."""
    with Store.open(tmp_path / "a", options=SMALL, run="r") as a, \
            Store.open(tmp_path / "b", options=SMALL, run="r") as b:  # fmt: skip
        ranks = [
            store.prepare({f"w{r}": np.full(50_000, r)}, 1, rank=r, world=2, attempt="x")
            for r, store in enumerate((a, b))
        ]
        a.commit(1, prepared=ranks)
        with pytest.raises(CorruptionError, match="another node"):
            a.load()
        (found,) = a.verify()
        assert (found.step, "another node" in found.what) == (1, True)


def test_views_that_read_the_same_bytes_in_other_ways_are_kept_apart(tmp_path: Path) -> None:
    base = torch.complex(torch.arange(6.0), torch.arange(6.0) + 1)
    state = {"plain": base, "conjugate": base.conj(), "again": base, "turned": base.conj().imag}
    save(state, tmp_path / "s")
    found = load(tmp_path / "s")
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor.resolve_conj().resolve_neg()), name
    assert found["again"] is found["plain"]


# --- the label ----------------------------------------------------------------------------------


class Slow(BurstStorageWriter):
    """A writer whose thread begins late, as on a busy machine."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        time.sleep(0.3)
        return super().prepare_local_plan(plan)


def test_the_label_is_what_was_set_when_the_save_was_called(tmp_path: Path) -> None:
    writer = Slow(tmp_path / "s", options=SMALL)
    assert isinstance(writer, AsyncStager)  # else torch would not ask it while the caller waits
    futures = []
    for step in (10, 20, 30):
        writer.step = step
        state = {"w": torch.full((1000,), float(step))}
        futures.append(dcp_async_save(state, storage_writer=writer))
        state["w"].fill_(-1.0)
    writer.step = 99
    for future in futures:
        future.result()
    writer.close()
    with Store.open(tmp_path / "s", read_only=True) as store:
        assert {c.step: store.load(c.step)["w"][0] for c in store.checkpoints()} == {
            10: 10.0, 20: 20.0, 30: 30.0,
        }  # fmt: skip


def test_checkpoint_ids_are_steps_of_one_store(tmp_path: Path) -> None:
    writer = BurstStorageWriter(tmp_path / "s", options=SMALL)
    for step in (10, 20):
        dcp_save({"w": torch.full((9,), float(step))}, storage_writer=writer,
                 checkpoint_id=tmp_path / "s" / f"step-{step}")  # fmt: skip
    writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]
    into = {"w": torch.zeros(9)}
    reader = BurstStorageReader(tmp_path / "s")
    dcp_load(into, storage_reader=reader, checkpoint_id=str(tmp_path / "s" / "step-10"))
    assert into["w"][0] == 10.0
    dcp_load(into, storage_reader=reader, checkpoint_id=str(tmp_path / "s"))
    assert into["w"][0] == 20.0


# --- places and processes -----------------------------------------------------------------------


@pytest.mark.parametrize("make", [str, Path])
@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x", "az://c/x", "peer://host:1"])
def test_a_url_never_becomes_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, make: type
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotAStoreError, match="this is a URL"):
        Store.open(make(url))
    with pytest.raises(NotAStoreError, match="this is a URL"):
        save({"w": torch.zeros(3)}, make(url))
    assert list(tmp_path.iterdir()) == []


def places(url: Any, here: Path) -> dict[str, Callable[[], Any]]:
    """Everything that takes a path of a store, or of what comes out of one."""
    from weftline.burst.advise.bench import measure
    from weftline.burst.formats.export import export
    from weftline.burst.formats.tensorfiles import check_target
    from weftline.burst.frameworks.pointers import Keeper, has_checkpoints, read_pointer
    from weftline.burst.nodes.server import NodeServer

    whole = here / "whole"
    return {
        "open": lambda: Store.open(url),
        "save": lambda: save({"w": torch.zeros(3)}, url),
        "load": lambda: load(url),
        "plain save": lambda: burst.save({"w": np.zeros(3)}, url),
        "plain load": lambda: burst.load(url),
        "writer": lambda: BurstStorageWriter(url),
        "reader": lambda: BurstStorageReader(url),
        "export": lambda: export(Store.open(whole, read_only=True), url),
        "restore": lambda: check_target(Path(url) / "x.safetensors"),
        "bench": lambda: measure(url, 1000),
        "keeper": lambda: Keeper(url, writer="w", options=None),
        "framework": lambda: has_checkpoints(url),
        "pointer": lambda: read_pointer(url),
        "server": lambda: NodeServer(here / "m", store=url, port=0),
        "server's memory": lambda: NodeServer(url, port=0),
    }


@pytest.mark.parametrize("make", [str, Path])
@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x", "az://c/x"])
def test_no_place_takes_a_url_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, make: type
) -> None:
    (tmp_path / "here").mkdir()
    save({"w": torch.zeros(3)}, tmp_path / "whole")
    monkeypatch.chdir(tmp_path / "here")
    for name, call in places(make(url), tmp_path).items():
        with pytest.raises(NotAStoreError, match="this is a URL"):
            pytest.fail(f"{name} took it: {call()}")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    with Store.open(f"file://{tmp_path}/s", options=SMALL) as store:
        assert store.root == str(tmp_path / "s")


def test_a_forked_child_is_told_at_once(tmp_path: Path) -> None:
    script = """
import os, sys, numpy as np
from weftline.burst import Store
from weftline.burst.errors import MismatchError
store = Store.open(sys.argv[1])
store.save({"w": np.zeros(1000)}, 1, wait=True)
child = os.fork()
if child == 0:
    told = 0
    for use in (lambda: store.load(), lambda: store.save({"w": np.zeros(1)}, 2)):
        try:
            use()
        except MismatchError as error:
            told += "child" in str(error)
    os._exit(10 + told)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
store.close()
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s")], check=False, timeout=60
    )
    assert done.returncode == 12


# --- values -------------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["a", "b"])


def test_dictionaries_come_back_as_what_they_were(tmp_path: Path) -> None:
    module = torch.nn.BatchNorm1d(3)
    state = {
        "module": module.state_dict(),
        "milestones": Counter({30: 1, 60: 2}),
        "lists": defaultdict(list, {("a", 1): [torch.ones(2)]}),
        "ordered": OrderedDict([("z", 1), ("a", (2, {3}))]),
        "file names": {os.fsdecode(b"\xff.bin"): os.fsdecode(b"\xfe"), "é": "é"},
    }
    save(state, tmp_path / "s")
    found = load(tmp_path / "s")
    for name, value in state.items():
        assert type(found[name]) is type(value), name
        assert list(found[name]) == list(value), name
    assert found["module"]._metadata == state["module"]._metadata
    assert found["milestones"] == state["milestones"]
    assert found["lists"]["new"] == []
    assert found["ordered"] == state["ordered"]
    assert found["file names"] == state["file names"]
    torch.nn.BatchNorm1d(3).load_state_dict(found["module"])


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a prototype, torch says
    NESTED = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    QUANTIZED = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
with FakeTensorMode():
    FAKE = torch.zeros(3)


class Sub(torch.Tensor):
    """A tensor that is more than its bytes."""


def holding_itself() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Pair(1, 2), "Pair"),
        (MappingProxyType({"a": 1}), "mappingproxy"),
        (defaultdict(lambda: 3), "defaultdict"),
        (IntEnum("Kind", "A")(1), "Kind"),
        (Path("/x"), "PosixPath"),
        (datetime.datetime(2026, 1, 1), "datetime"),
        (torch.zeros(3).as_subclass(Sub), "Sub"),
        (NESTED, "nested"),
        (holding_itself(), "holds itself"),
        (FAKE, "FakeTensor"),
        (QUANTIZED, "quantized"),
        ({"half \ud800": torch.zeros(3)}, "not valid text"),
    ],
    ids=["namedtuple", "mapping", "defaultdict", "enum", "path", "datetime", "subclass", "nested",
         "itself", "fake", "quantized", "name"],
)  # fmt: skip
def test_what_would_come_back_as_something_else_is_refused_by_name(
    tmp_path: Path, value: object, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        save({"here": value}, tmp_path / "s")
    with Store.open(tmp_path / "s", read_only=True) as store:
        assert store.checkpoints() == []
