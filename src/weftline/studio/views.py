"""What the studio shows: templates, the files beside them, and the archive of an export.

Templates escape every value; the one piece that is HTML already comes from the report room, which
escapes all text of an answer itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from weftline._version import __version__
from weftline.errors import InternalError

__all__ = ["ASSETS", "Asset", "archive", "asset_of", "rendered", "versioned"]

VENDORED: Final[Mapping[str, str]] = {
    "htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
    "htmx-sse.min.js": "98a46496de0c3605fbffdce9167ba427bdd9553184f83f149c261891a92c0136",
}
"""SHA-256 of ``dist/htmx.min.js`` in the npm package htmx.org 2.0.11 and of ``dist/sse.min.js`` in
htmx-ext-sse 2.2.4 (both 0BSD; licences beside them)."""
_TYPES: Final = {"js": "text/javascript", "css": "text/css"}
ASSETS: Final = (
    "page.css", "page.js", "echarts.min.js", "studio.css", "studio.js", "htmx.min.js",
    "htmx-sse.min.js",
)  # fmt: skip
"""All files there are: a name that a browser asks for is looked up here, never opened."""
_OF_REPORT: Final = frozenset({"page.css", "page.js", "echarts.min.js"})
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file that pages load."""

    body: bytes
    media_type: str
    version: str
    """The start of its SHA-256: in its URL, so that it may be kept for ever."""


@cache
def asset_of(name: str) -> Asset | None:
    """A file by its name; None where there is none. Raises InternalError for a changed library."""
    if name not in ASSETS:
        return None
    if name in _OF_REPORT:
        from weftline.report.page import asset

        body = asset(name).encode()
    else:
        body = (files("weftline.studio") / "assets" / name).read_bytes()
    found = hashlib.sha256(body).hexdigest()
    if VENDORED.get(name, found) != found:
        raise InternalError(f"assets/{name} was changed: its SHA-256 is {found}")
    return Asset(body, _TYPES[name.rpartition(".")[2]], found[:16])


def versioned(name: str) -> str:
    """The URL of a file."""
    asset = asset_of(name)
    if asset is None:
        raise InternalError(f"no asset is called {name}")
    return f"/assets/{name}?v={asset.version}"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("weftline.studio"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.globals["asset"] = versioned
    made.globals["version"] = __version__
    made.filters["json"] = _as_json
    made.filters["day"] = _day
    return made


def _as_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def rendered(template: str, **values: Any) -> str:
    """A template of ``templates/`` with values, each escaped."""
    return _environment().get_template(template).render(**values)


def archive(folder: str, written: Mapping[str, str], programs: frozenset[str]) -> bytes:
    """Files as a ZIP with one folder; the same files give the same bytes.

    Raises InternalError for a name that would leave the folder.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(written):
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts or "\\" in name:
                raise InternalError(f"an export names a file outside its folder: {name}")
            info = zipfile.ZipInfo(f"{folder}/{name}", date_time=_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o755 if name in programs else 0o644) << 16
            packed.writestr(info, written[name])
    return out.getvalue()
