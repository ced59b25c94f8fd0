"""``weftline catalog compare``: chips side by side, as a buyer would table them."""

from __future__ import annotations

import json as json_module
import sys
from typing import TYPE_CHECKING, Literal

from weftline.cli.options import Json

if TYPE_CHECKING:
    from weftline.catalog import Accelerator

CompareFormat = Literal["table", "markdown", "json", "csv"]


def compare(
    *chips: str,
    format: CompareFormat = "table",  # noqa: A002
    today: str | None = None,
    json: Json = False,
) -> None:
    """Chips side by side: peaks, memory, links, software, how each is sold, what is unsure.

    Parameters
    ----------
    chips
        Two or more, as `catalog list` names them or by their usual short names.
    format
        table, markdown, json or csv.
    today
        The date that ages are counted to, 2026-11-21 for example.
    """
    from weftline.catalog.asked import named_accelerators
    from weftline.cli.catalog import day_of
    from weftline.report.catalog_compare import compare_data, compare_text

    found = named_accelerators(chips)
    data = compare_data(found, {a.id: _software(a) for a in found}, day_of(today))
    as_json = json or format == "json"
    text = (
        json_module.dumps(data, indent=2, ensure_ascii=False)
        if as_json
        else compare_text(data, format)
    )
    sys.stdout.write(text + "\n")


def _software(chip: Accelerator) -> dict[str, tuple[str, ...]]:
    """The frameworks and engines that weftline plans for on a chip."""
    from weftline.plan.step.frameworks import FRAMEWORKS
    from weftline.serve.engine.engines import PROFILES

    trained = chip.trains
    return {
        "training": tuple(
            f.name for f in FRAMEWORKS.values() if trained and chip.stack in f.vendors
        ),
        "serving": tuple(p.title for p in PROFILES.values() if chip.stack in p.vendors),
    }
