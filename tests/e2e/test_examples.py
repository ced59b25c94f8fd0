"""Every example runs as it stands, soon, and so do the lines of Python in README.md."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python(*argv: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "WEFTLINE_DATA_DIR": str(folder / "data")},
    )  # fmt: skip


def cpu_of_children_s() -> float:
    """Processor time of the processes that this one has waited for: others beside it count less."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    start_s = cpu_of_children_s()
    done = python(str(example), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) >= 3
    if cpu_of_children_s() - start_s >= 10:
        # The first use of a simulator on a machine compiles it, once; the next run must be quick.
        start_s = cpu_of_children_s()
        python(str(example), folder=tmp_path)
        assert cpu_of_children_s() - start_s < 10  # one to three seconds on an idle core
    assert not [p for p in tmp_path.iterdir() if p.name != "data"]


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    done = python("-c", blocks[0], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_file_that_the_readme_names_is_there() -> None:
    names = re.findall(r"\]\(([\w./-]+)\)", README)
    assert len(names) >= 5
    missing = [name for name in names if not (ROOT / name).exists()]
    assert missing == []


def test_the_picture_is_small_and_asks_nothing_of_anyone() -> None:
    text = (ROOT / "docs" / "plan.svg").read_text(encoding="utf-8")
    assert len(text.encode()) < 100_000
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "@font-face" not in text
    assert "<script" not in text
