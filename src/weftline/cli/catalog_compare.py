"""``weftline catalog compare``: chips side by side, as a buyer would table them."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING

from weftline.cli.answer import form_of
from weftline.cli.options import Format, Json

if TYPE_CHECKING:
    from weftline.catalog import Accelerator


def compare(
    *chips: str,
    today: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> None:
    """Chips side by side: peaks, memory, links, software, how each is sold, what is unsure.

    Parameters
    ----------
    chips
        Two or more, as `catalog list` names them or by their usual short names.
    today
        The date that ages are counted to, 2026-11-21 for example.
    """
    from weftline.catalog.asked import named_accelerators
    from weftline.cli.catalog import day_of
    from weftline.report.catalog_compare import compare_data, compare_text

    found = named_accelerators(chips)
    data = compare_data(found, {a.id: _software(a) for a in found}, day_of(today))
    wanted = form_of(form, json=json)
    if wanted == "json":
        print(json_module.dumps(data, indent=1, ensure_ascii=False))
    else:
        print(compare_text(data, wanted))


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
