"""The command line: parses, calls one room, prints. Data on stdout, notes on stderr."""

from __future__ import annotations

import os
import sys
from typing import Final, NoReturn

from cyclopts import App

from weftline import __version__
from weftline.errors import InputError, WeftlineError

app = App(
    name="weftline",
    help="Plan, simulate, run and price foundation-model work on any accelerator and network.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
)
# Each command is imported when it runs, so that `--help` costs the same however many there are. A
# test holds these texts to what the commands themselves say.
COMMANDS: Final = (
    ("burst", "burst:app",
     "Checkpoints: from memory through a log on local disk to an object store."),
    ("calibrate", "calibrate:calibrate",
     "Fit the constants to measured runs of your own, beside the shipped ones."),
    ("catalog", "catalog:app",
     "Chips, fabrics and prices: what is known, from where, how surely."),
    ("doctor", "doctor:doctor",
     "What works on this machine, what is missing, and what each missing thing is for."),
    ("explain", "explain:explain",
     "Where the time, memory and money of a plan go, and what each number rests on."),
    ("export-schedule", "export_schedule:export_schedule",
     "A collective as an MSCCL, MSCCL++ or Chakra file, proved before it is written."),
    ("import", "import_fabric:import_fabric",
     "A cluster's own topology file as a fabric, joined with the catalogue's link speeds."),
    ("plan", "plan:app", "Find the best plan for a job."),
    ("score", "score:app", "Hold predictions against measurements."),
    ("simulate", "simulate:app",
     "Simulate a collective or a serving system without the hardware."),
)  # fmt: skip
for _name, _place, _help in COMMANDS:
    app.command(f"weftline.cli.{_place}", name=_name, help=_help)


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 2 bad input, 3 no answer, 4 threshold crossed."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    from cyclopts import CycloptsError

    try:
        result = app(argv, exit_on_error=False, print_error=False)
        # Here and not at exit, where a pipe that closed could no longer be told from a fault.
        sys.stdout.flush()
    except WeftlineError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    except CycloptsError as error:
        print(InputError(_plain(error), hint=_help_for(argv)).render(), file=sys.stderr)
        return InputError.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our pipe has gone (`| head`): stop quietly, without a second error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return result if isinstance(result, int) else 0


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())


def _help_for(argv: list[str]) -> str:
    """The help of the deepest command that ``argv`` really names."""
    command, known = app, ["weftline"]
    for word in argv:
        if word.startswith("-") or word not in command:
            break
        command = command[word]
        known.append(word)
    return f"`{' '.join(known)} --help` lists what is known"
