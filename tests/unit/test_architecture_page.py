"""The page that newcomers read first names what there is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "weftline"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)`", PAGE)))
PATHS = sorted(set(re.findall(r"`((?:[a-z_]+/)+[A-Za-z_]*(?:\.\w+)?)`", PAGE)))


@pytest.mark.parametrize("name", [n for n in NAMES if not n.endswith((".py", ".json", ".toml"))])
def test_a_name_on_the_page_exists(name: str) -> None:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["weftline", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            found = getattr(found, attribute)
        return
    pytest.fail(f"no module of `{name}`")


@pytest.mark.parametrize("path", PATHS)
def test_a_path_on_the_page_exists(path: str) -> None:
    assert (SRC / path).exists() or (ROOT / path).exists()


def test_every_room_is_on_the_page() -> None:
    rooms = {p.parent.name for p in SRC.glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^\| `(\w+)/`", PAGE, re.MULTILINE))
