"""Training plans: layouts, memory, step time, search."""

from weftline.plan.search.train import default_batch, plan_train

__all__ = ["default_batch", "plan_train"]
