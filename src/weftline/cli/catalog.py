"""``weftline catalog``: what weftline knows of chips, networks and prices, and how well."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from weftline.cli.answer import show as answer
from weftline.cli.options import Format, Json

if TYPE_CHECKING:
    import datetime

    from weftline.catalog.facts import FactSheet

app = App(name="catalog", help="Chips, fabrics and prices: what is known, from where, how surely.")

# Its rooms are loaded when it runs.
app.command(
    "weftline.cli.catalog_fit:fit", name="fit",
    help="How well chips suit MODEL: the time at their peaks over the time predicted, by part.",
)  # fmt: skip
app.command(
    "weftline.cli.catalog_compare:compare", name="compare",
    help="Chips side by side: peaks, memory, links, software, how each is sold, what is unsure.",
)  # fmt: skip

ListKind = Literal[
    "accelerators", "fabrics", "prices", "storage", "cpus", "sources", "models"
]  # fmt: skip
ShowKind = Literal["accelerator", "fabric", "storage"]


@app.command(name="list")
def list_(
    kind: ListKind = "accelerators",
    *,
    vendor: str | None = None,
    chip: str | None = None,
    today: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> None:
    """List what the catalogue holds.

    Parameters
    ----------
    kind
        accelerators, fabrics, prices, storage, cpus, sources or models.
    vendor
        Only this vendor, cloud provider (nvidia, aws, ...) or maker of models.
    chip
        Of prices: every offer of this chip, faulty and marked ones too.
    today
        The date that ages are counted to, 2026-11-21 for example.
    """
    from weftline.errors import InputError
    from weftline.report.catalog import list_data, list_text

    if chip is not None and kind != "prices":
        hint = "`weftline catalog list prices --chip h100`"
        raise InputError(f"`list {kind}` has no offers of a chip", where="--chip", hint=hint)
    known = None if vendor is None else _known_vendor(kind, vendor)
    data = list_data(kind, known, chip=chip, today=day_of(today))
    answer("catalog-list", data, lambda: list_text(data), json=json, form=form)


@app.command
def show(
    name: str,
    *,
    kind: ShowKind | None = None,
    today: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> None:
    """Show every figure on one chip, fabric or storage tier, its source, and which is used.

    Parameters
    ----------
    name
        As `catalog list` names it, or the usual short name (h100, trn2, v5p).
    kind
        Where a chip and a fabric share a name: which one.
    today
        The date that ages are counted to, 2026-11-21 for example.
    """
    from weftline.report.catalog import show_data, show_text

    data = show_data(_find(name, kind), day_of(today))
    answer("catalog-entry", data, lambda: show_text(data), json=json, form=form)


@app.command
def validate(
    path: Path | None = None,
    *,
    today: str | None = None,
    max_age_days: int = 365,
    all_: Annotated[bool, Parameter(name="--all", negative=())] = False,
    json: Json = False,
    form: Format = "table",
) -> None:
    """Look for faults: in the shipped catalogue, or in your file or SkyPilot's.

    Exits with 2 where there is an error.

    Parameters
    ----------
    path
        A catalogue as YAML, JSON or CSV (see docs/catalog.md), or SkyPilot's vms.csv.
    today
        The date that ages are counted to, 2026-11-21 for example.
    max_age_days
        A price older than this is a fault.
    all_
        List every finding, not the first of each rule.
    """
    from weftline.catalog import accelerators, fabrics, known_faults
    from weftline.catalog import validate as check
    from weftline.catalog.prices import shipped_prices
    from weftline.report.catalog import validate_data, validate_text

    found = check(path, today=day_of(today), max_age_days=max_age_days)
    shipped = path is None
    tables = {
        "accelerators": accelerators(), "fabrics": fabrics(), "prices": shipped_prices(),
    }  # fmt: skip
    counts = {name: len(table) for name, table in tables.items()} if shipped else {}
    faults = known_faults() if shipped else ()
    data = validate_data(None if shipped else str(path), found, faults, counts)
    answer(
        "catalog-findings", data, lambda: validate_text(data, everything=all_), json=json, form=form
    )
    if data["errors"]:
        sys.exit(2)


@app.command(name="import")
def import_(
    path: Path,
    *,
    name: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> None:
    """Take another's measured machine into your own catalogue; plan for it with --on its name.

    Parameters
    ----------
    path
        A file that `weftline calibrate` wrote: machines/here.json in the configuration folder.
    name
        What to call it here; its own name if not given.
    """
    from weftline.catalog.machines import import_machine
    from weftline.report.machine import render_machine

    found, file = import_machine(path, name=name)
    answer("machine", found, lambda: render_machine(found, str(file)), json=json, form=form)


@app.command
def refresh(
    *,
    source: Annotated[tuple[str, ...], Parameter(consume_multiple=False)] = (),
    out: Path | None = None,
    json: Json = False,
    form: Format = "table",
) -> None:
    """Fetch today's prices into your data directory; the shipped ones stay as they are.

    Parameters
    ----------
    source
        skypilot, azure or aws; all three unless named. Can be given more than once.
    out
        The directory to write to, instead of the user's data directory.
    """
    from weftline.catalog import refresh as fetch
    from weftline.catalog.online import SOURCES
    from weftline.report.catalog_prices import refresh_data, refresh_text

    done = fetch(source or SOURCES, out)
    data = refresh_data(done)
    for name, reason in done.failed.items():
        sys.stderr.write(f"warning: {name} could not be read: {reason}\n")
    answer("catalog-refresh", data, lambda: refresh_text(data), json=json, form=form)


def day_of(text: str | None) -> datetime.date:
    """The day that ``--today`` names, the present one for None; raises InputError."""
    from datetime import date

    from weftline.catalog import date as dates
    from weftline.errors import InputError

    if text is None:
        return dates.today()
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        hint = "write 2026-11-21"
        raise InputError(f"`{text}` is not a date", where="--today", hint=hint) from error


def _known_vendor(kind: str, name: str) -> str:
    from weftline.catalog import accelerators, cpus, storage_tiers
    from weftline.catalog.prices import shipped_prices
    from weftline.errors import UnknownNameError

    found: set[str] = set()
    if kind == "accelerators":
        found = {a.vendor for a in accelerators().values()}
    elif kind == "prices":
        found = {p.provider for p in shipped_prices()}
    elif kind == "storage":
        found = {t.provider for t in storage_tiers().values()}
    elif kind == "models":
        from weftline.model.load import bundled_index

        found = {m.hf_id.partition("/")[0] for m in bundled_index().values() if m.hf_id}
    elif kind == "cpus":
        found = {str(c["vendor"]) for c in cpus().values()}
    names = sorted(found)
    if name.lower() not in names:
        hint = f"one of {', '.join(names)}" if names else f"`list {kind}` has no vendors"
        raise UnknownNameError("vendor", name, names, where="--vendor", hint=hint)
    return name.lower()


def _find(name: str, kind: str | None) -> FactSheet:
    from functools import partial

    from weftline.catalog import accelerator, accelerators, fabric, fabrics, storage_tiers
    from weftline.catalog._lookup import find
    from weftline.catalog.accelerators import ALIASES
    from weftline.errors import UnknownNameError

    if kind == "accelerator":
        return accelerator(name)
    if kind == "fabric":
        return fabric(name)
    if kind == "storage":
        return find("storage tier", name, storage_tiers())
    for look_up in (accelerator, fabric, partial(find, "storage tier", table=storage_tiers())):
        try:
            return look_up(name)
        except UnknownNameError:
            continue
    names = (*accelerators(), *ALIASES, *fabrics(), *storage_tiers())
    hint = "`weftline catalog list` names all chips, `list fabrics` all fabrics"
    raise UnknownNameError("name", name, names, hint=hint)
