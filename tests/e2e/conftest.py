"""Fixtures of the tests that ask as a user does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import Say

from weftline.cli.main import run
from weftline.plan.calibrate.calibration import calibrated

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs and prices of a user's own, empty at first, and nothing learnt of another test's."""
    monkeypatch.setenv("WEFTLINE_DATA_DIR", str(tmp_path / "data"))
    calibrated.cache_clear()
    yield
    calibrated.cache_clear()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command in this process: (exit code, standard output, standard error)."""

    def said(*argv: str) -> tuple[int, str, str]:
        code = run(list(argv))
        out, err = capsys.readouterr()
        return code, out, err

    return said


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Where the suite must have it (CI), its absence is a failure."""
    found = shutil.which("chromium")
    if found is None:
        text = "no chromium here: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
