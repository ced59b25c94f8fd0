"""Writes docs/audit.md (or to a folder given): every published claim, recomputed; half a minute."""

from __future__ import annotations

import sys
from pathlib import Path

from weftline.decide.audit import audit_claims, claims_of
from weftline.report.audit import audit_page


def main() -> None:
    """Write the page."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    text = audit_page(audit_claims(claims_of(None)))
    (folder / "audit.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
