"""Write what transformers' classes default to: ``python -m weftline.runtime.classes``.

The result, ``model/data/classes.json``, lets configs be read as transformers reads them without it
being installed. Facts, taken from the installed release.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import weftline.model
from weftline.model.families import BUILDERS
from weftline.model.families.multimodal import MULTIMODAL
from weftline.model.known import is_harmless
from weftline.runtime.meta import FACTORIES

__all__ = ["classes", "main"]

_TARGET: Final = Path(weftline.model.__file__).with_name("data") / "classes.json"
_INNER: Final = ("llama4",)
"""Types whose language model brings its own output projection, tied by its own configuration."""
_UNSET: Final = dataclasses.MISSING


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def _defaults(class_: Any, inherited: frozenset[str]) -> dict[str, Any]:
    found = {}
    for name, field in class_.__dataclass_fields__.items():
        value = field.default_factory() if field.default_factory is not _UNSET else field.default
        shown = value is None or isinstance(value, (bool, int, float, str, list, tuple))
        kept = name == "tie_word_embeddings" or not is_harmless(
            name, value if value is not None else 1
        )
        if name not in inherited and not name.startswith("_") and shown and kept:
            found[name] = _plain(value)
    return found


def _sections(class_: Any) -> dict[str, str]:
    made = class_()
    found = {}
    names: list[str] = list(made.sub_configs or ())
    for name in names:
        inner: Any = getattr(made, name, None)
        if inner is not None and getattr(inner, "model_type", None):
            found[name] = inner.model_type
    return found


def _ties(class_: Any) -> str:
    """Whose ``tie_word_embeddings`` counts, read off transformers' own classes."""
    model_class = _model_class(class_)
    headed = model_class is not None and "For" in model_class.__name__
    if class_.model_type in _INNER:
        return "inner"
    if headed and not getattr(model_class, "_tied_weights_keys", None):
        return "never"
    text = _sections(class_).get("text_config")
    if text is None or "tie_word_embeddings" not in class_.__dataclass_fields__:
        return "outer"
    inner = {"model_type": text, "tie_word_embeddings": True}
    made = class_(text_config=inner, tie_word_embeddings=False)
    return "either" if made.tie_word_embeddings else "outer"


def _model_class(class_: Any) -> Any:
    import transformers

    for factory in FACTORIES:
        if class_ in getattr(transformers, factory)._model_mapping:
            return getattr(transformers, factory)._model_mapping[class_]
    return None


def classes() -> dict[str, Any]:
    """The rows of every model type that has a builder and that transformers knows."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    mapping = transformers.CONFIG_MAPPING
    inherited = frozenset(transformers.PretrainedConfig.__dataclass_fields__)
    rows: dict[str, Any] = {}
    todo = [kind for kind in (*BUILDERS, *MULTIMODAL) if kind in mapping]
    while todo:
        kind = todo.pop()
        if kind in rows or kind not in mapping:
            continue
        class_ = mapping[kind]
        sections = _sections(class_)
        aliases = dict(class_.attribute_map)
        row: dict[str, Any] = {"defaults": _defaults(class_, inherited)}
        row |= {"aliases": aliases} if aliases else {}
        row |= {"sections": sections} if sections else {}
        ties = _ties(class_)
        row |= {"ties": ties} if ties != "outer" else {}
        rows[kind] = row
        todo += sections.values()
    return {
        "about": "model type -> what transformers' configuration class defaults to, the names it "
        "takes for one field, and its sections; written by python -m weftline.runtime.classes",
        "source": f"transformers {transformers.__version__}",
        "licence": "Apache-2.0",
        "date": datetime.now(UTC).date().isoformat(),
        "known": sorted(mapping),
        "classes": dict(sorted(rows.items())),
    }


def main() -> int:
    """Write the file, one line a model type."""
    data = classes()
    lines = [f"    {json.dumps(k)}: {json.dumps(row)}" for k, row in data.pop("classes").items()]
    head = "".join(f"  {json.dumps(k)}: {json.dumps(v)},\n" for k, v in data.items())
    text = "{\n" + head + '  "classes": {\n' + ",\n".join(lines) + "\n  }\n}\n"
    _TARGET.write_text(text, encoding="utf-8")
    sys.stderr.write(f"wrote {_TARGET.name}: {len(lines)} classes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
