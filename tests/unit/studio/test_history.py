"""Past answers: bounded, private, forgotten when asked, whatever their text."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from weftline.errors import InputError
from weftline.studio.history import Entry, History, history_path

ENTRY = Entry(id="a", made_s=1.0, kind="train", headline="x'); DROP TABLE answers;--",
              query="model=m", command="weftline", version="0")  # fmt: skip


def test_the_newest_are_kept_and_the_rest_go(tmp_path: Path) -> None:
    history = History(tmp_path / "deep" / "h.sqlite3", keep=3)
    for i in range(5):
        history.add(replace(ENTRY, id=f"{i}", made_s=float(i)), f"plan {i}")
    assert [e.id for e in history.entries()] == ["4", "3", "2"]
    assert history.find("3") == (replace(ENTRY, id="3", made_s=3.0), "plan 3")
    assert history.find("0") is None
    assert history.find("' OR 1=1 --") is None
    assert history.delete("3")
    assert not history.delete("3")
    history.clear()
    assert history.entries() == ()
    history.close()


def test_only_the_user_can_read_it_and_two_studios_share_it(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    one, two = History(path, keep=9), History(path, keep=0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    one.add(ENTRY, "plan")
    assert two.entries() == (ENTRY,)
    assert path.with_name("h.sqlite3-wal").exists()
    two.close()  # keeps nothing
    assert one.entries() == ()
    one.close()
    assert b"DROP TABLE" not in path.read_bytes()


def test_what_is_no_history_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database" * 100)
    other = tmp_path / "other"
    history = History(other, keep=1)
    history._base.execute("PRAGMA user_version=7")
    history.close()
    for path in (tmp_path / "text", other, tmp_path):
        with pytest.raises(InputError):
            History(path, keep=1)


def test_it_is_in_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "weftline" / "studio.sqlite3"
