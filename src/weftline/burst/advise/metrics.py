"""What a store and its drains are doing, for Prometheus: text, a text file, or a small endpoint.

A metric is data: its name, kind, meaning and where its value comes from stand in one table. Values
are read when asked for; nothing is counted twice.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from weftline.burst.files import Files, RealFiles, write_atomic

if TYPE_CHECKING:
    from weftline.burst.remote.drain import Drainer
    from weftline.burst.store import Store

__all__ = ["METRICS", "Metric", "MetricsServer", "collect", "prometheus_text", "write_textfile"]

PREFIX: Final = "weftline_burst_"


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table."""

    name: str
    """As Prometheus wants it: base unit last, ``_total`` after it for counters."""
    kind: Literal["counter", "gauge"]
    meaning: str


METRICS: Final = (
    Metric("saves_total", "counter", "Saves begun."),
    Metric("saves_failed_total", "counter", "Saves that ended in an error."),
    Metric("commits_total", "counter", "Checkpoints committed here."),
    Metric("stall_seconds_total", "counter", "Time that saves kept training from going on."),
    Metric("queue_wait_seconds_total", "counter", "Part of the stall spent waiting for staging."),
    Metric("durable_seconds_total", "counter", "From the call of a save until it was durable."),
    Metric("raw_bytes_total", "counter", "Bytes of state handed in."),
    Metric("stored_bytes_total", "counter", "Bytes of records written."),
    Metric("loaded_bytes_total", "counter", "Bytes of tensors loaded."),
    Metric("repaired_records_total", "counter", "Damaged records that a copy stood in for."),
    Metric("staging_bytes", "gauge", "Memory held for staging."),
    Metric("queue_depth", "gauge", "Checkpoints staged and not yet durable here."),
    Metric("durable_lag_seconds", "gauge", "Age of the newest commit here."),
    Metric("newest_step", "gauge", "Step of the newest commit here."),
    Metric("checkpoints", "gauge", "Committed checkpoints kept here."),
    Metric("drain_sent_bytes_total", "counter", "Payload bytes uploaded to the target."),
    Metric("drain_checkpoints_total", "counter", "Checkpoints made durable at the target."),
    Metric("drain_retries_total", "counter", "Requests to the target that were tried again."),
    Metric("drain_throttled_seconds_total", "counter", "Time uploads waited for bandwidth."),
    Metric("drain_queue_depth", "gauge", "Checkpoints committed here and not durable there."),
    Metric("drain_lag_seconds", "gauge", "Age of the oldest commit not overtaken there."),
    Metric("drain_newest_step", "gauge", "Step of the newest checkpoint durable there."),
    Metric("drain_failing", "gauge", "1 while the last try to drain failed."),
)
_KNOWN: Final = {m.name: m for m in METRICS}
Samples = list[tuple[str, Mapping[str, str], float]]


def collect(store: Store, drainers: Iterable[Drainer] = ()) -> Samples:
    """Every metric's value now: (name, labels, value). Drains are labelled with their target."""
    import time

    own = {"store": store.root}
    every = store.checkpoints()
    found: Samples = [(name, own, float(value)) for name, value in _of_store(store.stats()).items()]
    found.append(("checkpoints", own, float(len(every))))
    if every:
        newest = every[-1]
        found.append(("newest_step", own, float(newest.step)))
        age_s = max(0.0, time.time() - newest.created_unix_s)
        found.append(("durable_lag_seconds", own, age_s))
    for drainer in drainers:
        status, counters = drainer.refresh(), drainer.objects.counters
        labels = {**own, "target": drainer.objects.url}
        values: dict[str, float | None] = {
            "drain_sent_bytes_total": status.sent_bytes,
            "drain_checkpoints_total": status.drained,
            "drain_retries_total": counters.retries,
            "drain_throttled_seconds_total": counters.throttled_s,
            "drain_queue_depth": status.queued,
            "drain_lag_seconds": status.durable_lag_s,
            "drain_newest_step": status.newest_durable_step,
            "drain_failing": status.last_error is not None,
        }
        found += [(n, labels, float(v)) for n, v in values.items() if v is not None]
    return found


def _of_store(stats: Mapping[str, float]) -> dict[str, float]:
    """The store's own counters under the names of the table; others are left out."""
    names = {
        "saves": "saves_total", "commits": "commits_total", "stall_s": "stall_seconds_total",
        "queue_wait_s": "queue_wait_seconds_total", "raw_bytes": "raw_bytes_total",
        "stored_bytes": "stored_bytes_total", "queue": "queue_depth",
        "saves_failed": "saves_failed_total", "durable_s": "durable_seconds_total",
        "loaded_bytes": "loaded_bytes_total", "repaired_records": "repaired_records_total",
        "arena_bytes": "staging_bytes",
    }  # fmt: skip
    return {names[k]: v for k, v in stats.items() if k in names}


def prometheus_text(samples: Samples) -> str:
    """The text exposition format, version 0.0.4. Raises KeyError for a metric not in the table."""
    lines: list[str] = []
    for metric in METRICS:
        mine = [s for s in samples if s[0] == metric.name]
        if not mine:
            continue
        name = PREFIX + metric.name
        lines += [f"# HELP {name} {metric.meaning}", f"# TYPE {name} {metric.kind}"]
        for _, labels, value in mine:
            inside = ",".join(f'{k}="{_escaped(v)}"' for k, v in sorted(labels.items()))
            lines.append(f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}")
    for name in {s[0] for s in samples}:
        _KNOWN[name]  # a sample that nothing describes would be lost without a word
    return "\n".join(lines) + "\n" if lines else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def write_textfile(
    path: str | os.PathLike[str], samples: Samples, files: Files | None = None
) -> None:
    """Put the metrics where node_exporter's textfile collector finds them, in one step."""
    target = os.path.abspath(path)  # noqa: PTH100  (paths are plain strings here)
    write_atomic(RealFiles() if files is None else files, target, prometheus_text(samples).encode())


class MetricsServer:
    """``GET /metrics`` on this machine, until closed."""

    def __init__(
        self, samples: Callable[[], Samples], *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        class Handler(BaseHTTPRequestHandler):
            """Answers one request."""

            def do_GET(self) -> None:
                """The metrics, or 404."""
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = prometheus_text(samples()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Requests are not logged."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.host, self.port = self._server.server_address[0], self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where the metrics are."""
        return f"http://{self.host!s}:{self.port}/metrics"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
