"""``--job FILE``: a file's fields stand in for options that were not typed.

The parser asks this before it fills in defaults, so an option typed at its default is still one
that was typed: it beats the file, and a note says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter, Token

from weftline.spec.options import as_option

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import Argument, ArgumentCollection

    from weftline.errors import InputError
    from weftline.spec.job_file import JobFile, JobKind

T = TypeVar("T")
__all__ = ["JobPath", "WriteJob", "all_at_once", "from_job_file", "place_of", "write_job"]

JobPath = Annotated[
    Path | None, Parameter(name="--job", help="Take what is not typed from this file.")
]
WriteJob = Annotated[
    Path | None, Parameter(name="--write-job", help="Write the question to this file, as a job.")
]
_places: dict[str, str] = {}
"""Where the fields stand that the last command took from a file."""
_SAID_BY_HOSTS = ("kind", "on", "chips", "max_chips")
"""Fields of a plan's job that its hosts are to answer anew."""
_wrong: list[InputError] = []
"""What was wrong with the form of that file."""


def from_job_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give every argument that was not typed the value that the job file has for it.

    What is wrong with its form waits for :func:`all_at_once`, so that it is told with the rest.
    """
    del app
    _places.clear()
    _wrong.clear()
    named = {name: a for a in arguments for name in a.names}
    job, within = named.get("--job"), named.get("--within")
    if within is not None and within.tokens:
        _take_plan(within.tokens[-1].value, named)
    if job is None or not job.tokens:
        return
    from weftline.spec.job_file import read_job_file

    kind: JobKind = "serve" if commands[-1] == "serve" else "train"
    file, wrong = read_job_file(job.tokens[-1].value, kind)
    _wrong.extend(wrong)
    for field, value in file.values.items():
        _take(file, field, value, named[as_option(field)])


def _take_plan(within: str, named: dict[str, Argument]) -> None:
    """What is not typed comes from the plan that ran before, if ``--within`` names one."""
    from weftline.plan.search.asked import options_of
    from weftline.spec.hosts_there import read_hosts_there
    from weftline.spec.job_file import JobFile, job_values
    from weftline.spec.serialize import read_plan

    path = read_hosts_there(Path(within)).plan
    if path is None:
        return
    plan = read_plan(path)
    said = job_values("train", plan.job.model, options_of(plan.job))
    values = {name: v if isinstance(v, bool) else f"{v}" for name, v in said.items()
              if name not in _SAID_BY_HOSTS}  # fmt: skip
    file = JobFile(path=str(path), kind="train", values=values, lines=dict.fromkeys(values, 1))
    for field, value in values.items():
        _take(file, field, value, named[as_option(field)])


def _take(file: JobFile, field: str, value: str | bool, argument: Argument) -> None:
    if argument.tokens:
        typed = argument.tokens[-1].value or argument.tokens[-1].implicit_value
        if str(typed) != str(value):
            sys.stderr.write(f"note: {as_option(field)} {typed} as typed, not `{value}` of "
                             f"{file.place(field)}\n")  # fmt: skip
        return
    _places[field] = file.place(field)
    said: dict[str, Any] = {"keyword": as_option(field), "source": file.place(field)}
    text = str(value).lower() if isinstance(value, bool) else value
    argument.append(Token(value=text, **said))


def all_at_once(ask: Callable[[], T]) -> T:
    """What ``ask`` answers; with its mistakes those of the form of the job file are raised."""
    from weftline.spec.parse import Collector

    get = Collector()
    get.errors += _wrong
    found = get(ask)
    get.raise_all()
    if found is None:
        raise AssertionError("the collector raises before this")
    return found


def form_errors() -> list[InputError]:
    """What was wrong with the form of the job file of the last command, if it read one."""
    return list(_wrong)


def place_of(field: str) -> str:
    """Where a field was written: ``job.yaml:6``, or the option."""
    return _places.get(field, as_option(field))


def write_job(path: Path, values: dict[str, Any]) -> None:
    """Write a question as a job file, whole or not at all, and say so."""
    from weftline.spec.job_file import job_text
    from weftline.spec.serialize import write_text

    write_text(job_text(values), path)
    sys.stderr.write(f"job written to {path}\n")
