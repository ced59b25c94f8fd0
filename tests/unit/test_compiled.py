"""Compiled code is kept where it can be, and never where somebody else could put theirs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weftline import _compiled


@pytest.fixture
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the package nor the user's cache can be written."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    monkeypatch.setattr(_compiled, "__file__", "/proc/none/weftline/_compiled.py")
    monkeypatch.setattr(_compiled.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path / f"weftline-{os.getuid()}"


def test_a_folder_of_ones_own_is_used(nowhere_else: Path) -> None:
    assert _compiled._keep()
    assert Path(os.environ.pop("NUMBA_CACHE_DIR")) == nowhere_else
    assert nowhere_else.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["others may write", "a link"])
def test_a_folder_that_others_could_fill_is_not(nowhere_else: Path, how: str) -> None:
    if how == "a link":
        (nowhere_else.parent / "else").mkdir(mode=0o700)
        nowhere_else.symlink_to(nowhere_else.parent / "else")
    else:
        nowhere_else.mkdir()
        nowhere_else.chmod(0o777)
    assert not _compiled._keep()
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_without_any_folder_nothing_is_kept(
    nowhere_else: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compiled, "_writable", lambda _: False)
    assert not _compiled._keep()
