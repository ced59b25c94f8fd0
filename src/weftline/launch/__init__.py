"""A plan becomes a job: launch files for the engines people run, ranks placed, fabric proved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weftline._lazy import lazily
from weftline.launch.mesh import jax_devices, mesh
from weftline.launch.place import Placement, PlacementError, place

if TYPE_CHECKING:
    from weftline.launch.export import export_plan, write_folder

__all__ = [
    "Placement",
    "PlacementError",
    "export_plan",
    "jax_devices",
    "mesh",
    "place",
    "write_folder",
]

__getattr__ = lazily(__name__)
