"""A page as one HTML file: styles, scripts and data inline, nothing fetched, all text escaped.

The file's own policy allows only the two scripts that stand in it, by their hashes, and no request
of any kind. Text from the answer enters as escaped text or as JSON in which ``<``, ``>`` and ``&``
are written as escapes: no value can end a tag or a script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from weftline.errors import InternalError
from weftline.report.page.chart import Chart, Page, Section, Table

__all__ = ["ECHARTS_SHA256", "MOST_BYTES", "Fragment", "asset", "document", "fragment"]

ECHARTS_SHA256: Final = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"
"""Of ``dist/echarts.min.js`` in the npm package echarts 6.1.0 (Apache-2.0)."""
MOST_BYTES: Final = 1_500_000
"""A page is mailed and attached: no larger."""


_EMPTY: Final = {"th": "what", "td": ""}
"""A reader of the screen needs a name for every column."""
_CARD_COLUMNS: Final = 5
_CARD_LETTERS: Final = 30
"""On a phone, tables of few columns whose last one is prose become a card a row."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Fragment:
    """A page without its frame, for a document that has the styles and the scripts already."""

    html: str
    """All text escaped; every id in it begins with the prefix asked for."""
    charts: tuple[dict[str, Any], ...]
    """What ``assets/page.js`` draws: ``id``, ``kind`` and ``data`` of each."""


def fragment(page: Page, *, prefix: str, top: int = 1) -> Fragment:
    """The page's headline, sections, charts and tables, to stand inside another document.

    ``top`` is the level of its headline, 1 to 4: what stands below counts from there.
    """
    names, charts = _charts(page, prefix)
    html_text = "".join(_main(page, names, prefix, top))
    return Fragment(html=html_text, charts=charts)


def document(page: Page) -> str:
    """The page as HTML. Raises InternalError where the vendored library was changed."""
    names, charts = _charts(page, "")
    data = {"charts": charts}
    library, drawing, style = asset("echarts.min.js"), asset("page.js"), asset("page.css")
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(drawing)}; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = [
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        _tag("title", page.title),
        Markup(f"<style>{style}</style>"),
    ]
    body = [
        _tag("a", "Skip to the charts", href="#first", class_="skip"),
        _tag("main", *_main(page, names, "", 1)),
        _tag("footer", _tag("p", page.made), _tag(
            "p", "Charts by Apache ECharts 6.1.0 (Apache-2.0), inline; this file asks for nothing "
            f"from anywhere. SHA-256 of the library: {ECHARTS_SHA256}")),
        Markup(f'<script type="application/json" id="data">{as_data(data)}</script>'),
        Markup(f"<script>{library}</script><script>{drawing}</script>"),
    ]  # fmt: skip
    return (
        "<!doctype html>\n"
        + _tag("html", _tag("head", *head), _tag("body", *body), lang="en")
        + "\n"
    )  # fmt: skip


def as_data(value: Any) -> str:
    """JSON that can stand in a script element: without ``<``, ``>``, ``&`` and line separators."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _charts(page: Page, prefix: str) -> tuple[dict[int, str], tuple[dict[str, Any], ...]]:
    """(the name of each chart by its identity, what is drawn)."""
    charts = [chart for section in page.sections for chart in section.charts]
    names = {id(chart): f"{prefix}chart-{i}" for i, chart in enumerate(charts)}
    return names, tuple({"id": names[id(c)], "kind": c.kind, "data": c.data} for c in charts)


def _main(page: Page, names: dict[int, str], prefix: str, top: int) -> list[Markup]:
    links = [_tag("a", s.title, href=f"#{prefix}section-{i}") for i, s in enumerate(page.sections)]
    return [
        _tag(f"h{top}", page.headline),
        *(_tag("p", text, class_="quiet") for text in page.lead),
        _tag("nav", *links, aria_label=f"Sections: {page.headline}" if prefix else "Sections"),
        _tag("div", id=f"{prefix}first", tabindex="-1"),
        *(_section(s, f"{prefix}section-{i}", names, top + 1)
          for i, s in enumerate(page.sections)),
    ]  # fmt: skip


def _section(section: Section, name: str, names: dict[int, str], level: int) -> Markup:
    said = [_tag("ul", *(_tag("li", *_coded(text)) for text in section.says), class_="says")]
    return _tag(
        "section",
        _tag(f"h{level}", section.title, id=name),
        *(said if section.says else ()),
        _tag("div", *(_figure(chart, names[id(chart)], level + 1) for chart in section.charts),
             class_="charts") if section.charts else "",
        *(_table(table, section.title, i) for i, table in enumerate(section.tables)),
        aria_labelledby=name,
    )  # fmt: skip


def _figure(chart: Chart, name: str, level: int) -> Markup:
    return _tag(
        "figure",
        _tag(f"h{level}", chart.title, id=f"{name}-title"),
        _tag("div", id=name, class_=f"chart {chart.size}".strip(), role="img",
             aria_label=f"{chart.title}. The table below has the numbers."),
        _tag("figcaption", *_coded(chart.note)) if chart.note else "",
        _tag("details", _tag("summary", "Table"), _table(chart.table, chart.title, 0)),
    )  # fmt: skip


def _table(table: Table, of: str, number: int) -> Markup:
    last = max((len(row[-1]) for row in table.rows if row), default=0)
    cards = 2 < len(table.columns) <= _CARD_COLUMNS and last > _CARD_LETTERS

    def cells(kind: str, row: tuple[str, ...]) -> list[Markup]:
        own = {"scope": "col", "role": "columnheader"} if kind == "th" else {"role": "cell"}
        return [
            _tag(
                kind,
                *_coded(text or _EMPTY[kind]),
                **({"class_": "right"} if i in table.right else {}),
                **({"data_of": table.columns[i]} if cards and kind == "td" and i else {}),
                **own,
            )
            for i, text in enumerate(row)
        ]

    more = f"and {table.left_out:,} more in the answer's JSON" if table.left_out else ""
    return _tag(
        "div",
        _tag("table",
             _tag("thead", _tag("tr", *cells("th", table.columns), role="row"), role="rowgroup"),
             _tag("tbody", *(_tag("tr", *cells("td", row), role="row") for row in table.rows),
                  role="rowgroup"),
             role="table", **({"class_": "cards"} if cards else {})),
        _tag("p", more, class_="quiet") if more else "",
        class_="wide", tabindex="0", role="region",
        aria_label=f"Table: {of}" + (f", {number + 1}" if number else ""),
    )  # fmt: skip


def _coded(text: str) -> list[str]:
    """The text in pieces, what stands between backticks as code."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # one is alone: it means nothing
        return [text]
    return [_tag("code", piece) if i % 2 else piece for i, piece in enumerate(pieces)]


def _tag(name: str, *children: str, **attributes: str) -> Markup:
    """An element; children and attributes are escaped unless they are Markup."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value, quote=True)}"'
        for key, value in attributes.items()
    )
    inner = "".join(c if isinstance(c, Markup) else html.escape(c, quote=False) for c in children)
    return Markup(f"<{name}{said}>{inner}</{name}>")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def asset(name: str) -> str:
    """One of the files that pages are made of: ``page.js``, ``page.css``, ``echarts.min.js``.

    Raises InternalError where the vendored library was changed.
    """
    text = (files("weftline.report.page") / "assets" / name).read_text(encoding="utf-8")
    if name == "echarts.min.js":
        found = hashlib.sha256(text.encode()).hexdigest()
        if found != ECHARTS_SHA256:
            raise InternalError(f"assets/echarts.min.js was changed: its SHA-256 is {found}")
    return text
