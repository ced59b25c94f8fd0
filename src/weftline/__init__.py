"""Plan, simulate, run and price foundation-model work on any accelerator and any network."""

from __future__ import annotations

__version__ = "0.1.0"
