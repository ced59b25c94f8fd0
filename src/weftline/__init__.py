"""Plan, simulate, run and price foundation-model work on any accelerator and any network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weftline._lazy import lazily
from weftline._version import __version__

if TYPE_CHECKING:
    from weftline.model import load_model
    from weftline.plan import plan_train
    from weftline.serve.search.plan import plan_serve
    from weftline.spec import Job, Plan, ServeJob, ServePlan, Target

__all__ = [
    "Job", "Plan", "ServeJob", "ServePlan", "Target", "__version__", "load_model", "plan_serve",
    "plan_train",
]  # fmt: skip

__getattr__ = lazily(__name__)
