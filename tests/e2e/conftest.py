"""Fixtures of the tests that ask as a user does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Say

from weftline.cli.main import run
from weftline.plan.calibrate.calibration import calibrated


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
