"""Writes docs/winners.svg, the chart in README.md: one chart of the page of README's own answer.

Needs Chromium (Debian: apt-get install chromium) and playwright of the test packages.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from weftline.catalog.date import CATALOG_DATE
from weftline.cli.main import run

HERE = Path(__file__).parent
COMMAND = "plan train llama-3.1-70b --tokens 2T --on all --max-chips 1024"
SECTION = "Which plan wins"
SIZE = {"width": 1000, "height": 800}


def chart(page_file: Path) -> str:
    """The chart of ``SECTION`` as the browser drew it, on paper of its own."""
    found = shutil.which("chromium")
    if found is None:
        sys.exit("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-state=ready]")
        section = page.locator("section", has=page.get_by_role("heading", name=SECTION, exact=True))
        drawn: str = section.locator("figure .chart svg").first.evaluate(
            "svg => { svg.setAttribute('xmlns', 'http://www.w3.org/2000/svg');"
            " svg.setAttribute('style', 'background: #fcfcfc');"
            " return new XMLSerializer().serializeToString(svg); }"
        )
        browser.close()
    return drawn


def main() -> None:
    """Ask, make the page, take the chart."""
    os.environ["WEFTLINE_DATA_DIR"] = os.devnull
    os.environ["WEFTLINE_TODAY"] = CATALOG_DATE
    with tempfile.TemporaryDirectory() as folder:
        plan, page = Path(folder) / "plan.json", Path(folder) / "plan.html"
        if run([*COMMAND.split(), "-o", str(plan)]) or run(["report", str(plan), "-o", str(page)]):
            sys.exit("no answer to draw")
        (HERE / "winners.svg").write_text(chart(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
