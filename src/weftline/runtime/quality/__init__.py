"""What an attention policy costs in quality: a model's answers under it beside full attention's."""

from weftline.runtime.quality.measure import Question, loaded, measured
from weftline.runtime.quality.speed import timed_here

__all__ = ["Question", "loaded", "measured", "timed_here"]
