"""Rules that judge another catalogue's figures by ours, and ours by each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from weftline.catalog._read import accelerators
from weftline.catalog.accelerators import Accelerator
from weftline.catalog.facts import UNITS, Fact, FactSheet, Kind
from weftline.catalog.findings import Finding, finding

MEMORY_TOLERANCE: Final = 0.15
SAME: Final = 0.03
SPREAD_RATIO: Final = 3.0
_WIDTH: Final = {
    "fp32": 32, "tf32": 19, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4,
}  # fmt: skip
SUPPORTED_CLOUDS: Final = ("aws", "azure", "gcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number another catalogue states about a chip that ours knows.

    ``field`` is ``memory``, ``memory_bandwidth``, ``peak.fp16`` and so on; plain ``peak`` where the
    catalogue does not say of which number format.
    """

    accelerator: str
    listed_as: str
    field: str
    value: float
    unit: str
    kind: Kind
    where: str

    @property
    def si(self) -> float:
        """The value in SI."""
        return self.value * UNITS[self.unit]


def check_figures(figures: Sequence[Figure]) -> list[Finding]:
    """All findings on these figures."""
    out: list[Finding] = []
    common = _common_format([f for f in figures if f.field == "peak"])
    for f in figures:
        chip = accelerators().get(f.accelerator)
        if chip is None:
            continue
        if f.field == "memory":
            out.extend(_memory(f, chip))
        elif f.field == "peak":
            out.extend(_unlabelled(f, chip, common))
        elif f.field.startswith("peak.") and f.kind != "sparse":
            out.extend(_sparse(f, chip))
    return out


def _memory(f: Figure, chip: Accelerator) -> Iterator[Finding]:
    known = [x.si for x in (*chip.facts("memory"), *chip.facts("memory_usable"))]
    if known and min(abs(f.si - k) / k for k in known) > MEMORY_TOLERANCE:
        figures = " or ".join(f"{x.value:g} {x.unit}" for x in chip.facts("memory"))
        yield finding(
            "wrong-memory",
            f.where,
            f"{f.listed_as} is listed with {f.value:g} {f.unit} of memory",
            f"{chip.id} has {figures}",
            hint="perhaps the memory of another model, or of the whole instance",
            subject=chip.id,
        )


def _sparse(f: Figure, chip: Accelerator) -> Iterator[Finding]:
    dense = chip.peak_flops(f.field.removeprefix("peak."))
    if dense is None or any(_near(f.si, x.si) for x in chip.facts(f.field) if x.kind == "dense"):
        return
    ratio = f.si / dense
    as_sparse = any(_near(f.si, x.si) for x in chip.facts(f.field) if x.kind == "sparse")
    if as_sparse or _near(ratio, 2.0) or _near(ratio, 4.0):
        yield finding(
            "sparse-as-dense",
            f.where,
            f"{f.listed_as} {f.field.removeprefix('peak.')} peak {f.value:g} {f.unit}, "
            + ("unlabelled" if f.kind == "unstated" else f"labelled {f.kind}"),
            f"{ratio:.2f} times the dense {dense / 1e12:g} TFLOP/s of {chip.id}",
            hint="label it `kind: sparse`, or give the dense figure",
            subject=chip.id,
        )


def _formats(f: Figure, chip: Accelerator) -> set[str]:
    """The number formats whose dense peak of ``chip``, by any source, is this figure."""
    found = (x for x in chip.all_facts if x.field.startswith("peak.") and x.kind == "dense")
    return {x.field.removeprefix("peak.") for x in found if _near(f.si, x.si)}


def _common_format(figures: Sequence[Figure]) -> str | None:
    """The format most figures of an unlabelled column agree with."""
    table = accelerators()
    counts = Counter(
        name
        for f in figures
        if f.accelerator in table
        for name in sorted(_formats(f, table[f.accelerator]))
    )
    return counts.most_common(1)[0][0] if counts else None


def _unlabelled(f: Figure, chip: Accelerator, common: str | None) -> Iterator[Finding]:
    formats = _formats(f, chip)
    dense = chip.peak_flops(common) if common else None
    if common and common not in formats and dense is not None:
        like = f"its {' and '.join(sorted(formats))} figure" if formats else "no dense figure of it"
        yield finding(
            "sparse-as-dense",
            f.where,
            f"{f.listed_as} peak {f.value:g} {f.unit} stands beside {common} figures",
            f"{like}; its dense {common} peak is {dense / 1e12:g} TFLOP/s",
            hint="say of which number format, dense or sparse",
            subject=chip.id,
        )
        return
    rivals = sorted(
        {x.value for n in formats for x in chip.facts(f"peak.{n}") if not _near(x.si, f.si)}
    )
    if len({_WIDTH[n] for n in formats}) > 1:
        other = f"; other sources say {', '.join(f'{v:g}' for v in rivals)}" if rivals else ""
        yield finding(
            "unlabelled-peak",
            f.where,
            f"{f.listed_as} peak {f.value:g} {f.unit} is unlabelled",
            f"it fits {', '.join(sorted(formats))} of {chip.id}{other}",
            hint="say of which number format, dense or sparse",
            subject=chip.id,
        )


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= SAME * abs(b)


def check_sheet(sheet: FactSheet, wheres: dict[int, str]) -> Iterator[Finding]:
    """Contradictions among one thing's own facts; ``wheres`` places the n-th fact."""
    for field in sheet.fields():
        facts = [(wheres[n], f) for n, f in enumerate(sheet.all_facts) if f.field == field]
        yield from _own_spread(sheet.id, field, facts)
        if field.startswith("peak."):
            yield from _own_sparse(sheet.id, field, facts)
    yield from _own_order(sheet, wheres)


def _own_spread(name: str, field: str, facts: Sequence[tuple[str, Fact]]) -> Iterator[Finding]:
    if field.startswith(("peak.", "price", "throughput")):
        facts = [x for x in facts if x[1].kind == "dense"]
    alike = [x for x in facts if x[1].scope is None]
    if len(alike) < 2:
        return
    low = min(alike, key=lambda x: x[1].si)
    high = max(alike, key=lambda x: x[1].si)
    if low[1].si > 0 and high[1].si >= SPREAD_RATIO * low[1].si:
        yield finding(
            "value-spread",
            high[0],
            f"{name} {field}: {high[1].si / low[1].si:.1f}x between sources",
            f"{high[1].value:g} {high[1].unit} ({high[1].source}), "
            f"{low[1].value:g} {low[1].unit} ({low[1].source})",
            hint="all are kept; `weftline catalog show` says which is taken and why",
            subject=name,
        )


def _own_sparse(name: str, field: str, facts: Sequence[tuple[str, Fact]]) -> Iterator[Finding]:
    sparse = [f for _, f in facts if f.kind == "sparse"]
    for where, f in facts:
        twins = [s for s in sparse if _near(s.si, f.si)]
        doubles = [d for _, d in facts if d.kind == "dense" and _near(f.si, 2 * d.si)]
        if f.kind != "dense" or not (twins or doubles):
            continue
        other = (twins or doubles)[0]
        says = f"calls {other.value:g}" if twins else "gives half of it,"
        yield finding(
            "sparse-as-dense",
            where,
            f"{name} {field} {f.value:g} {f.unit} is listed as dense by {f.source}",
            f"{other.source} {says} {other.kind}",
            hint="all are kept; the figure that promises least is taken",
            subject=name,
        )


def _own_order(sheet: FactSheet, wheres: dict[int, str]) -> Iterator[Finding]:
    chain = [d for d in ("fp32", "bf16", "fp8", "fp4") if sheet.choice(f"peak.{d}") is not None]
    for wide, narrow in pairwise(chain):
        a, b = sheet.choice(f"peak.{wide}"), sheet.choice(f"peak.{narrow}")
        if a is not None and b is not None and b.value < a.value * (1 - SAME):
            place = wheres[sheet.all_facts.index(b.fact)]
            yield finding(
                "peak-order",
                place,
                f"{sheet.id} is slower in {narrow} than in {wide}",
                f"{b.value / 1e12:g} against {a.value / 1e12:g} TFLOP/s dense",
                subject=sheet.id,
            )


def check_coverage(providers: Sequence[str], where: str) -> Iterator[Finding]:
    """A table by provider that leaves out a large cloud."""
    absent = [c for c in SUPPORTED_CLOUDS if c not in {p.lower() for p in providers}]
    if absent and len(absent) < len(SUPPORTED_CLOUDS):
        yield finding(
            "provider-missing",
            where,
            f"{len(providers)} rows, none for {' and '.join(absent)}",
            f"covers {', '.join(sorted({p.lower() for p in providers}))} only",
            hint="an average over it says nothing about the others",
            subject=", ".join(absent),
        )
