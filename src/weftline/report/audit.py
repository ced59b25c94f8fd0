"""Claims and their verdicts: a table, one claim whole, and the page in Markdown."""

from __future__ import annotations

from collections import Counter

from weftline.report.text import page, table, wrapped
from weftline.spec.audit import VERDICTS, Audit, Audited
from weftline.units import format_number

__all__ = ["audit_page", "render_audit"]


def render_audit(audit: Audit) -> str:
    """One claim whole; of several a table, and every condition below it."""
    if len(audit.audited) == 1:
        return page(_whole(audit.audited[0]))
    count = Counter(a.verdict for a in audit.audited)
    head = ", ".join(f"{count[v]} {v}" for v in VERDICTS if count[v])
    lines = [f"{len(audit.audited)} claims: {head}", ""]
    rows = [(a.claim.id, a.verdict, a.claim.metric, a.claim.value) for a in audit.audited]
    lines += table(("", "verdict", "about", "claimed"), rows)
    for a in audit.audited:
        lines += ["", *wrapped(f"{a.claim.id} {a.verdict}: {a.condition}", hang="  ")]
        if a.missing:
            lines += wrapped(f"missing: {a.missing}", indent="  ", hang="  ")
    if audit.hypothetical:
        lines += ["", f"hypothetical chips: {', '.join(audit.hypothetical)}"]
    return page(lines)


def _whole(a: Audited) -> list[str]:
    claim = a.claim
    lines = wrapped(f"{claim.id} {a.verdict}: {a.condition}", hang="  ")
    lines += ["", *wrapped(f'"{claim.quote}"', indent="  ", hang="  ")]
    rows = [("claimed", f"{claim.metric} {claim.value}".strip())]
    if a.value is not None:
        rows.append(("here", _interval(a)))
    rows += [(label, text) for label, text in
             (("missing", a.missing), ("public", claim.public_value), ("source", claim.source))
             if text]  # fmt: skip
    lines += [""]
    for label, text in rows:
        lines += wrapped(f"{label:<9}{text}", indent="  ", hang="         ")
    for title, texts in (("What shows it", a.evidence), ("Source against source", a.disagree)):
        if texts:
            lines += ["", title]
            for text in texts:
                lines += wrapped(text, indent="  ", hang="  ")
    if a.command:
        lines += ["", f"  {a.command}"]
    return lines


def _interval(a: Audited) -> str:
    if a.value is None:
        return ""
    text = f"{_number(a.value)} {a.unit}".strip()
    if a.low is not None and a.high is not None and a.low != a.high:
        text += f" ({_number(a.low)} to {_number(a.high)})"
    return text


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1e9 else format_number(value)


def audit_page(audit: Audit) -> str:
    """The page of all claims in Markdown."""
    count = Counter(a.verdict for a in audit.audited)
    lines = [
        "# Published claims, recomputed", "",
        f"{len(audit.audited)} claims from press and vendors, each through a command that anybody "
        "can run: " + ", ".join(f"{count[v]} {v}" for v in VERDICTS if count[v]) + ". `weftline "
        "audit C24` shows one with all that it rests on, `weftline audit my.yaml` tests yours "
        "(`examples/audit/mine.yaml`), `--hypothetical chip.yaml` adds a chip that nobody sells. "
        f"Written by `make docs`, catalogue of {audit.catalog_date}.", "",
        "A claim *holds*, *fails*, is *conditional* (the condition says what flips it), "
        "*undecidable* (something is missing that no command can supply), or states no figure "
        "(*arithmetic*: what follows from its words).", "",
        "| | verdict | claim | here, with its interval | condition, or what is missing |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for a in audit.audited:
        said = a.condition + (f"; missing: {a.missing}" if a.missing else "")
        cells = (a.claim.id, a.verdict, f"{a.claim.quote} ({a.claim.value})", _interval(a), said)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "## What shows each", ""]
    for a in audit.audited:
        lines.append(f"**{a.claim.id}** {a.claim.source}")
        lines += [f"- {text}" for text in (*a.evidence, *(f"against: {d}" for d in a.disagree))]
        lines += ["", f"```\n{a.command}\n```"] if a.command else []
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
