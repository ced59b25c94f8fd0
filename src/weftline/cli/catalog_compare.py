"""``weftline catalog compare``: chips side by side, as a buyer would table them."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING

from weftline.cli.answer import form_of
from weftline.cli.options import Format, Json
from weftline.spec.answers import stamped

if TYPE_CHECKING:
    from weftline.catalog import Accelerator


def compare(
    *chips: str,
    chip: str | None = None,
    chip_set: str | None = None,
    today: str | None = None,
    json: Json = False,
    form: Format = "table",
) -> None:
    """Chips side by side: peaks, memory, links, software, how each is sold, what is unsure.

    Parameters
    ----------
    chips
        Two or more, as `catalog list` names them or by their usual short names.
    chip
        Files of chips of your own, separated by commas.
    chip_set
        Figures to change: h100-sxm.memory=96GB,h100-sxm.price=2.1.
    today
        The date that ages are counted to, 2026-11-21 for example.
    """
    from weftline.catalog import own_chips
    from weftline.catalog.asked import named_accelerators, parse_own_chips
    from weftline.cli.catalog import day_of
    from weftline.report.catalog_compare import compare_data, compare_text

    records, prices = parse_own_chips(chip, chip_set)
    with own_chips(records):
        found = named_accelerators(chips)
        data = compare_data(found, {a.id: _software(a) for a in found}, day_of(today),
                            own_prices=prices)  # fmt: skip
    wanted = form_of(form, json=json)
    if wanted == "json":
        print(json_module.dumps(stamped("catalog-comparison", data), indent=1, ensure_ascii=False))
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
