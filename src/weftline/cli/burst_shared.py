"""What the commands of ``weftline burst`` share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.options import Form
from weftline.spec.answers import AnswerKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weftline.burst.commit.view import Source
    from weftline.burst.store import Store

Flag = Annotated[bool, Parameter(negative="")]
Many = Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative="")]
From = Annotated[tuple[str, ...], Parameter(name="--from", consume_multiple=False)]
Folder = Annotated[Path, Parameter(help="Folder of the store.")]
Step = Annotated[int | None, Parameter(help="Which checkpoint; the newest by default.")]


def reading(store: str | Path) -> Store:
    """A store, opened to look only."""
    from weftline.burst import Store

    return Store.open(store, create=False, read_only=True)


def sources(urls: Sequence[str]) -> list[Source]:
    """Where to read from: object stores and nodes."""
    from weftline.burst.nodes.cluster import sources_at

    return [source for url in urls for source in sources_at(url)]


def share(doing: str) -> Callable[[int, int], None]:
    """A progress bar over bytes."""
    from weftline.cli.progress import progress

    show_share = progress()
    return lambda done, total: show_share(doing, done / total if total else 1.0)


def notes(store: Store) -> None:
    """What did not go as asked, on stderr."""
    for notice in store.notices:
        print(f"note: {notice}", file=sys.stderr)


def plain(value: Any) -> Any:
    """A value as JSON can show it."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return f"{len(value)} bytes" if isinstance(value, bytes) else value


def out(
    kind: AnswerKind, data: Any, render: Callable[[Any], str], *, json: bool, form: Form
) -> int:
    """The answer on stdout in the form asked for; the exit code of a command that ends so."""
    show(kind, data, lambda: render(data), json=json, form=form)
    return 0
