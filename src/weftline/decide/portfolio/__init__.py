"""How to buy capacity: commitments before demand is known, the rest after it."""

from weftline._lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weftline.decide.portfolio.plan import plan_portfolio
    from weftline.decide.portfolio.read import read_portfolio
    from weftline.decide.portfolio.solve import Problem, solve

__all__ = ["Problem", "plan_portfolio", "read_portfolio", "solve"]

__getattr__ = lazily(__name__)
