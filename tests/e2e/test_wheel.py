"""The wheel that would be published: everything is in it, and it works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"


def tell(*command: str | Path, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)  # noqa: PLW1510
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = "import hatchling.build as b, sys; b.build_wheel(sys.argv[1])"
    tell(sys.executable, "-c", build, folder, cwd=ROOT)
    (found,) = folder.glob("*.whl")
    return found


def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    kept = {
        str(path.relative_to(SRC))
        for path in (SRC / "weftline").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == kept


def test_it_runs_where_there_is_no_checkout(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own that has what weftline needs, and weftline from the wheel."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    packages = next((tmp_path / "env").glob("lib/python*/site-packages"))
    needed = Path(next(p for p in sys.path if p.endswith("site-packages")))
    # A folder named in a .pth is searched, but what lies in it is not read as one: the editable
    # install of the checkout stays out.
    (packages / "needed.pth").write_text(f"{needed}\n", encoding="utf-8")
    zipfile.ZipFile(wheel).extractall(packages)
    python = tmp_path / "env" / "bin" / "python"
    where = tell(python, "-c", "import weftline; print(weftline.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(packages)

    def weftline(*words: str) -> str:
        return tell(python, "-m", "weftline", *words, cwd=tmp_path)

    assert weftline("--version").startswith("weftline 0.")
    plan = ("plan", "train", "llama-3.1-8b", "--tokens", "100B", "--on", "h100", "--chips", "16")
    assert weftline(*plan, "-o", "plan.json").startswith("Best: 16 x h100-sxm")
    assert weftline("explain", "plan.json").startswith("Best: 16 x h100-sxm")
    assert weftline("catalog", "show", "mi300x").startswith("mi300x")
    again = "from weftline.serve import ServingConfig, surface; surface(ServingConfig(" \
            "model='llama-3.1-8b', chip='h100'))"  # fmt: skip
    tell(python, "-c", again, cwd=tmp_path)
