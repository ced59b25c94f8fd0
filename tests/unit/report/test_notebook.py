"""Answers in a notebook's cell: framed, escaped, drawn by the page's own scripts alone."""

from __future__ import annotations

import html
import re
from dataclasses import replace

from weftline.decide.audit import audit_claims, claims_of
from weftline.plan.search.asked import job_of
from weftline.plan.search.train import plan_train
from weftline.spec.options import JobOptions


def test_a_plan_shows_its_charts_in_a_frame_of_its_own() -> None:
    plan = plan_train(job_of("llama-3.1-8b", JobOptions(tokens="10B", on="h100", chips="8")))
    framework = '"></iframe><script>alert(1)</script>'
    shown = replace(plan, framework=framework)._repr_html_()
    assert shown.count("<iframe") == shown.count("</iframe>") == 1
    assert 'sandbox="allow-scripts"' in shown
    assert "<script" not in shown  # all of the page stands in one attribute
    found = re.search(r'srcdoc="([^"]*)"', shown)
    assert found is not None
    page = html.unescape(found[1])
    assert page.startswith("<!doctype html>")
    assert "Content-Security-Policy" in page
    whole = plan.plot()
    assert len(whole._repr_html_()) > len(shown)
    assert "8 x h100" in repr(whole)


def test_an_audit_shows_its_charts() -> None:
    found = audit_claims(claims_of("C07"))
    shown = found._repr_html_()
    assert "C07 undecidable" in html.unescape(shown)
