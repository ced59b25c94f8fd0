"""What ``burst doctor`` says of a file system: what it does, and what it lacks."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from weftline.burst.advise import filesystem
from weftline.burst.advise.filesystem import probe
from weftline.burst.errors import StorageError
from weftline.cli.main import run

NEEDED = {"flock", "rename", "fsync of a file", "exclusive create"}


@pytest.mark.parametrize("place", ["tmp", "/dev/shm"])  # noqa: S108
def test_a_local_file_system_is_fit(tmp_path: Path, place: str) -> None:
    folder = tmp_path if place == "tmp" else Path(place)
    if not os.access(folder, os.W_OK):
        pytest.skip(f"{folder} cannot be written here")
    before = set(folder.iterdir())
    found = probe(folder)
    assert found.fit
    assert {c.name for c in found.checks if c.needed} == NEEDED
    assert found.kind != "unknown"
    assert not [p for p in set(folder.iterdir()) - before if "burst-doctor" in p.name]
    if place == "/dev/shm":  # noqa: S108
        assert found.kind == "tmpfs"


def test_locks_that_hold_in_one_process_alone_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "_TRY_LOCK", "pass")  # the other process is not kept out
    found = probe(tmp_path)
    assert not found.fit
    assert [c.name for c in found.checks if c.needed and not c.works] == ["flock"]


def test_what_is_lacking_is_said_and_only_what_is_needed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(os, "posix_fallocate", refused)
    found = probe(tmp_path)
    lacking = {c.name: c.says for c in found.checks if not c.works}
    assert set(lacking) >= {"hard links", "fallocate"}
    assert "not supported" in lacking["fallocate"].lower()
    assert found.fit
    monkeypatch.setattr(os, "replace", refused)
    assert not probe(tmp_path).fit


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="make a folder"):
        probe(tmp_path / "none")


def test_the_command_says_whether_a_store_can_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["burst", "doctor", str(tmp_path)]) == 0
    assert "a store can be written here" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(filesystem, "_TRY_LOCK", "pass")
    assert run(["burst", "doctor", str(tmp_path)]) == 1
    assert "write no store here" in " ".join(capsys.readouterr().out.split())
