"""The whole life of a model: stages from a file, placed, priced, with what drives the sum."""

from weftline._lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weftline.decide.lifecycle.plan import plan_lifecycle
    from weftline.decide.lifecycle.read import read_life
    from weftline.decide.lifecycle.schema import life_schema

__all__ = ["life_schema", "plan_lifecycle", "read_life"]

__getattr__ = lazily(__name__)
