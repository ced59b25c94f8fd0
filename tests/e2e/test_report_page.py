"""Pages in a real browser: drawn, silent, readable by keyboard and on a phone, never executing."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from weftline.cli.main import run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from syrupy.assertion import SnapshotAssertion

TRAIN = ("plan", "train", "llama-3.1-8b", "--tokens", "100B", "--on", "h100,mi300x,b200",
         "--max-chips", "64", "--layout", "pp=4")  # fmt: skip
SERVE = ("plan", "serve", "llama-3.1-8b", "--rate", "40/s", "--input", "1000", "--output", "200",
         "--ttft", "300ms", "--on", "h100", "--precision", "bf16")  # fmt: skip
ROOT = Path(__file__).parents[2]
EXAMPLES, RECORDED = ROOT / "examples", ROOT / "tests" / "data" / "answers"
OUTLINE = (ROOT / "tests" / "support" / "outline.js").read_text(encoding="utf-8")
PUBLISHED = files("weftline.plan") / "data" / "published_runs.csv"
SERVED = files("weftline.serve") / "data" / "serving_silicon.csv.gz"
COLLECTIVES = files("weftline.fabric") / "data" / "collectives_measured.csv"
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
HOSTILE = "</script><script>window.broken=1</script><img src=x onerror='window.broken=1'>"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind of answer."""
    folder = tmp_path_factory.mktemp("pages")
    life = ("plan", "lifecycle", str(EXAMPLES / "life" / "cluster-calculator.yaml"))
    answers = {"train": TRAIN, "serve": SERVE, "life": life}
    for name, command in answers.items():
        assert run([*command, "-o", str(folder / f"{name}.json")]) == 0
    plain: dict[str, tuple[str, ...]] = {
        "torus": ("simulate", "collective", "all-reduce", "1GB", "--on", "torus:4x4x4", "--link",
                  "100GB/s", "--latency", "1us"),
        "nccl": ("simulate", "collective", "all-reduce", "1MiB", "--on", "h100-clos:16"),
        "advise": ("burst", "advise", "--state", "14TB", "--nodes", "2048"),
        "audit": ("audit", "C07"),
        "portfolio": ("plan", "portfolio", str(EXAMPLES / "portfolio" / "owned.yaml")),
        "store": ("burst", "ls", str(_store(folder))),
        "checkpoint": ("burst", "show", str(folder / "store")),
        "spot": ("simulate", "spot", "--work", "60h", "--deadline", "4days", "--spot", "$1/h",
                 "--on-demand", "$3/h", "--runs", "20"),
        "score-training": ("score", "training", _some(folder, PUBLISHED, 12)),
        "score-memory": ("score", "memory", _some(folder, PUBLISHED, 12)),
        "score-collectives": ("score", "collectives", _some(folder, COLLECTIVES, 15)),
        "score-serving": ("score", "serving", _some(folder, SERVED, 50)),
        "tables": ("catalog", "list", "storage"),
    }  # fmt: skip
    for name, command in plain.items():
        (folder / f"{name}.json").write_text(_printed(*command, "--json"))
    assert run(["policy", "check", str(folder / "train.json"),
                "-o", str(folder / "policy.json")]) == 4  # fmt: skip
    compared = {
        "model": "m", "layout": "tp2", "steps": 20, "same": True, "other": "",
        "explains": ["compute is slower"], "rows": [
            {"name": "step", "unit": "s", "predicted": 1.0, "measured": 1.1, "basis": "b"},
            {"name": "memory", "unit": "B", "predicted": 1e9, "measured": 1.2e9, "basis": "b"},
            {"name": "loss", "unit": "", "predicted": None, "measured": 3.0, "basis": ""}],
    }  # fmt: skip
    (folder / "compare.json").write_text(json.dumps(compared))
    (folder / "other.json").write_text(_cheaper(folder / "train.json"))
    changed = _printed("diff", str(folder / "train.json"), str(folder / "other.json"), "--json")
    (folder / "other.json").write_text(changed)
    for answer in RECORDED.glob("*.json"):
        (folder / answer.name).write_bytes(answer.read_bytes())
    found = {}
    for answer in sorted(folder.glob("*.json")):
        found[answer.stem] = answer.with_suffix(".html")
        assert run(["report", str(answer), "-o", str(found[answer.stem])]) == 0
    return found


def _store(folder: Path) -> Path:
    """A store with two checkpoints."""
    from safetensors.numpy import save_file

    for step in (1, 2):
        save_file({"w": np.full((64, 64), step, np.float32)}, folder / "state.safetensors")
        assert run(["burst", "save", str(folder / "store"), str(folder / "state.safetensors")]) == 0
    return folder / "store"


def _some(folder: Path, rows: Traversable, each: int) -> str:
    """Every so manieth row of a table of measurements, in a file of its own."""
    raw = rows.read_bytes()
    lines = (gzip.decompress(raw) if rows.name.endswith("gz") else raw).decode().splitlines()
    file = folder / f"{rows.name.partition('.')[0]}.csv"
    file.write_text("\n".join([lines[0], *lines[1:1500:each]]) + "\n", encoding="utf-8")
    return str(file)


def _cheaper(plan: Path) -> str:
    """The plan at half the cost, with a band that does not meet the one before."""
    raw = json.loads(plan.read_text())
    for end in ("value", "low", "high"):
        raw["estimates"]["cost"][end] /= 5
    raw["job"]["tokens"] *= 2
    return json.dumps(raw)


def _printed(*command: str) -> str:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(list(command)) == 0
    return out.getvalue()


def _opened(browser: Browser, file: Path) -> tuple[Page, list[str], list[str]]:
    """The page, what its console said, and what it asked for beside itself."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-state=ready]", timeout=20_000)
    return page, said, [url for url in asked if url != file.as_uri()]


KINDS = {
    "train": True, "serve": True, "life": False, "leave": False, "torus": False, "nccl": False,
    "advise": False, "compare": False, "audit": True, "policy": False, "portfolio": False,
    "store": False, "checkpoint": False, "codesign": False, "quality": False, "spot": False,
    "other": False, "score-training": False, "score-memory": False, "score-collectives": False,
    "score-serving": False, "tables": True,
}  # fmt: skip
"""Page -> whether axe-core reads it too: the others are made of the same elements."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_drawn_and_asks_for_nothing(
    browser: Browser, pages: dict[str, Path], kind: str, snapshot: SnapshotAssertion
) -> None:
    page, said, asked = _opened(browser, pages[kind])
    for scheme in ("light", "dark") if kind == "train" else ("light",) if KINDS[kind] else ():
        page.emulate_media(color_scheme=scheme)
        assert _serious(page) == []
    charts = page.locator("figure .chart")
    outlines = []
    for width in (1280, 390):  # as on a desk, then as on a phone: drawn again
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_selector(f"html[data-wide='{width}']", timeout=20_000)
        assert charts.count() >= (kind != "tables")
        for i in range(charts.count()):
            assert charts.nth(i).locator("svg path").count() > 2, f"chart {i} is empty"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shown = page.evaluate(OUTLINE)
        assert shown["wrong"] == []  # no label lies on another, none is cut
        outlines.append(shown["outline"])
    assert outlines[0] == outlines[1]
    assert "\n".join(outlines[0]) == snapshot
    assert (said, asked) == ([], [])
    assert pages[kind].stat().st_size < 1_500_000
    page.close()


def _serious(page: Page) -> list[str]:
    """What axe-core finds of weight, in words."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 15
    return [
        f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}"
        for v in found["violations"] if v["impact"] in ("serious", "critical")
    ]  # fmt: skip


def test_the_site_of_the_docs_is_readable(browser: Browser, tmp_path: Path) -> None:
    site = EXAMPLES.parent / "docs" / "generate_site.py"
    subprocess.run([sys.executable, str(site), str(tmp_path), "--without-examples"], check=True)
    page = browser.new_page(viewport={"width": 390, "height": 900})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in ("index", "cookbook", "accuracy"):
        page.goto((tmp_path / f"{name}.html").as_uri())
        assert _serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert all(url.startswith("file://") for url in asked)
    page.close()


def test_a_page_reads_without_scripts(browser: Browser, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["train"].as_uri())
    assert "b200" in page.inner_text("h1")
    assert page.locator("table tbody tr").count() > 20
    assert not page.locator("figure .chart").first.is_visible()
    context.close()


def test_tables_open_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    page, _, _ = _opened(browser, pages["advise"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    assert not page.locator("details table").first.is_visible()
    page.keyboard.press("Enter")
    assert page.locator("details table").first.is_visible()
    page.close()


def test_hostile_text_stays_text(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    raw = json.loads(pages["train"].with_suffix(".json").read_text())
    raw["job"]["model"] = raw["framework"] = HOSTILE
    raw["cluster"]["accelerator"] = HOSTILE
    raw["why"] = raw["flips"] = [HOSTILE]
    for row in raw["ranking"]:
        row["accelerator"] = row["note"] = row["lost"] = HOSTILE
    for part in (*raw["step_parts"], *raw["memory_parts"], *raw["cost_parts"], *raw["measured"]):
        _poison(part)
    file, html = tmp_path / "plan.json", tmp_path / "plan.html"
    file.write_text(json.dumps(raw))
    assert run(["report", str(file), "-o", str(html)]) == 0
    page, said, asked = _opened(browser, html)
    page.locator("figure .chart").first.hover()
    assert page.evaluate("window.broken") is None
    assert (said, asked) == ([], [])
    assert HOSTILE in page.inner_text("main")
    page.close()


def _poison(row: dict[str, Any]) -> None:
    for name, value in row.items():
        if isinstance(value, str) and name != "unit":
            row[name] = HOSTILE


def test_a_plan_of_format_1_has_a_page(pages: dict[str, Path], tmp_path: Path) -> None:
    raw = json.loads(pages["train"].with_suffix(".json").read_text())
    raw["format"] = 1
    for name in ("kind", "break_evens", "interval_curve", "pipeline", "exchanges", "swings",
                 "stage_memory", "link_loads", "beside_parts"):  # fmt: skip
        assert raw.pop(name)
    raw.pop("measured")
    for row in (*raw["ranking"], *raw["pareto"]):
        for name in ("train_time_low_s", "train_time_high_s", "cost_low_usd", "cost_high_usd",
                     "step_parts", "lost"):  # fmt: skip
            row.pop(name)
    file, html = tmp_path / "plan.json", tmp_path / "plan.html"
    file.write_text(json.dumps(raw))
    assert run(["report", str(file), "-o", str(html)]) == 0
    assert "Which plan wins" in html.read_text()


def test_what_no_page_is_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text('{"format": 1}')
    (tmp_path / "b.json").write_text("7")
    for name in ("a", "b", "none"):
        out = tmp_path / "page.html"
        assert run(["report", str(tmp_path / f"{name}.json"), "-o", str(out)]) == 2
        assert not out.exists()
        assert f"{name}.json" in capsys.readouterr().err
