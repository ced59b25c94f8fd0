"""The state of every random number generator that a training process draws from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

__all__ = ["random_states", "set_random_states"]


def random_states() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators, those of accelerators included."""
    found: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.get_rng_state(),
    }
    device = _accelerator()
    if device is not None:
        found["accelerator"] = device.get_rng_state_all()
    return found


def set_random_states(states: dict[str, Any]) -> None:
    """Go on drawing where :func:`random_states` stopped.

    Generators of accelerators that this machine lacks are left out.
    """
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["cpu"])
    device = _accelerator()
    if device is not None and "accelerator" in states:
        device.set_rng_state_all(states["accelerator"][: device.device_count()])


def _accelerator() -> Any:
    """The torch module of the accelerator here (``torch.cuda``); None on a machine without one."""
    found = torch.accelerator.current_accelerator()
    return None if found is None else torch.get_device_module(found.type)
