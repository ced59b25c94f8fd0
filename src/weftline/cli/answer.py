"""An answer on stdout, in the form that was asked for."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any

from weftline.cli.options import Form
from weftline.spec.answers import AnswerKind, stamped

__all__ = ["form_of", "show"]


def form_of(form: Form, *, json: bool) -> Form:
    """The form asked for; ``--json`` is short for ``--format json``. Raises InputError for two."""
    if json and form not in ("table", "json"):
        from weftline.errors import InputError

        raise InputError(f"--json and --format {form} are two forms", where="--format",
                         hint="give one of them")  # fmt: skip
    return "json" if json else form


def show(
    kind: AnswerKind, data: Any, text: Callable[[], str], *, json: bool, form: Form,
    main: str | None = None, as_json: Callable[[], str] | None = None,
) -> None:  # fmt: skip
    """Print an answer: ``text`` on a terminal, ``data`` as JSON, CSV or Markdown.

    JSON begins with its ``kind`` and ``format``, by which ``weftline report`` knows what it reads.

    ``main`` names the field with the rows of CSV; ``as_json`` writes JSON where an answer has a
    form of its own.
    """
    plain: Any = asdict(data) if is_dataclass(data) and not isinstance(data, type) else data
    match form_of(form, json=json):
        case "table":
            print(text())
        case "json":
            said = stamped(kind, plain)
            print(as_json() if as_json else
                  json_module.dumps(said, indent=1, ensure_ascii=False))  # fmt: skip
        case "csv":
            from weftline.report.forms import as_csv

            print(as_csv(plain, main))
        case "markdown":
            from weftline.report.forms import as_markdown

            print(as_markdown(plain, main))
