"""What an attention policy costs in quality: a model's answers under it beside full attention's."""

from weftline.runtime.quality.measure import Question, measured

__all__ = ["Question", "measured"]
