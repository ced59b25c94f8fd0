"""Quality that was measured of policies, looked up: nobody shows a speed-up without it.

``weftline quality`` keeps its rows in ``<config>/quality/``; rows of SmolLM2 ship with the package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from weftline.attention.costs import density
from weftline.catalog.machines import user_config_dir
from weftline.errors import InputError
from weftline.model import Model
from weftline.model.policy import changed_layers
from weftline.spec.attention_text import parse_policy, policy_text
from weftline.spec.quality import QualityRow
from weftline.spec.serialize import write_text

__all__ = ["keep_rows", "policy_remarks", "quality_rows", "read_rows"]

_SHIPPED = "data/quality_smollm2.json"
_MAX_BYTES = 16 << 20


def read_rows(text: str, where: str) -> tuple[QualityRow, ...]:
    """Rows from JSON as :func:`keep_rows` writes it. Raises InputError."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    strict: Any = with_config(ConfigDict(extra="forbid"))(QualityRow)
    adapter: Any = TypeAdapter(tuple[strict, ...])
    try:
        found: tuple[QualityRow, ...] = adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{place}: {first['msg']}", where=where,
                         hint="`weftline quality MODEL` writes such files") from None  # fmt: skip
    return found


def quality_rows(model: str) -> tuple[QualityRow, ...]:
    """Every row known of a model, the user's own last."""
    shipped = resources.files("weftline.attention").joinpath(_SHIPPED)
    found = list(read_rows(shipped.read_text(encoding="utf-8"), _SHIPPED))
    for path in sorted((user_config_dir() / "quality").glob("*.json")):
        if path.stat().st_size <= _MAX_BYTES:
            found += read_rows(path.read_text(encoding="utf-8"), str(path))
    return tuple(row for row in found if _same(row.model, model))


def _same(one: str, other: str) -> bool:
    def short(name: str) -> str:
        return name.lower().rpartition("/")[2]

    return short(one) == short(other)


def keep_rows(rows: Sequence[QualityRow]) -> Path:
    """Write rows of one model into the user's folder, in the place of those of the same policy."""
    name = re.sub(r"[^a-z0-9.-]+", "-", rows[0].model.lower()).strip("-.") or "model"
    path = user_config_dir() / "quality" / f"{name}.json"
    old: Iterable[QualityRow] = ()
    if path.is_file():
        old = read_rows(path.read_text(encoding="utf-8"), str(path))
    new = {row.policy for row in rows}
    kept = [row for row in old if row.policy not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(json.dumps([asdict(row) for row in (*kept, *rows)], indent=1) + "\n", path)
    return path


def policy_remarks(
    model: Model, policy: str, *, context: float, training: bool = False
) -> tuple[str, ...]:
    """What a plan has to say of a policy: what queries see of ``context`` tokens, and at what
    quality. ``model`` is the model without it."""
    if not policy:
        return ()
    parsed = parse_policy(policy)
    layers = changed_layers(model, parsed)
    seen = {
        phase: float(density(parsed.rule(layers[0], phase), 1.0, max(context - 1.0, 0.0))
                     if phase == "decode" else density(parsed.rule(layers[0], phase), context))
        for phase in ("prefill", "decode")
    }  # fmt: skip
    where = f"attention policy {policy} in {len(layers)} of {len(model.layers)} layers"
    if training:
        return (
            f"{where}: there a sequence of {context:,.0f} tokens looks at {seen['prefill']:.0%} of "
            "what full attention does; what a model trained so is worth beside one trained with "
            "full attention is unmeasured",
        )
    return (
        f"{where}: there a prompt of {context:,.0f} tokens looks at {seen['prefill']:.0%} of what "
        f"full attention does, decoding after it at {seen['decode']:.0%}",
        _quality(model, policy_text(parsed)),
    )


def _quality(model: Model, policy: str) -> str:
    rows = {row.policy: row for row in quality_rows(model.name)}
    row, dense = rows.get(policy), rows.get("dense")
    if row is None or dense is None:
        return (
            "the published weights were not trained with it, and what it costs in quality is "
            "unmeasured: `weftline quality MODEL --policy ...` measures it"
        )
    worse = row.perplexity / dense.perplexity - 1
    return (
        f"the published weights were not trained with it: perplexity {worse:+.0%}, "
        f"{row.needles_found} of {row.needles} needles ({dense.needles_found} under full "
        f"attention), measured {row.date} at {row.tokens:,} tokens"
    )
