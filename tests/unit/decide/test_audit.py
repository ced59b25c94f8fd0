"""The audit: verdicts worked out by hand, a user's own claims, hypothetical chips, its page."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.catalog import claims
from weftline.cli.app import app
from weftline.cli.main import run
from weftline.decide.audit import audit_claims, claims_of
from weftline.decide.audit.audit import CHECKS
from weftline.decide.audit.facts import calculated
from weftline.decide.audit.read import parse_claims, shipped_claims
from weftline.errors import InputError
from weftline.spec.audit import Audited

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "audit.md"
BY_HAND = {
    "C24": "conditional", "C25": "fails", "C17": "conditional", "C18": "undecidable",
    "C19": "undecidable", "C05": "holds", "C06": "conditional",
    "C48": "conditional", "C11": "fails", "C12": "fails", "C49": "arithmetic",
}  # fmt: skip
"""Verdicts that were worked out with the commands, one at a time, before the audit was written."""


def audited(name: str, **more: object) -> Audited:
    return audit_claims(claims_of(name), **more).audited[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "verdict"),
    [*BY_HAND.items(), *(pytest.param(n, "fails", marks=pytest.mark.slow) for n in ("C02", "C38"))],
)
def test_verdicts_are_those_worked_out_by_hand(name: str, verdict: str) -> None:
    found = audited(name)
    assert found.verdict == verdict, found.condition
    assert found.condition
    assert bool(found.missing) == (verdict == "undecidable")


def test_what_the_verdicts_rest_on() -> None:
    """Figures worked out by hand, as wide as their inputs are sure."""
    tokens = audited("C24")
    assert tokens.low is not None
    assert tokens.high is not None
    assert tokens.low < 1.8e12
    assert tokens.high > 1.5e12  # 1.5T to 1.8T at spot, 40 to 56 % MFU
    assert audited("C05").value == pytest.approx(2.5e12 / 300 / 1e9)
    assert "667" in audited("C11").condition
    chips = audited("C49").value
    assert chips == pytest.approx(1e9 / (700 * 1.35 * 1.135))


def test_a_torus_is_held_against_a_clos_of_as_many_chips() -> None:
    """C02 and C38 on 64 chips: no all-reduce beats twice the diameter, or what leaves a chip."""
    text = """- id: a
  check: collectives
  network: torus:4x4x4
  against: clos:64
  link: 50GB/s
  other_link: 400GB/s
  latency: 1us
  other_latency: 5us
  least: 0.4
"""
    found = audit_claims(parse_claims(text, "m")).audited[0]
    assert found.verdict == "fails"
    small = [float(t) for t in re.findall(r"([\d.]+) us", found.evidence[0])]
    assert 12 <= small[0] < 20  # six hops there and back
    assert 10 <= small[1] < 12  # one switch there and back
    times = [float(t) for t in re.findall(r"([\d.]+) ms", found.evidence[1])]
    sent = 2 * 63 / 64 * 1e9
    assert times == pytest.approx([sent / 300e9 * 1e3, sent / 400e9 * 1e3], rel=0.03)


@pytest.mark.slow
def test_the_torus_of_the_claim() -> None:
    torus = audited("C02")
    assert "42.4 us" in torus.evidence[0]  # 42 hops of 1 us, and 64 kB twice over six links
    assert "6.70 ms" in torus.evidence[1]


def test_a_hypothetical_chip_makes_a_claim_conditional() -> None:
    from weftline.catalog.own import read_own_chips

    file = str(ROOT / "examples" / "audit" / "inferentia3.yaml")
    records, prices = read_own_chips(file)
    found = audited("C19", hypothetical=records, prices=prices)
    assert found.verdict == "conditional"
    assert "blended below" in found.condition
    assert found.value is not None
    figures = audited("C15", hypothetical=records, prices=prices)
    assert figures.verdict == "conditional"


def test_every_published_claim_is_on_the_page_with_its_check() -> None:
    known = shipped_claims()
    assert len(known) == len(claims()) == 49
    page = PAGE.read_text(encoding="utf-8")
    for claim in known.values():
        assert claim.check in CHECKS
        assert f"| {claim.id} |" in page
        assert claim.terms != {"missing": "a way to test it", "id": claim.id}, claim.id


def test_every_command_on_the_page_is_one() -> None:
    commands = re.findall(r"^```\n(weftline .*)\n```", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(commands) > 30
    for command in set(commands):
        app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


@pytest.mark.slow
def test_the_page_is_what_the_audit_says(tmp_path: Path) -> None:
    from weftline.report.audit import audit_page

    assert audit_page(audit_claims(claims_of(None))) == PAGE.read_text(encoding="utf-8")


@given(st.recursive(
    st.floats(0.1, 100).map(lambda x: f"{x:.4f}"),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"), max_leaves=5,
))  # fmt: skip
def test_arithmetic_is_that_of_python(text: str) -> None:
    if len(text) <= 200:
        assert calculated(text, "x") == pytest.approx(eval(text), rel=1e-12)  # noqa: S307


@pytest.mark.parametrize(
    "text", ["__import__('os')", "1 if 2 else 3", "2**9", "1/0", "a", "1" * 201]
)
def test_nothing_but_arithmetic_is_evaluated(text: str) -> None:
    with pytest.raises(InputError):
        calculated(text, "x")


def test_own_claims_and_every_mistake_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "mine.yaml"
    good.write_text("claims:\n  - {id: a, check: ratio, claims: 4, from: 2 / 0.5}\n"
                    "  - {id: b, check: figures, chip: h100, figures: {tdp: 350}}\n")  # fmt: skip
    assert run(["audit", str(good), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["audited"]
    assert [f["verdict"] for f in found] == ["holds", "fails"]
    bad = "claims:\n  - {id: a, check: ration}\n  - 7\n  - {id: b, check: ratio, from: x}\n"
    with pytest.raises(InputError) as told:
        parse_claims(bad, "mine.yaml")
    assert "mine.yaml:2: unknown check `ration`" in told.value.render()
    assert "mine.yaml:3: a claim is a mapping" in told.value.render()
    missing = parse_claims("- {id: a, check: token_cost, chip: h100}\n- {id: b, check: figures}\n"
                           "- {id: c, check: token_cost, chip: h101, usd: $1}",
                           "m.yaml")  # fmt: skip
    with pytest.raises(InputError) as several:
        audit_claims(missing)
    said = several.value.render()
    assert "m.yaml:1: `usd` is missing" in said
    assert "m.yaml:3: unknown accelerator `h101`" in said
    assert run(["audit", "C99"]) == 2
    assert "unknown claim `C99`" in capsys.readouterr().err


def test_the_bound_on_decoding_falls_with_bandwidth_and_never_below_latency() -> None:
    text = "- {{id: a, check: decode_time, tokens: {n}, limits: {{{chip}: 1s}}}}"
    h100, h200 = (
        audit_claims(parse_claims(text.format(n=128, chip=c), "m")).audited[0].value
        for c in ("h100", "h200")
    )
    assert h100 is not None
    assert h200 is not None
    assert h200 < h100
    assert h200 > 127 * 2 * 80 * 1e-3
    assert math.isclose(h100, 127 * (70.6e9 / (8 * 3.35e12) + 160e-6) * 1e3, rel_tol=0.01)
