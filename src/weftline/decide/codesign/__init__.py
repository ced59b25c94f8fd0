"""Co-design: architectures of equal worth on each vendor's chips, priced by the planners."""

from weftline._lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weftline.decide.codesign.plan import plan_codesign
    from weftline.decide.codesign.read import codesign_of

__all__ = ["codesign_of", "plan_codesign"]

__getattr__ = lazily(__name__)
