"""Published claims recomputed by our own commands: verdict, condition, interval, command."""

from weftline._lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weftline.decide.audit.audit import audit_claims
    from weftline.decide.audit.read import claims_of

__all__ = ["audit_claims", "claims_of"]

__getattr__ = lazily(__name__)
