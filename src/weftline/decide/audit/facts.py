"""Checks of what is stated: figures of chips, topologies, ratios of a claim's own numbers."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from weftline.catalog import Accelerator, Fact, sources
from weftline.catalog.facts import UNITS
from weftline.decide.audit.terms import Finding, Terms
from weftline.errors import InputError
from weftline.spec.audit import VERDICTS
from weftline.spec.parse import choice
from weftline.units import format_number

__all__ = ["figures", "ratio", "said", "topology"]

CLOSE: Final = 0.02
"""Figures that differ by less are the same: rounding, GB for GiB of a part."""
_OPERATORS: Final[Mapping[type, Callable[[float, float], float]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}  # fmt: skip
_SURE: Final = frozenset({"official", "given"})


def _catalogued(fact: Fact) -> str:
    source = sources().get(fact.source)
    title = fact.source if source is None else source.title
    return f"{format_number(fact.value, 6)} {fact.unit} ({fact.status}, {title}, {fact.date})"


def figures(terms: Terms) -> Finding:
    """``figures: {peak.bf16: 800, tdp: 600}`` of a chip against the catalogue's, each in its unit.

    A figure that no maker states leaves the claim undecidable, whatever others estimate.
    """
    chip = terms.chip()
    wanted = terms.values.get("figures")
    if not isinstance(wanted, Mapping) or not wanted:
        raise InputError("`figures` is missing", where=terms.where, hint="{peak.bf16: 800}")
    told, wrong, unsure, against = [], [], [], []
    ours = None
    for name, claimed in wanted.items():
        found = chip.choice(str(name))
        if found is None:
            unsure.append(f"no source states {name} of {chip.id}")
            continue
        fact = found.fact
        scale = UNITS[fact.unit]
        share = float(claimed) * scale / fact.value / scale - 1
        ours = (fact.value, found.low / scale, found.high / scale, fact.unit)
        told.append(f"{name}: {_catalogued(fact)}")
        against += _disagreeing(chip, str(name), fact)
        if fact.status not in _SURE:
            unsure.append(f"{name} is stated by no maker: {fact.status}")
        elif abs(share) > CLOSE:
            wrong.append(f"{name} is {format_number(fact.value, 6)} {fact.unit}, the claim says "
                         f"{share:+.0%}")  # fmt: skip
    value, low, high, unit = ours or (None, None, None, "")
    whole = Finding(
        verdict="holds", condition="as its maker states", value=value, low=low, high=high,
        unit=unit, command=f"weftline catalog show {chip.id}", evidence=tuple(told),
        disagree=tuple(against),
    )  # fmt: skip
    if chip.id in terms.hypothetical:
        return replace(whole, verdict="conditional",
                       condition="on the chip being as the user describes it")  # fmt: skip
    if wrong:
        return replace(whole, verdict="fails", condition="; ".join(wrong))
    if unsure:
        return replace(whole, verdict="undecidable", condition="; ".join(unsure),
                       missing=f"figures from the maker of {chip.id}")  # fmt: skip
    return whole


def _disagreeing(chip: Accelerator, field: str, taken: Fact) -> list[str]:
    """Other figures of the same field that say something else."""
    return [
        f"{field}: {_catalogued(fact)} against {_catalogued(taken)}"
        for fact in chip.facts(field)
        if fact is not taken and fact.scope is None and fact.kind == taken.kind
        and fact.unit == taken.unit and abs(fact.value / taken.value - 1) > CLOSE
    ]  # fmt: skip


def topology(terms: Terms) -> Finding:
    """``claims: mesh2d`` of a chip's scale-up network against the catalogue's kind and shape."""
    chip = terms.chip()
    claimed = terms.text("claims")
    shape = "x".join(map(str, chip.topology_shape))
    words = f"{chip.id}: {chip.topology} ({chip.topology_kind}{' ' + shape if shape else ''})"
    same = claimed == chip.topology_kind
    beside = terms.text("but")
    where = terms.text("layer")
    verdict: str = "holds" if same else "fails"
    said = "as the catalogue has it" if same else f"{chip.topology_kind}, not {claimed}"
    if where:
        verdict, said = "fails", where
    elif same and beside:
        verdict, said = "conditional", beside
    return Finding(
        verdict=choice(verdict, VERDICTS, "verdict", where=terms.where), condition=said,
        command=f"weftline catalog show {chip.id}", evidence=(words,),
    )  # fmt: skip


def ratio(terms: Terms) -> Finding:
    """``claims: 3`` against ``from: 3800/250 / (1200/700)``: a claim's own numbers held together.

    Also ``pairs``, several of them; all must agree.
    """
    pairs = terms.values.get("pairs") or [{"claims": terms.values.get("claims"),
                                           "from": terms.values.get("from")}]  # fmt: skip
    told, off = [], []
    value = None
    for pair in pairs:
        text, claimed = str(pair["from"]), float(pair["claims"])
        value = calculated(text, terms.where)
        told.append(f"{text} = {format_number(value, 4)}; the claim says {claimed:g}")
        if abs(value / claimed - 1) > terms.number("within", 0.05):
            off.append(f"{format_number(value, 3)}, not {claimed:g}")
    return Finding(
        verdict="fails" if off else "holds", value=value, unit="ratio", evidence=tuple(told),
        condition=f"its own numbers give {' and '.join(off)}" if off else "its own numbers agree",
        command="weftline audit " + terms.text("id", "FILE"),
    )  # fmt: skip


def calculated(text: str, where: str) -> float:
    """Numbers, + - * / and brackets; nothing else is evaluated. Raises InputError."""

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise InputError(f"`{text}` is not arithmetic", where=where, hint="3800/250 / (1200/700)")

    if len(text) > 200:
        raise InputError("too long a sum", where=where)
    try:
        return value(ast.parse(text, mode="eval"))
    except (SyntaxError, ZeroDivisionError, RecursionError):
        raise InputError(f"`{text}` is not arithmetic", where=where,
                         hint="3800/250 / (1200/700)") from None  # fmt: skip


def said(terms: Terms) -> Finding:
    """What no command of ours can compute: events, market figures, software; with what is missing.

    The verdict stands in the file, with the source that it rests on.
    """
    verdict = choice(terms.text("verdict", "undecidable"), VERDICTS, "verdict", where=terms.where)
    missing = terms.text("missing")
    if verdict == "undecidable" and not missing:
        raise InputError("an undecidable claim says what is missing", where=terms.where)
    evidence = terms.values.get("evidence", ())
    return Finding(
        verdict=verdict, condition=terms.text("condition"), missing=missing,
        command=terms.text("command"),
        evidence=tuple([evidence] if isinstance(evidence, str) else evidence),
    )  # fmt: skip
