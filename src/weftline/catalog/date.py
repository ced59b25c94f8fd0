"""The day the shipped facts and prices were read, and the day it is."""

from __future__ import annotations

import datetime
import os
from typing import Final

from weftline.errors import InputError

CATALOG_DATE: Final = "2026-11-30"
TODAY_VARIABLE: Final = "WEFTLINE_TODAY"


def today() -> datetime.date:
    """The day that ages are counted to: $WEFTLINE_TODAY, so that output can be repeated, or now.

    Raises InputError where the variable holds no date.
    """
    given = os.environ.get(TODAY_VARIABLE)
    if not given:
        return datetime.date.today()
    try:
        return datetime.date.fromisoformat(given)
    except ValueError as error:
        raise InputError(
            f"`{given}` is not a date", where=TODAY_VARIABLE, hint="write 2026-11-30"
        ) from error
