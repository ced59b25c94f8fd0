"""Training plans: layouts, memory, step time, the search, the score against measurements."""

from weftline.plan.search.asked import job_of
from weftline.plan.search.train import default_batch, plan_train

__all__ = ["default_batch", "job_of", "plan_train"]
