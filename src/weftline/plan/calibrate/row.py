"""One measured training run. Readers of files make these; the step model predicts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weftline.model import Model
from weftline.plan.step.columns import Layouts
from weftline.plan.step.frameworks import Framework
from weftline.plan.step.recipes import Recipe, recipe_of_framework
from weftline.spec import Cluster

__all__ = ["Row", "Unpredicted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured run and what is needed to predict it."""

    id: str
    accelerator: str
    """Catalogue id."""
    group: str
    """Whose constants it needs: accelerator / framework."""
    framework: str
    """As the source names it, with its version."""
    model_name: str
    measured_s: float | None
    """Seconds an optimizer step; None where the row states none."""
    model: Model
    cluster: Cluster
    frame: Framework
    layout: Layouts
    """Length one."""
    stated: bool
    """Whether the source states the degrees of the layout."""
    seq_len: int
    precision: str
    recipe: str
    """The precision as the source details it: ``mxfp8``, ``fp8 rowwise``; what runs share."""
    peak_memory_bytes: float | None = None
    source: str = ""
    held: Mapping[str, int | str] = field(default_factory=dict)
    """What the source states of the layout, by the names of its parts."""

    @property
    def release(self) -> Recipe:
        """What its framework's release does."""
        return self.frame.recipe or recipe_of_framework(self.frame.name, self.accelerator)

    @property
    def recipe_family(self) -> str:
        """Releases of one framework, whose rows are fitted together."""
        return self.release.family


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpredicted:
    """A run that cannot be predicted, and why."""

    id: str
    accelerator: str
    framework: str
    reason: str
