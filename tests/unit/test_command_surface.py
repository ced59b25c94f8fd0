"""The command surface, frozen: a command or an option appears, goes or changes only on purpose.

``make golden`` accepts the surface as it is now; ``make docs`` writes its page anew.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from weftline.cli.app import app
from weftline.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "command_surface.txt"
PAGE = ROOT / "docs" / "commands.md"


def surface(command: App, path: str = "weftline") -> Iterator[str]:
    """One line a command, and one a parameter: names, whether it must be given, its choices."""
    yield path
    if command.default_command is not None:
        for argument in command.assemble_argument_collection():
            choices = argument.get_choices(force=True)
            parts = ["/".join(argument.names), *(["required"] if argument.required else [])]
            yield f"{path}  {' '.join([*parts, *(['|'.join(choices)] if choices else [])])}"
    for name in sorted(command):
        if not name.startswith("-"):
            yield from surface(command[name], f"{path} {name}")


def test_the_command_surface_is_the_frozen_one() -> None:
    now = "\n".join(surface(app)) + "\n"
    if os.environ.get("WEFTLINE_UPDATE_SURFACE"):
        GOLDEN.write_text(now, encoding="utf-8")
    frozen = set(GOLDEN.read_text(encoding="utf-8").splitlines())
    found = set(now.splitlines())
    assert not found ^ frozen, (
        f"new: {sorted(found - frozen)}, gone: {sorted(frozen - found)}; "
        "if that is on purpose, run `make golden` and say so in CHANGELOG.md"
    )


def test_every_command_and_option_is_explained() -> None:
    page = app.generate_docs()
    bare = [line for line in page.splitlines() if line.startswith("* `") and "`: " not in line]
    assert bare == []
    unexplained = re.findall(r"^#+ (weftline.*)\n\n(?:```console\n.*\n```\n\n)?[#*]", page, re.M)
    assert unexplained == []


def test_the_page_of_commands_is_current(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "generate.py", tmp_path], check=True)
    for page in (PAGE, PAGE.with_name("fabric-formats.md")):
        made = (tmp_path / page.name).read_text(encoding="utf-8")
        assert page.read_text(encoding="utf-8") == made, "run `make docs`"


@pytest.mark.parametrize(("name", "place", "text"), COMMANDS)
def test_the_list_of_commands_says_what_they_say_themselves(
    name: str, place: str, text: str
) -> None:
    """The texts stand apart from the commands, so that help need not import them."""
    module, attribute = place.split(":")
    found = getattr(importlib.import_module(f"weftline.cli.{module}"), attribute)
    if isinstance(found, App):
        assert (found.name[0], found.help) == (name, text)
    else:
        said = inspect.cleandoc(found.__doc__ or "").split("\n\n", 1)[0].replace("\n", " ")
        assert said == text
