"""The parser: every command by its place, imported when it runs."""

from __future__ import annotations

from cyclopts import App, CycloptsError

from weftline._version import __version__
from weftline.cli.commands import COMMANDS, HELP
from weftline.errors import InputError

__all__ = ["app", "run_command"]

app = App(
    name="weftline",
    help=HELP,
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main says "stopped"
)
for _name, _place, _help in COMMANDS:
    app.command(f"weftline.cli.{_place}", name=_name, help=_help)
app.register_install_completion_command(
    name="--install-completion", help="Teach the shell to complete commands and options."
)


def run_command(argv: list[str]) -> int:
    """Run one command; its exit code. Raises InputError for what the parser cannot read."""
    try:
        result = app(argv, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise InputError(" ".join(str(error).split()), hint=_help_for(argv)) from None
    return result if isinstance(result, int) else 0


def _help_for(argv: list[str]) -> str:
    """The help of the deepest command that ``argv`` really names."""
    command, known = app, ["weftline"]
    for word in argv:
        if word.startswith("-") or word not in command:
            break
        command = command[word]
        known.append(word)
    return f"`{' '.join(known)} --help` lists what is known"
