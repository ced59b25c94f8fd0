"""``weftline burst`` as a user runs it: files in, files out, and clear words when it cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from weftline.cli.main import run

STATE = {"model.a": np.arange(12.0).reshape(3, 4), "model.b": np.ones(5, np.float16)}
OPTIMIZER = {"step": np.array(7), "file": np.arange(3)}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    model, optimizer = tmp_path / "in.safetensors", tmp_path / "in.npz"
    save_file(STATE, model, metadata={"format": "pt"})
    np.savez(optimizer, step=OPTIMIZER["step"])
    return model, optimizer


def answer(capsys: pytest.CaptureFixture[str], *argv: object) -> Any:
    """The JSON that a command prints, which must end well."""
    code = run(["burst", *map(str, argv), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def refusal(capsys: pytest.CaptureFixture[str], code: int, *argv: object) -> str:
    """What a command that must fail says."""
    assert run(["burst", *map(str, argv)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_from_files_through_a_store_and_a_target_to_files(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, target = tmp_path / "store", f"file://{tmp_path}/remote"
    assert answer(capsys, "save", store, *files, "--step", 100)["committed"]
    assert answer(capsys, "save", store, files[0], "--compress", "zstd")["step"] == 101
    listed = answer(capsys, "ls", store)["checkpoints"]
    assert [c["step"] for c in listed] == [100, 101]
    shown = answer(capsys, "show", store, "--step", 100)
    assert [(t["name"], t["dtype"], t["shape"]) for t in shown["tensors"]] == [
        ("model.a", "float64", [3, 4]), ("model.b", "float16", [5]), ("step", "int64", []),
    ]  # fmt: skip
    assert answer(capsys, "verify", store)["findings"] == []
    drained = answer(capsys, "drain", store, "--to", target, "--all")["drained"]
    assert [(d["step"], d["durable"]) for d in drained] == [(100, True), (101, True)]
    assert answer(capsys, "drain", store, "--to", target, "--all")["drained"] == []
    for origin in (str(store), target):
        out = tmp_path / f"out-{len(origin)}.safetensors"
        answer(capsys, "restore", origin, out, "--step", 100, "--only", "model.*")
        back = load_file(out)
        assert {n: a.tobytes() for n, a in back.items()} == {
            n: a.tobytes() for n, a in STATE.items()
        }
    answer(capsys, "restore", store, tmp_path / "out.npz", "--step", 100)
    with np.load(tmp_path / "out.npz") as archive:
        assert sorted(archive.files) == ["model.a", "model.b", "step"]
        assert archive["step"].shape == ()
    assert answer(capsys, "pin", store, 100)["pinned"] == ["user"]
    assert answer(capsys, "gc", store, "--last", 1)["kept"] == [100, 101]
    answer(capsys, "pin", store, 100, "--release")
    assert answer(capsys, "gc", store, "--last", 1)["kept"] == [101]
    pruned = answer(capsys, "drain", store, "--to", target, "--keep-last", 1)["pruned"]
    assert pruned == [100]
    assert [c["step"] for c in answer(capsys, "ls", target)["checkpoints"]] == [101]


def test_export_is_read_by_others_and_never_overwritten(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = tmp_path / "store", tmp_path / "hf"
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    answer(capsys, "save", store, *files)
    done = answer(
        capsys, "export", store, out, "--only", "model.*", "--strip", "model.", "--shard", "96B",
        "--companions", tmp_path,
    )  # fmt: skip
    assert [Path(f).name for f in done["files"]] == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json",
        "model.safetensors.index.json",
    ]  # fmt: skip
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in STATE.values())
    for name, file in index["weight_map"].items():
        assert load_file(out / file)[name].tobytes() == STATE[f"model.{name}"].tobytes()
    assert "an export is there already" in refusal(capsys, 2, "export", store, out)


def test_damage_is_named_mended_from_a_copy_and_then_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = {"w": np.random.default_rng(0).standard_normal(100_000)}
    save_file(big, tmp_path / "w.safetensors")
    store, target = tmp_path / "store", f"file://{tmp_path}/remote"
    answer(capsys, "save", store, tmp_path / "w.safetensors", "--step", 5)
    answer(capsys, "drain", store, "--to", target)
    segment = next(store.rglob("seg-*.seg"))
    data = bytearray(segment.read_bytes())
    data[100_000] ^= 1
    segment.write_bytes(data)

    assert run(["burst", "verify", str(store)]) == 1
    said = capsys.readouterr().out
    assert "DAMAGED: 1 findings" in said
    assert "step 5, `w`" in said
    flat = "".join(said.split())
    assert str(segment) in flat
    wrong = refusal(capsys, 1, "restore", store, tmp_path / "x.safetensors")
    assert "`w`" in wrong
    assert not (tmp_path / "x.safetensors").exists()

    healed = answer(capsys, "restore", store, tmp_path / "y.safetensors", "--from", target)
    assert healed["repaired"] == 1
    assert load_file(tmp_path / "y.safetensors")["w"].tobytes() == big["w"].tobytes()
    mended = answer(capsys, "verify", store, "--repair", "--from", target)["findings"]
    assert [f["mended"] for f in mended] == [True]
    assert answer(capsys, "verify", store)["findings"] == []


def test_advice_on_paper(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "advise", "--state", "14TB", "--nodes", 2048)
    assert found["burst"]["schedule"]["goodput"] > found["blocking"]["schedule"]["goodput"]
    run(["burst", "advise", "--state", "14TB", "--nodes", "2048"])
    text = capsys.readouterr().out
    assert text.startswith("Save every ")
    assert all(len(line) <= 80 for line in text.splitlines())
    several = refusal(
        capsys, 2, "advise", "--state", "14", "--nodes", 8, "--mtbf", "3", "--peer", "fast"
    )
    assert "--mtbf" in several
    assert "--peer" in several


def test_a_bench_gives_ratios_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "bench", tmp_path, "--size", "8MB", "--rounds", 1)
    assert found["stall_ratio"] > 0
    assert found["durable_ratio"] > 0
    assert found["load_ratio"] > 0
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_refused_and_nothing_is_written(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    answer(capsys, "save", store, *files, "--step", 1)
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("x")
    pickled = tmp_path / "model.pt"
    pickled.write_bytes(b"\x80\x02")
    evil = tmp_path / "evil.safetensors"
    head = b'{"../../etc/x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    evil.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    objects = tmp_path / "objects.npz"
    np.savez(objects, x=np.array([{"a": 1}], dtype=object))
    cases = (
        (("ls", other), "not a burst store"),
        (("save", other, files[0]), "not a burst store"),
        (("ls", tmp_path / "absent"), str(tmp_path / "absent")),
        (("show", store, "--step", 9), "no checkpoint of step 9"),
        (("restore", store, tmp_path / "o.safetensors", "--only", "nope.*"), "nope.*"),
        (("restore", store, tmp_path / "o.pt"), "is not .safetensors or .npz"),
        (("restore", store, files[0]), "exists already"),
        (("save", store, pickled), "pickles"),
        (("save", store, evil), "leads elsewhere"),
        (("save", store, objects), "Python objects"),
        (("save", store, tmp_path / "absent.npz"), "no such file"),
        (("save", store), "nothing to save"),
        (("save", store, files[0], files[0]), "stands in"),
        (("drain", store, "--to", "ftp://x"), "is not an object store"),
        (("drain", store, "--to", "s3://me:hunter22@b"), "credentials do not belong in a URL"),
        (("drain", store, "--to", "file:///tmp/x", "--bandwidth", "fast"), "--bandwidth"),
        (("export", store, tmp_path / "e", "--only", "zzz"), "zzz"),
        (("peer", tmp_path / "p"), "WEFTLINE_BURST_SECRET"),
        (("gc", store, "--last", 0), "must be 1 or more"),
    )
    for argv, said in cases:
        error = refusal(capsys, 2, *argv)
        assert said in error, (argv, error)
        assert "hunter22" not in error
    assert before == {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}


def test_wrong_credentials_are_named(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A server that refuses, as S3 does; the secret is in no message."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<Error><Code>InvalidAccessKeyId</Code></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONGWRONG")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "quite-secret-indeed")
    store = tmp_path / "store"
    answer(capsys, "save", store, files[0])
    error = refusal(capsys, 2, "drain", store, "--to", "s3://bucket/x")
    assert "the object store refused" in error
    assert "InvalidAccessKeyId" in error
    assert "quite-secret" not in error
    assert "AKIAWRONG" not in error
    server.shutdown()
    server.server_close()


def test_a_peer_serves_until_it_is_interrupted(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("WEFTLINE_BURST_SECRET", "a secret of enough bytes")
    command = [sys.executable, "-m", "weftline", "burst", "peer", str(tmp_path / "p"),
               "--port", "0", "--json"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = server.stdout.readline()
            assert line, "the peer ended"
            text += line
        url = json.loads(text)["url"]
        answer(capsys, "save", tmp_path / "s", files[0], "--step", 3)
        assert answer(capsys, "drain", tmp_path / "s", "--to", url)["drained"][0]["durable"]
        answer(capsys, "restore", url, tmp_path / "back.safetensors")
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 130
    assert load_file(tmp_path / "back.safetensors").keys() == STATE.keys()


def test_a_watching_drain_follows_new_checkpoints_until_it_is_interrupted(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, target, metrics = tmp_path / "s", f"file://{tmp_path}/remote", tmp_path / "burst.prom"
    answer(capsys, "save", store, files[0], "--step", 3)
    command = [sys.executable, "-m", "weftline", "burst", "drain", str(store), "--to", target,
               "--watch", "--metrics-file", str(metrics), "--metrics-port", "0"]  # fmt: skip

    def durable(step: int) -> bool:
        return metrics.exists() and "drain_newest_step{" in metrics.read_text() and any(
            line.endswith(f" {float(step)}")
            for line in metrics.read_text().splitlines()
            if "drain_newest_step{" in line
        )  # fmt: skip

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for step in (3, 4):
            end = time.monotonic() + 30
            while not durable(step):
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.05)
            if step == 3:
                answer(capsys, "save", store, files[0], "--step", 4)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "metrics at http://127.0.0.1:" in said
    assert "durable at" in said
    assert [c["step"] for c in answer(capsys, "ls", target)["checkpoints"]] == [3, 4]
