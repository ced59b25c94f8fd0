"""The policy gate: rules with sources and dates, held against a plan before it is launched."""

from weftline._lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weftline.decide.policy.gate import decide
    from weftline.decide.policy.record import let_go, read_record, signed, verify
    from weftline.decide.policy.rules import read_declared, rules_of

__all__ = ["decide", "let_go", "read_declared", "read_record", "rules_of", "signed", "verify"]

__getattr__ = lazily(__name__)
