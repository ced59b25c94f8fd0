"""Metrics as Prometheus reads them, from a store at work."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from weftline.burst import Store
from weftline.burst.advise.metrics import (
    METRICS,
    PREFIX,
    MetricsServer,
    collect,
    prometheus_text,
    write_textfile,
)
from weftline.burst.remote.drain import Drainer
from weftline.burst.remote.objects import Bucket

LINE = re.compile(r'[a-z_]+(?:\{[a-z]+="(?:[^"\\\n]|\\.)*"(?:,[a-z]+="(?:[^"\\\n]|\\.)*")*\})? \S+')


def values(text: str) -> dict[str, float]:
    """Name -> value of every sample, each line checked against the grammar."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            assert LINE.fullmatch(line), line
            found[line.partition("{")[0].removeprefix(PREFIX)] = float(line.rpartition(" ")[2])
    return found


def test_a_store_and_its_drain_are_counted(tmp_path: Path) -> None:
    bucket = Bucket.open(f"file://{tmp_path}/remote")
    state = {"w": np.arange(5000.0)}
    with Store.open(tmp_path / "s") as store:
        drainer = Drainer(store, bucket)
        store.save(state, 7, wait=True)
        before = values(prometheus_text(collect(store, [drainer])))
        assert (before["drain_queue_depth"], before["newest_step"]) == (1, 7)
        assert before["drain_lag_seconds"] > 0
        assert "drain_newest_step" not in before  # nothing is durable there yet
        drainer.drain()
        store.save(state, 8, wait=True)
        after = values(prometheus_text(collect(store, [drainer])))
    assert (after["saves_total"], after["commits_total"], after["checkpoints"]) == (2, 2, 2)
    assert after["raw_bytes_total"] == 2 * state["w"].nbytes
    assert after["drain_sent_bytes_total"] == state["w"].nbytes
    assert after["drain_newest_step"] == 7
    assert after["drain_queue_depth"] == 1
    assert after["stall_seconds_total"] > 0
    assert after["queue_depth"] == 0


def test_every_kind_is_announced_once_and_names_follow_the_rules() -> None:
    text = prometheus_text([(m.name, {"store": 'a"b\\c\nd'}, 1.0) for m in METRICS] * 2)
    values(text)
    for metric in METRICS:
        assert text.count(f"# TYPE {PREFIX}{metric.name} {metric.kind}\n") == 1
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert not re.search(r"_(ms|mb|gb|min)(_|$)", metric.name)
    assert r'store="a\"b\\c\nd"' in text
    assert prometheus_text([]) == ""
    with pytest.raises(KeyError):
        prometheus_text([("unheard_of", {}, 1.0)])


def test_the_endpoint_is_on_this_machine_and_serves_only_metrics(tmp_path: Path) -> None:
    samples = [("saves_total", {"store": "s"}, 3.0)]
    with MetricsServer(lambda: samples) as server:
        assert server.host == "127.0.0.1"
        with urllib.request.urlopen(server.url, timeout=10) as answer:  # noqa: S310
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert values(answer.read().decode()) == {"saves_total": 3.0}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(server.url + "x", timeout=10)  # noqa: S310
    path = tmp_path / "burst.prom"
    write_textfile(path, samples)
    assert values(path.read_text()) == {"saves_total": 3.0}
    assert [p.name for p in tmp_path.iterdir()] == ["burst.prom"]
