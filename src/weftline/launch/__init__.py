"""A plan becomes a job: launch files for the engines people run, ranks placed, fabric proved."""

from __future__ import annotations

from weftline.launch.place import Placement, PlacementError, place

__all__ = ["Placement", "PlacementError", "place"]
