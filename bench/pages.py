"""How large a page is, and what it costs until it is ready; what the studio's first paint costs.

Asks for a plan of all accelerators, opens its page in Chromium from its file, and takes the CPU
time of the page's process until every chart is drawn; opens the studio's first page and takes the
time of its thread until it is painted. Each is shown beside its limit. Neighbours make the
browser's tasks longer: of some loads the least counts, and all are shown.

    python bench/pages.py [--loads 5]
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

PLAN = "plan train llama-3.1-70b --tokens 2T --on all --max-chips 1024"
MOST_BYTES = 1_500_000
MOST_READY_S = 2.0
MOST_PAINT_S = 0.3


def spent(browser: Browser, url: str, ready: str, metric: str) -> tuple[float, list[Any]]:
    """CPU seconds until ``ready`` is there, less what asking took; what the console said."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[Any] = []
    page.on("console", lambda message: said.append(message.text))
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def now() -> dict[str, float]:
        return {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}

    begins = now()
    page.goto(url)
    page.wait_for_selector(ready, state="attached")
    ends = now()
    page.close()
    asked = ends["DevToolsCommandDuration"] - begins.get("DevToolsCommandDuration", 0.0)
    return ends[metric] - (begins[metric] if metric == "ProcessTime" else 0.0) - asked, said


def made(folder: Path) -> Path:
    """The page of the plan of all accelerators."""
    for words in (f"{PLAN} -o {folder}/plan.json",
                  f"report {folder}/plan.json -o {folder}/plan.html"):  # fmt: skip
        subprocess.run([sys.executable, "-m", "weftline", *words.split()], check=True,
                       capture_output=True)  # fmt: skip
    return folder / "plan.html"


def row(name: str, value: float, limit: float, unit: str, each: list[float]) -> str:
    """One line: what was found over its limit."""
    loads = ", ".join(f"{v:.2f}" for v in each)
    return f"{name:<42} {value:>9,.2f} {unit:<5} {value / limit:>5.2f} of the limit   {loads}"


def main() -> None:
    """Print the three lines; leave with 1 where one is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=5)
    loads = range(parser.parse_args().loads)
    found = shutil.which("chromium") or sys.exit("no chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        page = made(folder)
        command = [sys.executable, "-m", "weftline", "studio", "--port", "0", "--workers", "1",
                   "--history", str(folder / "history.sqlite3")]  # fmt: skip
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        ready = [spent(browser, page.as_uri(), "html[data-state=ready]", "ProcessTime")
                 for _ in loads]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as studio:
            assert studio.stderr is not None
            url = re.search(r"http://\S+", studio.stderr.readline())
            assert url is not None
            paint = [spent(browser, url[0], "#f-model", "TaskDuration") for _ in loads]
            studio.send_signal(signal.SIGINT)
            studio.wait(20)
        browser.close()
        size = page.stat().st_size
    assert not any(said for _, said in ready)
    each = [[seconds for seconds, _ in times] for times in (ready, paint)]
    print(f"{platform.machine()}, load {os.getloadavg()[0]:.1f}")
    print(row("page of all accelerators", size / 1e6, MOST_BYTES / 1e6, "MB", []))
    print(row("until its charts are drawn, CPU", min(each[0]), MOST_READY_S, "s", each[0]))
    print(row("studio's first page, CPU of its thread", min(each[1]), MOST_PAINT_S, "s", each[1]))
    if size > MOST_BYTES or min(each[0]) > MOST_READY_S or min(each[1]) > MOST_PAINT_S:
        sys.exit(1)


if __name__ == "__main__":
    main()
