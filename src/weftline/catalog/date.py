"""The day the shipped facts and prices were read."""

from typing import Final

CATALOG_DATE: Final = "2026-11-21"
