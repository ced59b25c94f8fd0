"""Speeds a user gives for what a file leaves open: one for all, or one a class of links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weftline.errors import InputError
from weftline.units import parse_rate_bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeeds:
    """Bytes a second, one way of one link."""

    every: float | None = None
    classes: Mapping[str, float] = field(default_factory=dict)
    """By the name of a class in the file, in lower letters: nvlink, pcie."""

    def of(self, name: str) -> float | None:
        """The speed of a class; None where none is given. ``xpu_pcie`` is of class ``pcie``."""
        lower = name.lower()
        if lower in self.classes:
            return self.classes[lower]
        parts = [rate for known, rate in self.classes.items() if known in lower]
        return parts[0] if parts else self.every


def parse_speeds(text: str | None, where: str = "--link") -> LinkSpeeds:
    """``50GB/s`` or ``nvlink=450GB/s,pcie=64GB/s``; raises InputError for anything else."""
    if text is None:
        return LinkSpeeds()
    classes: dict[str, float] = {}
    every: float | None = None
    for part in text.split(","):
        name, equals, rate = part.partition("=")
        value = parse_rate_bytes_per_s((rate if equals else name).strip(), where=where)
        if not equals:
            if every is not None:
                raise InputError(f"`{text}` gives two speeds for all links", where=where,
                                 hint="name the classes: nvlink=450GB/s,pcie=64GB/s")  # fmt: skip
            every = value
        else:
            classes[name.strip().lower()] = value
    return LinkSpeeds(every=every, classes=classes)
