"""The studio in a real browser, as its command starts it: by keyboard, on a phone, silently."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SERIOUS = frozenset({"serious", "critical"})
HOSTILE = '{"model_type": "llama", "architectures": ["</script><script>window.broken=1</script>"]}'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The studio by its command, on a free port; Ctrl-C has to end it in order."""
    history = tmp_path_factory.mktemp("studio") / "history.sqlite3"
    command = [sys.executable, "-m", "weftline", "studio", "--port", "0", "--workers", "1",
               "--history", str(history)]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as studio:
        assert studio.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", studio.stderr.readline())
        assert found is not None
        yield found[0]
        studio.send_signal(signal.SIGINT)
        assert studio.wait(20) == 0
        assert "Traceback" not in studio.stderr.read()


class Watched:
    """A page, what its console said, and what it asked for elsewhere."""

    def __init__(self, browser: Browser, url: str, *, width: int, **context: Any) -> None:
        size: Any = {"width": width, "height": 900}
        self.page: Page = browser.new_context(viewport=size, **context).new_page()
        self.said: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda r: None if r.url.startswith((url, "data:"))
                     else self.outside.append(r.url))  # fmt: skip
        self.page.goto(url)

    def answered(self) -> None:
        """Wait for an answer with its charts drawn."""
        self.page.wait_for_selector("#answer:not([aria-busy]) article", timeout=30_000)
        self.page.wait_for_selector("html[data-state=ready]", timeout=20_000)
        charts = self.page.locator("#answer figure .chart")
        assert charts.count() >= 3
        for i in range(charts.count()):
            assert charts.nth(i).locator("svg path").count() > 2, f"chart {i} is empty"

    def silent(self) -> None:
        """Nothing was said, nothing asked for elsewhere, nothing is wider than the screen."""
        assert (self.said, self.outside) == ([], [])
        wide = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]

    def accessible(self) -> None:
        """axe-core finds nothing serious. It is run from outside the page's own policy."""
        import axe_playwright_python

        script = Path(axe_playwright_python.__file__).with_name("axe.min.js")
        self.page.evaluate(script.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run()")["violations"]
        bad = [(v["id"], [n["target"] for n in v["nodes"]][:5]) for v in found
               if v["impact"] in SERIOUS]  # fmt: skip
        assert bad == []


def _to(page: Page, selector: str, most: int = 60) -> None:
    """Press Tab until the element has the focus, and see that it shows."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none"
            return
    pytest.fail(f"no Tab leads to {selector}")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_main_task_by_keyboard(browser: Browser, url: str, width: int, scheme: str) -> None:
    """Choose a model, change the chip, see the answer, export it: without a mouse."""
    watched = Watched(browser, url, width=width, color_scheme=scheme, accept_downloads=True)
    page, press = watched.page, watched.page.keyboard.press
    _to(page, ".skip")
    _to(page, "#f-model")
    press("Control+a")
    page.keyboard.type("smollm2-135m")
    press("Tab")  # a changed control asks by itself
    watched.answered()
    assert "smollm2-135m" in page.inner_text(".tools .command code")
    _to(page, "input[name=on][value=h100-sxm]")
    first = page.get_attribute("article", "data-answer")
    press("Space")
    page.wait_for_function("id => (document.querySelector('article') || {dataset: {}}).dataset"
                           ".answer && document.querySelector('article').dataset.answer !== id",
                           arg=first, timeout=30_000)  # fmt: skip
    watched.answered()
    assert "h100" not in page.inner_text(".tools .command code")
    assert "h100" not in page.url
    press("Escape")  # past the other eighty
    _to(page, ".tools summary")
    press("Enter")
    page.wait_for_selector("form.export", timeout=20_000)
    _to(page, "form.export button[type=submit]")
    press("Enter")
    page.wait_for_selector(".exported a.button", timeout=20_000)
    _to(page, ".exported a.button")
    with page.expect_download() as download:
        press("Enter")
    assert download.value.suggested_filename.endswith("-torchrun.zip")
    watched.accessible()
    watched.silent()
    page.context.close()


def test_the_other_kind_a_mistake_and_a_hostile_config(browser: Browser, url: str) -> None:
    watched = Watched(browser, url, width=1600)
    page = watched.page
    page.check("input[name=kind][value=serve]")
    page.wait_for_selector("#f-ttft")
    assert page.input_value("#f-model") == "llama-3.1-8b"
    page.check("input[name=kind][value=train]")
    page.wait_for_selector("#f-tokens")
    page.click("summary:has-text('Paste a config.json')")
    page.fill("#f-config", HOSTILE)
    page.click("button.main")
    page.wait_for_selector("[data-failed]:has-text('hidden_size')", timeout=20_000)
    assert page.locator("article").count() == 0
    assert page.evaluate("window.broken") is None
    # The browser itself logs an answer of 4xx.
    assert all("status of 422" in text for text in watched.said)
    assert watched.outside == []
    watched.accessible()
    page.context.close()


def test_the_first_paint_needs_little(browser: Browser, url: str) -> None:
    """No library that the form does not need. Seconds are those of ``bench/pages.py``."""
    page = browser.new_page()
    page.goto(url)
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
    came = page.evaluate("""["navigation", "resource"].flatMap(kind =>
        performance.getEntriesByType(kind).map(e => [e.name, e.decodedBodySize]))""")
    assert not any("echarts" in name for name, _ in came)
    assert 20_000 < sum(size for _, size in came) < 150_000, came  # 99,470
    page.close()
