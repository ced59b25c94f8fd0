"""Claims from the catalogue with how each is tested, and a user's own from a small file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from weftline.catalog import claims
from weftline.decide.audit.audit import CHECKS
from weftline.errors import InputError, UnknownNameError
from weftline.spec.audit import Claim
from weftline.spec.located import Located, read_located
from weftline.spec.parse import Collector

__all__ = ["claims_of"]

_WORDS: Final = frozenset({"id", "quote", "metric", "value", "check", "document", "source"})


@cache
def _tests() -> Mapping[str, Mapping[str, Any]]:
    import yaml

    text = resources.files("weftline.decide").joinpath("data/claims.yaml").read_text("utf-8")
    found: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)
    return found


def shipped_claims() -> dict[str, Claim]:
    """Every claim of the catalogue by its id, with its check."""
    found = {}
    for row in claims():
        terms = dict(_tests().get(row["id"], {}))
        check = str(terms.pop("check", "said"))
        terms = terms or {"missing": "a way to test it"}
        found[row["id"]] = Claim(
            id=row["id"], document=row["document"], quote=row["quote"], metric=row["metric"],
            value=row["value"], check=check, terms={**terms, "id": row["id"]},
            public_value=row["public_value"], source=row["source"],
        )  # fmt: skip
    return found


def claims_of(asked: str | None) -> tuple[Claim, ...]:
    """All shipped claims, the one named, or those of a file. Raises every mistake at once."""
    known = shipped_claims()
    if asked is None:
        return tuple(known.values())
    if asked.upper() in known:
        return (known[asked.upper()],)
    path = Path(asked)
    if path.suffix not in (".yaml", ".yml", ".json") and not path.exists():
        raise UnknownNameError("claim", asked, known, where="CLAIM",
                               hint="C01 to C49, or a file of your own claims")  # fmt: skip
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`{asked}`: {getattr(error, 'strerror', None) or 'not a text file'}",
                         where="CLAIM") from None  # fmt: skip
    return parse_claims(text, asked)


def parse_claims(text: str, path: str) -> tuple[Claim, ...]:
    """A user's own claims: a mapping with ``claims``, or a list."""
    root = read_located(text, path)
    items = root.value if isinstance(root.value, list) else root.items("claims")
    if not items:
        hint = "claims: [{id: mine, check: token_cost, chip: h100, usd: $0.5}]"
        raise InputError("no claims", where=f"{path}:1", hint=hint)
    get = Collector()
    found = get.each(items, lambda item: _own(item, path))
    ids = [c.id for c in found]
    get.errors += [InputError(f"two claims are called `{i}`", where=f"{path}:1")
                   for i in sorted({i for i in ids if ids.count(i) > 1})]  # fmt: skip
    get.raise_all()
    return found


def _own(item: Located, path: str) -> Claim:
    place = f"{path}:{item.line}"
    if not isinstance(item.value, dict):
        raise InputError("a claim is a mapping", where=place, hint="{id: mine, check: ratio}")
    plain = item.plain()
    check = plain.get("check")
    if check not in CHECKS:
        raise UnknownNameError("check", str(check), CHECKS, where=place,
                               hint=f"one of {', '.join(CHECKS)}")  # fmt: skip
    name = str(plain.get("id", f"line {item.line}"))
    return Claim(
        id=name, document=str(plain.get("document", path)), quote=str(plain.get("quote", "")),
        metric=str(plain.get("metric", "")), value=str(plain.get("value", "")), check=check,
        terms={**{k: v for k, v in plain.items() if k not in _WORDS}, "id": path}, where=place,
        source=str(plain.get("source", "")),
    )  # fmt: skip
