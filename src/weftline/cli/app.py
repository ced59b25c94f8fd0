"""The parser: every command by its place, imported when it runs."""

from __future__ import annotations

from cyclopts import App, CycloptsError, MissingArgumentError, UnknownOptionError

from weftline._version import __version__
from weftline.cli.commands import COMMANDS, HELP
from weftline.errors import InputError, InputErrors, nearest_names

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
        raise _told(error, argv) from None
    return result if isinstance(result, int) else 0


def _told(error: CycloptsError, argv: list[str]) -> InputError:
    """What the parser cannot read, with what is wrong in a job file that it was to read from."""
    from weftline.cli.job_file import form_errors

    said = InputError(_plainly(error), hint=_help_for(argv))
    wrong = form_errors()
    return InputErrors([*wrong, said]) if wrong else said


def _plainly(error: CycloptsError) -> str:
    """The parser's message; an option that nobody knows is named once, with the likely one.

    A mistyped option that is required comes as the required one missing.
    """
    option, known = "", []
    if isinstance(error, UnknownOptionError):
        option = (error.token.keyword or error.token.value).partition("=")[0]
        known = [name for argument in error.argument_collection for name in argument.names]
    elif isinstance(error, MissingArgumentError) and error.argument is not None:
        typed = [word.partition("=")[0] for word in error.unused_tokens or () if word[:1] == "-"]
        wanted = error.argument.name
        near = nearest_names(wanted.lstrip("-"), [word.lstrip("-") for word in typed], 1)
        option = next((word for word in typed if near and word.lstrip("-") == near[0]), "")
        option = "" if option in error.argument.names else option
        known = [wanted]
    if not option:
        return " ".join(str(error).split())
    plain = [name.lstrip("-") for name in known if name.startswith("-")]
    meant = nearest_names(option.lstrip("-"), plain, 1)
    return f"unknown option {option}" + (f"; did you mean --{meant[0]}?" if meant else "")


def _help_for(argv: list[str]) -> str:
    """The help of the deepest command that ``argv`` really names."""
    command, known = app, ["weftline"]
    for word in argv:
        if word.startswith("-") or word not in command:
            break
        command = command[word]
        known.append(word)
    return f"`{' '.join(known)} --help` lists what is known"
