"""The line on a first run: said once, on a terminal, while nothing compiled is kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from weftline.cli.progress import compiling_notice


def test_the_notice_comes_while_nothing_compiled_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loops_of_mine.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    compiling_notice("loops_of_mine", 7)
    assert capsys.readouterr().err == ""  # a pipe
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    compiling_notice("loops_of_mine", 7)
    assert "about 7 s" in capsys.readouterr().err
    kept = tmp_path / "__pycache__"
    kept.mkdir(exist_ok=True)
    version = f"py{sys.version_info[0]}{sys.version_info[1]}"
    (kept / f"loops_of_mine.run-3.{version}.nbi").touch()
    compiling_notice("loops_of_mine", 7)
    assert capsys.readouterr().err == ""
